"""The results of a file, from one or several runs, as the script of a page takes them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence, Set
from urllib.parse import quote

from lrp_tf.gallery.draw import where_it_went
from lrp_tf.gallery.ledger import PATH, TOP, from_cell
from lrp_tf.gallery.page.results import Cells, Results
from lrp_tf.terminal import printable

SHARES = ("sum_of_relevance", "bias", "stabilizer", "other")
Picture = Callable[[str], object]  # a path below the page's folder -> how the script finds that picture


def entry(file: str, runs: Sequence[tuple[str, Results]], picture: Picture) -> dict[str, object]:
    """One file of a page.

    Args:
        runs: (folder relative to the page, results) of each composite.
        picture: called once with each picture that the page shows of this file.

    Returns:
        A tree of texts, numbers, lists and None, for JSON.
    """
    folder, name = parts(file, {path for _, results in runs for path in results.about.get("tables", ())})
    found: dict[str, object] = {"name": printable(name), "folder": printable(folder), "top": []}
    explained: list[object] = []
    for where, results in runs:
        rows, tiles = results.rows(file), results.tiles(file)
        if tiles is None:
            explained.append(None)
            continue
        if "below" not in found:  # the same for all: one model, one picture
            found["top"], found["size"], found["slices"] = _top(rows[0]), tiles.size, tiles.slices
            found["first"] = tiles.first
            found["below"] = [picture(f"{where}{name}") for name in tiles.below]
        targets = []
        for k, (row, names) in enumerate(zip(rows, tiles.maps, strict=True)):
            link = _link(where, row, results.about["suffixes"], k)
            maps = [picture(f"{where}{name}") for name in names]
            atlas = _atlas(where, row, results.about.get("atlas", ()), k)
            targets.append(_target(row, results.about["at"]) | {"link": link, "maps": maps, "atlas": atlas})
        explained.append(targets)
    return found | {"runs": explained}


def parts(file: str, tables: Set[str]) -> tuple[str, str]:
    """The folder and the name of a file, or of a row of one of `tables`, whose name may hold any sign.

    parts("in/p.csv:a/b", {"in/p.csv"})  # ("in", "p.csv:a/b")
    """
    places = [place for place, sign in enumerate(file) if sign == ":"]
    path = next((file[:place] for place in places if file[:place] in tables), file)
    folder, name = os.path.split(path)
    return folder, name + file[len(path) :]


def _top(row: Cells) -> list[dict[str, object]]:
    """The highest classes."""
    found: list[dict[str, object]] = []
    for i in range(1, TOP + 1):
        if number := row[f"top{i}"]:
            chance, logit = _number(row[f"top{i}_probability"]), _number(row[f"top{i}_logit"])
            found.append({"class": int(number), "name": _named(row, f"top{i}"), "p": chance, "logit": logit})
    return found


def _target(row: Cells, at: str) -> dict[str, object]:
    """A class that is explained: where its score went, in numbers and words."""
    start, *shares = (_number(row[name]) for name in ("start", *SHARES))
    known = [math.nan if share is None else share for share in (start, *shares)]
    absorbed = None if not start or shares[0] is None else 1 - shares[0] / start
    return {
        "class": int(row["target"]),
        "name": _named(row, "target"),
        "p": _number(row["probability"]),
        "logit": _number(row["logit"]),
        "start": start,
        "shares": shares,
        "absorbed": absorbed,
        "went": where_it_went(*known, at=at),
        "warning": printable(row["warning"]),
    }


def _named(row: Cells, column: str) -> str:
    name = printable(from_cell(row[f"{column}_name"]))
    return f"class {name}" if name == row[column] else name


def _number(cell: str) -> float | None:
    """A finite number; JSON knows no others."""
    number = float(cell) if cell else math.nan
    return number if math.isfinite(number) else None


def _link(where: str, row: Cells, suffixes: Sequence[str], k: int) -> str:
    """The address of the large picture of a target."""
    own = [suffix for suffix in suffixes if f".{k + 1}." in suffix]
    return _address(where, row, (own or list(suffixes))[0])


def _atlas(where: str, row: Cells, suffixes: Sequence[str], k: int) -> str | None:
    """The address of the atlas of a target; None: none was asked for."""
    return _address(where, row, suffixes[k]) if suffixes else None


def _address(where: str, row: Cells, suffix: str) -> str:
    return where + quote(from_cell(row["result"], PATH) + suffix, errors="surrogateescape")
