"""A list of image files -> pictures of their relevance, with a table of results and one of failures.

Files are decoded ahead of the network (`stream`), explained (`explain`), and drawn in parallel with it (`draw`); memory
does not grow with the list. Every picture appears whole or not at all, and its row in `results.csv` only after it
(`ledger`), so that a run that was killed can be resumed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lrp_tf.explainer import Explainer
from lrp_tf.files import images
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.gallery import layers, ledger
from lrp_tf.gallery.explain import Explained, Explaining, Failed
from lrp_tf.gallery.layers import LayerTable
from lrp_tf.gallery.ledger import COLUMNS, Item, Record, Row, RunPlan
from lrp_tf.gallery.medium import Medium
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.page.results import write_about
from lrp_tf.gallery.photographs import Photographs
from lrp_tf.gallery.stream import Stream
from lrp_tf.gallery.tiles import keep, kept, paper
from lrp_tf.heatmap.look import Look
from lrp_tf.terminal import printable

_TARGET, _NAME, _WARNING = (COLUMNS.index(name) for name in ("target", "target_name", "warning"))


@dataclasses.dataclass(frozen=True)
class Gallery:
    """What is done with each image of a list.

        gallery = lrp_tf.gallery.Gallery(explainer, loading.get_preprocessing("none"), Path("results"))
        outcome = gallery.run(images.find(["photos"]))

    Attributes:
        explainer: of a model with one image as input and classes as output.
        preprocessing: from pixels 0..255 to what the model takes.
        out: folder of the results.
        classes: their names.
        targets: what is explained of every image: ("top1",), ("topK:3",), (281, 282), ("top1", 281).
        contrast: what they are set against, as for the Explainer: "softmax", "mean", or a class. An image that is seen
            as that class is a failure.
        size: (height, width), for a model that leaves them open.
        how: "squash", "crop" or "pad", see `images.Fit`.
        batch: images that the network gets at once.
        max_pixels: larger files are failures.
        look: how relevance is drawn.
        save_relevance: `.npy` files too: float32 [H, W, C] of the model's input, [k, H, W, C] for k targets.
        layers: whose relevance is summed in `layers.csv`: names, paths, or regular expressions that match one of these.
        save_layers: `.layers.npz` files too: an array of relevance for each of `layers`.
        page: write `index.html`, a page of all results of `out`, see docs/gallery.md.
        tiles: keep small pictures for a page over several runs, see `gallery.write_page`; `page` keeps them, too.
        name: of the composite on the page; None: its own.
        settings: have to be the same when a run is resumed; written to `settings.json`.
        describe: an error as the reason of a failure, for the table and for `tell`. A command line puts its options in
            place of the arguments that the message names.

    Raises:
        ValueError: see `Look.check`; a layer that the model does not have; `save_layers` without `layers`.
    """

    explainer: Explainer
    preprocessing: Preprocessing
    out: Path
    classes: Classes = Classes()
    targets: tuple[str | int, ...] = ("top1",)
    contrast: str | int | None = None
    size: tuple[int, int] | None = None
    how: str = "squash"
    batch: int = 8
    max_pixels: int = images.MAX_PIXELS
    look: Look = Look()
    save_relevance: bool = False
    layers: tuple[str, ...] = ()
    save_layers: bool = False
    page: bool = False
    tiles: bool = False
    name: str | None = None
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    describe: Callable[[Exception], str] = str

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        self.look.check()
        if self.save_layers and not self.layers:
            raise LoadError("`save_layers` needs the names of some layers. Remedy: `layers`", ("save_layers", "layers"))
        object.__setattr__(self, "layers", layers.chosen(self.explainer.graph, self.layers))

    @property
    def at(self) -> str:
        """Where relevance arrives, in words."""
        return Stream.at

    def medium(self) -> Medium:
        """How its files are read and drawn.

        Raises:
            LoadError: the model takes no image or gives no classes.
        """
        form = form_of(self.explainer, self.size)
        how = (self.how, self.preprocessing, self.look, self.batch, self.max_pixels, self.describe)
        return Photographs(self.explainer, form, *how)

    def run(
        self,
        files: Iterable[tuple[str, str]],
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Callable[[int], object] = lambda done: None,
        tell: Callable[[str], object] = lambda line: None,
        finished: Callable[[list[Row]], object] = lambda rows: None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Outcome:
        """Explain `files`, pairs as `images.find` gives them.

        Args:
            resume: continue an earlier run in `out`, with another attempt at each file that failed.
            overwrite: begin new tables although those of an earlier run exist; pictures of the same name are replaced,
                all others stay.
            progress: called with the number of files that are finished since the last call; first with those that an
                earlier run finished.
            tell: called with a line for each failure.
            finished: called with the rows of `results.csv` of each image, one for each target; see `ledger.COLUMNS`.
            warn: called with a line for each map that is absurd, see `lrp_tf.RelevanceWarning`; the map is drawn, its
                title says so, and the column "warning" marks it.

        Raises:
            LoadError: the model takes no image or gives no classes; settings other than those of the run to resume;
                results of an earlier run, and neither `resume` nor `overwrite`; another run is writing into `out`.
            OSError: the folder cannot be written, or the disk is full.
        """
        with ledger.only_run(self.out):
            outcome = _Run(self, _Listener(progress, tell, finished, warn)).run(files, resume, overwrite)
            if self.page:
                write_page(self.out)
            return outcome


class Outcome(NamedTuple):
    """What became of the files.

        outcome = gallery.run(images.find(["photos"]))
        print(outcome.done, outcome.failed)

    Attributes:
        done, failed: files with and without a result.
        skipped: files that an earlier run finished.
        low, high: the range of the values that were fed to the model.
        scale: the |R| of full colour, if `Look.scale` is "run".
        absurd: maps that are not to be trusted, see `lrp_tf.RelevanceWarning`.
    """

    done: int
    failed: int
    skipped: int
    low: float
    high: float
    scale: float | None = None
    absurd: int = 0


class _Listener(NamedTuple):
    """The functions that are called during a run, see `Gallery.run`."""

    progress: Callable[[int], object]
    tell: Callable[[str], object]
    finished: Callable[[list[Row]], object]
    warn: Callable[[str], object]


class _Run:
    """One run: plan, explain, draw, record."""

    def __init__(self, gallery: Gallery, listener: _Listener) -> None:
        self.gallery, self.listener = gallery, listener
        self.medium = gallery.medium()
        self.stream = self.medium.source()
        self.explaining = Explaining(
            *(gallery.explainer, gallery.targets, gallery.classes, self.stream, gallery.contrast),
            *(gallery.layers, gallery.save_layers),
        )
        self.tiled = gallery.page or gallery.tiles
        self.scale: float | None = None  # of the whole run
        self.done = self.failed = self.absurd = 0
        self.of_layers: LayerTable | None = None

    def _layers(self, plan: RunPlan) -> contextlib.AbstractContextManager:
        """The table of layers, if some were asked for, open."""
        self.of_layers = LayerTable(self.gallery.out, plan.finished) if self.gallery.layers else None
        return self.of_layers or contextlib.nullcontext()

    def run(self, files: Iterable[tuple[str, str]], resume: bool, overwrite: bool) -> Outcome:
        gallery = self.gallery
        names = self.medium.suffixes(self.explaining.count, gallery.save_relevance)
        names += [layers.SUFFIX] if gallery.save_layers else []
        whole = lambda path: not self.tiled or kept(gallery.out, path) is not None  # noqa: E731
        plan = ledger.plan(
            *(gallery.out, files, names, gallery.settings), resume=resume, overwrite=overwrite, whole=whole
        )
        if self.tiled:
            write_about(gallery.out, self._about(names))
        if gallery.look.scale == "run":
            self.listener.progress(plan.skipped)
            self.scale = self._scale_of_run(plan)
        with Record(gallery.out, append=resume) as record, self._layers(plan), ThreadPoolExecutor(2) as painters:
            self.listener.progress(plan.skipped)
            pending: collections.deque[tuple[Item, Explained, Future[None]]] = collections.deque()
            for found in self.explaining([item.path for item in plan.items]):
                item = plan.items[found.number]
                if isinstance(found, Failed):
                    self._fail(record, item, found.reason)
                    continue
                pending.append((item, found, painters.submit(self._draw, item, found)))
                while len(pending) > 2 * gallery.batch:
                    self._settle(record, *pending.popleft())
            while pending:
                self._settle(record, *pending.popleft())
        low, high = float(self.stream.low), float(self.stream.high)
        return Outcome(self.done, self.failed, plan.skipped, low, high, self.scale, self.absurd)

    def _scale_of_run(self, plan: RunPlan) -> float:
        """The largest |R| of all images, as drawn, computed before any is drawn, or read from the run to resume."""
        if plan.finished:
            self.listener.progress(len(plan.items))
            return ledger.read_scale(self.gallery.out, plan)
        largest, counted = 0.0, 0
        for maps, indices in self.explaining.relevance([item.path for item in plan.items]):
            counted += len(indices)
            self.listener.progress(len(indices))
            for relevance in maps.reshape(-1, *maps.shape[2:]):
                if np.isfinite(relevance).all():  # otherwise drawing it fails, with a message
                    largest = max(largest, float(np.abs(self.medium.values(relevance)).max()))
        self.listener.progress(len(plan.items) - counted)
        ledger.write_scale(self.gallery.out, plan, largest or 1.0)
        return largest or 1.0

    def _draw(self, item: Item, found: Explained) -> None:
        """Write all files of one image."""
        base = self.gallery.out / item.base
        base.parent.mkdir(parents=True, exist_ok=True)
        maps = [self.medium.values(relevance) for relevance in found.maps]
        if self.gallery.save_relevance:
            self.medium.save(base, found.maps, found.shown)
        if found.layers is not None and self.gallery.save_layers:
            found.layers.save(base)
        self.medium.draw(base, maps, found.titles, found.shown, self.scale)
        if self.tiled:
            keep(self.gallery.out, item.path, self.medium.tiles(maps, found.titles, found.shown, self.scale))

    def _about(self, suffixes: Sequence[str]) -> dict[str, object]:
        """What a page says of the run, see `page.results.Results`."""
        gallery, explainer = self.gallery, self.gallery.explainer
        return {
            "composite": gallery.name or explainer.composite.name,
            "model": explainer.model.name,
            "at": gallery.at,
            "paper": paper(gallery.look),
            "rather": self.explaining.rather,
            "suffixes": list(suffixes),
        }

    def _settle(self, record: Record, item: Item, found: Explained, drawn: Future[None]) -> None:
        """Wait until an image is drawn, then record it."""
        try:
            drawn.result()
        except (OSError, ValueError, cv2.error) as error:
            self._fail(record, item, ledger.why_unwritten(error, self.gallery.describe))
            return
        rows: list[Row] = [(item.path, item.base, *row) for row in found.rows]
        if self.of_layers is not None and found.layers is not None:
            self.of_layers.add(item, [(row[_TARGET], row[_NAME]) for row in rows], found.layers)
        record.add(rows)
        self.listener.finished(rows)
        for row in rows:
            if row[_WARNING]:
                self.absurd += 1
                self.listener.warn(f"{item.path!r}, {printable(row[_NAME])}: {row[_WARNING]}")
        self.done += 1
        self.listener.progress(1)

    def _fail(self, record: Record, item: Item, reason: str) -> None:
        record.fail(item.path, reason)
        self.listener.tell(f"{item.path!r}: {reason}")
        self.failed += 1
        self.listener.progress(1)
