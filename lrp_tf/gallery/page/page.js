"use strict";
// The page of a gallery. Its data lie in #data, see entries.py; all texts are set as texts, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const main = at("cards"), root = document.documentElement;
  const state = { style: "overlay", opacity: 90, run: 0, sort: "order", reversed: false, text: "", class: "", warnings: false };
  const KINDS = ["arrived", "bias", "stabilizer", "other"];

  // A picture is held by the page, under a number, or lies beside it, under its address.
  const source = (picture) => (typeof picture === "number" ? at("p" + picture).textContent : picture);
  const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.0995 ? (100 * p).toFixed(0) + " %" : p < 0.0005 ? "< 0.1 %" : (100 * p).toFixed(1) + " %");

  const number = (value) => {
    if (value === null) return "unknown";
    const short = Number(value.toPrecision(3));
    return short !== 0 && Math.abs(short) < 1e-3 ? short.toExponential() : String(short);
  };

  // --- cards ----------------------------------------------------------------------------------

  class Card {
    constructor(item, order) {
      this.item = item;
      this.order = order;
      this.target = 0;
      this.slice = item.first ?? Math.floor(item.slices.length / 2);
      this.parts = null; // filled once it is near what is seen: a page of 500 opens in half the time
      const element = (this.element = document.createElement("article"));
      element.className = "card";
      element.tabIndex = -1;
      element.setAttribute("aria-label", item.name);
      element.classList.toggle("alone", !item.below.length);
      element.style.setProperty("--ratio", item.size[0] / item.size[1]);
      element.classList.toggle("pixels", Math.max(...item.size) <= 96);
      element.addEventListener("focusin", () => choose(this, false));
      element.card = this;
    }

    fill() {
      const { item, element } = this;
      element.append(at("card").content.cloneNode(true));
      const find = (name) => element.querySelector(name);
      this.parts = { below: find(".below img"), map: find(".map img"), top: find(".top"), books: find(".books"), went: find(".went"),
        name: find(".name"), warning: find(".warning"), frame: find(".frame"), slice: find(".slices input"), which: find(".slices output"), atlas: find(".atlas") };
      this.parts.name.textContent = item.name;
      find(".folder").textContent = item.folder;
      if (item.slices.length > 1) {
        find(".slices").hidden = false;
        this.parts.slice.max = item.slices.length - 1;
        this.parts.slice.setAttribute("aria-label", "Slice of " + item.name);
        this.parts.slice.addEventListener("input", () => this.cut(Number(this.parts.slice.value)));
      }
      this.parts.frame.addEventListener("click", () => this.enlarge());
      const { atlas } = this.parts, picture = atlas.querySelector("img");
      atlas.addEventListener("toggle", () => { // a small card is too narrow for it
        const large = this.element.classList.contains("large");
        if (atlas.open ? !large : large && this.widened) this.enlarge();
        this.widened = atlas.open && !large;
        this.drawAtlas();
        if (atlas.open) atlas.scrollIntoView({ block: "start" });
      });
      for (const event of ["load", "error"]) picture.addEventListener(event, () => {
        picture.hidden = event === "error";
        atlas.querySelector(".lost").hidden = event === "load";
      });
      this.list();
    }

    get targets() { return this.item.runs[state.run] ?? null; }

    get shown() { return this.targets?.[Math.min(this.target, this.targets.length - 1)] ?? null; }

    /** The classes: the highest ones, and those that were asked for beside them. */
    list() {
      if (!this.parts) return;
      const targets = this.targets ?? [];
      const rows = this.item.top.map((top) => ({ ...top, target: targets.findIndex((t) => t.class === top.class) }));
      targets.forEach((t, target) => rows.some((row) => row.target === target) || rows.push({ ...t, target }));
      this.rows = rows.map((row) => {
        const line = document.createElement("li");
        const inner = line.appendChild(document.createElement(row.target < 0 ? "span" : "button"));
        inner.className = "row";
        inner.style.setProperty("--p", row.p ?? 0);
        for (const [name, text] of [["class", row.name], ["chance", row.p === null ? row.logit?.toPrecision(4) ?? "" : percent(row.p)]]) {
          const part = inner.appendChild(document.createElement("span"));
          part.className = name;
          part.textContent = text;
          part.dir = "auto";
        }
        if (row.target >= 0) {
          inner.type = "button";
          inner.addEventListener("click", () => this.explain(row.target));
        }
        return { inner, line, target: row.target };
      });
      this.parts.top.replaceChildren(...this.rows.map((row) => row.line));
      this.draw();
    }

    draw() {
      const { parts, item, shown } = this;
      if (!parts) return;
      for (const { inner, target } of this.rows) if (target >= 0) inner.setAttribute("aria-pressed", String(this.targets[target] === shown));
      this.element.classList.toggle("absent", !shown);
      parts.which.textContent = item.slices[this.slice] ?? "";
      parts.slice.value = this.slice;
      parts.slice.setAttribute("aria-valuetext", parts.which.textContent);
      parts.below.alt = item.below.length ? item.name + (parts.which.textContent && ", " + parts.which.textContent) : "";
      const sum = document.createElement("b");
      sum.textContent = shown ? "ΣR " + number(shown.shares[0]) + " of " + number(shown.start) : "";
      parts.went.replaceChildren(sum, shown ? shown.went : "This composite gave no result for this file.");
      parts.warning.hidden = !shown?.warning;
      parts.warning.textContent = shown?.warning ? "Not to be trusted: " + shown.warning : "";
      parts.books.hidden = !shown;
      if (shown) {
        parts.map.alt = "What speaks for " + shown.name + data.rather;
        parts.name.href = shown.link;
        const sizes = shown.shares.map((share) => Math.abs(share ?? 0));
        const all = sizes.reduce((sum, size) => sum + size, 0) || 1;
        parts.books.setAttribute("aria-label", shown.went);
        parts.books.replaceChildren(...KINDS.map((kind, i) => {
          const bar = document.createElement("i");
          bar.className = kind + ((shown.shares[i] ?? 0) * (shown.start ?? 0) < 0 ? " negative" : "");
          bar.style.setProperty("--share", sizes[i] / all);
          bar.title = kind + " " + number(shown.shares[i]) + " of " + number(shown.start);
          return bar;
        }));
      }
      const show = (image, picture) => {
        if (image.picture === picture) return;
        image.picture = picture;
        if (picture === undefined) image.removeAttribute("src");
        else image.src = source(picture);
      };
      show(parts.below, item.below[this.slice]);
      show(parts.map, shown?.maps[this.slice]);
      this.drawAtlas();
    }

    /** The atlas is read once it is opened: it lies beside the page, whatever the page holds. */
    drawAtlas() {
      const { atlas } = this.parts, address = this.shown?.atlas, picture = atlas.querySelector("img");
      atlas.hidden = !address;
      if (!address) return;
      const words = "Atlas: channels of " + data.composites[state.run].atlas + " for " + this.shown.name + data.rather;
      atlas.querySelector("summary").textContent = words;
      atlas.querySelector("a").href = address;
      picture.alt = words;
      if (atlas.open && picture.getAttribute("src") !== address) picture.src = address;
    }

    explain(target) {
      if (!this.targets || target >= this.targets.length) return;
      this.target = target;
      this.draw();
    }

    toggleAtlas() {
      const atlas = this.parts?.atlas;
      if (atlas && !atlas.hidden) atlas.open = !atlas.open;
    }

    cut(slice) {
      this.slice = Math.max(0, Math.min(slice, Math.max(this.item.slices.length - 1, 0)));
      this.draw();
    }

    enlarge() {
      if (!this.parts) return;
      const large = this.element.classList.toggle("large");
      this.parts.frame.setAttribute("aria-expanded", String(large));
      this.element.scrollIntoView({ block: "nearest" });
    }

    get confidence() { return this.item.top[0]?.p ?? this.item.top[0]?.logit ?? -Infinity; }
  }

  const cards = data.items.map((item, i) => new Card(item, i));
  let visible = cards, current = null;
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      entry.target.card.fill();
      watcher.unobserve(entry.target);
    }
  }, { rootMargin: "800px 0px" });
  for (const card of cards) watcher.observe(card.element);

  /** The card that keys act on; the one in the order of the tabulator. */
  function choose(card, focus = true) {
    if (current) current.element.tabIndex = -1;
    current = card;
    card.element.tabIndex = 0;
    if (focus) card.element.focus();
  }

  // --- order and filters ----------------------------------------------------------------------

  const compare = {
    order: (a, b) => a.order - b.order,
    name: (a, b) => a.item.name.localeCompare(b.item.name, undefined, { numeric: true }) || a.order - b.order,
    confidence: (a, b) => b.confidence - a.confidence || a.order - b.order,
    absorbed: (a, b) => (b.shown?.absorbed ?? -Infinity) - (a.shown?.absorbed ?? -Infinity) || a.order - b.order,
  };

  const classesOf = (card) => new Set([card.item.top[0]?.class, ...(card.targets ?? []).map((t) => t.class)]);

  function arrange() {
    const text = state.text.trim().toLocaleLowerCase();
    const kept = cards.filter((card) =>
      (!text || (card.item.folder + "/" + card.item.name).toLocaleLowerCase().includes(text)) &&
      (state.class === "" || classesOf(card).has(Number(state.class))) &&
      (!state.warnings || (card.targets ?? []).some((t) => t.warning)));
    kept.sort(compare[state.sort]);
    if (state.reversed) kept.reverse();
    visible = kept;
    main.replaceChildren(...kept.map((card) => card.element));
    at("count").textContent = kept.length === cards.length ? cards.length + " shown" : kept.length + " of " + cards.length + " shown";
    at("none").hidden = kept.length > 0 || !cards.length;
    if (kept.length && !kept.includes(current)) choose(kept[0], false);
  }

  /** Classes that are explained, or the highest of a picture, with the number of these. */
  function listClasses() {
    const names = new Map(), counts = new Map();
    for (const card of cards) {
      for (const one of [card.item.top[0], ...(card.targets ?? [])]) if (one) names.set(one.class, one.name);
      for (const number of classesOf(card)) counts.set(number, (counts.get(number) ?? 0) + 1);
    }
    for (const [number, name] of [...names].sort((a, b) => a[1].localeCompare(b[1], undefined, { numeric: true }))) {
      at("class").add(new Option(name + " (" + counts.get(number) + ")", number));
    }
    const warned = cards.filter((card) => card.item.runs.some((targets) => targets?.some((t) => t.warning))).length;
    at("absurd").hidden = !warned;
    at("absurd").querySelector("span").textContent = warned + " with a warning";
  }

  // --- what is chosen for all -----------------------------------------------------------------

  function show() {
    root.classList.toggle("overlay", state.style === "overlay");
    root.classList.toggle("side", state.style === "side");
    root.style.setProperty("--opacity", state.opacity / 100);
    root.style.setProperty("--paper", data.composites[state.run].paper);
    at("opacity").value = state.opacity;
    at("opacity").disabled = state.style === "side";
    at("percent").textContent = state.style === "side" ? "" : state.opacity + " %";
    for (const input of document.querySelectorAll("input[name=style]")) input.checked = input.value === state.style;
    for (const input of document.querySelectorAll("input[name=composite]")) input.checked = Number(input.value) === state.run;
    const kept = "#" + new URLSearchParams({ style: state.style, opacity: state.opacity, run: state.run });
    for (const link of document.querySelectorAll(".pages a")) link.hash = kept; // other pages are shown alike
  }

  function setRun(run) {
    if (run === state.run) return;
    state.run = run;
    show();
    for (const card of cards) card.list();
    if (state.sort === "absorbed" || state.warnings || state.class !== "") arrange();
  }

  function setOpacity(percent) {
    state.opacity = Math.max(0, Math.min(100, percent));
    show();
  }

  function setStyle(style) {
    state.style = style;
    show();
  }

  function setClass(value) {
    state.class = value;
    for (const card of value === "" ? [] : cards) {
      const target = (card.targets ?? []).findIndex((t) => t.class === Number(value));
      if (target >= 0) card.explain(target);
    }
    arrange();
  }

  at("opacity").addEventListener("input", () => setOpacity(Number(at("opacity").value)));
  for (const input of document.querySelectorAll("input[name=style]")) input.addEventListener("change", () => setStyle(input.value));
  for (const input of document.querySelectorAll("input[name=composite]")) input.addEventListener("change", () => setRun(Number(input.value)));
  at("text").addEventListener("input", () => { state.text = at("text").value; arrange(); });
  at("class").addEventListener("change", () => setClass(at("class").value));
  at("sort").addEventListener("change", () => { state.sort = at("sort").value; arrange(); });
  at("warnings").addEventListener("change", () => { state.warnings = at("warnings").checked; arrange(); });
  at("direction").addEventListener("click", () => {
    state.reversed = !state.reversed;
    at("direction").setAttribute("aria-pressed", String(state.reversed));
    arrange();
  });
  at("help").addEventListener("click", () => at("keys").showModal());

  // --- keys -----------------------------------------------------------------------------------

  const columns = () => getComputedStyle(main).gridTemplateColumns.split(" ").length;

  function walk(steps) {
    if (!visible.length) return;
    const here = visible.indexOf(current);
    const began = main.contains(document.activeElement) && here >= 0;
    choose(visible[began ? Math.max(0, Math.min(here + steps, visible.length - 1)) : Math.max(here, 0)]);
  }

  const follow = (relation) => document.querySelector(".pages a[rel=" + relation + "]")?.click();
  const KEYS = {
    ArrowRight: () => walk(1), ArrowLeft: () => walk(-1), ArrowDown: () => walk(columns()), ArrowUp: () => walk(-columns()),
    Home: () => walk(-Infinity), End: () => walk(Infinity),
    c: () => setRun((state.run + 1) % data.composites.length),
    v: () => setStyle(state.style === "side" ? "overlay" : "side"),
    "+": () => setOpacity(state.opacity + 10), "=": () => setOpacity(state.opacity + 10), "-": () => setOpacity(state.opacity - 10),
    ",": () => current?.cut(current.slice - 1), ".": () => current?.cut(current.slice + 1),
    a: () => current?.toggleAtlas(),
    "/": () => at("text").focus(), "?": () => at("keys").showModal(),
    n: () => follow("next"), p: () => follow("prev"),
  };

  document.addEventListener("keydown", (event) => {
    const inside = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
    if (inside === at("text")) {
      if (event.key === "Escape") main.querySelector(".card")?.focus();
      return;
    }
    if (inside.matches("select, textarea")) return;
    if (inside.matches("input") && /^(Arrow|Home|End|Page)/.test(event.key)) return; // a slider or a choice has its own
    if (event.key === "Enter" && inside.matches(".card")) current.enlarge();
    else if (/^[1-9]$/.test(event.key)) current?.explain(Number(event.key) - 1);
    else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
    else return;
    event.preventDefault();
  });

  const kept = new URLSearchParams(location.hash.slice(1));
  if (kept.has("style")) {
    state.style = kept.get("style") === "side" ? "side" : "overlay";
    state.opacity = Math.max(0, Math.min(100, Number(kept.get("opacity")) || 0));
    const run = Number(kept.get("run")) || 0;
    if (data.composites[run]) setRun(run);
  }
  if (!cards.some((card) => card.item.below.length)) for (const id of ["styles", "opacity"]) at(id).closest("fieldset, label").hidden = true;
  show();
  listClasses();
  arrange();
})();
