"""Pictures -> a film as H.264, which players and browsers show. What was written plays, however the film ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from films import even, require_av

from lrp_tf.atomic import atomic
from lrp_tf.files.errors import LoadError


class FilmError(LoadError):
    """A film cannot be written."""


TICKS = 90_000  # a second, the unit of times in films
_BT709 = 1  # what players take for granted in films without a remark


class Picture(NamedTuple):
    """A picture of the film that is written: uint8 [H, W, 3]; its time in seconds; how many pictures it fills."""

    pixels: np.ndarray
    time: float
    pictures: int = 1


class Writer:
    """Writes pictures of one size.

    Args:
        rate: pictures per second of a constant rate; None: each picture at its time.
        usual: the rate of the source, about.
    """

    def __init__(self, path: Path, rate: Fraction | None, usual: float) -> None:
        self.count = 0
        self._av = require_av()
        self._rate, self._usual, self._ticks = rate, usual, -1
        options = {} if path.suffix == ".mkv" else {"movflags": "+faststart"}  # plays before it is loaded as a whole
        self._container = self._av.open(str(path), "w", options=options)
        self._stream: Any = None

    def add(self, picture: Picture) -> None:
        """Add a picture; the first gives the size."""
        if self._stream is None:
            self._begin(picture.pixels.shape[:2])
        frame = self._av.VideoFrame.from_ndarray(picture.pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=1)
        unit = 1 / self._rate if self._rate else Fraction(1, TICKS)
        for k in range(picture.pictures):
            due = self.count + k if self._rate else round(picture.time * TICKS)
            self._ticks = max(self._ticks + 1, due)
            frame.pts, frame.time_base = self._ticks, unit
            frame.duration = 1 if self._rate else max(1, round(TICKS / self._usual))
            frame.pict_type = 0  # the encoder chooses
            self._container.mux(self._stream.encode(frame))
        self.count += picture.pictures

    def _begin(self, size: tuple[int, int]) -> None:
        rate = self._rate or Fraction(self._usual).limit_denominator(1001)
        # One thread: the network needs the cores.
        options = {"preset": "veryfast", "crf": "18", "threads": "1"}
        self._stream = stream = self._container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / self._rate if self._rate else Fraction(1, TICKS)
        stream.codec_context.gop_size = max(1, round(2 * float(rate)))  # a player can jump to every second second
        for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
            setattr(stream.codec_context, name, _BT709)

    def close(self) -> None:
        """Write what the encoder holds back, and the table of contents."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def write(
    path: Path, pictures: Iterable[Picture], rate: Fraction | None, usual: float, told: Callable[[], object] = int
) -> tuple[int, BaseException | None]:
    """Write a film, under its name once it is whole.

    Args:
        rate, usual: see `Writer`.
        told: called after each picture.

    Returns:
        How many pictures it has, and what ended it early: it plays all the same.

    Raises:
        BaseException: what `pictures` raises before the first; then there is no film.
        FilmError: the encoder fails, or the disk is full.
    """
    count, ended = 0, None

    def draw(temporary: Path) -> None:
        nonlocal count, ended
        writer = Writer(temporary, rate, usual)
        try:
            try:
                for picture in pictures:
                    _or_fail(path, writer.add, picture)
                    told()
            except FilmError:
                raise
            except BaseException as error:
                if not writer.count:
                    raise
                ended = error
            count = writer.count
            if not count:
                raise FilmError(f"{path}: there is no picture to write")
        finally:
            _or_fail(path, writer.close)

    atomic(path, draw)
    return count, ended


def _or_fail(path: Path, function: Callable, *arguments: object) -> None:
    try:
        function(*arguments)
    except OSError as error:  # ffmpeg's errors are such, too
        raise FilmError(f"{path}: the film cannot be written: {error.strerror or error}") from error


def padded(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with even sides; an odd one repeats its last line."""
    height, width = even(pixels.shape[:2])
    return np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)), mode="edge")
