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
from lrp_tf.gallery.ledger import Item, Record, Row, RunPlan
from lrp_tf.gallery.medium import Medium
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.page.results import write_about
from lrp_tf.gallery.photographs import Photographs
from lrp_tf.gallery.stream import Stream
from lrp_tf.gallery.tally import Listener, Outcome, Tally
from lrp_tf.gallery.tiles import keep, kept, paper
from lrp_tf.heatmap.look import Look


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

    def about(self, rather: str, suffixes: Sequence[str]) -> dict[str, object]:
        """What a page says of a run, see `page.results.Results`.

        Args:
            rather: what targets are set against, in words. suffixes: of the files that each item has.
        """
        return {
            "composite": self.name or self.explainer.composite.name,
            "model": self.explainer.model.name,
            "at": self.at,
            "paper": paper(self.look),
            "rather": rather,
            "suffixes": list(suffixes),
        }

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
            outcome = _Run(self, Listener(progress, tell, finished, warn)).run(files, resume, overwrite)
            if self.page:
                write_page(self.out)
            return outcome


class _Run:
    """One run: plan, explain, draw, record."""

    def __init__(self, gallery: Gallery, listener: Listener) -> None:
        self.gallery, self.listener = gallery, listener
        self.medium = gallery.medium()
        self.stream = self.medium.source()
        self.explaining = Explaining(
            *(gallery.explainer, gallery.targets, gallery.classes, self.stream, gallery.contrast),
            *(gallery.layers, gallery.save_layers),
        )
        self.tiled = gallery.page or gallery.tiles
        self.scale: float | None = None  # of the whole run

    def _layers(self, plan: RunPlan) -> contextlib.AbstractContextManager[LayerTable | None]:
        """The table of layers, if some were asked for, open."""
        return LayerTable(self.gallery.out, plan.finished) if self.gallery.layers else contextlib.nullcontext()

    def run(self, files: Iterable[tuple[str, str]], resume: bool, overwrite: bool) -> Outcome:
        gallery = self.gallery
        names = self.medium.suffixes(self.explaining.count, gallery.save_relevance)
        names += [layers.SUFFIX] if gallery.save_layers else []
        whole = lambda path: not self.tiled or kept(gallery.out, path) is not None  # noqa: E731
        plan = ledger.plan(
            *(gallery.out, files, names, gallery.settings), resume=resume, overwrite=overwrite, whole=whole
        )
        if self.tiled:
            write_about(gallery.out, gallery.about(self.explaining.rather, names))
        if gallery.look.scale == "run":
            self.listener.progress(plan.skipped)
            self.scale = self._scale_of_run(plan)
        with contextlib.ExitStack() as stack:
            record = stack.enter_context(Record(gallery.out, append=resume))
            tally = Tally(self.listener, record, stack.enter_context(self._layers(plan)))
            painters = stack.enter_context(ThreadPoolExecutor(2))
            self.listener.progress(plan.skipped)
            pending: collections.deque[tuple[Item, Explained, Future[None]]] = collections.deque()
            for found in self.explaining([item.path for item in plan.items]):
                item = plan.items[found.number]
                if isinstance(found, Failed):
                    tally.fail(item, found.reason)
                    continue
                pending.append((item, found, painters.submit(self._draw, item, found)))
                while len(pending) > 2 * gallery.batch:
                    self._settle(tally, *pending.popleft())
            while pending:
                self._settle(tally, *pending.popleft())
        return tally.outcome(plan.skipped, self.stream.low, self.stream.high, self.scale)

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

    def _settle(self, tally: Tally, item: Item, found: Explained, drawn: Future[None]) -> None:
        """Wait until an image is drawn, then record it."""
        try:
            drawn.result()
        except (OSError, ValueError, cv2.error) as error:
            tally.fail(item, ledger.why_unwritten(error, self.gallery.describe))
        else:
            tally.add(item, found)
