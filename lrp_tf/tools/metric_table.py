"""Every metric of lrp_tf.evaluate, its direction and its paper: `python -m lrp_tf.tools.metric_table`."""

from __future__ import annotations

from lrp_tf import evaluate
from lrp_tf.engine.tables import Table
from lrp_tf.tools import page

COLUMNS = ("metric", "family", "better", "what it says", "needs", "paper")


def table() -> Table:
    """A row for each metric, families together; the first line of its docstring says what it is."""
    rows = []
    for metric in sorted(map(evaluate.get, evaluate.names()), key=lambda metric: metric.family):
        if not (metric.function.__module__ or "").startswith("lrp_tf."):
            continue  # one that its user declared
        says = (metric.function.__doc__ or "").strip().split("\n")[0].rstrip(".")
        options = ", ".join(f"{name}={value!r}" for name, value in metric.options.items())
        needs = [*metric.needs, *["a batch"] * metric.over_batch]
        rows.append((
            metric.name, metric.family, metric.better or "–", f"{says} ({options})" if options else says,
            ", ".join(needs) or "–", metric.paper,
        ))  # fmt: skip
    return Table(f"{len(rows)} metrics", COLUMNS, rows)


def markdown() -> str:
    """The page docs/metrics.md."""
    rows = [[f"`{row[0]}`", *row[1:]] for row in table().rows]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    head = [
        "# Metrics",
        "",
        "Every metric of `lrp_tf.evaluate`. Made by `python -m lrp_tf.tools.metric_table --markdown docs/metrics.md`;",
        "`tests/test_docs.py` holds it to the code. R: relevance; N: positions; y: scores. Options are in the",
        "docstrings: `help(lrp_tf.evaluate.get(name).function)`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def main() -> None:
    """The command."""
    page.command("python -m lrp_tf.tools.metric_table", __doc__, table, markdown)


if __name__ == "__main__":
    main()
