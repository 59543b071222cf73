"""What tuning found, as text, Markdown, CSV, TOML and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lrp_tf import composites
from lrp_tf.atomic import atomic
from lrp_tf.engine.tables import Table
from lrp_tf.evaluate.tuning.findings import Findings, Ranked, Reported

_SHOWN = 12  # rows of the ranking in the text


def text(found: Findings) -> str:
    """Ranking, report and verdict for a console."""
    title = f"{found.metric} ({found.better} is better) on the {len(found.chosen_ids)} samples that choose"
    rows = [tuple(_cells(row)) for row in _shown(found)]
    tables = [Table(title, _HEADS, rows)]
    title = f"The one comparison on the {len(found.reported_ids)} samples that report"
    tables.append(Table(title, _REPORT_HEADS, [tuple(_report_cells(row)) for row in _pair(found)]))
    return "\n\n".join([*map(str, tables), *found.unreached, found.verdict])


def markdown(found: Findings) -> str:
    """The same in Markdown, with the whole ranking."""
    parts = [f"**{found.verdict}**", *found.unreached]
    parts.append(
        f"Ranking by {found.metric} ({found.better} is better) on the {len(found.chosen_ids)} samples that choose:\n\n"
        + _lines(_HEADS, [_cells(row) for row in found.ranking])
    )
    parts.append(
        f"The {len(found.reported_ids)} samples that report:\n\n"
        + _lines(_REPORT_HEADS, [_report_cells(row) for row in _pair(found)])
    )
    return "\n\n".join(parts) + "\n"


def write(folder: Path, found: Findings, sample_names: Sequence[str] = ()) -> None:
    """tune.md, ranking.csv, samples.csv, report.csv, winner.toml, advised.toml and settings.json."""
    names = list(dict.fromkeys(axis.name for axis in found.axes))
    rows = [
        [*row, *(_plain(found.settings.get(row.name, {}).get(name, "")) for name in names)] for row in found.ranking
    ]
    _write_csv(folder / "ranking.csv", [*Ranked._fields, *names], rows)
    samples: list[Sequence[object]] = [
        [name, sample_names[sample] if sample_names else sample, value]
        for name, (ids, values) in found.values.items()
        for sample, value in zip(ids, values, strict=True)
    ]
    _write_csv(folder / "samples.csv", ["candidate", "sample", found.metric], samples)
    report: list[Sequence[object]] = [
        [name, sample_names[sample] if sample_names else sample, value]
        for name, values in found.report.items()
        for sample, value in zip(found.reported_ids, values, strict=True)
    ]
    _write_csv(folder / "report.csv", ["candidate", "sample", found.metric], report)
    _write(folder / "tune.md", markdown(found))
    _write(folder / "winner.toml", composites.toml(found.winner))
    _write(folder / "advised.toml", composites.toml(found.composite))
    result = {
        "verdict": found.verdict,
        "keep_default": found.keep_default,
        "best": found.best._asdict(),
        "default": found.default._asdict(),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "pairs": found.pairs,
        "confidence": found.confidence,
        "seed": found.seed,
        "choosing": list(found.chosen_ids),
        "reporting": list(found.reported_ids),
        "unreached": list(found.unreached),
    }
    _write(folder / "settings.json", json.dumps({**found.archive, "result": result}, indent=1, default=str) + "\n")


_HEADS = ("rank", "candidate", "mean", "interval", "n", "sparseness")
_REPORT_HEADS = ("", "candidate", "mean", "interval", "n", "sparseness")


def _shown(found: Findings) -> list[Ranked]:
    """The first rows, and the default's."""
    return [row for place, row in enumerate(found.ranking) if place < _SHOWN or row.name == found.default.name]


def _cells(row: Ranked) -> list[str]:
    rank = str(row.rank) if row.rank else "not reached"
    return [rank, row.name, _number(row.mean), _interval(row.low, row.high), str(row.n), _number(row.sparseness)]


def _pair(found: Findings) -> list[tuple[str, Reported]]:
    return [("best", found.best), ("default", found.default)]


def _report_cells(pair: tuple[str, Reported]) -> list[str]:
    kind, row = pair
    return [kind, row.name, _number(row.mean), _interval(row.low, row.high), str(row.n), _number(row.sparseness)]


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.4f}"


def _interval(low: float, high: float) -> str:
    return "–" if low != low else f"{low:.4f} to {high:.4f}"


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(columns), ["---"] * 2 + ["---:"] * (len(columns) - 2), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    def draw(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([repr(float(v)) if isinstance(v, float) else v for v in row] for row in rows)

    atomic(path, draw)


def _write(path: Path, content: str) -> None:
    atomic(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
