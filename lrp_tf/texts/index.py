"""The page that lists all texts of a run, made from its table of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from lrp_tf.atomic import atomic
from lrp_tf.gallery.ledger import COLUMNS, PATH, RESULTS, complete_rows, from_cell
from lrp_tf.heatmap import markup

INDEX = "index.html"
_SHOWN = 200  # characters of a text


def write_index(out: Path, name: Callable[[int], str] = str) -> Path:
    """Write `index.html` in the folder of a run: a line for each text and target, with a link to its page.

    Args:
        name: gives the name of a class or token.

    Raises:
        OSError: the folder cannot be read or written.
    """
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in complete_rows(out / RESULTS, len(COLUMNS))[1:]]
    main = markup.root()
    markup.add(main, "h1", f"{len({row['file'] for row in rows})} texts")
    table = markup.add(main, "table")
    head = markup.add(table, "tr")
    for column in ("text", "prediction", "target", "score", "note"):
        markup.add(head, "th", column)
    for row in rows:
        line = markup.add(table, "tr")
        text = from_cell(row["file"], PATH)
        text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        link = quote(f"{from_cell(row['result'], PATH)}.html", errors="surrogateescape")
        markup.add(markup.add(line, "td", dir="auto"), "a", text, href=link)
        likely = f" ({float(row['top1_probability']):.3g})" if row["top1_probability"] else ""
        against = row["contrast"]
        rather = f" rather than {name(int(against)) if against.isdecimal() else against}" if against else ""
        target = f"{from_cell(row['target_name'])}{rather}"
        for cell in (f"{from_cell(row['top1_name'])}{likely}", target, row["logit"], row["warning"]):
            markup.add(line, "td", cell, dir="auto")
    page = markup.document("Texts and what speaks for their classes", main)
    return atomic(out / INDEX, lambda temporary: temporary.write_bytes(page.encode("utf-8")))
