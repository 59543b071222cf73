"""A gallery whose images are explained by a pool of processes; tables, resuming and page are those of any gallery."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.gallery import ledger
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.ledger import Item
from lrp_tf.gallery.lines import groups
from lrp_tf.gallery.run import Gallery
from lrp_tf.gallery.tally import Outcome
from lrp_tf.ray import parts
from lrp_tf.ray.farm import Pool, explained
from lrp_tf.ray.places import Place
from lrp_tf.ray.sources import Columns, Found, find
from lrp_tf.ray.worker import Build, Building, Task
from lrp_tf.recipe import Recipe

TO = ("pictures", "csv", "parquet")
LOST = "a process was lost (killed, or out of memory); another one does its work"


def run(
    recipe: Recipe,
    names: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    to: str = "pictures",
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    threads: int = 1,
    address: str | None = None,
    image_column: str | None = None,
    id: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    page: bool = False,
    progress: Callable[[int], object] = lambda done: None,
    tell: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Explain images in a pool of processes, here or on a cluster: what `lrp-tf explain --ray` does.

        recipe = lrp_tf.Recipe("model.keras", preprocess="scale:1/255")
        outcome = lrp_tf.ray.run(recipe, ["photos", "shards/*.tar"], "results", workers=4)

    Args:
        names: files, folders, glob patterns and lists as `images.find` takes them; URIs of stores, as
            "s3://bucket/photos". Tar shards and parquet files among them stand for the images in them.
        out: folder of the results, which all machines see.
        to: "pictures"; "csv", tables alone; "parquet", tables, and relevance as tensors in `out`/relevance.
        workers: processes; None: one for each GPU, or for each CPU.
        gpus_per_worker: 0.25 if four share one.
        threads: of a worker, which are the CPUs that it takes.
        address: of a running cluster, "auto" or "host:6379"; None: processes on this machine. Where the caller has
            called `ray.init` already, that cluster is used.
        image_column, id: columns of parquet files: bytes of pictures, and names of rows. None: the only one of bytes,
            or the one with a usual name; numbers from 1.
        resume, overwrite: see `Gallery.run`. page: see `Gallery`.
        progress: called with the number of images that are finished since the last call.
        tell: called with a line for each failure, and for each process that was lost and replaced.

    Raises:
        ExtraError: Ray is not installed. LoadError: see `Gallery.run` and `RayGallery`; no such cluster. OSError: the
            folder cannot be written, or the disk is full.
    """
    pool = Pool(workers, gpus_per_worker, threads, address).checked()
    found = find(names, Columns(image_column, id))
    job = RayGallery.of(recipe.gallery(out, page=page), recipe, found, pool=pool, to=to, lost=lambda: tell(LOST))
    return job.run(
        [(one.path, one.relative) for one in found], resume=resume, overwrite=overwrite, progress=progress, tell=tell
    )


@dataclasses.dataclass(frozen=True)
class RayGallery(Gallery):
    """A gallery whose images are explained in the processes of a pool.

    Attributes:
        build: makes the gallery of a worker.
        pool: its processes.
        to: see `run`.
        found: of each path what `sources.expand` gave.
        lost: called for each process that was lost and replaced.

    Raises:
        LoadError: another `to`, or one that contradicts what else is to be written; `look.scale` is "run", which takes
            two passes.
    """

    build: Build | None = None
    pool: Pool = Pool()
    to: str = "pictures"
    found: Mapping[str, Found] = dataclasses.field(default_factory=dict)
    lost: Callable[[], object] = lambda: None

    @classmethod
    def of(
        cls,
        gallery: Gallery,
        recipe: Recipe,
        found: Iterable[Found],
        *,
        pool: Pool,
        to: str = "pictures",
        lost: Callable[[], object] = lambda: None,
    ) -> RayGallery:
        """The gallery of a recipe, with its work in other processes."""
        more = {"pictures": to == "pictures", "tiles": gallery.page or gallery.tiles, "describe": gallery.describe}
        given = {field.name: getattr(gallery, field.name) for field in dataclasses.fields(Gallery)}
        given |= {
            "pictures": to == "pictures",
            "settings": {**gallery.settings, "to": None if to == "pictures" else to},
        }
        build = Building(recipe.absolute(), gallery.out.absolute(), more)
        places = {one.path: one for one in found}
        return cls(**given, build=build, pool=pool, to=to, found=places, lost=lost)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in TO:
            raise LoadError(f"Expected `to` as one of {', '.join(TO)}. Received: {self.to!r}", "to")
        written = ("save_relevance", "save_layers") if self.to == "parquet" else ()
        for name in (*written, *(("page", "tiles") if self.to != "pictures" else ())):
            if getattr(self, name):
                raise LoadError(
                    f"`to` {self.to} writes no pictures{' and keeps relevance in one table' if written else ''}. "
                    f"Expected it without `{name}`", ("to", name)
                )  # fmt: skip
        if self.look.scale == "run":
            raise LoadError(
                "`scale` run is the largest |R| of all files, which nobody knows while they are drawn in many "
                "processes. Expected a number, a quantile, or image. Remedy: `scale` with the number in scale.json of "
                "a run over a sample",
                "scale",
            )

    def explain(
        self, items: Sequence[Item], *, scale: float | None = None, relevance: bool = False
    ) -> Iterator[Finished]:
        """See `Gallery.explain`; the relevance itself stays with the workers."""
        tasks = []
        for number, item in enumerate(items):
            found = self.found.get(item.path)
            if found is not None and found.reason is not None:
                yield Finished(item, [], found.reason)
            else:
                tasks.append(Task(number, item, found.place if found else _here(item.path)))
        to_parts: dict[str, Any] = {}
        if self.to == "parquet":
            to_parts = {"out": self.out, "image_bytes": self._image_bytes()}
        assert self.build is not None
        yield from explained(tasks, self.build, self.pool, batch=self.batch, lost=self.lost, **to_parts)
        ledger.sweep(self.out)  # what lost processes were about to write

    def _image_bytes(self) -> int:
        form, medium = form_of(self.explainer, self.size), self.medium()
        return 4 * form.height * form.width * form.channels * self._explaining(medium).count

    def _locked(self, shard: tuple[int, int] | None, overwrite: bool) -> contextlib.AbstractContextManager[None]:
        if shard is not None:
            raise LoadError("Ray and `shard` both spread the work over processes. Expected one of them", "shard")
        return super()._locked(shard, overwrite)

    def _wholeness(self, resume: bool, overwrite: bool) -> Callable[[str], bool]:
        whole = super()._wholeness(resume, overwrite)
        if self.to != "parquet":
            return whole
        ledger.check(self.out, self.settings, resume=resume, overwrite=overwrite)  # ahead of what is removed here
        if not resume:
            parts.clear(self.out)
            return whole
        recorded = (group.file for group in groups(self.out / ledger.RESULTS, len(ledger.COLUMNS)))
        kept = parts.settle(self.out, {parts.text(path) for path in recorded})
        return lambda path: parts.text(path) in kept and whole(path)


def _here(path: str) -> Place:
    """A file of this machine, whose workers may have another current folder."""
    return Place("file", os.path.abspath(path))
