"""Small pictures of one file for the page of a run: what was explained, and its relevance to be laid over it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from lrp_tf.atomic import atomic
from lrp_tf.heatmap.colours import AGAINST, EITHER, FOR, colour, colour_of, strength
from lrp_tf.heatmap.look import Look

FOLDER = "gallery"  # below the results of a run
SIDE = 320  # pixels of the longer side, at most
_LEVELS = 24  # of opacity: more cannot be told apart, and the file grows by half
_SMALL = 64  # a picture of so few pixels a side is kept without loss, since each of them is seen
_QUALITY = 85


class Tiles(NamedTuple):
    """The pictures of one file.

    Attributes:
        below: n pictures of what was explained, uint8 [h, w, 3]; none where a map is a picture by itself, as that of a
            signal is.
        maps: for each target n pictures of its relevance: uint8 [h, w, 4], laid over `below` and stretched to its size;
            or uint8 [h, w, 3] where nothing lies below.
        slices: n names, such as "z = 12" or "frame 3", for a volume or film; none for a single picture.
        first: which of them is shown first; None: the middle one.
    """

    below: Sequence[np.ndarray]
    maps: Sequence[Sequence[np.ndarray]]
    slices: Sequence[str] = ()
    first: int | None = None


def size_within(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """(height, width) of a picture that is made no larger than `side`; a smaller one keeps its size."""
    factor = min(side / max(height, width), 1.0)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def relevance_tile(values: np.ndarray, look: Look, scale: float) -> np.ndarray:
    """Relevance as a picture to be laid over another one: the larger |R|, the more opaque.

    Args:
        values: [h, w], as drawn.
        look: how it is drawn. Without a colour map of its own, colour says the sign alone, and opacity the size.
        scale: the |R| of full colour.

    Returns:
        uint8 [h, w, 4], RGBA, of 49 colours.
    """
    paint = dataclasses.replace(look.paint(1), scale=scale, smooth=None)
    ends = paint.ends(values)
    # The root shows faint relevance, as in heatmap.overlay.
    steps = np.arange(-_LEVELS, _LEVELS + 1) / _LEVELS
    opacity = np.rint(np.abs(steps) * 255).astype(np.uint8)
    if look.cmap is None:
        colours = np.array([AGAINST, EITHER if look.show == "abs" else FOR], np.uint8)[(steps >= 0).astype(np.int8)]
    else:
        colours = colour_of(np.copysign(steps**2, steps), ends, paint.palette(), look.gamma)
    shown = strength(values, ends, look.gamma)
    level = np.rint(np.copysign(np.sqrt(np.abs(shown)), shown) * _LEVELS).astype(np.int8) + _LEVELS
    return np.column_stack([colours, opacity])[level]


def paper(look: Look) -> str:
    """The colour of no relevance, which lies below a map that is shown beside the picture, as "#ffffff"."""
    if look.cmap is None:
        return "#ffffff"
    paint = dataclasses.replace(look.paint(1), scale=1.0, smooth=None)
    nothing = np.zeros(1)
    return to_hex(colour(nothing, paint.ends(nothing), paint.palette(), look.gamma)[0] / 255.0)


# --- on disk -----------------------------------------------------------------------------------


class Kept(NamedTuple):
    """The tiles of a file as they lie on disk.

    Attributes:
        below, maps: paths relative to the folder of the run, see `Tiles`.
        slices, first: see `Tiles`.
        size: (width, height) of the first picture in pixels.
    """

    below: list[str]
    maps: list[list[str]]
    slices: list[str]
    size: tuple[int, int]
    first: int | None = None


def place(path: str) -> str:
    """Where the tiles of the file `path` lie below the folder of a run, without suffix: names need no quoting."""
    digest = hashlib.sha1(os.fsencode(path)).hexdigest()
    return f"{FOLDER}/{digest[:2]}/{digest[2:18]}"


def keep(out: Path, path: str, tiles: Tiles) -> None:
    """Write the tiles of the file `path`; the list of them comes last, so that it stands for all.

    Raises:
        OSError: the folder cannot be written.
    """
    at = place(path)
    (out / at).parent.mkdir(parents=True, exist_ok=True)
    below = [_write(out, f"{at}.below{i}", picture, photograph=True) for i, picture in enumerate(tiles.below)]
    maps = [
        [_write(out, f"{at}.map{k}-{i}", picture, photograph=False) for i, picture in enumerate(pictures)]
        for k, pictures in enumerate(tiles.maps)
    ]
    first = tiles.below[0] if tiles.below else tiles.maps[0][0]
    kept = Kept(below, maps, list(tiles.slices), (first.shape[1], first.shape[0]), tiles.first)
    content = json.dumps(kept._asdict()).encode()
    atomic(out / f"{at}.json", lambda temporary: temporary.write_bytes(content))


def kept(out: Path, path: str) -> Kept | None:
    """The tiles of the file `path`; None: there are none, or not all."""
    try:
        found = Kept(**json.loads((out / f"{place(path)}.json").read_bytes()))
        names = [*found.below, *(name for names in found.maps for name in names)]
        width, height = found.size
        return found._replace(size=(width, height)) if all((out / name).exists() for name in names) else None
    except (OSError, ValueError, TypeError):  # no file, or one that is damaged
        return None


def _write(out: Path, name: str, picture: np.ndarray, photograph: bool) -> str:
    """The name of the file that is written, with its suffix."""
    lossy = photograph and max(picture.shape[:2]) > _SMALL
    content, name = (_jpeg(picture), f"{name}.jpg") if lossy else (_png(picture), f"{name}.png")
    atomic(out / name, lambda temporary: temporary.write_bytes(content))
    return name


def _jpeg(picture: np.ndarray) -> bytes:
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _png(picture: np.ndarray) -> bytes:
    """A PNG file; one with a table of colours where these are few, which takes a sixth of the space."""
    four = picture if picture.shape[-1] == 4 else np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    colours, places = np.unique(np.ascontiguousarray(four).view(np.uint32)[..., 0], return_inverse=True)
    content = io.BytesIO()
    if len(colours) > 256:
        Image.fromarray(picture).save(content, "png")
        return content.getvalue()
    table = colours[:, None].view(np.uint8)
    image = Image.fromarray(places.reshape(picture.shape[:2]).astype(np.uint8))
    image.putpalette(table[:, :3].tobytes())
    see_through = {"transparency": table[:, 3].tobytes()} if (table[:, 3] < 255).any() else {}
    image.save(content, "png", **see_through)
    return content.getvalue()
