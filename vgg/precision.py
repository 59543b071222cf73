"""The same training in float32 and in mixed precision, each in a process of its own, and the two side by side."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from lrp_tf.training import reports

FLOAT32, MIXED = "float32", "mixed"  # sub folders of the results
TABLE = "precision.csv"
COLUMNS = ("precision", "accuracy", "macro_f1", "epoch", "seconds_per_epoch", "peak_memory_mib")


def compare(argv: Sequence[str], arguments: argparse.Namespace, out: Path) -> None:
    """Train twice with the same seed, print a table and write it to precision.csv.

    A process each: so neither warms up the other, and each has a peak of memory of its own.

    Args:
        argv: the command line.
        arguments: what the parser made of it.

    Raises:
        ValueError: one of the trainings failed; it has said why.
    """
    asked = arguments.mixed_precision or "auto"
    if asked == "auto":
        asked = "float16" if tf.config.list_physical_devices("GPU") else "bfloat16"
    runs = {FLOAT32: [], MIXED: ["--mixed-precision", asked]}
    rows = []
    for name, more in runs.items():
        print(f"--- {' '.join(more) or name}", flush=True)
        script = Path(__file__).resolve().parent / "train.py"
        child = [sys.executable, str(script), *kept(argv), *more, "--out", str(out / name)]
        code = subprocess.run(child, check=False).returncode
        if code:
            raise ValueError(f"--compare-precision: the training in {name} ended with exit code {code}")
        report = json.loads((out / name / "report.json").read_text(encoding="utf-8"))
        rows.append([report["settings"]["policy"], *(report[column] for column in COLUMNS[1:])])
    reports.write_table(out / TABLE, COLUMNS, rows)
    print(text(rows))
    print(f"table: {out / TABLE}")


def kept(argv: Sequence[str]) -> list[str]:
    """The command line without what differs between the two trainings."""
    values = {"--mixed-precision": ("float16", "bfloat16", "auto"), "--out": None, "--compare-precision": ()}
    found: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name not in values:
            found.append(word)
        elif not equals and rest and (values[name] is None or rest[0] in values[name]):
            rest.pop(0)
    return found


def text(rows: Sequence[Sequence[object]]) -> str:
    """The table for the console, with the difference of the accuracies below."""
    cells = [list(COLUMNS), *([f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    difference = float(rows[1][1]) - float(rows[0][1])  # type: ignore[arg-type]
    faster = float(rows[0][4]) / float(rows[1][4])  # type: ignore[arg-type]
    return "\n".join(
        [*lines, f"mixed precision: {100 * difference:+.2f} percentage points of accuracy, {faster:.2f}x the speed"]
    )
