"""Counts every image of a simulated farm: rows, pictures, failures."""

from __future__ import annotations

import collections
import dataclasses
import os

from farm_world import SUFFIXES, World, whole

from lrp_tf.gallery.ledger import COLUMNS, PATH, from_cell

_FILE, _RESULT, _TARGET = (COLUMNS.index(name) for name in ("file", "result", "target"))


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found, image by image.

    Attributes:
        images: those that were asked for.
        whole: those with all their rows, once, and a whole picture.
        failed: those with a reason, once, and no row: exactly those that had to fail.
        lost: those with neither, or with some of their rows.
        twice: those with a row or a reason that comes twice, and those of which `merge` found two.
        wrong: rows of no image, failures of healthy images, results with one name.
        torn: pictures that are not whole, or of another image.
        strangers: pictures that belong to no row.
        leftovers: temporary files of workers that died, which the next run removes.
    """

    images: int
    whole: int
    failed: int
    lost: int
    twice: int
    wrong: int
    torn: int
    strangers: int
    leftovers: int

    @property
    def sound(self) -> bool:
        """Every image has exactly one result or exactly one reason, and nothing else is there."""
        return self.whole + self.failed == self.images and not (
            self.lost or self.twice or self.wrong or self.torn or self.strangers
        )

    def __str__(self) -> str:
        found = ", ".join(f"{name} {value:,}" for name, value in dataclasses.asdict(self).items())
        return f"{'SOUND' if self.sound else 'NOT SOUND'}: {found}"

    @classmethod
    def of(cls, farm: World) -> Audit:
        """Read the tables and pictures of a farm."""
        targets: dict[str, list[str]] = collections.defaultdict(list)
        bases: dict[str, str] = {}
        count: collections.Counter[str] = collections.Counter()
        asked = {path for path, _ in farm.files}
        for row in farm.rows():
            if len(row) != len(COLUMNS) or (path := from_cell(row[_FILE], PATH)) not in asked:
                count["wrong"] += 1
                continue
            targets[path].append(row[_TARGET])
            if bases.setdefault(row[_RESULT], path) != path:
                count["wrong"] += 1
        failed = collections.Counter(from_cell(row[0], PATH) for row in farm.failures())
        base_of = {path: base for base, path in bases.items()}
        must_fail = farm.unreadable | farm.poison
        for path in asked:
            count[_state(path, targets.get(path), base_of.get(path), failed[path], path in must_fail, farm)] += 1
        names = [name for _, _, names in os.walk(farm.out) for name in names]
        count["leftovers"] = sum(name.startswith(".tmp-") for name in names)
        pictures = sum(name.endswith(SUFFIXES) for name in names) - count["leftovers"]
        count["strangers"] = max(pictures - len(bases), 0)
        count["twice"] += farm.count["rows in two places, by merge"]
        names = [field.name for field in dataclasses.fields(cls)][1:]
        return cls(len(asked), **{name: count[name] for name in names})


def _state(path: str, targets: list[str] | None, base: str | None, failed: int, must_fail: bool, farm: World) -> str:
    """The name of the count that an image belongs to."""
    if targets is None or base is None:
        if failed > 1:
            return "twice"
        if not failed:
            return "lost"
        return "failed" if must_fail else "wrong"
    if len(set(targets)) < len(targets) or failed:
        return "twice"
    if len(targets) < farm.targets(base):
        return "lost"
    try:
        with open(farm.out / (base + SUFFIXES[0]), encoding="utf-8") as file:
            content = file.read()
    except FileNotFoundError:
        return "lost"
    return "whole" if content == whole(path) and not must_fail else "torn"
