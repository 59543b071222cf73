"""Where a logger writes: a folder of pictures and a table, or TensorBoard."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from lrp_tf import heatmap
from lrp_tf.callbacks.numbers import COLUMNS, curves
from lrp_tf.files.errors import optional
from lrp_tf.gallery.ledger import to_csv, write_text

TABLE = "relevance.csv"
ACROSS = 4  # pairs of image and map beside one another


class Place(Protocol):
    """Where a logger writes."""

    def begin(self, first: int) -> None:
        """Make ready for epochs from `first` on, counted from 1."""

    def write(self, epoch: int, rows: Sequence[dict[str, float]], maps: np.ndarray | None) -> None:
        """Write the rows of an epoch.

        Args:
            maps: relevance [B, H, W] or [B, H, W, C]; None where images are no pictures.
        """

    def end(self) -> None:
        """Bring everything to disk."""


class Folder:
    """`epoch-0001.png` with all images and their maps, and `relevance.csv`, a row for each epoch and image.

    Args:
        images: [B, ...] as pictures, see `heatmap.image_to_rgb`.
        overwrite: begin anew although `log_dir` holds the table of an earlier training.
    """

    def __init__(self, log_dir: Path, images: np.ndarray, overwrite: bool) -> None:
        self.log_dir, self.images, self.overwrite = log_dir, images, overwrite
        self._rows: list[dict[str, str]] | None = None

    def begin(self, first: int) -> None:
        """Keep the rows of earlier epochs of a training that continues.

        Raises:
            FileExistsError: the folder holds a table, and the training begins anew. ValueError: another table.
        """
        if self._rows is not None:  # of this logger: `fit` was called once more
            return
        path = self.log_dir / TABLE
        self.log_dir.mkdir(parents=True, exist_ok=True)
        earlier = _read(path) if path.exists() and not self.overwrite else []
        if earlier and first == 1:
            raise FileExistsError(
                f"{path} is of an earlier training. Expected a log_dir without one, or a training that continues "
                "(fit(initial_epoch=…)). Remedy: overwrite=True, or another log_dir"
            )
        self._rows = [row for row in earlier if int(row["epoch"]) < first]
        for picture in self.log_dir.glob("epoch-*.png"):  # of epochs that are trained once more, or no longer
            if picture.stem[6:].isdecimal() and int(picture.stem[6:]) >= first:
                picture.unlink()

    def write(self, epoch: int, rows: Sequence[dict[str, float]], maps: np.ndarray | None) -> None:
        """The sheet first, then the table, each of which appears whole or not at all."""
        assert self._rows is not None
        if maps is not None:
            pictures, labels = self._pairs(maps, rows)
            path = self.log_dir / f"epoch-{epoch:04d}.png"
            heatmap.grid(path, pictures, labels=labels, suptitle=f"epoch {epoch}", tile_inches=1.6)
        self._rows += [{name: _cell(row[name]) for name in COLUMNS} for row in rows]
        cells = [[row[name] for name in COLUMNS] for row in self._rows]
        write_text(self.log_dir / TABLE, to_csv([COLUMNS, *cells]))

    def _pairs(
        self, maps: np.ndarray, rows: Sequence[dict[str, float]]
    ) -> tuple[list[list[np.ndarray | None]], list[str]]:
        """Images beside their maps, some pairs in a row, and what is written below each."""
        tiles: list[np.ndarray | None] = []
        labels: list[str] = []
        for image, relevance, row in zip(self.images, maps, rows, strict=True):
            picture = heatmap.image_to_rgb(image)
            tiles += [picture, heatmap.to_rgb(relevance)]
            inside = "" if math.isnan(row["share_inside"]) else f", inside {row['share_inside']:.2f}"
            labels += [f"class {row['target']:.0f}", f"score {row['logit']:.3g}{inside}"]
        width = 2 * math.ceil(len(maps) / math.ceil(len(maps) / ACROSS))  # rows of one length, where there are several
        tiles += [None] * (-len(tiles) % width)
        labels += [""] * (-len(labels) % width)
        return [tiles[i : i + width] for i in range(0, len(tiles), width)], labels

    def end(self) -> None:
        """Nothing waits."""


class TensorBoard:
    """Images and curves for TensorBoard, written by tf.summary.

    Args:
        images: as of `Folder`.

    Raises:
        ExtraError: TensorBoard is not installed, which tf.summary needs.
    """

    def __init__(self, log_dir: Path, images: np.ndarray) -> None:
        optional("tensorboard", extra="tensorboard", what="which tf.summary needs", remedy=', or to="folder"')
        self.log_dir, self.images = log_dir, images
        self._writer: tf.summary.SummaryWriter | None = None

    def begin(self, first: int) -> None:
        """Open a file of events; TensorBoard shows several of one folder as one run."""
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def write(self, epoch: int, rows: Sequence[dict[str, float]], maps: np.ndarray | None) -> None:
        """One image for each sample, its map beside it, and the means of the numbers as curves."""
        assert self._writer is not None
        with self._writer.as_default(step=epoch):
            for name, value in curves(list(rows)).items():
                tf.summary.scalar(f"relevance/{name}", value)
            for i, relevance in enumerate([] if maps is None else maps):
                picture = heatmap.image_to_rgb(self.images[i])
                both = np.concatenate([picture, heatmap.to_rgb(relevance)], axis=1)
                tf.summary.image(f"relevance/image {i}", both[None])
        self._writer.flush()

    def end(self) -> None:
        """Events are written already; the writer stays open for another `fit`."""
        assert self._writer is not None
        self._writer.flush()


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier table.

    Raises:
        ValueError: it has other columns.
    """
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} has other columns. Expected {', '.join(COLUMNS)}. Remedy: another log_dir, or overwrite=True"
            )
        return list(reader)


def _cell(value: float) -> str:
    """A number as the table holds it; what is not known is empty."""
    return "" if math.isnan(value) else f"{value:.7g}"
