"""The result of `compare`, with everything that shows it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from lrp_tf.evaluate import tables
from lrp_tf.evaluate.results import Results


@dataclasses.dataclass(frozen=True)
class Comparison(Results):
    """The result of `compare`; `str()` draws its table.

        found = evaluate.compare({"epsilon": explainer, "edges": "sobel"}, x, metrics=["sparseness"])
        print(found.markdown())

    Attributes:
        methods: names of the explainers.
        metrics: name -> metric.
        values: [methods, metrics, n] float64; NaN where a metric is not defined or something failed.
        target: the classes that were explained, [n]; -1 for a sample without one.
        failures: what failed, with reasons.
        seed: of the resamples, too.
        reference: as given to `compare`; None: the best of each metric.
        confidence, resamples: of the bootstrap. Intervals hold for each alone: among many some miss by chance, and a
            best method that the same samples chose is flattered. Nemenyi's test of `ranks` allows for all pairs.
        samples: names of the samples, for tables; () for their numbers.
    """

    def __str__(self) -> str:
        return tables.text(self)

    def markdown(self) -> str:
        """The summary in Markdown: an overview, methods × metrics, if there are several; a table for each metric."""
        return tables.markdown(self)

    def overview(self) -> str:
        """Methods × metrics in Markdown, with intervals; in bold the reference and what cannot be told from it."""
        return tables.overview(self)

    def bars(self, path: str | os.PathLike) -> Path:
        """Save bars of the means with their intervals, a panel for each metric; a picture format by its suffix."""
        from lrp_tf.evaluate import bars

        return bars.bars(path, self)

    def critical_difference(self, path: str | os.PathLike, metric: str) -> Path:
        """Save the diagram of mean ranks; bars join methods that Nemenyi's test cannot tell apart (Demšar 2006)."""
        from lrp_tf.evaluate import bars

        return bars.critical_difference(path, self, metric)

    def save(self, folder: str | os.PathLike, *, unread: Sequence[tuple[str, str]] = ()) -> Path:
        """Write summary.csv, samples.csv (a row for each value), failures.csv, table.md and bars.png; gives the folder.

        Each file appears whole or not at all.

        Args:
            unread: (name, reason) of samples that could not be read, for failures.csv.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables.write(folder, self, unread)
        self.bars(folder / "bars.png")
        return folder
