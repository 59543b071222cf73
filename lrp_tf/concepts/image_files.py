"""Image files as the data set of a reference: read in batches for the model, and one by one for crops."""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.concepts.sources import Batch
from lrp_tf.evaluate.samples import digest
from lrp_tf.explainer import Explainer
from lrp_tf.files import images
from lrp_tf.files.errors import ImageError
from lrp_tf.files.form import form_of
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Preprocessing

_HALF = 8  # digits of the digest of a batch that stand for its files; the others stand for what was read of them
_AHEAD = 2  # batches that are read while the network works


class ReferenceSample(NamedTuple):
    """A sample as the model takes it, float32 [H, W, C] or [C, H, W], and as a picture, uint8 [H, W, C]."""

    x: np.ndarray
    picture: np.ndarray


class ImageFiles:
    """Image files as a data set for `build_reference`, and as the `images` of `concept_sheet` and `atlas`.

        files = ImageFiles(explainer, list(images.find(["photos"])), loading.get_preprocessing("scale:1/255"))
        reference = build_reference(explainer, files, "conv2", path="reference.h5", target=None)
        atlas(explainer, files(0), reference, "conv2", images=files, path="why.png")

    A file is a sample, known by its place in the list. One that cannot be read is a line of `Reference.failures`.

    Args:
        explainer: of the model, which takes one image.
        files: pairs of a path and the name that tells the file from others, as `images.find` gives them.
        preprocessing: from pixels 0..255 to what the model takes.
        labels: the class of each file, None where it is not known, which is a failure; for `target="label"`.
        how: "squash", "crop" or "pad", see `images.Fit`.
        size: (height, width), for a model that leaves them open.
        max_pixels: larger files are failures.

    Raises:
        LoadError: the model takes no image, or gives no classes. ValueError: not as many labels as files.
    """

    def __init__(
        self,
        explainer: Explainer,
        files: Sequence[tuple[str, str]],
        preprocessing: Preprocessing,
        *,
        labels: Sequence[int | None] | None = None,
        how: str = "squash",
        size: tuple[int, int] | None = None,
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        if labels is not None and len(labels) != len(files):
            raise ValueError(f"Expected a label for each of {len(files)} files. Received: {len(labels)}")
        self.form = form_of(explainer, size)
        self.fit = Fit(self.form.height, self.form.width, how)
        self.files, self.preprocessing, self.labels, self.max_pixels = files, preprocessing, labels, max_pixels

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What has to be the same where a run is resumed, or a sample drawn."""
        names = digest(np.array([len(self.files)]), *(_bytes(relative) for _, relative in self.files))
        size = [self.form.height, self.form.width]
        return {"preprocess": self.preprocessing.name, "resize": self.fit.how, "size": size, "files": names}

    def sample(self, i: int) -> ReferenceSample:
        """One of the files.

        files.sample(3).picture

        Raises:
            IndexError: there is none. ImageError: it cannot be read.
        """
        pixels = self._pixels(i)
        return ReferenceSample(self._prepared(pixels[None])[0], pixels)

    def __call__(self, i: int) -> np.ndarray:
        """One of the files, as the model takes it; see `sample`."""
        return self.sample(i).x

    def numbered(self, size: int, mine: Callable[[int], bool], known: Callable[[int], str]) -> Iterator[Batch]:
        """The batches, read ahead by several threads; see `sources.batches`.

        Of a known one no file is opened, unless one was written or replaced since then.
        """
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 16), thread_name_prefix="ImageFiles")
        waiting: collections.deque[tuple[range, int, _Told, list[Future] | None]] = collections.deque()
        try:
            for number, first in enumerate(range(0, len(self.files), size)):
                rows = range(first, min(first + size, len(self.files)))
                told = self._told(rows) if mine(number) else _Told("", "")  # ahead of reading: later changes count
                read = mine(number) and known(number) != told.stamp
                waiting.append((rows, number, told, [pool.submit(self._read, i) for i in rows] if read else None))
                if len(waiting) > _AHEAD:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, rows: range, number: int, told: _Told, reading: list[Future] | None) -> Batch:
        if reading is None:
            return Batch(number, rows.start, len(rows), None, None, identity=told.identity, stamp=told.stamp)
        found = [one.result() for one in reading]
        failed = {row: one for row, one in enumerate(found) if isinstance(one, str)}
        blank = np.zeros((self.form.height, self.form.width, self.form.channels), np.uint8)
        x = self._prepared(np.stack([blank if isinstance(one, str) else one for one in found])).copy()
        x[list(failed)] = np.nan
        labels = None
        if self.labels is not None:
            given = [self.labels[i] for i in rows]
            failed = {row: "no label" for row, label in enumerate(given) if label is None} | failed
            labels = np.array([-1 if label is None else label for label in given], np.int64)
        return Batch(number, rows.start, len(rows), x, labels, failed, told.identity, told.stamp)

    def _read(self, i: int) -> np.ndarray | str:
        """The pixels of a file in the model's form, or why there are none."""
        try:
            return self._pixels(i)
        except ImageError as error:
            return str(error)

    def _pixels(self, i: int) -> np.ndarray:
        return self.form.arrange(self.fit.apply(images.read(self.files[i][0], self.max_pixels)))

    def _prepared(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, C] -> float32, as the model takes it."""
        return self.form.order(self.preprocessing(pixels))

    def _told(self, rows: range) -> _Told:
        """What is known of some files that are not opened."""
        stats = np.array([_stat(self.files[i][0]) for i in rows], np.int64)
        labels = None if self.labels is None else np.array([-1 if (c := self.labels[i]) is None else c for i in rows])
        identity = digest(stats[:, 0].copy(), labels, *(_bytes(self.files[i][1]) for i in rows))[:_HALF]
        return _Told(identity, digest(stats))


class _Told(NamedTuple):
    """Of the files of a batch.

    Attributes:
        identity: of names, sizes in bytes and labels. stamp: of sizes and times.
    """

    identity: str
    stamp: str


def _stat(path: str) -> tuple[int, int, int]:
    """Size in bytes, and when content and entry were changed last, in ns: a copy may keep the first time alone."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1, -1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _bytes(name: str) -> np.ndarray:
    return np.frombuffer(os.fsencode(name) + b"\0", np.uint8)
