"""`study`: marks × prevalences × seeds, cell by cell, in a folder that a run can be resumed from."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from lrp_tf.atomic import atomic
from lrp_tf.concepts.planted import nets, pictures, report
from lrp_tf.concepts.planted.cells import Cell, Data, Place, measure
from lrp_tf.concepts.planted.marks import MARKS
from lrp_tf.concepts.planted.removal import Terms
from lrp_tf.evaluate import record

WHAT = "study of a planted Clever Hans"
VERSION = 1  # of what is measured; a study of another one is not continued
CELLS = "cells"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a study consists of.

    Attributes:
        marks: kinds of `Mark`. prevalences: shares of the class's samples that have it. seeds: of nets and of which
            samples have the mark.
        epochs: of each training. weight: of the penalty. contrast: what its relevance is set against, see
            `Explainer.__call__`.
        drawn: the seed whose cells are drawn.
    """

    marks: tuple[str, ...] = MARKS
    prevalences: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 12
    weight: float = 10.0
    contrast: str | None = "softmax"
    drawn: int = 0

    def __post_init__(self) -> None:
        for name, known in (("marks", self.marks), ("prevalences", self.prevalences), ("seeds", self.seeds)):
            if not known or len(set(known)) < len(known):
                raise ValueError(f"{name} expects one or more, all different. Received: {known}")
        if unknown := set(self.marks) - set(MARKS):
            raise ValueError(f"marks expects some of {list(MARKS)}. Received: {sorted(unknown)}")
        if not all(0 < share <= 1 for share in self.prevalences):
            raise ValueError(f"prevalences expects shares above 0 and up to 1. Received: {self.prevalences}")
        if self.contrast not in (None, "softmax", "mean"):
            raise ValueError(f"contrast expects None, 'softmax' or 'mean'. Received: {self.contrast!r}")
        if self.epochs < 1 or not self.weight > 0:
            raise ValueError(f"expected epochs and a weight above 0. Received: {self.epochs} and {self.weight}")

    def places(self) -> Iterator[Place]:
        """All cells, seed by seed, so that an interrupted study has all marks and prevalences of the first ones."""
        for seed in self.seeds:
            for mark in self.marks:
                for prevalence in self.prevalences:
                    yield Place(mark, prevalence, seed)


def study(
    folder: str | Path, data: Data, plan: Plan, *, say: Callable[[str], object] = print, name: str = "pictures"
) -> list[Cell]:
    """Run what is missing, and write tables and pictures: accuracy.csv, found.csv, study.md, *.png.

        cells = planted.study("out", data, planted.Plan(prevalences=(0.1, 1.0), seeds=(0,)))

    Each finished cell is a file in `folder`/cells; a run with the same settings continues with the others.

    Args:
        data: pictures and the class that gets the mark.
        say: takes a line for each cell. name: of the data, for the page.

    Raises:
        ValueError: the folder holds something else, or a study with other settings.
    """
    settings = dataclasses.asdict(plan) | {"data": _fingerprint(data), "label": data.label, "version": VERSION}
    settings |= {"name": name, "kind": WHAT}
    folder = record.begun(folder, settings, WHAT)
    (folder / CELLS).mkdir(exist_ok=True)
    cells, clean = [], {}
    for place in plan.places():
        path = folder / CELLS / f"{place}.json"
        if path.exists():
            cells.append(Cell.read(path))
            continue
        if place.seed not in clean:
            clean[place.seed] = _clean(folder / CELLS / f"clean-{place.seed}.keras", data, plan, place.seed)
        cell, shown = measure(place, data, clean[place.seed], plan.epochs, Terms(plan.weight, plan.contrast))
        if place.seed == plan.drawn:
            pictures.draw(folder, place, shown, data)
        cell.save(path)
        cells.append(cell)
        say(report.line(cell))
        keras.utils.clear_session(free_memory=False)
    report.write(folder, cells, name, data)
    return cells


def held(folder: Path) -> bool:
    """Whether a folder holds a study.

    Raises:
        ValueError: it is a file, or holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out expects a folder. Received: {folder}, which is a file")
    if not folder.exists() or not any(path.name[0] != "." for path in folder.iterdir()):
        return False
    settings = folder / record.SETTINGS
    known = record.read(settings) if settings.exists() else {}
    if not isinstance(known, dict) or known.get("kind") != WHAT:
        raise ValueError(f"out expects a folder of its own. Received: {folder}, which holds other files")
    return True


def clear(folder: Path) -> None:
    """Remove all that a study has written, its settings last, so that an interrupted clear is recognised."""
    for name in (CELLS, pictures.FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*report.FILES, record.SETTINGS):
        (folder / name).unlink(missing_ok=True)


def _clean(path: Path, data: Data, plan: Plan, seed: int) -> keras.Model:
    """The net of a seed that has never seen the mark."""
    if path.exists():
        return keras.models.load_model(path)
    model = nets.classifier(data.x.shape[1:], data.classes, seed)
    nets.train(model, data.x, data.labels, plan.epochs, seed)
    atomic(path, model.save)
    return model


def _fingerprint(data: Data) -> str:
    """Distinguishes data from others."""
    found = hashlib.sha256()
    for array in data[:4]:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]
