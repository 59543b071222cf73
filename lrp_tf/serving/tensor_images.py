"""Image files → arrays, and relevance → PNG, as TensorFlow operations: what runs in a server without Python.

The twins of `images.read`, `images.Fit` and `heatmap.to_rgb`, for JPEG and PNG; docs/serving.md states what differs.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from lrp_tf.files.images import EXIF_SEARCHED, Fit
from lrp_tf.heatmap.colours import COLOURS, RELEVANCE_CMAP, colour, limits, strength
from lrp_tf.heatmap.look import Look

_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"


def decode(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """The bytes of one JPEG or PNG -> uint8 [H, W, 3], RGB, upright; transparency is laid on white.

    Args:
        data: string, [] or [1].
        max_pixels: the most that is decoded. The size is read from the header first.

    Raises:
        tf.errors.InvalidArgumentError: at run time: not one file, neither JPEG nor PNG, damaged, too large.
    """
    one = tf.debugging.Assert(
        tf.equal(tf.size(data), 1), ["Expected one picture per request. Received:", tf.shape(data)]
    )
    with tf.control_dependencies([one]):
        data = tf.reshape(data, [])
    # Zeros make the header of a file of a few bytes as long as any other.
    head = tf.io.decode_raw(tf.strings.substr(tf.strings.join([data, b"\0" * 32]), 0, 32), tf.uint8)
    png = _begins(head, _PNG) & _begins(head[12:], b"IHDR")
    jpeg = _begins(head, b"\xff\xd8\xff")
    known = tf.debugging.Assert(png | jpeg, ["Expected the bytes of a JPEG or PNG file. They begin with:", head[:8]])
    with tf.control_dependencies([known]):
        height, width = tf.unstack(tf.cond(png, lambda: _png_size(head), lambda: _jpeg_size(data)))
    fits = [
        tf.debugging.Assert(height * width > 0, ["Expected pixels. Received height, width:", height, width]),
        tf.debugging.Assert(
            height * width <= max_pixels,
            [f"Expected a picture of at most {max_pixels} pixels. Received height, width:", height, width],
        ),
    ]  # fmt: skip
    with tf.control_dependencies(fits):
        data = tf.identity(data)
    image = tf.cond(png, lambda: _on_white(_rgba(data, head)), lambda: _upright_jpeg(data))
    return tf.ensure_shape(image, [None, None, 3])


def _begins(head: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.reduce_all(head[: len(magic)] == tf.constant(list(magic), tf.uint8))


def _png_size(head: tf.Tensor) -> tf.Tensor:
    numbers = tf.reshape(tf.cast(head[16:24], tf.int64), [2, 4])
    width, height = tf.unstack(tf.reduce_sum(numbers * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64), axis=1))
    return tf.stack([height, width])


def _jpeg_size(data: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)[:2]


def _rgba(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    image, depth = tf.io.decode_png(data, channels=4), tf.cast(head[24], tf.int32)
    # If the file has no opacity, TensorFlow fills in the largest number of its depth, 15 for 4 bits.
    filler = tf.cast(tf.bitwise.left_shift(1, tf.minimum(depth, 8)) - 1, tf.uint8)
    solid = lambda: tf.concat([image[..., :3], tf.fill(tf.shape(image[..., 3:]), tf.constant(255, tf.uint8))], -1)  # noqa: E731
    return tf.cond(tf.reduce_all(image[..., 3] == filler), solid, lambda: image)


def _on_white(rgba: tf.Tensor) -> tf.Tensor:
    """With the rounding of Pillow's alpha_composite."""

    def mixed() -> tf.Tensor:
        opacity = tf.cast(rgba[..., 3:], tf.int32)
        sums = 128 * (tf.cast(rgba[..., :3], tf.int32) * opacity + 255 * (255 - opacity)) + 0x4000
        shift = tf.bitwise.right_shift
        return tf.cast(shift(shift(shift(sums, 8) + sums, 8), 7), tf.uint8)

    return tf.cond(tf.reduce_all(rgba[..., 3] == 255), lambda: rgba[..., :3], mixed)


def _upright_jpeg(data: tf.Tensor) -> tf.Tensor:
    # Pillow uses the accurate transform.
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    turned = _orientation(data)
    image = tf.cond(turned >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(_among(turned, 3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)
    return tf.cond(_among(turned, 2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)


def _among(value: tf.Tensor, *choices: int) -> tf.Tensor:
    return tf.reduce_any(value == tf.constant(choices, value.dtype))


def _orientation(data: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG, int64 1 to 8; 1 if it has none: `images.orientation` in TensorFlow."""
    raw = tf.io.decode_raw(tf.strings.substr(data, 0, EXIF_SEARCHED), tf.uint8)
    size = tf.size(raw, tf.int64)

    def at(place: tf.Tensor) -> tf.Tensor:  # places come from the file and may lie outside it
        return tf.cast(tf.gather(raw, tf.clip_by_value(tf.cast(place, tf.int64), 0, size - 1)), tf.int64)

    def searching(place: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
        return (exif < 0) & (place + 10 < size) & (at(place) == 0xFF) & (at(place + 1) != 0xDA)

    def next_segment(place: tf.Tensor, exif: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = (at(place + 1) == 0xE1) & tf.reduce_all(at(place + 4 + np.arange(6)) == list(_EXIF))
        behind = tf.where(at(place + 1) == 0xFF, place + 1, place + 2 + at(place + 2) * 256 + at(place + 3))
        return behind, tf.where(found, place + 10, exif)

    minus = tf.constant(-1, tf.int64)
    _, start = tf.while_loop(searching, next_segment, (tf.constant(2, tf.int64), minus))
    little = at(start) == ord("I")

    def number(place: tf.Tensor, count: int) -> tf.Tensor:
        parts = [at(place + i) for i in range(count)]
        ahead = tf.add_n([part * (1 << (8 * i)) for i, part in enumerate(parts[::-1])])
        return tf.where(little, tf.add_n([part * (1 << (8 * i)) for i, part in enumerate(parts)]), ahead)

    table = start + number(start + 4, 4)
    entries = table + 2 + 12 * tf.range(tf.minimum(number(table, 2), 1000))
    value = tf.where(number(entries + 2, 2) == 4, number(entries + 8, 4), number(entries + 8, 2))
    mine = tf.boolean_mask(value, (number(entries, 2) == 0x0112) & (entries + 12 <= size))
    value = tf.concat([mine, [1]], 0)[0]
    return tf.where((start > 0) & (value >= 1) & (value <= 8), value, tf.ones_like(value))


# --- geometry ----------------------------------------------------------------------------------


def fit(image: tf.Tensor, geometry: Fit) -> tf.Tensor:
    """uint8 [H, W, C] -> uint8 [height, width, C], as `geometry.apply` does it in OpenCV."""
    height, width = geometry.height, geometry.width
    if geometry.how == "squash":
        return _scaled(image, tf.constant([height, width]), (height, width))
    wanted = tf.constant([height, width], tf.float64)
    given = tf.shape(image)[:2]
    ratios = wanted / tf.cast(given, tf.float64)
    if geometry.how == "crop":
        part = _whole_numbers(wanted / tf.reduce_max(ratios), given)
        top, left = tf.unstack((given - part) // 2)
        rows, columns = tf.unstack(part)
        return _scaled(image[top : top + rows, left : left + columns], tf.constant([height, width]), (height, width))
    part = _whole_numbers(tf.cast(given, tf.float64) * tf.reduce_min(ratios), tf.constant([height, width]))
    before = (tf.constant([height, width]) - part) // 2
    around = tf.stack([before, tf.constant([height, width]) - part - before], axis=1)
    canvas = tf.pad(_scaled(image, part, (None, None)), tf.concat([around, [[0, 0]]], 0))
    return tf.ensure_shape(canvas, [height, width, 3])


def _whole_numbers(sizes: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    return tf.minimum(tf.maximum(tf.cast(tf.round(sizes), tf.int32), 1), largest)


def _scaled(image: tf.Tensor, size: tf.Tensor, known: tuple[int | None, int | None]) -> tf.Tensor:
    """Averages along an axis that shrinks, bilinear along one that grows, each rounded to bytes."""
    given = tf.shape(image)[:2]
    smaller = tf.minimum(size, given)
    pixels = tf.image.resize(image, smaller, method="area")
    # OpenCV rounds .5 up if it halves a picture, and to even otherwise.
    pixels = tf.where(tf.reduce_all(2 * smaller == given), tf.floor(pixels + 0.5), tf.round(pixels))
    grown = lambda: tf.floor(tf.image.resize(pixels, size, method="bilinear") + 0.5)  # noqa: E731
    pixels = tf.cond(tf.reduce_all(smaller == size), lambda: pixels, grown)
    return tf.cast(tf.ensure_shape(pixels, [*known, 3]), tf.uint8)


def grey(pixels: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] -> uint8 [H, W, 1], with OpenCV's weights and rounding."""
    weighted = tf.cast(pixels, tf.int32) * tf.constant([9798, 19235, 3735])
    return tf.cast(tf.bitwise.right_shift(tf.reduce_sum(weighted, -1, keepdims=True) + (1 << 14), 15), tf.uint8)


# --- pictures ----------------------------------------------------------------------------------


class Painter:
    """Relevance [H, W, C] -> uint8 [H, W, 3], the very pixels of `heatmap.to_rgb`.

    Args:
        look: its cmap, scale, reduce and gamma count; |R| and smoothing are not available in a server.

    Raises:
        ValueError, TypeError: as `heatmap.to_rgb`; a scale that is a quantile, show="abs", smooth.
    """

    def __init__(self, look: Look) -> None:
        scale, reduce, gamma = look.scale, look.reduce, look.gamma
        if look.show != "signed" or look.smooth:
            raise ValueError(
                f'Expected show="signed" and no smooth in an exported model. Received: {look.show!r}, {look.smooth!r}'
            )
        if reduce not in ("sum", "mean", "absmax"):
            raise ValueError(f'Expected reduce="sum", "mean" or "absmax". Received: {reduce!r}')
        if isinstance(scale, str):
            raise ValueError(f"Expected scale > 0 or None: an exported model has no quantiles. Received: {scale!r}")
        unit = np.linspace(-1.0, 1.0, COLOURS)
        strength(unit, limits(unit, scale), gamma)  # checks scale and gamma
        cmap = RELEVANCE_CMAP if look.cmap is None else look.cmap
        self.table = colour(unit, (-1.0, 1.0), cmap, 1.0)
        self.scale, self.reduce, self.gamma = scale, reduce, gamma

    def __call__(self, relevance: tf.Tensor) -> tf.Tensor:
        values = self._reduced(tf.cast(relevance, tf.float64))
        values = tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))
        one = tf.ones([], tf.float64)
        largest = tf.reduce_max(tf.abs(values)) if self.scale is None else one * self.scale
        unit = tf.clip_by_value(values / tf.where(largest > 0, largest, one), -one, one)
        if self.gamma != 1:
            unit = tf.sign(unit) * tf.abs(unit) ** tf.constant(self.gamma, tf.float64)
        place = tf.cast(tf.round((unit + 1.0) / 2.0 * (COLOURS - 1)), tf.int32)
        return tf.gather(tf.constant(self.table), place)

    def _reduced(self, values: tf.Tensor) -> tf.Tensor:
        if self.reduce == "absmax":
            return tf.gather(values, tf.argmax(tf.abs(values), -1), axis=-1, batch_dims=2)
        channels = tf.unstack(values, axis=-1)
        total = channels[0]
        for channel in channels[1:]:  # in NumPy's order, for the same last bit
            total += channel
        return total if self.reduce == "sum" else total / len(channels)
