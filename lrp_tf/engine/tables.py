"""The two tables: which rule each step has, and what each step did with its relevance."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from lrp_tf.composites import Composite, remarks
from lrp_tf.core.graph import Graph, Step, shape_text
from lrp_tf.core.protocol import Handler
from lrp_tf.engine.plan import inner_plan
from lrp_tf.engine.rows import Shares, StepRow
from lrp_tf.terminal import printable


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under named columns; `str()` draws it.

    Attributes:
        title: one line above, may be empty.
        columns: their names.
        rows: a tuple for each; numbers stay numbers.
        notes: lines below.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(box=box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            numeric = any(isinstance(row[index], float) for row in self.rows)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*[_cell(value) for value in row])
        text = io.StringIO()
        # Wide enough never to wrap: tables are written to files, too.
        console = Console(file=text, width=10_000, color_system=None, markup=False, highlight=False, emoji=False)
        console.print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        # Not rich's own title, which wraps at the width of the table.
        return "\n".join([line for line in (printable(self.title), *lines) if line] + list(map(printable, self.notes)))

    def __repr__(self) -> str:
        return f"<Table {self.title!r}: {len(self.rows)} rows>"

    def column(self, name: str) -> list:
        """All values of a column."""
        return [row[self.columns.index(name)] for row in self.rows]

    def show(self, print_fn: Callable[[str], object] | None) -> Table:
        """Print through `print_fn`, unless it is None; returns the table."""
        if print_fn is not None:
            print_fn(str(self))
        return self


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2e}"
    return printable(value)


def rule_table(graph: Graph, handlers: Mapping[Step, Handler], composite: Composite) -> Table:
    """Layer -> operation -> rule, in the order of the model; for rewritten layers, what became of them.

    Where bfloat16 was asked for, a column says what the rule of each step with a kernel computes in, and why. A note
    says so where the composite is a preset that lost to a filter on nets of this kind, see `composites.remarks`.
    """
    asked = any(step.marks.precision for step in graph.steps)
    rows = [
        (order, index, step.path, step.operation, shape_text(step.outputs[0].shape), _rule_text(step, rule),
         step.marks.precision)
        for index, (order, step, rule) in enumerate(_in_order(handlers))
        if step.inputs  # not the constants
    ]  # fmt: skip
    rows += [(order, len(rows), path, operation, "", what, "") for order, path, operation, what in graph.rewrites]
    rows.sort(key=lambda row: row[:2])
    stripped = [f"The final {step.operation} ({step.path}) is stripped: relevance explains its input, the logit."
                for step in graph.stripped]  # fmt: skip
    lost = [str(remark) for remark in remarks.of_net(composite, graph)]
    title = f"{graph.model.name}, composite {composite.name}, computed in {graph.dtype}"
    columns = ("layer", "operation", "output shape", "rule", *(["relevance in"] if asked else []))
    return Table(title, columns, [row[2 : 2 + len(columns)] for row in rows], (*stripped, *lost))


def _in_order(handlers: Mapping[Step, Handler], order: int | None = None) -> Iterator[tuple[int, Step, Handler]]:
    """Each step with its place in the model; the steps of a loop come behind the loop, once."""
    for step, handler in handlers.items():
        place = step.order if order is None else order
        yield place, step, handler
        inner = inner_plan(handler)
        if inner is not None:
            yield from _in_order(inner.handlers, place)


def _rule_text(step: Step, rule: Handler) -> str:
    extra = [layer.name for layer in (*step.before, *step.after)]
    return f"{rule!r}" + (f", with {', '.join(extra)}" if extra else "")


REPORT_COLUMNS = (
    *("layer", "operation", "rule", "relevance out", "relevance in"),
    *("bias", "stabilizer", "other", "unexplained", "NaN/Inf"),
)


def report_table(
    graph: Graph,
    handlers: Sequence[tuple[Step, Handler]],
    composite: str,
    shares: Shares,
    steps: np.ndarray,
    *,
    filtered: bool,
    positions: bool = False,
) -> Table:
    """What each step did with its relevance, from the output down; the last row is the whole model.

    Args:
        handlers: `Plan.every_step()`.
        composite: its name.
        shares: of each sample, eager tensors.
        steps: stacked `StepRow`s [S, 8], in the order of the backward pass.
        filtered: there is a relevance filter, which gets a column.
        positions: there are positions of tokens, which get a column.
    """
    totals = Shares(*(float(tf.reduce_sum(share)) for share in shares))
    size, samples = totals.size or 1.0, shares.size.shape[0]
    rows: list[tuple] = []
    for (step, handler), row in zip(reversed(handlers), StepRow.unstack(steps), strict=True):
        if not step.inputs:  # the constants
            continue
        out, *parts, bad = row
        rest = (out - sum(parts)) / size
        parts = _shown(parts, positions, filtered)
        rows.append((step.path, step.operation, repr(handler), out, *parts, rest, int(bad)))
    _, _, *parts = totals
    rest = (totals.start - sum(parts)) / size
    bad = sum(row[-1] for row in rows)
    rows.append(("total", "", "", totals.start, *_shown(parts, positions, filtered), rest, bad))
    title = f"{graph.model.name}, composite {composite}: relevance of {samples} sample(s), summed"
    more = [name for name, shown in (("positions", positions), ("filter", filtered)) if shown]
    return Table(title, (*REPORT_COLUMNS[:-2], *more, *REPORT_COLUMNS[-2:]), rows)


def _shown(parts: list, positions: bool, filtered: bool) -> list:
    """The shares that have a column: relevance, bias, stabilizer, other, and the last two where there is something."""
    return [*parts[:4], *([parts[4]] if positions else []), *([parts[5]] if filtered else [])]
