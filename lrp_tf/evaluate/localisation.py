"""Localisation: does the relevance lie on the object? Metrics of cases with masks; masks from boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.extras import optional
from lrp_tf.evaluate.metric import Function, metric

# Boxes (x0, y0, x1, y1) of one picture: one box, or several.
Boxes: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | np.ndarray

_PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "positive": lambda relevance: np.maximum(relevance, 0),
    "absolute": np.abs,
    "signed": lambda relevance: relevance,
}


def masks_of(
    boxes: Sequence[Boxes], shape: tuple[int, int], *, measured_in: tuple[int, int] | None = None
) -> np.ndarray:
    """Masks of objects from their boxes, bool [B, H, W].

        masks = evaluate.masks_of([[(2, 3, 8, 9)], [(0, 0, 4, 4), (6, 6, 9, 9)]], shape=(12, 12))

    Args:
        boxes: for each picture one box (x0, y0, x1, y1) or several, whose union counts. x0 and y0 are the first column
            and row inside, x1 and y1 the first ones behind; a pixel that a box covers in part counts.
        shape: (H, W) of the masks.
        measured_in: (height, width) of the picture that the boxes were drawn in, if that was resized to `shape`.

    Raises:
        ValueError: a picture without boxes, a box that is empty or reaches outside the picture, other shapes.
    """
    height, width = measured_in or shape
    scale = np.array([shape[1] / width, shape[0] / height])
    masks = np.zeros((len(boxes), *shape), bool)
    for number, given in enumerate(boxes):
        found = np.asarray(given, np.float64)
        found = found[None] if found.shape == (4,) else found
        if found.ndim != 2 or found.shape[1] != 4 or len(found) == 0 or not np.isfinite(found).all():
            raise ValueError(f"boxes[{number}] expects boxes (x0, y0, x1, y1), at least one. Received: {given!r}")
        for box in found:
            (x0, y0), (x1, y1) = box[:2], box[2:]
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise ValueError(
                    f"boxes[{number}] expects 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}. Received: "
                    f"{tuple(box.tolist())}. Remedy: clip the box to its picture; measured_in is for resized pictures"
                )
            # Rounded before: a product such as 3 * (1 / 3) may come out just below or above its whole number.
            left, top = np.floor(np.round(box[:2] * scale, 6)).astype(int)
            right, bottom = np.ceil(np.round(box[2:] * scale, 6)).astype(int)
            masks[number, top:bottom, left:right] = True
    return masks


def by_position(case: Case, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevance [B, P] by its part, mask [B, P], and where there are an object and any relevance, bool [B].

    Raises:
        ValueError: an unknown part.
    """
    assert case.masks is not None  # as Metric checked
    relevance, mask = _part(case.positions, part).reshape(len(case), -1), case.masks.reshape(len(case), -1)
    return relevance, mask, mask.any(axis=1) & (relevance != 0).any(axis=1)


def _part(relevance: np.ndarray, part: str) -> np.ndarray:
    if part not in _PARTS:
        raise ValueError(f"part expects one of {sorted(_PARTS)}. Received: {part!r}")
    return _PARTS[part](relevance)


def _share_of_top(relevance: np.ndarray, mask: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The share of the k [B] most relevant positions that lie on the mask; among equals at the end, their mean."""
    last = -np.sort(-relevance, axis=1)[np.arange(len(k)), np.maximum(k, 1) - 1][:, None]
    above, equal = relevance > last, relevance == last
    places = k - above.sum(axis=1)
    return ((above & mask).sum(axis=1) + places * (equal & mask).sum(axis=1) / equal.sum(axis=1)) / np.maximum(k, 1)


def _divide(above: np.ndarray, below: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """above / below; NaN where that is not defined."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=defined & (below != 0))


def _localisation(paper: str) -> Callable[[Function], Function]:
    """Declare a metric, and one of the same name and `_weighted` that corrects for the size of the object."""

    def declare(function: Function) -> Function:
        metric("localisation", better="higher", paper=paper, needs=("masks",))(function)
        name = f"{function.__name__}_weighted"
        return metric("localisation", better="higher", paper=paper, needs=("masks",), name=name, weighted=True)(
            function
        )

    return declare


@_localisation("Zhang et al. 2018")
def pointing_game(case: Case, *, part: str = "positive", tolerance: int = 0, weighted: bool = False) -> np.ndarray:
    """1 if the most relevant position lies on the object, else 0; of several largest ones their mean.

    Args:
        part: of the relevance of a position: "positive", "absolute" or "signed".
        tolerance: positions around the object that count as hits too (15 pixels in the paper).
        weighted: a hit counts 1 less the object's share of the picture.
    """
    relevance, mask, defined = by_position(case, part)
    assert case.masks is not None  # as Metric checked
    near = case.masks
    if tolerance:
        size = (1, *[2 * tolerance + 1] * (near.ndim - 1))
        near = optional("scipy.ndimage").maximum_filter(near, size=size, mode="constant")
    hit = _share_of_top(relevance, near.reshape(mask.shape), np.ones(len(case), int))
    return np.where(defined, hit * (1 - mask.mean(axis=1)) if weighted else hit, np.nan)


@_localisation("Arras et al. 2022")
def relevance_mass(case: Case, *, part: str = "positive", weighted: bool = False) -> np.ndarray:
    """Relevance mass accuracy: the share of the relevance of all positions that lies on the object.

    Args:
        part: of the relevance of a position: "positive", "absolute" or "signed".
        weighted: divided by the object's share of the picture, so that a map of one value gets 1.
    """
    relevance, mask, defined = by_position(case, part)
    share = _divide((relevance * mask).sum(axis=1), relevance.sum(axis=1), defined)
    return _divide(share, mask.mean(axis=1), defined) if weighted else share


@_localisation("Kohlbrenner et al. 2020")
def attribution_localisation(case: Case, *, part: str = "positive", weighted: bool = False) -> np.ndarray:
    """The share of the positive relevance of all entries (each channel by itself) that lies on the object.

    Args:
        part: of the relevance of an entry: "positive", "absolute" or "signed".
        weighted: divided by the object's share of the picture, so that a map of one value gets 1.
    """
    entries = _part(case.relevance.astype(np.float64), part)
    pooled = dataclasses.replace(case, relevance=entries)
    return relevance_mass(pooled, part="signed", weighted=weighted)


@_localisation("Arras et al. 2022")
def relevance_rank(case: Case, *, part: str = "positive", weighted: bool = False) -> np.ndarray:
    """Relevance rank accuracy: of the K most relevant positions, the share on the object, which has K positions.

    Args:
        part: of the relevance of a position: "positive", "absolute" or "signed". Positions of equal relevance count
            by their mean, those without positive relevance among them.
        weighted: divided by the object's share of the picture, so that a map of one value gets 1.
    """
    relevance, mask, defined = by_position(case, part)
    share = np.where(defined, _share_of_top(relevance, mask, mask.sum(axis=1)), np.nan)
    return _divide(share, mask.mean(axis=1), defined) if weighted else share


@_localisation("Theiner et al. 2021")
def top_k_intersection(
    case: Case, *, k: int | float = 0.05, part: str = "positive", weighted: bool = False
) -> np.ndarray:
    """Of the k most relevant positions, the share on the object.

    Args:
        k: how many (1000 in the paper); a float is a share of all positions.
        part: of the relevance of a position: "positive", "absolute" or "signed".
        weighted: divided by the object's share of the picture (the paper's concept influence).
    """
    relevance, mask, defined = by_position(case, part)
    count = max(1, round(k * mask.shape[1])) if isinstance(k, float) and k > 0 else k
    if not 1 <= count <= mask.shape[1]:
        raise ValueError(f"k expects 1 to {mask.shape[1]} positions, or a share of them from 0.0 to 1.0. Received: {k}")
    share = np.where(defined, _share_of_top(relevance, mask, np.full(len(case), count)), np.nan)
    return _divide(share, mask.mean(axis=1), defined) if weighted else share


@metric("localisation", better="higher", paper="Fawcett 2006", needs=("masks",))
def localisation_auc(case: Case, *, part: str = "positive") -> np.ndarray:
    """Area under the ROC curve: how likely a position on the object is more relevant than one elsewhere; chance is 0.5.

    It does not depend on the object's size. An object that fills the picture has none.

    Args:
        part: of the relevance of a position: "positive", "absolute" or "signed".
    """
    relevance, mask, defined = by_position(case, part)
    ranks = optional("scipy.stats").rankdata(relevance, axis=1)
    on, off = mask.sum(axis=1), (~mask).sum(axis=1)
    return _divide((ranks * mask).sum(axis=1) - on * (on + 1) / 2, (on * off).astype(float), defined)
