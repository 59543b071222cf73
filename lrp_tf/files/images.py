"""Image files -> arrays, and arrays back into the geometry of the file. Pillow decodes, OpenCV resizes."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import glob
import importlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lrp_tf.files.errors import ImageError
from lrp_tf.heatmap.photographs import scaled

MAX_PIXELS = 50_000_000
SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"])
# Pictures that are not read, or only with an extra. In a folder they are failures with a reason, not ignored.
UNREAD = frozenset([".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl"])
FITS = ("squash", "crop", "pad")

# Pillow tries fifty formats whatever the name of a file; PostScript is a program, which it would pass to Ghostscript.
_FORMATS = {"JPEG": "Jpeg", "PNG": "Png", "WEBP": "WebP", "BMP": "Bmp", "GIF": "Gif", "TIFF": "Tiff"}
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}
_BRANDS |= {b"avif": "AVIF", b"avis": "AVIF"}
_SIGNATURES = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
}
EXIF_SEARCHED = 1 << 18
"""Number of bytes at the beginning of a JPEG that are searched for its orientation."""

# Pillow has a limit of its own for large images, and filters of warnings are global; both change under this lock.
_PILLOW = threading.Lock()


def find(
    names: Iterable[str | os.PathLike[str]],
    stdin: IO[bytes] | None = None,
    skipped: Callable[[str, str], object] = lambda path, reason: None,
    *,
    suffixes: frozenset[str] = SUFFIXES,
    what: str = "image",
) -> Iterator[tuple[str, str]]:
    """The image files that `names` stand for, in a stable order.

        files = list(images.find(["photos"]))

    Args:
        names: each a file, a folder (all images in it and in its subfolders), a glob pattern (`photos/**/*.jpg`), `-`
            (a list of files on standard input) or `@list.txt` (a list in a file): one name per line, or separated by
            NUL characters if names hold line breaks; UTF-8, or UTF-16 with its byte order mark. If a file of exactly
            that name exists, it is meant.
        stdin: read instead of standard input, binary.
        skipped: called with a path that is left out and the reason: hidden files and folders in a folder, folders
            that match a pattern.
        suffixes, what: of the files that a folder is searched for, if not images.

    Yields:
        (the file, its path relative to the folder that was named): results are named after the second. Files that do
        not exist, folders that cannot be read and pictures in unknown formats are included; `read` says why they fail.

    Raises:
        ValueError: a folder or pattern without any image, a list that cannot be read or holds no name.
    """
    for name in map(_as_text, names):
        if name == "-" or (name.startswith("@") and not os.path.lexists(name)):
            yield from _listed(name, stdin)
        elif os.path.isdir(name):
            yield from _in_folder(name, skipped, suffixes, what)
        elif glob.has_magic(name) and not os.path.lexists(name):
            matches = sorted(glob.iglob(name, recursive=True))
            files = [match for match in matches if not os.path.isdir(match)]
            if not files:
                raise ValueError(f"{name!r}: no file matches this pattern")
            if "**" not in name:  # "**" matches folders on the way to files
                for match in sorted({*matches} - {*files}):
                    skipped(match, "a folder that matches a pattern; its name alone would stand for the images in it")
            yield from ((file, os.path.basename(file)) for file in files)
        else:
            yield name, os.path.basename(name)


def _as_text(name: str | os.PathLike[str]) -> str:
    return os.fspath(name)


def _in_folder(
    folder: str, skipped: Callable[[str, str], object], suffixes: frozenset[str], what: str
) -> Iterator[tuple[str, str]]:
    known = suffixes | UNREAD if suffixes is SUFFIXES else suffixes
    empty = True
    locked: list[str] = []  # folders that cannot be listed
    for place, folders, files in os.walk(folder, onerror=lambda error: locked.append(error.filename)):
        for name in sorted(name for name in folders if name.startswith(".")):
            skipped(os.path.normpath(os.path.join(place, name)), "a hidden folder")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            path = os.path.normpath(os.path.join(place, file))
            if not file.lower().endswith(tuple(known)):
                continue
            if file.startswith("."):
                skipped(path, "a hidden file")
                continue
            empty = False
            yield path, os.path.relpath(path, folder)
    for path in map(os.path.normpath, locked):
        empty = False
        yield path, os.path.relpath(path, folder)
    if empty:
        raise ValueError(f"folder {folder!r} holds no {what}. Expected files ending in {' '.join(sorted(suffixes))}")


def _listed(name: str, stdin: IO[bytes] | None) -> Iterator[tuple[str, str]]:
    try:
        content = (stdin or sys.stdin.buffer).read() if name == "-" else Path(name[1:]).read_bytes()
    except OSError as error:
        raise ValueError(f"list {name[1:]!r} cannot be read: {error.strerror or error}") from error
    lines = [line for line in _lines(content, name) if line.strip()]
    if not lines:
        source = "standard input" if name == "-" else f"list {name[1:]!r}"
        raise ValueError(f"{source} names no image. Expected one name per line, or NUL characters between names")
    for line in lines:
        file = os.fsdecode(line)
        yield file, os.path.basename(file)


def _lines(content: bytes, name: str) -> list[bytes]:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes lists
        try:
            content = os.fsencode(content.decode("utf-16"))
        except UnicodeError as error:
            raise ValueError(
                f"list {name!r} begins with the byte order mark of UTF-16, but cannot be decoded: {error}"
            ) from error
    content = content.removeprefix(codecs.BOM_UTF8)
    return content.split(b"\0") if b"\0" in content else content.splitlines()


def read(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as a viewer shows it: uint8 [H, W, 3], RGB, upright.

    EXIF rotation is applied, palettes are looked up, CMYK is converted, transparency is laid on white, 16 bits are
    reduced to 8, and the first of several frames is taken.

    Args:
        max_pixels: larger pictures are refused. The size is read from the header, so that a small file cannot fill
            the memory.

    Raises:
        ImageError: no such file, empty, corrupt, truncated, too large, or in another format than JPEG, PNG, WebP, BMP,
            GIF and TIFF; HEIC and AVIF need the extra "heif".
    """
    with _reasons():
        if os.path.isdir(path):
            os.listdir(path)  # OSError: a folder that cannot be read is given by `find`
            raise ImageError("is a folder")
        if os.path.getsize(path) == 0 and os.path.isfile(path):
            raise ImageError("empty file")
        if not os.path.isfile(path):  # reading a pipe or device may never end
            raise ImageError("not a regular file")
        with open(path, "rb") as file:
            return _pixels(file, max_pixels)


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The same for the bytes of a file, as a database or an archive holds them: uint8 [H, W, 3].

        pixels = images.decode(Path("cat.jpg").read_bytes())

    Raises:
        ImageError: as `read`.
    """
    with _reasons():
        if not content:
            raise ImageError("empty file")
        return _pixels(io.BytesIO(content), max_pixels)


def _pixels(file: IO[bytes], max_pixels: int) -> np.ndarray:
    with _open(file) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"too large: {width} x {height} pixels, the limit is {max_pixels} (`max_pixels`)", "max_pixels"
            )
        if not width * height:
            raise ImageError(f"no pixels: {width} x {height}")
        return _to_rgb(_upright(image, file))


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """What is raised inside becomes an `ImageError` whose message is the reason."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image, or in a format that is not supported") from error
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except OSError as error:
        raise ImageError(_reason(error)) from error
    except Exception as error:  # damaged files raise almost any type: struct.error, SyntaxError, KeyError, ...
        raise ImageError(f"damaged: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _open(file: IO[bytes]) -> Image.Image:
    head = file.read(32)
    file.seek(0)
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, for example: what counts is whether the file decodes
        formats = _decoders(head)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decoders(head: bytes) -> list[str]:
    """The formats of Pillow that a file beginning with `head` may have.

    Raises:
        ImageError: a format that is known and not read.
    """
    kind = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    if kind is not None:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError as error:
            raise ImageError(
                f'{kind}, which is read only with the extra "heif". Remedy: pip install "lrp_tf[heif]"'
            ) from error
        Image.init()  # Pillow reads AVIF itself
        return ["HEIF", "AVIF"]
    for signature, other in _SIGNATURES.items():
        if head.startswith(signature):
            raise ImageError(f"{other}, which is not read. Expected JPEG, PNG, WebP, BMP, GIF or TIFF")
    for plugin in _FORMATS.values():  # Pillow loads only some of them itself if formats are given
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return list(_FORMATS)


def _upright(image: Image.Image, file: IO[bytes]) -> Image.Image:
    """The image turned as its EXIF orientation says, unchanged if that cannot be read."""
    image.load()
    if image.format in ("JPEG", "MPO"):
        file.seek(0)
        turn = _TURNS.get(orientation(file.read(EXIF_SEARCHED)))
        return image if turn is None else image.transpose(turn)
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata raise almost any type
        return image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(jpeg: bytes) -> int:
    """The EXIF orientation of a JPEG from its first `EXIF_SEARCHED` bytes, 1 to 8; 1 if it has none.

    The same search as in the graph of an exported model (`tensor_images`), so that both turn every file alike. Pillow's
    own search gives other results for damaged files.
    """
    last = len(jpeg) - 1

    def at(place: int) -> int:  # places come from the file and may lie outside it
        return jpeg[min(max(place, 0), last)]

    place, start = 2, -1
    while start < 0 and place + 10 < len(jpeg) and at(place) == 0xFF and at(place + 1) != 0xDA:
        if at(place + 1) == 0xE1 and jpeg[place + 4 : place + 10] == b"Exif\0\0":
            start = place + 10
        place += 1 if at(place + 1) == 0xFF else 2 + at(place + 2) * 256 + at(place + 3)
    if start <= 0:
        return 1
    little = at(start) == ord("I")

    def number(place: int, count: int) -> int:
        return int.from_bytes([at(place + i) for i in range(count)], "little" if little else "big")

    table = start + number(start + 4, 4)
    for entry in range(table + 2, table + 2 + 12 * min(number(table, 2), 1000), 12):
        if number(entry, 2) == 0x0112 and entry + 12 <= len(jpeg):
            value = number(entry + 8, 4 if number(entry + 2, 2) == 4 else 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits; Pillow has four modes for them
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("32-bit integers. Remedy: convert it to 8 or 16 bits")
        grey = np.rint(values / 257.0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ImageError("floating-point pixels, whose range is not known. Remedy: convert it to 8 or 16 bits")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


@dataclasses.dataclass(frozen=True)
class Fit:
    """Geometry: from a picture of any size to the input of a model, and from there back to the picture.

    Attributes:
        height, width: of the input of the model.
        how: "squash" (the whole picture, with other proportions), "crop" (the largest part in the middle that has the
            proportions of the model) or "pad" (the whole picture on black).

    Raises:
        ValueError: another `how`.
    """

    height: int
    width: int
    how: str = "squash"

    def __post_init__(self) -> None:
        if self.how not in FITS:
            raise ValueError(f"Expected one of {', '.join(FITS)}. Received: {self.how!r}")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> uint8 [height, width, C]."""
        (top, left, height, width), (y, x, h, w) = self._boxes(image.shape[:2])
        part = scaled(image[top : top + height, left : left + width], (h, w))
        if (h, w) == (self.height, self.width):
            return part
        canvas = np.zeros((self.height, self.width, *image.shape[2:]), image.dtype)
        canvas[y : y + h, x : x + w] = part
        return canvas

    def restore(self, relevance: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A map [height, width] in the geometry of a picture of `size` (H, W), with 0 where the model saw nothing."""
        (top, left, height, width), (y, x, h, w) = self._boxes(size)
        part = scaled(relevance[y : y + h, x : x + w], (height, width))
        if (height, width) == tuple(size):
            return part
        canvas = np.zeros(size, relevance.dtype)
        canvas[top : top + height, left : left + width] = part
        return canvas

    def _boxes(self, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(top, left, height, width) of the part of the picture that is used, and of its place in the model's input."""
        rows, columns = size
        whole, filled = (0, 0, rows, columns), (0, 0, self.height, self.width)
        if self.how == "squash":
            return whole, filled
        ratios = self.height / rows, self.width / columns
        if self.how == "crop":
            scale = max(ratios)
            height, width = _at_least_1(self.height / scale, rows), _at_least_1(self.width / scale, columns)
            return ((rows - height) // 2, (columns - width) // 2, height, width), filled
        scale = min(ratios)
        h, w = _at_least_1(rows * scale, self.height), _at_least_1(columns * scale, self.width)
        return whole, ((self.height - h) // 2, (self.width - w) // 2, h, w)


def _at_least_1(value: float, limit: int) -> int:
    return min(max(round(value), 1), limit)
