"""Reference samples as pictures: cut to what the channel saw, and dimmed where it found nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.concepts.image_files import ImageFiles
from lrp_tf.concepts.reference import Reference, Samples
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import ImageError
from lrp_tf.heatmap.colours import reduce_channels
from lrp_tf.heatmap.layout import number
from lrp_tf.heatmap.photographs import image_to_rgb, overlay
from lrp_tf.heatmap.smoothing import smooth

# Samples by id, as the model takes them.
Images = Any
_SOFT = 1 / 40  # width of the Gaussian over a mask, of the longer side of the picture
_FINE = 1 / 120  # the same of heatmaps
_FULL = 0.9  # quantile of the relevance that is shown undimmed
_PAPER = 32.0  # grey of what is dimmed away


class Crop(NamedTuple):
    """A reference sample. plain, masked: uint8 [h, w, 3]; masked is None without an explainer."""

    plain: np.ndarray
    masked: np.ndarray | None
    label: str


class Drawing(NamedTuple):
    """How samples become pictures.

    Attributes:
        images: by id; an array, anything that can be indexed, a function of the id, or `ImageFiles`, which know the
            picture of a sample.
        show: a sample as the model takes it -> what `image_to_rgb` takes, of the same height and width.
        names: of classes, by number.
    """

    images: Images
    show: Callable[[np.ndarray], np.ndarray] | None = None
    names: Mapping[int, str] | Sequence[str] | None = None

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample of an id as the model takes it, and as a picture, uint8 [H, W, 3].

        Raises:
            ValueError: there is none. ImageError: its file cannot be read.
        """
        try:
            if isinstance(self.images, ImageFiles) and self.show is None:
                x, picture = self.images.sample(int(i))
                return x, image_to_rgb(picture)
            x = np.asarray(self.images(int(i)) if callable(self.images) else self.images[int(i)])
        except (IndexError, KeyError) as error:
            raise ValueError(
                f"images has no sample {int(i)}. Expected the data set that the reference was built from, by id. "
                f"Received: {type(self.images).__name__}"
            ) from error
        return x, self.picture(x)

    def picture(self, x: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return image_to_rgb(x if self.show is None else self.show(x))

    def name(self, label: int) -> str:
        """Of a class."""
        try:
            return str(label) if self.names is None else str(self.names[label])
        except (IndexError, KeyError):
            return str(label)


def crops(
    reference: Reference,
    samples: Samples,
    layer: str,
    channel: int,
    drawing: Drawing,
    explainer: Explainer | None,
) -> list[Crop]:
    """The samples of a channel as pictures; files that cannot be read are left out.

    Args:
        explainer: that of the reference; it gives the maps that crops are masked with.

    Raises:
        ValueError: samples of different shapes, or whose pictures have another size.
    """
    read: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for row, i in enumerate(samples.ids):
        with contextlib.suppress(ImageError):
            read[row] = drawing.sample(i)
    if not read:
        return []
    rows, x = list(read), [one for one, _ in read.values()]
    if len(shapes := {one.shape for one in x}) > 1:
        raise ValueError(f"images expects samples of one shape, as the model takes them. Received: {sorted(shapes)}")
    maps = None if explainer is None else conditional(explainer, np.stack(x), samples.labels[rows], layer, channel)
    found = []
    for place, (row, (one, picture)) in enumerate(read.items()):
        axes = axes_of(one.shape, picture)
        box = _box(reference, layer, samples.positions[row], picture.shape, axes)
        masked = None if maps is None else dimmed(picture, pixels(maps[place], axes))[box]
        label = f"{drawing.name(int(samples.labels[row]))}\n#{samples.ids[row]}: {number(float(samples.scores[row]))}"
        found.append(Crop(picture[box], masked, label))
    return found


def axes_of(shape: Sequence[int], picture: np.ndarray) -> tuple[int, int]:
    """The axes of a sample that are the rows and columns of its picture: the first two, unless channels come first.

    Raises:
        ValueError: there are none.
    """
    size = picture.shape[:2]
    if len(shape) in (2, 3) and tuple(shape[:2]) == size:
        return 0, 1
    if len(shape) == 3 and tuple(shape[1:]) == size:
        return 1, 2
    raise ValueError(
        "Expected a picture of the height and width of its sample, [H, W], [H, W, C] or [C, H, W]. Received: a picture "
        f"{size[0]}x{size[1]} of a sample {tuple(shape)}. Remedy: a `show` that leaves every pixel at its place"
    )


def pixels(relevance: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Relevance of a sample -> [H, W]; axes: see `axes_of`."""
    return reduce_channels(relevance if axes == (0, 1) else np.moveaxis(relevance, 0, -1))


def conditional(explainer: Explainer, x: np.ndarray, target: Any, layer: str, channel: int) -> np.ndarray:
    """The relevance of each sample that passed one channel, in the shape of x."""
    return np.asarray(explainer.concepts(x, target, layer=layer, channels=[channel]).maps)[:, 0]


def dimmed(picture: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] that fades out where |relevance| [H, W] is low."""
    size = smooth(np.abs(relevance), _SOFT * max(relevance.shape))
    full = float(np.quantile(size[size > 0], _FULL)) if (size > 0).any() else 1.0
    shown = np.clip(size / full, 0, 1)[..., None] ** 0.5
    return np.rint(picture * shown + _PAPER * (1 - shown)).astype(np.uint8)


def over(picture: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Relevance [H, W] over a picture uint8 [H, W, 3]: a little smoothed, and without its few largest values."""
    return overlay(picture, relevance, scale="99%", smooth=_FINE * max(relevance.shape))


def _box(
    reference: Reference, layer: str, position: np.ndarray, shape: Sequence[int], axes: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns that the position sees; the whole picture where it sees padding alone, or nothing is known."""
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    if not reference.has_fields(layer):
        return whole
    box = reference.box(layer, position.tolist())
    rows, columns = box[axes[0]], box[axes[1]]
    return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else whole
