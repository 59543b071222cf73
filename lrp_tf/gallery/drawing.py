"""Explained files -> files on disk, drawn beside the network, and what became of each as plain data."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from lrp_tf.gallery import ledger
from lrp_tf.gallery.beside import DrawnBeside
from lrp_tf.gallery.explain import Explained, Explaining, Failed
from lrp_tf.gallery.finished import Finished, targets_of
from lrp_tf.gallery.layers import rows_of
from lrp_tf.gallery.ledger import Item, Row
from lrp_tf.gallery.medium import Medium
from lrp_tf.gallery.tiles import keep

_PAINTERS = 2  # threads


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Explains files, writes their pictures, and tells what became of each.

    Attributes:
        out: folder of the pictures.
        explaining, medium: of the files.
        save_relevance, save_layers, tiled: what is written beside the pictures, see `Gallery`.
        batch: so many pictures, twice, may wait.
        describe: see `Gallery`.
        scale: the |R| of full colour of the whole run, if there is one.
        keep_relevance: it is part of what is told.
        beside: draws the atlases, if some were asked for.
        pictures: they are drawn.
    """

    out: Path
    explaining: Explaining
    medium: Medium
    save_relevance: bool
    save_layers: bool
    tiled: bool
    batch: int
    describe: Callable[[Exception], str]
    scale: float | None
    keep_relevance: bool
    beside: DrawnBeside | None = None
    pictures: bool = True

    def __call__(self, items: Sequence[Item]) -> Iterator[Finished]:
        """Each file once, when its pictures are written.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        with ThreadPoolExecutor(_PAINTERS) as painters:
            pending: collections.deque[tuple[Item, Explained, Future[None]]] = collections.deque()
            for found in self.explaining([item.path for item in items]):
                item = items[found.number]
                if isinstance(found, Failed):
                    yield self._told(item, [], found.reason)
                    continue
                pending.append((item, found, painters.submit(self._draw, item, found)))
                while len(pending) > 2 * self.batch:
                    yield self._settled(*pending.popleft())
            while pending:
                yield self._settled(*pending.popleft())

    def _draw(self, item: Item, found: Explained) -> None:
        """Write all files of one image."""
        if not (self.pictures or self.save_relevance or self.save_layers or self.tiled):
            return
        base = self.out / item.base
        base.parent.mkdir(parents=True, exist_ok=True)
        maps = [self.medium.values(relevance) for relevance in found.maps]
        if self.save_relevance:
            self.medium.save(base, found.maps, found.shown)
        if found.layers is not None and self.save_layers:
            found.layers.save(base)
        if self.pictures:
            self.medium.draw(base, maps, found.titles, found.shown, self.scale)
        if self.beside is not None and found.x is not None:
            numbers = targets_of([(item.path, item.base, *row) for row in found.rows])
            self.beside.draw(base, found.x, found.shown, [int(str(number)) for number, _ in numbers])
        if self.tiled:
            keep(self.out, item.path, self.medium.tiles(maps, found.titles, found.shown, self.scale))

    def _settled(self, item: Item, found: Explained, drawn: Future[None]) -> Finished:
        """What became of an image, once it is drawn."""
        try:
            drawn.result()
        except (OSError, ValueError, cv2.error) as error:
            return self._told(item, [], ledger.why_unwritten(error, self.describe))
        rows: list[Row] = [(item.path, item.base, *row) for row in found.rows]
        layers = rows_of(item, targets_of(rows), found.layers) if found.layers is not None else []
        return self._told(item, rows, None, layers, found.maps if self.keep_relevance else None)

    def _told(
        self,
        item: Item,
        rows: list[Row],
        reason: str | None,
        layers: Sequence[Row] = (),
        relevance: np.ndarray | None = None,
    ) -> Finished:
        stream = self.explaining.stream
        return Finished(item, rows, reason, list(layers), stream.low, stream.high, relevance)
