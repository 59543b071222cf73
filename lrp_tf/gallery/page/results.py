"""What a run left in its folder, for a page: the rows of a file, its tiles, what the run was about."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from lrp_tf.gallery.ledger import COLUMNS, FAILURES, PATH, RESULTS, from_cell, write_text
from lrp_tf.gallery.tiles import FOLDER, Kept, kept

ABOUT = f"{FOLDER}/run.json"
Cells = dict[str, str]


def write_about(out: Path, about: Mapping[str, object]) -> None:
    """Keep what a page says of a run as a whole, see `Results.about`.

    Raises:
        OSError: the folder cannot be written.
    """
    (out / FOLDER).mkdir(exist_ok=True)
    write_text(out / ABOUT, json.dumps(about))


class Results:
    """The results of a run; of each row only its place in the table is held.

    Args:
        folder: of the run.

    Attributes:
        about: "composite", "model", "at" (where relevance arrives), "paper" (the colour of no relevance), "rather"
            ("rather than others", if there was a contrast), "suffixes" (of the pictures of a file);
            "atlas" (suffixes of its atlases, one for each target), "atlas_of" (their layer), if some were drawn;
            "tables" (their paths), if rows were explained.

    Raises:
        FileNotFoundError: there are no results, or none with tiles.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not ((folder / RESULTS).exists() and (folder / ABOUT).exists()):
            raise FileNotFoundError(
                f"Expected the results of a run with small pictures for a page. Received: {str(folder)!r}, which holds "
                "none. Remedy: Gallery(..., page=True)"
            )
        self.about: dict = json.loads((folder / ABOUT).read_bytes())
        self._places: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        for start, row in _records(folder / RESULTS):
            file = from_cell(row[0], PATH)
            self._places.setdefault(file, start)
            self._counts[file] = self._counts.get(file, 0) + 1

    def files(self) -> Iterator[str]:
        """The files with tiles and a row for each target, in the order of the table."""
        return (file for file in self._places if self.tiles(file))

    def rows(self, file: str) -> list[Cells]:
        """The rows of a file, one for each target; none if it has no results."""
        found: list[Cells] = []
        if file in self._places:
            for _, row in _records(self.folder / RESULTS, self._places[file]):
                if from_cell(row[0], PATH) != file:
                    break
                found.append(dict(zip(COLUMNS, row, strict=True)))
        return found

    def tiles(self, file: str) -> Kept | None:
        """The tiles of a file; None: there are none, or rows are missing that a killed run did not write."""
        found = kept(self.folder, file)
        return found if found and len(found.maps) == self._counts.get(file) else None

    def failures(self) -> Iterator[tuple[str, str]]:
        """(file, reason) of each file that failed."""
        if (self.folder / FAILURES).exists():
            for _, row in _records(self.folder / FAILURES, columns=2):
                yield from_cell(row[0], PATH), from_cell(row[1])


def _records(path: Path, start: int = 0, columns: int = len(COLUMNS)) -> Iterator[tuple[int, list[str]]]:
    """(place in the file, cells) of each whole row from `start` on, without the header."""
    with open(path, "rb") as file:
        file.seek(start)
        place, record = start, b""
        for line in file:
            record += line
            if record.count(b'"') % 2:  # a cell goes over several lines
                continue
            row = next(csv.reader([record.decode("utf-8", "surrogateescape")]))
            if place and record.endswith(b"\r\n") and len(row) == columns:
                yield place, row
            place, record = place + len(record), b""
