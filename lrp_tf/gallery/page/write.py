"""Writes the page, or pages, of one or several runs."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import jinja2
from markupsafe import Markup

from lrp_tf.atomic import atomic
from lrp_tf.gallery.page.entries import entry
from lrp_tf.gallery.page.results import Results
from lrp_tf.terminal import printable

INDEX = "index.html"
PAGE = 500  # pictures of a page
_HERE = Path(__file__).resolve().parent
_MARK = '<meta name="generator" content="lrp_tf gallery">'
_FAILURES = 500  # that are listed


def write_page(
    out: str | os.PathLike[str], folders: Sequence[str | os.PathLike[str]] | None = None, *, page: int = PAGE
) -> list[Path]:
    """Write `index.html`: every picture under its heatmap, with all classes and composites that were explained.

        lrp_tf.gallery.write_page("results", ["results/epsilon", "results/epsilon_plus"])

    Up to `page` pictures are held by that one file. More are spread over `page-2.html` and so on, which show the small
    pictures that lie beside the results.

    Args:
        out: folder of the page, which exists.
        folders: those of the runs, one for each composite, all made with `Gallery(..., tiles=True)`; None: `out`.
        page: pictures of a page.

    Returns:
        The files that were written, the first page first.

    Raises:
        FileNotFoundError: a folder holds no results, or none with tiles.
        OSError: a folder cannot be read or written.
    """
    out = Path(out)
    runs = [(_prefix(Path(folder), out), Results(Path(folder))) for folder in ([out] if folders is None else folders)]
    # A file that failed in the first run may have a result in another one.
    files = list(dict.fromkeys(itertools.chain.from_iterable(results.files() for _, results in runs)))
    count = max(-(-len(files) // page), 1)
    written = []
    for number in range(count, 0, -1):  # the first page last: it points to all others
        begin = (number - 1) * page
        shown = files[begin : begin + page]
        written.append(_write(out, runs, shown, (number, count), (begin, len(files))))
    for path in out.glob("page-*.html"):  # of an earlier, longer list
        if path not in written and re.fullmatch(r"page-\d+\.html", path.name) and _is_ours(path):
            path.unlink()
    return written[::-1]


class _Pictures:
    """Pictures of a page: held by it, under a number, or beside it, under their address."""

    def __init__(self, out: Path, held: bool) -> None:
        self.out, self.held = out, held
        self.names: list[str] = []

    def __call__(self, name: str) -> object:
        if not self.held:
            return name  # needs no quoting, see `tiles.place` and `_prefix`
        self.names.append(name)
        return len(self.names) - 1

    def held_ones(self) -> Iterator[str]:
        """The pictures as addresses that hold them, read one by one."""
        for name in self.names:
            kind = "jpeg" if name.endswith(".jpg") else "png"
            content = (self.out / unquote(name, errors="surrogateescape")).read_bytes()
            yield f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


class _Links(NamedTuple):
    """Addresses of pages: (number, address), with None for those that are left out between two."""

    numbers: list[tuple[int, str] | None]
    before: str | None
    after: str | None


def _write(
    out: Path,
    runs: Sequence[tuple[str, Results]],
    files: Sequence[str],
    page: tuple[int, int],
    place: tuple[int, int],
) -> Path:
    """Write one page.

    Args:
        page: its number, and how many there are.
        place: how many files are on earlier pages, and on all.
    """
    number, count = page
    pictures = _Pictures(out, held=count == 1)
    items = [entry(file, runs, pictures) for file in files]
    abouts = [results.about for _, results in runs]
    composites = [
        {"name": printable(about["composite"]), "paper": about["paper"]}
        | ({"atlas": printable(about["atlas_of"])} if "atlas_of" in about else {})
        for about in abouts
    ]
    styles, script = _source("page.css"), _source("page.js")
    first = abouts[0]
    what = "rows" if "tables" in first else "pictures" if first["at"] == "the pixels" else "files"
    failures = _failures(runs) if number == 1 else []
    stream = _template().stream(
        mark=Markup(_MARK),
        policy=_policy(styles, script),
        styles=styles,
        script=script,
        data={"items": items, "composites": composites, "rather": printable(first["rather"])},
        pictures=pictures.held_ones(),
        what=what,
        one=what[:-1],
        unit="row" if what == "rows" else "file",
        where=first["at"],
        model=printable(first["model"]),
        composites=[composite["name"] for composite in composites],
        rather=printable(first["rather"]),
        total=place[1],
        begin=place[0] + 1,
        shown=len(items),
        number=number,
        links=_links(number, count),
        failures=failures[:_FAILURES],
        more=len(failures) > _FAILURES,
    )
    stream.enable_buffering(64)
    return atomic(out / _address(number), lambda temporary: stream.dump(str(temporary), encoding="utf-8"))


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(_HERE)
    made = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return made.get_template("page.html")


def _source(name: str) -> Markup:
    """A file of this folder, which goes into the page as it is."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _policy(styles: str, script: str) -> str:
    """What the page may load: its own style and script, and pictures that it holds or that lie beside it."""
    ours = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (styles, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{ours[0]}'; script-src 'sha256-{ours[1]}'; "
        "img-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )


def _failures(runs: Sequence[tuple[str, Results]]) -> list[tuple[str, str]]:
    """(file, reason), each once, and not many more than are listed."""
    found: dict[tuple[str, str], None] = {}
    for file, reason in itertools.chain.from_iterable(results.failures() for _, results in runs):
        found[printable(file), printable(reason)] = None
        if len(found) > _FAILURES:
            break
    return list(found)


def _links(number: int, count: int) -> _Links:
    near = [n for n in range(1, count + 1) if n in (1, count) or abs(n - number) <= 2]
    numbers: list[tuple[int, str] | None] = []
    for last, n in zip([0, *near], near, strict=False):
        numbers += [None] if n - last > 1 else []
        numbers.append((n, _address(n)))
    before = _address(number - 1) if number > 1 else None
    return _Links(numbers, before, _address(number + 1) if number < count else None)


def _address(number: int) -> str:
    return INDEX if number == 1 else f"page-{number}.html"


def _prefix(folder: Path, out: Path) -> str:
    """The folder of a run as an address relative to the page: "" or "epsilon/"."""
    relative = os.path.relpath(folder, out)
    return "" if relative == os.curdir else quote(Path(relative).as_posix(), errors="surrogateescape") + "/"


def _is_ours(path: Path) -> bool:
    with open(path, "rb") as file:
        return _MARK.encode() in file.read(1000)
