"""Films and cameras -> frames, upright, with the time of each. PyAV reads films, OpenCV reads cameras."""

from __future__ import annotations

import contextlib
import glob
import itertools
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from lrp_tf.files.errors import LoadError, optional

# ffmpeg also reads playlists, pictures and texts, and a playlist may name any file or address.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,dv,mxf,h264,hevc,ivf,nut"
_TICK = 0.05  # seconds between two looks at whether a film rests
_LOST = 2.0  # Frames at least that the end of a film lacks if it is cut off.


class CutError(Exception):
    """A source ended before its end; the frames before it are sound. The message is for the user."""


class Frame(NamedTuple):
    """A picture of a film.

    Attributes:
        pixels: uint8 [H, W, 3], RGB, upright.
        time: seconds since the first frame.
        pictures: how many of the film that is written it becomes, see `constant`.
    """

    pixels: np.ndarray
    time: float
    pictures: int = 1


class Source(Protocol):
    """Where frames come from.

    Attributes:
        name: for messages.
        size: (height, width) of its frames.
        rate: frames per second, about.
        total: how many frames it says it has; None: not known.
        lost: how many frames could not be decoded.
    """

    name: str
    size: tuple[int, ...]
    rate: float
    total: int | None
    lost: int

    def frames(self) -> Iterator[Frame]:
        """The frames from the first on.

        Raises:
            CutError: it ended before its end.
            LoadError: it has no frame at all.
        """


def require_av() -> Any:
    """The module `av`.

    Raises:
        ExtraError: it is not installed.
    """
    return optional("av", extra="video", what="which reads and writes films")


def opened(source: str, max_pixels: int) -> Source:
    """The camera of that number, or the film in that file, whose frames may have so many pixels.

    Raises:
        LoadError: no such camera or file, no film, a film without pictures, an unknown codec.
        ExtraError: PyAV is not installed.
    """
    return Camera(int(source)) if source.isdigit() else Film(Path(source), max_pixels)


class Film:
    """A film in a file, see `Source`."""

    def __init__(self, path: Path, max_pixels: int = 50_000_000) -> None:
        self.path, self.name, self.lost = path, str(path), 0
        self.size: tuple[int, ...] = ()
        self.total: int | None = None
        with self._open() as (container, stream):
            codec = stream.codec_context
            if codec is None:
                raise LoadError(f"{path}: its codec is not known to PyAV. Remedy: convert it to H.264, as with ffmpeg")
            if not 0 < codec.width * codec.height <= max_pixels:
                raise LoadError(
                    f"{path}: expected frames of 1 to {max_pixels} pixels (`max_pixels`). "
                    f"Received: {codec.width}x{codec.height}",
                    "max_pixels",
                )
            self.total = stream.frames or None
            self.rate = float(stream.average_rate or stream.guessed_rate or 25)
            self.length = _length(container, stream)
        for frame in self.frames():  # Its size is known when it is upright; a film without one fails here.
            self.size = frame.pixels.shape[:2]
            break
        self.lost = 0

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        av, path = require_av(), self.path
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "no such file"
            raise LoadError(f"{path}: {found}. Expected --source FILE, a film, or the number of a camera")
        if not path.stat().st_size:
            raise LoadError(f"{path}: the file is empty. Expected a film")
        try:
            container = av.open(f"file:{path}", options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise LoadError(f"{path}: {_why_not(path, error)}") from error
        with container:
            if not container.streams.video:
                raise LoadError(f"{path}: holds no pictures, {len(container.streams)} other stream(s). Expected a film")
            yield container, container.streams.video[0]

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        count, last, packets = 0, 0.0, 0
        first: float | None = None
        with self._open() as (container, stream):
            for packet, error in _packets(container, stream):
                packets += packet is not None and packet.size > 0
                if packet is None:
                    raise self._cut(count, last, error)
                for frame in self._decoded(packet):
                    first = frame.time if first is None else first
                    now = count / self.rate if frame.time is None or first is None else frame.time - first
                    last = max(now, last + 1e-4) if count else 0.0  # Times of damaged films may go back.
                    count += 1
                    yield Frame(_upright(frame), last)
        if not count:
            raise LoadError(f"{self.path}: no frame of it can be decoded. Expected a film")
        missing = self.length is not None and self.length - last > (_LOST + 0.5) / self.rate
        if missing and (self.total is None or packets < self.total):
            raise self._cut(count, last, None)

    def _decoded(self, packet: Any) -> list[Any]:
        """The frames of a packet; none if it is damaged."""
        av = require_av()
        try:
            return [frame for frame in packet.decode() if not frame.is_corrupt]
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.lost += 1
            return []

    def _cut(self, count: int, last: float, error: Exception | None) -> Exception:
        whole = f" of {self.length:.1f} s" if self.length is not None else ""
        reason = f" ({error})" if error is not None else ""
        if not count:
            return LoadError(f"{self.path}: no frame of it can be decoded: it is cut off or damaged{reason}")
        return CutError(f"{self.path}: is cut off after {count} frames, at {last:.1f} s{whole}{reason}")


def _packets(container: Any, stream: Any) -> Iterator[tuple[Any, Exception | None]]:
    """Packets; (None, the error) where the file cannot be read further."""
    av = require_av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, OSError) as error:
            yield None, error
            return
        yield packet, None


def _length(container: Any, stream: Any) -> float | None:
    """Seconds of the pictures, as the file says; sound may be longer."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration
    return container.duration / 1e6 if alone else None


def _why_not(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "the film is cut off or damaged: its table of contents, at the end of the file, is missing"
    reason = getattr(error, "strerror", None) or str(error)
    return f"no film, or in a format that is not read ({reason}). Expected MP4, MOV, MKV, WebM, AVI or MPEG"


def _upright(frame: Any) -> np.ndarray:
    """The pixels of a frame as its display matrix turns and mirrors them: phones film on their side."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
        if abs(a) < abs(b):  # x becomes y
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


class Camera:
    """A camera, see `Source`. Its times are those at which frames arrived."""

    def __init__(self, number: int) -> None:
        self.name, self.lost = f"camera {number}", 0
        self.total: int | None = None
        self._first: Any
        with contextlib.suppress(AttributeError):  # its warnings do not say more than the error below
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(number)
        ok, self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok:
            self._capture.release()
            there = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise LoadError(
                f"{self.name} gives no picture. Expected --source N, the number of a camera that no other program uses "
                f"(devices: {there}), or --source FILE.mp4"
            )
        self.size: tuple[int, ...] = self._first.shape[:2]
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 30.0

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        began, count = time.perf_counter(), 0
        try:
            while True:
                ok, pixels = self._capture.read()
                if not ok or pixels is None:
                    raise CutError(f"{self.name}: gives no more pictures after {count} frames. Is it still plugged in?")
                count += 1
                yield Frame(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), time.perf_counter() - began)
        finally:
            self._capture.release()


# --- rates -------------------------------------------------------------------------------------


def constant(frames: Iterable[Frame], rate: Fraction, usual: float) -> Iterator[Frame]:
    """The frames of a film of constant rate: each of its pictures is the newest frame at its time.

    Frames that no picture shows are left out; the count of the others says for how many pictures they stay.

    Args:
        usual: the rate of `frames`, about: so long stays the last one.
    """
    shown = 0  # pictures so far
    waiting: Frame | None = None
    end = Frame(np.empty(0), 0.0)
    for frame in itertools.chain(frames, [end]):
        if frame is end:
            frame = end._replace(time=waiting.time + 1 / usual if waiting is not None else 0.0)
        due = math.ceil(round(frame.time * float(rate), 6))  # the first picture that shows this frame
        if waiting is not None and due > shown:
            yield waiting._replace(pictures=due - shown, time=shown / float(rate))
            shown = due
        waiting = frame


def paced(frames: Iterable[Frame], stop: threading.Event, resting: threading.Event) -> Iterator[Frame]:
    """The frames of a film at their times, as a camera gives them; the film rests while `resting` is set."""
    began = time.perf_counter()
    for frame in frames:
        while (wait := began + frame.time - time.perf_counter()) > 0 or resting.is_set():
            if stop.wait(_TICK if resting.is_set() else min(wait, _TICK)):
                return
            if resting.is_set():
                began = time.perf_counter() - frame.time
        yield frame


def looped(source: Source) -> Iterator[Frame]:
    """A film again and again; times grow."""
    offset = last = 0.0
    while True:
        for frame in source.frames():
            last = offset + frame.time
            yield frame._replace(time=last)
        offset = last + 1 / source.rate


class Newest:
    """The newest frame of a source that does not wait: while one is explained, older ones are dropped.

    Args:
        resting: while it is set nobody waits for frames, and none counts as dropped.

    Attributes:
        dropped: how many frames were.
    """

    def __init__(self, frames: Iterator[Frame], stop: threading.Event, resting: threading.Event) -> None:
        self.dropped = 0
        self._frames, self._stop, self._resting = frames, stop, resting
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._ended = False

    def __iter__(self) -> Iterator[Frame]:
        # A daemon: a camera that hangs must not keep the process from ending.
        threading.Thread(target=self._read, name="newest", daemon=True).start()
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout=0.2)
                frame, self._frame = self._frame, None
                if frame is None and self._ended:
                    break
            if frame is not None:
                yield frame
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    self.dropped += self._frame is not None and not self._resting.is_set()
                    self._frame = frame
                    self._changed.notify_all()
                if self._stop.is_set():
                    break
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def even(size: tuple[int, ...]) -> tuple[int, int]:
    """A size that H.264 with half the colours can hold: even numbers, at least as large."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def writable(path: Path, source: str, *, overwrite: bool) -> Path:
    """`path`, if a film may be written there.

    Raises:
        LoadError: another suffix, a file that exists, the source itself, no such folder.
    """
    if path.suffix.lower() not in (".mp4", ".mov", ".mkv"):
        raise LoadError(f"--out {path}: expected a name ending in .mp4, .mov or .mkv")
    if not path.parent.is_dir():
        raise LoadError(f"--out {path}: there is no folder {path.parent}. Expected a file in a folder that exists")
    if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise LoadError(f"--out {path}: is the source itself. Expected another file")
    if path.is_dir() or (path.exists() and not overwrite):
        remedy = "" if path.is_dir() else ". Remedy: another name, or --overwrite"
        raise LoadError(f"--out {path}: {'is a folder' if path.is_dir() else 'exists'}{remedy}")
    return path
