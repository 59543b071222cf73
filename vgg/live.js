// The live page: a stream while the film runs, a picture to draw patches on while it rests.
"use strict";

const find = (id) => document.getElementById(id);
const [stream, editor, picture, canvas, map] = ["stream", "editor", "picture", "canvas", "map"].map(find);
const narrow = matchMedia("(max-width: 760px)");
let state = null; // what /state said last
let fill = "mean";
let strokes = []; // each a list of patches that one gesture drew
let stroke = null; // the one that is being drawn
let cursor = null; // {row, column} of the model's input
let asked = 0; // counts requests of patches; late answers are dropped
let busy = false;
let again = false;
let commands = 0; // counts what the user did; what /state said before is out of date
let edited = 0; // the frame that the editor shows; 0: none

async function ask(path, content) {
  const options = content === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  };
  const answer = await fetch(path, options);
  const found = await answer.json().catch(() => ({ error: `${path}: ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error || `${path}: ${answer.status}`);
  return found;
}

function tell(error) {
  const text = error instanceof TypeError ? "The script has ended, or does not answer." : error ? error.message : "";
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

const percent = (chance) => chance === null ? "–" : `${(100 * chance).toFixed(1)} %`;
const number = (value) => value.toPrecision(3).replace("-", "−");

// --- state -----------------------------------------------------------------------------------

async function refresh() {
  const mine = commands;
  try {
    const found = await ask("state");
    if (mine === commands) show(found);
    if (!find("problem").dataset.kept) tell(null);
  } catch (error) {
    tell(error);
  }
  setTimeout(refresh, 500);
}

function show(found) {
  const first = state === null;
  state = found;
  find("model").textContent = found.model;
  find("about").textContent = `${found.composite} · ${found.source}`;
  const speed = found.number ? `frame ${found.number} · ${found.rate.toFixed(1)} frames/s` : "waiting for the first frame";
  const dropped = found.dropped ? ` · ${found.dropped} dropped` : "";
  find("numbers").textContent = found.ended ? `ended: ${found.ended}` : speed + dropped;
  find("pause").textContent = found.paused ? "Resume" : "Pause";
  find("pause").disabled = Boolean(found.ended) || !found.number;
  if (first) prepare();
  const editing = found.paused && found.number > 0;
  if (editing && edited !== found.number) begin();
  if (!editing && edited) leave();
  if (!editing) list(found.top, found.wanted);
}

function prepare() {
  const [smallest, largest] = state.sides;
  Object.assign(find("side"), { min: smallest, max: largest, value: Math.min(largest, Math.max(smallest, 32)) });
  for (const name of state.fills) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name, onclick: () => choose(name) });
    button.setAttribute("role", "radio");
    button.dataset.fill = name;
    find("fills").append(button);
  }
  choose(fill);
  measure();
  for (const stage of document.querySelectorAll(".stage")) stage.style.aspectRatio = state.aspect;
  [canvas.height, canvas.width] = state.size.map((side) => side * Math.max(1, Math.round(1200 / Math.max(...state.size))));
}

function choose(name) {
  fill = name;
  for (const button of find("fills").children) button.setAttribute("aria-checked", String(button.dataset.fill === name));
}

const measure = () => { find("pixels").textContent = `${find("side").value} pixels`; outline(); };

// Buttons of classes; a bar behind each shows its probability.
function list(classes, wanted) {
  const entries = [{ class: null, name: "top class", chance: null }, ...classes];
  const box = find("classes");
  while (box.children.length > entries.length) box.lastChild.remove();
  while (box.children.length < entries.length) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.append(document.createElement("span"), document.createElement("span"), document.createElement("i"));
    box.append(button);
  }
  entries.forEach((entry, i) => {
    const button = box.children[i];
    const [name, chance, bar] = button.children;
    name.textContent = entry.name;
    chance.textContent = entry.class === null ? "" : entry.chance === null ? number(entry.score) : percent(entry.chance);
    bar.style.width = `${100 * (entry.chance || 0)}%`;
    button.setAttribute("aria-checked", String(entry.class === wanted));
    button.onclick = () => aim(entry.class);
  });
}

async function aim(target) {
  commands++;
  try {
    show(await done(ask("target", { target })));
    if (edited) await explain();
  } catch (error) { tell(error); }
}

// What was asked for beside a command may have been answered before it.
async function done(answer) {
  const found = await answer;
  commands++;
  return found;
}

async function pause() {
  commands++;
  try { show(await done(ask("pause", { paused: !state.paused }))); } catch (error) { tell(error); }
}

// --- the editor ------------------------------------------------------------------------------

function begin() {
  edited = state.number;
  strokes = [];
  cursor = null;
  for (const id of ["tools", "scores"]) find(id).hidden = false;
  explain();
}

function leave() {
  edited = 0;
  editor.hidden = true;
  stream.hidden = false;
  for (const id of ["tools", "scores"]) find(id).hidden = true;
}

// One request at a time; what was drawn meanwhile follows with the next.
async function explain() {
  if (busy) { again = true; return; }
  busy = true;
  const mine = ++asked;
  try {
    const found = await ask("patches", { patches: strokes.flat() });
    if (mine === asked && edited) compare(found);
    tell(null);
  } catch (error) {
    tell(error);
  }
  busy = false;
  document.body.dataset.done = String(asked);
  if (again) { again = false; explain(); }
}

function compare(found) {
  const legend = found.signed ? "Red speaks for, blue against" : "What counts for";
  picture.src = found.picture;
  map.src = found.map;
  editor.hidden = false;
  stream.hidden = true;
  find("legend").textContent = `${legend} ${found.before.name}. Full colour: |R| = ${found.scale.toPrecision(2).replace("-", "−")}` + (found.warning ? `. Absurd: ${found.warning}` : "");
  find("scores").caption.textContent = found.before.name;
  row("chance", percent(found.before.chance), percent(found.after.chance), found.after.chance - found.before.chance, (d) => `${(100 * d).toFixed(1)}`);
  row("score", number(found.before.score), number(found.after.score), found.after.score - found.before.score, number);
  row("top", found.before.top, found.after.top, 0, () => "");
  list(found.classes, state.wanted);
  find("undo").disabled = find("reset").disabled = !strokes.length;
  outline();
}

function row(id, before, after, change, written) {
  const [first, second, third] = find(id).querySelectorAll("td");
  first.textContent = before;
  second.textContent = after;
  third.textContent = change ? (change > 0 ? "+" : "") + written(change).replace("-", "−") : "";
  third.className = change < 0 ? "down" : "up";
}

// --- drawing ---------------------------------------------------------------------------------

const side = () => Number(find("side").value);

function place(event) {
  const box = canvas.getBoundingClientRect();
  const [height, width] = state.size;
  const inside = (value, size) => Math.min(size - 1, Math.max(0, value));
  return {
    row: inside((event.clientY - box.top) / box.height * height, height),
    column: inside((event.clientX - box.left) / box.width * width, width),
  };
}

function patch(at) {
  return { top: Math.round(at.row - side() / 2), left: Math.round(at.column - side() / 2), side: side(), fill };
}

// A patch at each half side of the way.
function draw(at) {
  const last = stroke.at(-1);
  const next = patch(at);
  if (strokes.flat().length >= state.most) { tell(new Error(`There is room for ${state.most} patches. Undo some.`)); return; }
  if (!last || Math.max(Math.abs(next.top - last.top), Math.abs(next.left - last.left)) >= side() / 2) {
    stroke.push(next);
    explain();
  }
}

// The patch that a press would draw, and those that the answer does not show yet.
function outline() {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!cursor || !state) return;
  const scale = canvas.height / state.size[0];
  const { top, left } = patch(cursor);
  pen.lineWidth = 3;
  for (const [colour, more] of [["#000", 3], ["#fff", 0]]) {
    pen.strokeStyle = colour;
    pen.strokeRect(left * scale - more, top * scale - more, side() * scale + 2 * more, side() * scale + 2 * more);
  }
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  cursor = place(event);
  strokes.push(stroke = []);
  draw(cursor);
  outline();
});
canvas.addEventListener("pointermove", (event) => {
  cursor = place(event);
  if (stroke) draw(cursor);
  outline();
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, () => {
    if (stroke && !stroke.length) strokes.pop();
    stroke = null;
  });
}
canvas.addEventListener("pointerleave", () => { if (!stroke) { cursor = null; outline(); } });
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const [height, width] = state.size;
  cursor = cursor || { row: height / 2, column: width / 2 };
  if (event.key in steps) {
    const step = event.shiftKey ? 1 : Math.max(1, side() / 4);
    const [down, right] = steps[event.key];
    cursor = {
      row: Math.min(height - 1, Math.max(0, cursor.row + down * step)),
      column: Math.min(width - 1, Math.max(0, cursor.column + right * step)),
    };
  } else if (event.key === "Enter") {
    strokes.push(stroke = []);
    draw(cursor);
    stroke = null;
  } else {
    return;
  }
  event.preventDefault();
  outline();
});

const undo = () => { if (strokes.pop()) explain(); };
const reset = () => { if (strokes.length) { strokes = []; explain(); } };
find("undo").onclick = undo;
find("reset").onclick = reset;
find("pause").onclick = pause;
find("side").oninput = measure;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state) return;
  const typing = event.target.matches("button, input");
  if (event.key === " " && !typing && !find("pause").disabled) { event.preventDefault(); pause(); }
  if (edited && event.key === "z") undo();
  if (edited && event.key === "r") reset();
});

const watch = () => { stream.src = narrow.matches ? "stream/column" : "stream/row"; };
narrow.addEventListener("change", watch);
watch();
refresh();
