"""The result of a benchmark, with everything that shows it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from lrp_tf.evaluate.benchmark import pages
from lrp_tf.evaluate.benchmark.results import Results


@dataclasses.dataclass(frozen=True)
class Benchmark(Results):
    """The result of `benchmark`; `str()` draws its tables.

        found = evaluate.benchmark(["linear"], ["white"], nets=["mlp"], seeds=2, training=200, epochs=1)
        found.row("mlp", "linear", "white", "precision", "epsilon"); found.plot("precision.png")

    Attributes:
        cells: what was measured of each net.
        methods: in the order in which they were asked for.
        metrics: under their short names.
        size, inputs: of the pictures.
        confidence: of the intervals.
    """

    def __repr__(self) -> str:
        return f"<Benchmark: {len(self.cells)} nets, {len(self.methods)} methods>"

    def __str__(self) -> str:
        return pages.markdown(self)

    def markdown(self) -> str:
        """Tables in Markdown: accuracy of the nets; methods × problems for each net and metric; what does not apply."""
        return pages.markdown(self)

    def plot(self, path: str | os.PathLike, metric: str = "precision") -> Path:
        """Save dots with intervals: a panel for each problem, a colour for each kind of net."""
        from lrp_tf.evaluate.benchmark import plots

        return plots.dots(path, self, metric)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write table.md, summary.csv, seeds.csv (a row for each net and method), nets.csv, a picture for each metric.

        With a method `tuned` also tuned.csv, what was chosen for each net, and against.csv, its differences to others.
        Each file appears whole or not at all.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pages.write(folder, self)
        for metric in self.metrics:
            self.plot(folder / f"{metric.replace(' ', '_').replace('+', '_positive')}.png", metric)
        return folder
