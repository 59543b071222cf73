"""A list of image files -> pictures of their relevance, with a table of results and one of failures.

A run has three parts, which may be asked for one by one. `Gallery.plan` names the results and sees what is finished;
`Gallery.explain` decodes files ahead of the network (`stream`), explains them (`explain`), and draws in parallel with
it (`drawing`), while memory does not grow with the list; `Gallery.record` keeps the tables (`tally`). Every picture
appears whole or not at all, and its row in `results.csv` only after it, so that a run that was killed can be resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrp_tf.engine import targets
from lrp_tf.explainer import Explainer
from lrp_tf.files import images
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.gallery import beside, layers, ledger, shards
from lrp_tf.gallery.beside import Beside, DrawnBeside
from lrp_tf.gallery.drawing import Drawing
from lrp_tf.gallery.explain import Explaining
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.ledger import Item, Row, RunPlan
from lrp_tf.gallery.medium import Medium
from lrp_tf.gallery.page import write_page
from lrp_tf.gallery.page.results import write_about
from lrp_tf.gallery.photographs import Photographs
from lrp_tf.gallery.stream import Read, Stream
from lrp_tf.gallery.tally import Listener, Outcome, Recording
from lrp_tf.gallery.tiles import kept, paper
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
        atlas: draws an atlas of each photograph and class beside its other pictures, which the page shows, too:
            `lrp_tf.concepts.Atlases`.
        page: write `index.html`, a page of all results of `out`, see docs/gallery.md.
        tiles: keep small pictures for a page over several runs, see `gallery.write_page`; `page` keeps them, too.
        name: of the composite on the page; None: its own.
        settings: have to be the same when a run is resumed; written to `settings.json`.
        describe: an error as the reason of a failure, for the table and for `tell`. A command line puts its options in
            place of the arguments that the message names.
        pictures: draw them; without, a run leaves tables alone.
        read: the pixels of a file, uint8 [H, W, 3], from its path and `max_pixels`, if they do not come from files.

    Raises:
        ValueError: see `Look.check`; a layer that the model does not have; `save_layers` without `layers`; an atlas of
            another model, of files that are no photographs, or without `pictures`.
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
    atlas: Beside | None = None
    page: bool = False
    tiles: bool = False
    name: str | None = None
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    describe: Callable[[Exception], str] = str
    pictures: bool = True
    read: Read = images.read

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        self.look.check()
        if self.save_layers and not self.layers:
            raise LoadError("`save_layers` needs the names of some layers. Remedy: `layers`", ("save_layers", "layers"))
        if self.atlas is not None:
            self._check_atlas(self.atlas)
        object.__setattr__(self, "layers", layers.chosen(self.explainer.graph, self.layers))

    def _check_atlas(self, atlas: Beside) -> None:
        if self.at != Stream.at:
            raise LoadError("An atlas is of photographs alone. Expected none. Received: `atlas`", "atlas")
        if not self.pictures:
            raise LoadError("`atlas` draws pictures. Expected it without `pictures`=False", ("atlas", "pictures"))
        atlas.check(self.explainer)

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
        how = (self.how, self.preprocessing, self.look, self.batch, self.max_pixels, self.describe, self.read)
        return Photographs(self.explainer, form, *how)

    @property
    def atlas_suffixes(self) -> list[str]:
        """Of the atlases of each photograph; none without `atlas`."""
        count = len(targets.ranked(self.targets, self.explainer.graph))
        return beside.suffixes(self.look, count) if self.atlas is not None else []

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
            **({"atlas": self.atlas_suffixes, "atlas_of": self.atlas.of} if self.atlas is not None else {}),
        }

    def for_files(self, paths: Iterable[str]) -> Gallery:
        """The gallery as those files need it, which may differ in what their kind decides."""
        return self

    def run(
        self,
        files: Iterable[tuple[str, str]],
        *,
        resume: bool = False,
        overwrite: bool = False,
        shard: tuple[int, int] | None = None,
        progress: Callable[[int], object] = lambda done: None,
        tell: Callable[[str], object] = lambda line: None,
        finished: Callable[[list[Row]], object] = lambda rows: None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Outcome:
        """Explain `files`, pairs as `images.find` gives them: `plan`, `explain` and `record` in one.

        Args:
            resume: continue an earlier run in `out`, with another attempt at each file that failed.
            overwrite: begin new tables although those of an earlier run exist; pictures of the same name are replaced,
                all others stay.
            shard: (3, 8) explains every eighth file, from the fourth on. Eight processes may do so at the same time,
                with the same list and the same `out`; `gallery.merge` makes one run of them. See docs/shards.md.
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
        return self._run(files, resume, overwrite, shard, Listener(progress, tell, finished, warn))

    def _run(
        self,
        files: Iterable[tuple[str, str]],
        resume: bool,
        overwrite: bool,
        shard: tuple[int, int] | None,
        listener: Listener,
    ) -> Outcome:
        """See `run`."""
        listed, scale = list(files), None
        job = self.for_files(path for path, _ in listed)
        with job._locked(shard, overwrite):
            plan = job._planned(listed, resume, overwrite, shard)
            if job.look.scale == "run":
                listener.progress(plan.skipped)
                scale = job.scale_of(plan, listener.progress)
            with job._recording(plan, listener, contextlib.nullcontext()) as record:
                listener.progress(plan.skipped)
                for finished in job.explain(plan.items, scale=scale):
                    record.add(finished)
        return record.outcome(scale)

    # --- the three parts -----------------------------------------------------------------------

    def plan(
        self,
        files: Iterable[tuple[str, str]],
        *,
        resume: bool = False,
        overwrite: bool = False,
        shard: tuple[int, int] | None = None,
    ) -> RunPlan:
        """What is to be done: a name for the results of each file, and which of them an earlier run finished.

            plan = gallery.plan(images.find(["photos"]))

        Nothing is written but `settings.json`; of a run to resume, rows without pictures leave its table.

        Args:
            files, resume, overwrite, shard: see `run`.

        Raises:
            LoadError, OSError: see `run`.
        """
        listed = list(files)
        job = self.for_files(path for path, _ in listed)
        with job._locked(shard, overwrite):
            return job._planned(listed, resume, overwrite, shard)

    def explain(
        self, items: Sequence[Item], *, scale: float | None = None, relevance: bool = False
    ) -> Iterator[Finished]:
        """Explain files and write their pictures; of each it tells what became of it, as plain data.

            for finished in gallery.explain(plan.items[:100]):
                record.add(finished)

        It needs neither the tables nor the lock of the folder: other processes, even other machines that see the
        folder, may explain other items of a plan at the same time.

        Args:
            items: of a plan.
            scale: the |R| of full colour, if `look.scale` is "run"; see `scale_of`.
            relevance: give the relevance as well, `Finished.relevance`.

        Yields:
            Each item once, with and without a result, as they are finished.

        Raises:
            LoadError: as `run`; `look.scale` is "run", and `scale` is None.
            OSError: the folder cannot be written, or the disk is full.
        """
        if self.look.scale == "run" and scale is None:
            raise LoadError(
                "`scale` run is the largest |R| of all files, which a part of them does not tell. Expected a number. "
                "Remedy: `scale` with a number, such as the one in scale.json of a run over a sample",
                "scale",
            )
        job = self.for_files(item.path for item in items)
        medium = job.medium()
        drawing = Drawing(
            *(job.out, job._explaining(medium), medium, job.save_relevance, job.save_layers, job._tiled),
            *(job.batch, job.describe, scale, relevance, job._beside(), job.pictures),
        )
        return drawing(items)

    def record(
        self,
        plan: RunPlan,
        *,
        progress: Callable[[int], object] = lambda done: None,
        tell: Callable[[str], object] = lambda line: None,
        finished: Callable[[list[Row]], object] = lambda rows: None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> Recording:
        """The tables of a run, to which `add` appends what `explain` gave. The folder is locked meanwhile.

            with gallery.record(plan) as record:
                for finished in gallery.explain(plan.items):
                    record.add(finished)

        Leaving it without an error writes what a run leaves at its end, such as the page.

        Args:
            progress, tell, finished, warn: see `run`.

        Raises:
            LoadError, on entering: another run is writing into `out`.
        """
        job = self.for_files([*(item.path for item in plan.items), *plan.finished])
        lock = ledger.only_run(plan.folder or job.out)
        return job._recording(plan, Listener(progress, tell, finished, warn), lock)

    def scale_of(self, plan: RunPlan, progress: Callable[[int], object] = lambda done: None) -> float:
        """The largest |R| of all images, as drawn, computed before any is drawn, or read from the run to resume."""
        if plan.finished:
            progress(len(plan.items))
            return ledger.read_scale(self.out, plan)
        largest, counted = 0.0, 0
        medium = self.medium()
        for maps, indices in self._explaining(medium).relevance([item.path for item in plan.items]):
            counted += len(indices)
            progress(len(indices))
            for relevance in maps.reshape(-1, *maps.shape[2:]):
                if np.isfinite(relevance).all():  # otherwise drawing it fails, with a message
                    largest = max(largest, float(np.abs(medium.values(relevance)).max()))
        progress(len(plan.items) - counted)
        ledger.write_scale(self.out, plan, largest or 1.0)
        return largest or 1.0

    def _beside(self) -> DrawnBeside | None:
        how = (self.contrast, self.classes, self.size, self.how, self.look)
        return None if self.atlas is None else DrawnBeside(self.atlas, self.explainer, *how)

    @property
    def _tiled(self) -> bool:
        return self.page or self.tiles

    def _explaining(self, medium: Medium) -> Explaining:
        return Explaining(
            *(self.explainer, self.targets, self.classes, medium.source(), self.contrast, self.layers),
            *(self.save_layers, self.atlas is not None),
        )

    def _suffixes(self) -> list[str]:
        """What follows the name of a file in the names of all its results but atlases."""
        medium = self.medium()
        names = medium.suffixes(self._explaining(medium).count, self.save_relevance)
        names = names if self.pictures else [name for name in names if name == ".npy"]
        return [*names, layers.SUFFIX] if self.save_layers else names

    def _locked(self, shard: tuple[int, int] | None, overwrite: bool) -> contextlib.AbstractContextManager[None]:
        """The lock of the folder of the tables.

        Raises:
            LoadError: it cannot be one of a shard.
        """
        if shard is None:
            return ledger.only_run(self.out)
        if self.look.scale == "run":
            raise LoadError(
                "`scale` run is the largest |R| of all files, which one `shard` does not see. Expected a number. "
                "Remedy: `scale` with a number, such as the one in scale.json of a run over a sample",
                ("scale", "shard"),
            )
        part = shards.Shard(*shard)
        shards.check(self.out, part, overwrite=overwrite)
        return ledger.only_run(part.folder(self.out))

    def _planned(
        self, files: Sequence[tuple[str, str]], resume: bool, overwrite: bool, shard: tuple[int, int] | None
    ) -> RunPlan:
        """See `plan`; the folder is locked."""
        how: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
        how["whole"] = self._wholeness(resume, overwrite)
        what = (self.out, files, [*self._suffixes(), *self.atlas_suffixes], self.settings)
        if shard is None:
            plan = ledger.plan(*what, **how)
        else:
            plan = shards.plan(*what, shards.Shard(*shard), **how, tiled=self._tiled, page=self.page)
        if self._tiled:
            write_about(self.out, self.about(self._explaining(self.medium()).rather, self._suffixes()))
        return plan

    def _wholeness(self, resume: bool, overwrite: bool) -> Callable[[str], bool]:
        """What tells whether all of a finished file is there but the results that have its name."""
        return lambda path: not self._tiled or kept(self.out, path) is not None

    def _recording(
        self, plan: RunPlan, listener: Listener, around: contextlib.AbstractContextManager[object]
    ) -> Recording:
        complete = self._complete if plan.folder is None else _nothing
        return Recording(plan.folder or self.out, plan, listener, bool(self.layers), around, complete)

    def _complete(self) -> None:
        """What follows when all files are recorded."""
        if self.page:
            write_page(self.out)


def _nothing() -> None:
    """What follows on a shard: `merge` writes the page."""
