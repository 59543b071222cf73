"""The halves of rates.py that read and write pictures: CPU time of decoding and drawing, bytes of rows and maps."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from command import photographs
from rates import Figures, cpu

from lrp_tf.files import images
from lrp_tf.files.images import Fit
from lrp_tf.gallery.draw import draw, save_array
from lrp_tf.gallery.stream import Photograph
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled

SIDE = 224  # of the model's input
KINDS = {"256 x 256": (256, 256), "500 x 375": (375, 500), "1280 x 960": (960, 1280), "4000 x 3000": (3000, 4000)}
WAYS = {"side by side, PNG": ("side-by-side", "png"), "overlay, JPEG": ("overlay", "jpg")}
WAYS |= {"heatmap, PNG": ("heatmap", "png"), "heatmap, WebP": ("heatmap", "webp")}
CROPS, MAPS = 1000, 256  # photographs whose rows are measured, and of them those whose maps are


def pictures(calls: int) -> Figures:
    """CPU milliseconds of an image: decoding, resizing for the network, each style; bytes of its files."""
    cv2.setNumThreads(1)
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, (height, width) in KINDS.items():
            path = folder / f"{width}.jpg"
            cv2.imwrite(str(path), _photograph(height, width), [cv2.IMWRITE_JPEG_QUALITY, 90])
            image, fit = images.read(path), Fit(SIDE, SIDE)
            row = {
                "decode ms": 1000 * cpu(lambda path=path: images.read(path), calls),
                "resize ms": 1000 * cpu(lambda image=image, fit=fit: fit.apply(image), calls),
                "kB of JPEG": path.stat().st_size / 1000,
            }
            found[f"read {kind}"] = row
        for kind in ("256 x 256", "500 x 375"):
            for way, (style, form) in WAYS.items():
                image = _photograph(*KINDS[kind])
                look = Look(styles=(style,), format=form)
                found[f"draw {kind}, {way}"] = _drawn(folder / "drawn", image, look, calls)
        relevance = np.random.default_rng(0).normal(size=(1, SIDE, SIDE, 3)).astype(np.float32)
        spent = cpu(lambda: save_array(folder / "map", relevance), calls)
        found["save .npy"] = {"ms": 1000 * spent, "kB": (folder / "map.npy").stat().st_size / 1000}
    return found


def _photograph(height: int, width: int) -> np.ndarray:
    """A smooth picture with the noise of a camera, uint8 [H, W, 3]."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (24, 32, 3)).astype(np.float32), (width, height))
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def _drawn(folder: Path, image: np.ndarray, look: Look, calls: int) -> dict[str, float]:
    """What the pictures of one photograph cost, and their bytes."""
    folder.mkdir(exist_ok=True)
    values = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(SIDE, SIDE)), (0, 0), 1.5)
    height, width = image.shape[:2]
    factor = min(look.shown / max(height, width), 1)
    shown = scaled(image, (round(height * factor), round(width * factor)))
    photograph = Photograph("a", (height, width), shown, image, images.MAX_PIXELS)
    titles = ["tabby, p = 0.912, logit 11.32\n48 % of the score arrives at the pixels, biases absorb 52 %"]
    spent = cpu(lambda: draw(folder / "a", [values], titles, photograph, look=look, fit=Fit(SIDE, SIDE)), calls)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for path in folder.iterdir():
        path.unlink()
    return {"ms": 1000 * spent, "kB": size / 1000}


# --- what is stored of an image ------------------------------------------------------------------


def sizes(weights: Path | None, source: Path | None) -> Figures:
    """Bytes of a row and of a map in each form, over crops of photographs; what of the map is left."""
    import keras

    import lrp_tf
    from lrp_tf.files.loading import Classes, get_preprocessing
    from lrp_tf.gallery import Gallery

    pyarrow = importlib.import_module("pyarrow")
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    if weights:
        model.load_weights(weights)
    explainer = lrp_tf.Explainer(model)
    names = {index: f"a class of {index}" for index in range(1000)}
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs(folder / "photos", source, CROPS)
        files = list(images.find([str(folder / "photos")]))
        asked: dict[str, Any] = {"look": Look(styles=("heatmap",)), "classes": Classes(names)}
        scaling = get_preprocessing("mobilenet")
        Gallery(explainer, scaling, folder / "out", save_relevance=True, **asked).run(files[:MAPS])
        Gallery(explainer, scaling, folder / "rows", **asked).run(files)
        table = folder / "rows" / "results.csv"
        found["row, CSV"] = {"bytes": table.stat().st_size / CROPS}
        rows = importlib.import_module("pyarrow.csv").read_csv(table)
        found["row, Parquet"] = {"bytes": _parquet(pyarrow, rows, folder) / CROPS}
        pictures = list((folder / "out").glob("*.png"))
        found["heatmap, PNG 256 x 256"] = {"bytes": sum(path.stat().st_size for path in pictures) / MAPS}
        arrays = [np.load(path) for path in sorted((folder / "out").glob("*.npy"))]
        found["relevance, .npy float32 [224, 224, 3]"] = {"bytes": arrays[0].nbytes + 128.0}
        maps = np.stack([array.sum(-1) for array in arrays])
        for what, (stored, back) in forms(maps):
            column = pyarrow.array([row.tobytes() for row in stored], pyarrow.binary())
            packed = _parquet(pyarrow, pyarrow.table({"relevance": column}), folder) / MAPS
            found[what] = {"bytes": stored[0].nbytes, "in Parquet": packed, **kept(maps, back)}
    return found


def forms(maps: np.ndarray) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Each form of maps [N, H, W]: what is stored [N, ...], and the maps that it gives back, [N, H, W]."""
    peaks = np.abs(maps).max((1, 2), keepdims=True)
    scaled_maps = maps / np.where(peaks > 0, peaks, 1)  # the row has the largest |R|
    yield "sum over channels, float32", (maps, maps)
    half = scaled_maps.astype(np.float16)
    yield "float16 of the maximum", (half, half.astype(np.float32) * peaks)
    bytes_ = np.round(127 * scaled_maps).astype(np.int8)
    yield "int8 of the maximum", (bytes_, bytes_ / 127 * peaks)
    for factor in (4, 8):
        yield f"int8, {SIDE // factor} x {SIDE // factor}", _coarse(maps, factor)
    for percent in (5, 1):
        yield f"the {percent} % largest pixels, uint16 and int8", _largest(scaled_maps, peaks, percent)


def _coarse(maps: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over squares of pixels, int8 of their maximum."""
    n, height, width = maps.shape
    sums = maps.reshape(n, height // factor, factor, width // factor, factor).sum((2, 4))
    peaks = np.abs(sums).max((1, 2), keepdims=True)
    stored = np.round(127 * sums / np.where(peaks > 0, peaks, 1)).astype(np.int8)
    return stored, (stored / 127 * peaks / factor**2).repeat(factor, 1).repeat(factor, 2)


def _largest(maps: np.ndarray, peaks: np.ndarray, percent: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of the pixels of largest |R|, 3 bytes each."""
    flat = maps.reshape(len(maps), -1)
    count = flat.shape[1] * percent // 100
    places = np.sort(np.argpartition(-np.abs(flat), count, 1)[:, :count], 1)
    values = np.round(127 * np.take_along_axis(flat, places, 1)).astype(np.int8)
    back = np.zeros_like(flat)
    np.put_along_axis(back, places, values / 127, 1)
    stored = np.concatenate([places.astype("<u2").view(np.uint8), values.view(np.uint8)], 1)
    return stored, back.reshape(maps.shape) * peaks


def kept(maps: np.ndarray, back: np.ndarray) -> dict[str, float]:
    """Means over the images: correlation of pixels, of squares of 8 x 8 pixels, and the share of |R|."""
    pooled: Callable[[np.ndarray], np.ndarray] = lambda m: m.reshape(len(m), SIDE // 8, 8, -1, 8).sum((2, 4))  # noqa: E731
    pixels, squares = _correlation(maps, back), _correlation(pooled(maps), pooled(back))
    return {"correlation": pixels, "of 8 x 8": squares, "share of |R|": float(np.abs(back).sum() / np.abs(maps).sum())}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    pairs = zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True)
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs]))


def _parquet(pyarrow: Any, table: Any, folder: Path) -> int:
    """Bytes of a table as Parquet with zstd."""
    path = folder / "table.parquet"
    importlib.import_module("pyarrow.parquet").write_table(table, path, compression="zstd")
    return path.stat().st_size
