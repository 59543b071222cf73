"""`lrp_tf.ray.explain`: a stage of a pipeline of Ray Data that adds relevance and its numbers to images."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_tf.files import images
from lrp_tf.files.errors import ImageError, LoadError
from lrp_tf.files.form import form_of
from lrp_tf.gallery.finished import Finished
from lrp_tf.gallery.ledger import Item
from lrp_tf.heatmap.look import Look
from lrp_tf.ray.attempts import Attempts, guarded
from lrp_tf.ray.columns import NAMES, NOTHING, arrow, tensors, typed
from lrp_tf.ray.farm import Pool, fitting
from lrp_tf.ray.places import Place, Reader
from lrp_tf.ray.session import ray_module
from lrp_tf.ray.worker import Counts, prepare
from lrp_tf.recipe import Recipe

if TYPE_CHECKING:
    from ray.data import Dataset

FAILED, RELEVANCE = "failed", "relevance"
_BATCHES = 4  # of the network in one step, which is done again when its process is lost
_BYTES = ("bytes", "image", "jpg", "jpeg", "png", "img", "content")
_PATHS = ("path", "uri", "url", "file", "filename", "image")


def explain(
    dataset: Dataset,
    recipe: Recipe,
    *,
    column: str | None = None,
    relevance: bool = True,
    prefix: str = "",
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    threads: int = 1,
) -> Dataset:
    """The rows of a dataset with the explanation of their images.

        dataset = ray.data.read_parquet("s3://bucket/photos")
        explained = lrp_tf.ray.explain(dataset, lrp_tf.Recipe("model.keras"), workers=4)
        explained.write_parquet("s3://bucket/relevance")

    Nothing is computed before the result is read. Processes that are lost are replaced, and their rows done again.

    Args:
        dataset: with a column of images: encoded as bytes, as paths or URIs, or as uint8 arrays [H, W, 3].
        recipe: what is explained; its `look`, `save_relevance` and `layers` play no part.
        column: the one with the images; None: the one whose type and name say so.
        relevance: add the relevance itself.
        prefix: of the new columns, where the dataset has some of these names.
        workers: processes; None: one for each GPU, or for all CPUs but one.
        gpus_per_worker: 0.25 if four share one.
        threads: of a worker, which are the CPUs that it takes.

    Returns:
        All columns of the dataset, and those of `results.csv` from "top1" on: "target", "target_name", "logit",
        "sum_of_relevance", "bias", … as numbers and texts. "relevance": float32 [H, W, C] of the model's input, as
        tensors, NaN where there is none. "failed": why an image has no explanation, else null. A row for each target
        of an image, and one for a failure.

    Raises:
        ExtraError: Ray is not installed. LoadError: a cluster without room for a worker; names that the dataset has.
    """
    ray = ray_module()
    _refuse_names(dataset, prefix, relevance)
    if workers is None:
        room = fitting(ray, Pool(None, gpus_per_worker, threads))
        workers = room if gpus_per_worker else max(room - 1, 1)
    attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    plain = dataclasses.replace(
        recipe.absolute(), look=Look(), save_relevance=False, layers=(), save_layers=False, kind="images"
    )
    return dataset.map_batches(
        Stage,
        fn_constructor_args=(plain, attempts, column, relevance, prefix, threads),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_format="pyarrow",
        batch_size=_BATCHES * (recipe.batch or 8),
        num_cpus=threads,
        num_gpus=gpus_per_worker or None,
    )


def _refuse_names(dataset: Any, prefix: str, relevance: bool) -> None:
    schema = dataset.schema(fetch_if_missing=False)
    refuse_names([] if schema is None else schema.names, prefix, relevance)


def refuse_names(names: Sequence[str], prefix: str, relevance: bool) -> None:
    """A dataset must not have columns of the names that are added.

    Raises:
        LoadError: it has.
    """
    new = [prefix + name for name in (*NAMES, FAILED, *([RELEVANCE] if relevance else []))]
    if twice := [name for name in new if name in names]:
        raise LoadError(
            f"The dataset has columns that the explanation adds: {', '.join(twice)}. Remedy: `prefix`, as in "
            "prefix='lrp_'",
            "prefix",
        )


class Stage:
    """Adds columns to tables of Arrow; Ray makes one in each process. See `explain` for the arguments."""

    def __init__(
        self, recipe: Recipe, attempts: Any, column: str | None, relevance: bool, prefix: str, threads: int
    ) -> None:
        prepare(threads)
        self.cells = Cells()
        self.gallery = recipe.gallery(os.curdir, pictures=False, read=self.cells)
        form = form_of(self.gallery.explainer, self.gallery.size)
        self.nothing = np.full((1, form.height, form.width, form.channels), np.nan, np.float32)
        self.counts, self.column, self.relevance, self.prefix = Counts(attempts), column, relevance, prefix
        # Ray gives the task of a lost process to the one that replaces it, which is the same actor.
        self.actor = ray_module().get_runtime_context().get_actor_id() or ""

    def __call__(self, table: Any) -> Any:
        """A table of n rows -> one of a row for each of their targets, in their order."""
        refuse_names(table.column_names, self.prefix, self.relevance)
        self.cells.open(table, column_of(table.schema, self.column))
        keys = self._keys(table.num_rows)
        found: list[Finished | None] = [None] * table.num_rows
        for index, finished in guarded(range(table.num_rows), keys, self.counts, self._each, _given_up):
            found[index] = finished
        return self._joined(table, [one for one in found if one is not None])

    def _keys(self, count: int) -> list[str]:
        """A name for each row that is the same when its task is done again; what looks alike may share one."""
        return [f"{self.actor}:{self.cells.digest(row)}" for row in range(count)]

    def _each(self, rows: Sequence[int]) -> Iterator[tuple[int, Finished]]:
        places = {str(row): index for index, row in enumerate(rows)}
        for finished in self.gallery.explain([Item(str(row), "") for row in rows], relevance=self.relevance):
            yield places[finished.item.path], finished

    def _joined(self, table: Any, found: list[Finished]) -> Any:
        rows, maps, sources, reasons = [], [], [], []
        for source, one in enumerate(found):
            cells = [row[2:] for row in one.rows] or [NOTHING]
            rows += cells
            sources += [source] * len(cells)
            reasons += [one.reason] * len(cells)
            maps.append(self.nothing if one.relevance is None else one.relevance)
        pa = arrow()
        if sources != list(range(table.num_rows)):
            table = table.take(pa.array(sources, pa.int64()))
        columns = {**typed(rows), FAILED: pa.array(reasons, pa.string())}
        if self.relevance:
            columns[RELEVANCE] = tensors(np.concatenate([*maps, self.nothing[:0]]))
        for name, values in columns.items():
            table = table.append_column(self.prefix + name, values)
        return table


def _given_up(row: int, reason: str) -> Finished:
    return Finished(Item(str(row), ""), [], reason)


class Cells:
    """Reads the images in a column: `cells(number of the row, max_pixels)` is what a `Gallery` takes as `read`."""

    def __init__(self) -> None:
        self.values: Sequence[Any] = []
        self._reader = Reader()

    def open(self, table: Any, column: str) -> None:
        """Read those of another table."""
        from ray.data.block import BlockAccessor

        kind = str(table.schema.field(column).type)
        if kind in ("binary", "large_binary", "string", "large_string"):
            self.values = table[column]
        elif "bytes: binary" in kind:
            self.values = table[column].combine_chunks().field("bytes")
        else:
            self.values = list(BlockAccessor.for_block(table.select([column])).to_numpy(column))

    def digest(self, row: int) -> str:
        """What tells the cell of a row from others."""
        value = self._value(row)
        content = (
            value if isinstance(value, bytes) else value.tobytes() if isinstance(value, np.ndarray) else repr(value)
        )
        return hashlib.sha1(content.encode("utf-8", "replace") if isinstance(content, str) else content).hexdigest()

    def _value(self, row: int) -> Any:
        value = self.values[row]
        return value if isinstance(value, np.ndarray) else value.as_py()

    def __call__(self, path: str, max_pixels: int) -> np.ndarray:
        """uint8 [H, W, 3].

        Raises:
            ImageError: no such image, a damaged one, an array of another kind.
        """
        value = self._value(int(path))
        if value is None:
            raise ImageError("no image: the cell is empty")
        if isinstance(value, bytes):
            return images.decode(value, max_pixels)
        if isinstance(value, str):
            return self._reader.read(Place("file", value), max_pixels)
        return _pixels(value, max_pixels)


def _pixels(array: np.ndarray, max_pixels: int) -> np.ndarray:
    """An array as a photograph has it.

    Raises:
        ImageError: another shape or type; too large.
    """
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ImageError(f"Expected uint8 [H, W, 3], [H, W, 1] or [H, W]. Received: {array.dtype} {list(shape)}")
    if not array.size or shape[0] * shape[1] > max_pixels:
        raise ImageError(
            f"{shape[1]} x {shape[0]} pixels. Expected at least one, and at most {max_pixels} (`max_pixels`)",
            "max_pixels",
        )
    grey = array if len(shape) == 2 else array[..., 0]
    return np.ascontiguousarray(array) if len(shape) == 3 and shape[2] == 3 else np.repeat(grey[..., None], 3, -1)


def column_of(schema: Any, wanted: str | None) -> str:
    """The column of images.

    Raises:
        LoadError: it is not there, or not clear.
    """
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if wanted is not None:
        if wanted not in kinds:
            raise LoadError(f"The dataset has no column {wanted!r} (`column`). Received: {listed}", "column")
        return wanted
    texts = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
    encoded = [name for name, kind in kinds.items() if kind in ("binary", "large_binary") or "bytes: binary" in kind]
    arrays = [name for name, kind in kinds.items() if "tensor" in kind.lower()]
    for found, usual in ((encoded, _BYTES), (arrays, _BYTES), (texts, _PATHS)):
        named = [name for name in found if name.lower() in usual]
        if len(named) == 1 or (len(found) == 1 and found is not texts):
            return (named or found)[0]
        if found and found is not texts:
            break
    raise LoadError(f"Which column holds the images is not clear. Received: {listed}. Remedy: `column`", "column")
