"""The result of `tune`, with everything that shows it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from lrp_tf.evaluate.tuning import tables
from lrp_tf.evaluate.tuning.findings import Findings, varying


@dataclasses.dataclass(frozen=True)
class Tuning(Findings):
    """The result of `tune`; `str()` draws its table and its verdict.

        found = evaluate.tune(model, x)
        print(found)
        explainer = lrp_tf.Explainer(model, found.composite)

    Attributes:
        metric: its name. better: "higher" or "lower".
        ranking: of the choosing half, the best first.
        best, default: on the reporting half.
        difference, low, high: mean of best minus default in pairs on the reporting half, and its interval: the only
            comparison that is made there. pairs: samples with a value for both.
        keep_default: whether the default is to be kept: the interval holds 0, or the best is worse, or is the default.
        composite: what follows, the composite of the best or the default's. winner: that of the best in any case.
        chosen_ids, reported_ids: numbers of the samples of both halves that were used.
        axes: what varied.
        settings: name of a candidate -> its settings.
        values: name -> values [n] of the metric on its samples of the choosing half, with their numbers.
        report: name -> values of the metric on `reported_ids`.
        seed, confidence: of the intervals.
        unreached: what the budget did not suffice for, and what has no value, in words.
        archive: versions, seed and everything else that decides the result, for settings.json.
    """

    def __str__(self) -> str:
        return tables.text(self)

    def markdown(self) -> str:
        """Ranking, report and verdict in Markdown."""
        return tables.markdown(self)

    def pareto(self, path: str | os.PathLike) -> Path:
        """Save a plot of faithfulness against sparseness; those that nothing beats in both are joined."""
        from lrp_tf.evaluate.tuning import plots

        return plots.pareto(path, self)

    def contour(self, path: str | os.PathLike) -> Path:
        """Save the metric over the two parameters that vary, as a filled contour.

        Raises:
            ValueError: not exactly two parameters with several numbers vary.
        """
        from lrp_tf.evaluate.tuning import plots

        return plots.contour(path, self)

    def save(self, folder: str | os.PathLike, *, names: Sequence[str] = ()) -> Path:
        """Write tune.md, ranking.csv, samples.csv, report.csv, pareto.png, contour.png, the composites, settings.json.

        winner.toml is the best of the choosing half, advised.toml what follows: that one or the default. Each file
        appears whole or not at all; contour.png only where exactly two numbers vary.

        Args:
            names: of the samples, for tables; () for their numbers.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables.write(folder, self, names)
        self.pareto(folder / "pareto.png")
        if len([axis for axis in self.axes if len(axis.values) > 1 and axis.numeric]) == 2 == len(varying(self.axes)):
            self.contour(folder / "contour.png")
        return folder
