"""Every metric of lrp_tf.evaluate, its direction and its paper: `python -m lrp_tf.tools.metric_table`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lrp_tf import evaluate
from lrp_tf.atomic import atomic
from lrp_tf.engine.tables import Table

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
    parser = argparse.ArgumentParser(prog="python -m lrp_tf.tools.metric_table", description=__doc__)
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table as a page")
    arguments = parser.parse_args()
    if arguments.markdown is None:
        print(table())
        return
    atomic(arguments.markdown, lambda temporary: temporary.write_text(markdown(), encoding="utf-8"))


if __name__ == "__main__":
    main()
