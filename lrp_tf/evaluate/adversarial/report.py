"""The results of a study: tables, plots, sheets and a page in Markdown, all made of its finished parts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.evaluate.adversarial import outcomes, plots, ranking, sheets, tables
from lrp_tf.evaluate.adversarial.cases import Case, Cases
from lrp_tf.evaluate.adversarial.controls import KINDS
from lrp_tf.evaluate.adversarial.distances import NAMES
from lrp_tf.evaluate.adversarial.explained import ABSOLUTE
from lrp_tf.evaluate.adversarial.shifts import Row, summarize
from lrp_tf.evaluate.adversarial.store import SHEETS, Store, write_arrays
from lrp_tf.evaluate.adversarial.study import Part, Study, judged, pairs_of
from lrp_tf.evaluate.tables import markdown_table, write_csv

PAIR = ("attack", "source", "label", "target", "composite", "kind")
FAILED_PAIR = (*PAIR, "stage", "reason")


class Report:
    """The results of a finished study.

    Args:
        names: of the classes.
        title: what was attacked, in a sentence.
    """

    def __init__(self, study: Study, store: Store, chosen: Cases, names: Sequence[str], title: str) -> None:
        self.study, self.store, self.chosen, self.names, self.title = study, store, chosen, list(names), title
        self.parts = list(study.parts(chosen))
        self.attacks = [row for part in self.parts for row in store.rows(part.attacked)]
        self.explained = [row for part in self.parts for row in store.rows(part.explained)]
        self.composites = list(study.explainers)

    def write(self, most_sheets: int) -> list[Path]:
        """Write everything; the paths of what is worth a look."""
        folder, pairs = self.store.folder, pairs_of(self.explained)
        self._attacks()
        rows: list[Row] = []
        if pairs:
            lines = ([*(getattr(pair, name) for name in PAIR), *pair.measures.values()] for pair in pairs)
            write_csv(folder / "pairs.csv", [*PAIR, *pairs[0].measures], lines)
            rows = summarize(pairs, seed=self.study.plan.seed)
            tables.write(folder / "ranking.csv", rows)
            # A choice of measures: an interval takes milliseconds, and there are many groups.
            top = self.measure.removeprefix("left_top_")
            quantiles = [f"shift_q{100 * q:g}" for q in ranking.QUANTILES]
            names = (self.measure, f"unmoved_top_{top}", "unmoved", "near", *quantiles, "shift_mean", "spearman")
            few = [prefix + name for prefix in ("", ABSOLUTE) for name in names]
            by = ("attack", "composite", "kind", "target")
            each = summarize(pairs, by=by, measures=few, seed=self.study.plan.seed)
            tables.write(folder / "ranking_by_target.csv", each)
            plots.by_composite(folder / "ranking.png", rows, self.measure, title=self.title)
            title = f"{self.title} Ranked by absolute relevance."
            plots.by_composite(folder / "ranking_absolute.png", rows, ABSOLUTE + self.measure, title=title)
            self._shifts()
        self._sheets(most_sheets)
        text = self._page(rows)
        atomic(folder / "study.md", lambda path: path.write_text(text, encoding="utf-8"))
        return [folder / "study.md"]

    @property
    def measure(self) -> str:
        """The measure that is drawn: of the largest top that was asked for."""
        return f"left_top_{ranking.name(max(self.study.plan.how.top))}"

    def _attacks(self) -> None:
        """attacks.csv, failures.csv, adversarial.npz."""
        folder, confidence = self.store.folder, self.study.plan.confidence
        lines = ([row.get(name) for name in outcomes.COLUMNS] for row in self.attacks)
        write_csv(folder / "attacks.csv", outcomes.COLUMNS, lines)
        failed = outcomes.failures(self.attacks, confidence)
        columns = [*outcomes.FAILED[:4], "composite", "kind", *outcomes.FAILED[4:]]
        failed += [row for row in self.explained if "reason" in row]
        write_csv(folder / "failures.csv", columns, ([row.get(name) for name in columns] for row in failed))
        found = [judged(self.store, part) for part in self.parts]
        rows = [row for part, _ in found for row in part]
        arrays = {name: np.array([row[name] for row in rows]) for name in ("attack", "source", "label", "target")}
        arrays["x"] = np.concatenate([x for _, x in found])
        arrays["original"] = self.study.x[arrays["source"].astype(np.int64)] if len(rows) else arrays["x"]

        write_arrays(folder / "adversarial.npz", arrays)

    def _shifts(self) -> None:
        """shifts.csv, of each component; and a histogram for each attack and composite."""
        columns = ["attack", "composite", "kind", "component", "pairs", "mean_shift", "mean_absolute_shift", "unmoved"]
        lines: list[list[object]] = []
        bins: list[list[object]] = []
        for attack in self.study.attacks:
            mine = [part for part in self.parts if part.attack is attack]
            own = [self.store.arrays(part.explained) for part in mine]
            for number, composite in enumerate(self.composites):
                moved = {}
                for kind in KINDS:
                    found = [arrays.get(f"moved_{number}_{kind}", ()) for arrays in own]
                    if not any(map(len, found)):
                        continue
                    each = np.concatenate([values for values in found if len(values)])
                    moved[kind] = each / each.shape[1]
                    targets = np.repeat([part.target for part in mine], list(map(len, found)))
                    bins += _histogram([attack.name, composite, kind], moved[kind], targets)
                    sums = each.mean(axis=0), np.abs(each).mean(axis=0), (each == 0).mean(axis=0)
                    for i, values in enumerate(zip(*sums, strict=True)):
                        lines.append(
                            [attack.name, composite, kind, i, len(each), *(round(float(v), 6) for v in values)]
                        )
                if moved:
                    path = self.store.folder / f"histogram_{attack.name}_{self._file_name(composite)}.png"
                    plots.histogram(path, moved, title=f"{attack.name}, {composite}: how far components move")
        write_csv(self.store.folder / "shifts.csv", columns, lines)
        columns = ["attack", "composite", "kind", "target", "pairs", "from", "to", "share"]
        write_csv(self.store.folder / "histogram.csv", columns, bins)

    def _file_name(self, composite: str) -> str:
        """The name of a composite in names of files: with its number where several would have one name."""
        alike = [slug(name) for name in self.composites].count(slug(composite)) > 1
        return f"{self.composites.index(composite)}_{slug(composite)}" if alike else slug(composite)

    # --- sheets ---

    def _sheets(self, most: int) -> None:
        """Sheets of single attacks, up to `most`; an overview of each attack with a row for each target."""
        folder = self.store.folder / SHEETS
        shutil.rmtree(folder, ignore_errors=True)  # an earlier report may have drawn more
        for name in (sheets.WRONG, sheets.RIGHT):
            (folder / name).mkdir(parents=True, exist_ok=True)
        where = [(part, i) for part in self.parts for i in range(len(judged(self.store, part)[0]))]
        drawn = {where[n] for n in sheets.spread([(part.attack.name, part.target) for part, _ in where], most)}
        for attack in self.study.attacks:
            firsts: dict[int, sheets.Example] = {}
            for part in (part for part in self.parts if part.attack is attack):
                for i, example in enumerate(self._examples(part)):
                    case = Case(*(example.row[name] for name in Case._fields))
                    if (part, i) in drawn:
                        path = folder / example.folder / f"{outcomes.stem(attack.name, case)}.png"
                        sheets.sheet(path, example, self.names)
                    if example.row["success_float"]:
                        firsts.setdefault(part.target, example)
            if firsts:
                title = f"{attack.name}: one example for each target"
                sheets.overview(folder / f"overview_{attack.name}.png", list(firsts.values()), self.names, title)

    def _examples(self, part: Part) -> list[sheets.Example]:
        rows, x = judged(self.store, part)
        arrays, scale = self.store.arrays(part.explained), self.study.plan.scale
        found = []
        for i, row in enumerate(rows):
            images = [(image - scale.low) / (scale.high - scale.low) for image in (self.study.x[row["source"]], x[i])]
            maps = {name: arrays[f"maps_{number}"][i] for number, name in enumerate(self.composites)}
            found.append(
                sheets.Example(row, images[0], images[1], {n: m for n, m in maps.items() if np.isfinite(m).all()})
            )
        return found

    # --- a page ---

    def _page(self, rows: Sequence[Row]) -> str:
        """study.md: all tables, without timings, which differ between runs."""
        plan, failed = self.study.plan, outcomes.failures(self.attacks, self.study.plan.confidence)
        lines = ["# Adversarial study", "", self.title, ""]
        lines += [
            f"Targets {_listed(plan.targets, self.names)}; originals of {_listed(plan.sources, self.names)}, "
            f"classified rightly, {plan.per_target} for each target; seed {plan.seed}; confidence {plan.confidence:g}. "
            f"Components are {'pixels' if plan.how.by == 'pixel' else 'values'}, ranked by relevance, and by absolute "
            "relevance.",
            "",
            *(f"- {remark}" for remark in self.chosen.remarks),
            *([""] if self.chosen.remarks else []),
            "## Attacks",
            "",
            self._summary(),
            "",
            "Distances are means over the attacks that reached their target, predictions and gradients over all.",
            "",
            *self._signs(),
        ]
        missed, undone = (sum(row["stage"] == stage for row in failed) for stage in ("attack", "png"))
        if missed:
            lines += [f"{missed} attacks did not reach their target: failures.csv.", ""]
        if undone:
            lines += [
                f"Rounding to 8 bits undoes {undone} of those that did: they end close to the boundary of the classes. "
                "A larger confidence asks for a margin. Maps are of the float image, not of its 8-bit picture.",
                "",
            ]
        if rows:
            lines += self._rankings(rows)
        return "\n".join(lines)

    def _rankings(self, rows: Sequence[Row]) -> list[str]:
        """Tables of how far components move."""
        top, lines = self.measure.rpartition("_")[2], []
        for prefix, how in (("", "by relevance"), (ABSOLUTE, "by absolute relevance")):
            measure = prefix + self.measure
            lines += [f"## Share of the top {top} % that leaves it, {how}", "", tables.by_kind(rows, measure), ""]
            lines += ["Adversarial minus control, of the same originals:", "", tables.differences(rows, measure), ""]
            for name, title in (
                ("unmoved", "Share of components whose rank stays"),
                ("shift_q50", "Median absolute shift of ranks, as a share of all components"),
                ("shift_mean", "Mean absolute shift of ranks, as a share of all components"),
                ("spearman", "Spearman correlation of ranks"),
            ):
                lines += [f"## {title}, {how}", "", tables.by_kind(rows, prefix + name), ""]
        return [*lines, "## Pairs, and originals that they are of", "", tables.counts(rows, self.measure), ""]

    def _summary(self) -> str:
        """A line for each attack: how many reach their target, and how far they go."""
        head = ["attack", "images", "reach the target", "as 8 bits", *(f"mean {name}" for name in NAMES)]
        head += ["predictions", "gradients"]
        lines = []
        for attack in self.study.attacks:
            own = [row for row in self.attacks if row["attack"] == attack.name]
            reached = [row for row in own if row.get("success_float")]
            seen = sum(bool(row.get("success_png")) for row in own)
            means = [_mean([row[name] for row in reached]) for name in NAMES]
            calls = [_mean([row[name] for row in own if name in row]) for name in ("predictions", "gradients")]
            share = [f"{count / len(own):.1%} ({count})" for count in (len(reached), seen)]
            lines.append([attack.name, str(len(own)), *share, *means, *calls])
        return markdown_table(head, lines)

    def _signs(self) -> list[str]:
        """How often the target's logit is negative, which turns a map, and its ranking by relevance, upside down."""
        lines = []
        for attack in self.study.attacks:
            own = [row for row in self.attacks if row["attack"] == attack.name and row.get("success_float")]
            if own:
                before, after = (
                    sum(row[f"logit_target_{of}"] < 0 for row in own) / len(own) for of in ("original", "float")
                )
                lines.append(
                    f"- {attack.name}: the target's logit is negative for {before:.1%} of the originals, and for "
                    f"{after:.1%} of the adversarial images that reached it."
                )
        return [*lines, ""] if lines else []

    def rates(self) -> list[str]:
        """How fast attacks were, in sentences; of the runs that made the parts."""
        found = []
        for attack in self.study.attacks:
            seconds = [row["seconds"] for row in self.attacks if row["attack"] == attack.name and "seconds" in row]
            if total := sum(seconds):
                found.append(
                    f"{attack.name}: {len(seconds)} images in {total:.1f} s, {len(seconds) / total:.2f} images/s"
                )
        return found


def _mean(values: Sequence[float]) -> str:
    return f"{float(np.mean(values)):.4g}" if values else "–"


def _listed(classes: Sequence[int], names: Sequence[str]) -> str:
    return "all classes" if len(classes) == len(names) else ", ".join(names[i] for i in classes)


def slug(name: str) -> str:
    """A name as a part of the name of a file."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_")[:60]


__all__ = ["Report", "slug"]


def _histogram(head: list[object], moved: np.ndarray, targets: np.ndarray) -> list[list[object]]:
    """Rows of histogram.csv: shares of components by absolute shift, for each target.

    Args:
        head: attack, composite and kind. moved: shifts [M, K] as shares of K. targets: of the pairs, [M].
    """
    rows: list[list[object]] = []
    for target in np.unique(targets):
        far = np.abs(moved[targets == target])
        shares = np.histogram(far, plots.EDGES)[0] / far.size
        for low, high, share in zip(plots.EDGES[:-1], plots.EDGES[1:], shares, strict=True):
            rows.append([*head, int(target), len(far), round(float(low), 6), round(float(high), 6), float(share)])
    return rows
