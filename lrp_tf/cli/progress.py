"""What a run shows on the console: a bar, or lines if it is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Set
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lrp_tf.gallery.draw import where_it_went
from lrp_tf.gallery.ledger import COLUMNS, Row
from lrp_tf.gallery.page.entries import parts
from lrp_tf.terminal import printable, raise_interrupt, say, silence


class _Console(Console):
    """Standard error. If its reader has closed it, output is dropped; rich itself would end the process."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, markup=False)

    def on_broken_pipe(self) -> None:
        silence(sys.stderr)


class ProgressBar:
    """Progress with images per second and the time left; a line every half minute if the console is no terminal.

    Args:
        unit: what is counted, if not images.
        at: where relevance arrives, in words.
        tables: the paths of tables whose rows are explained.
    """

    def __init__(
        self, total: int, unit: str = "images", at: str = "the pixels", tables: Set[str] = frozenset()
    ) -> None:
        self.tables = tables
        self.unit, self.at, self.total, self.count, self.told = unit, at, total, 0, time.perf_counter()
        self.before: int | None = None  # finished by an earlier run, hence not counted as speed
        self.console = _Console()
        columns = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeElapsedColumn()]
        columns += [TextColumn("left:"), TimeRemainingColumn()]
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.task = self.progress.add_task("", total=total, speed="")

    def __enter__(self) -> ProgressBar:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    def advance(self, count: int) -> None:
        """Count files as finished."""
        raise_interrupt()
        self.count += count
        now = time.perf_counter()
        if self.before is None:
            self.before, self.began = count, now
        speed = (self.count - self.before) / max(now - self.began, 1e-9)
        self.progress.update(self.task, advance=count, speed=f"{speed:.2f} {self.unit}/s")
        if not self.console.is_terminal and now - self.told > 30:
            self.told = now
            left = (self.total - self.count) / speed if speed else 0
            self._print(f"{self.count} of {self.total}, {speed:.2f} {self.unit}/s, {left / 60:.1f} min left")

    def tell_failure(self, line: str) -> None:
        self._print(f"failed: {line}")

    def tell_absurd(self, line: str) -> None:
        self._print(f"warning: {line}")

    def tell_result(self, rows: list[Row]) -> None:
        """Show an image, with a line for each target."""
        for row in rows:
            cells = dict(zip(COLUMNS, map(str, row), strict=True))
            name, chance = printable(cells["top1_name"]), cells["top1_probability"]
            top = f"{name} {float(chance):.3f}" if chance else name
            logit = float(cells["logit"])
            shares = (float(cells[name]) for name in ("sum_of_relevance", "bias", "stabilizer", "other"))
            went = where_it_went(logit, *shares, at=self.at)
            file = ascii(parts(cells["file"], self.tables)[1])[1:-1]
            say(f"{file}: {top}; {printable(cells['target_name'])}: logit {logit:.4g}; {went}")

    def _print(self, line: str) -> None:
        if self.console.is_terminal:
            self.console.print(printable(line), soft_wrap=True)  # above the bar
        else:
            say(printable(line), error=True)
