"""An explanation of the logger's images -> a row of numbers for each image."""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate.similarity import similarity
from lrp_tf.explainer import Explanation
from lrp_tf.heatmap.colours import summed

COLUMNS = (
    *("epoch", "image", "target", "logit", "start", "sum_of_relevance", "bias", "stabilizer", "other", "positions"),
    *("unexplained", "share_inside", "similarity"),
)
# Averaged over the images for a curve; shares of the start relevance where a sum depends on the score.
CURVES = ("arrived", "bias", "stabilizer", "other", "positions", "share_inside", "similarity")
_PARTS = ("sum_of_relevance", "bias", "stabilizer", "other", "positions")


def positions_of(relevance: np.ndarray, channels: bool) -> np.ndarray:
    """Relevance [B, ...] -> of each position, without channels."""
    return np.stack([summed(sample) for sample in relevance]) if channels else relevance


def rows(
    epoch: int, found: Explanation, maps: np.ndarray, before: np.ndarray | None, masks: np.ndarray | None
) -> list[dict[str, float]]:
    """The numbers of each image.

    Args:
        epoch: counted from 1.
        found: of [B] targets.
        maps: float [B, ...], relevance of each position.
        before: the maps of the epoch that was logged last.
        masks: bool [B, ...], where the evidence is.

    Returns:
        `COLUMNS`; what is not known is NaN: the share inside without masks or without relevance, the similarity of the
        first maps and of maps of one value.
    """
    count = len(maps)
    nothing = np.full(count, np.nan)
    target = np.asarray(found.target).reshape(count, -1)[:, -1]
    logits = np.asarray(found.logits, np.float64).reshape(count, -1)
    # A single output unit: class 1 is its value, class 0 the negative.
    single = np.where(target == 1, 1.0, -1.0) * logits[:, 0]
    logit = single if logits.shape[1] == 1 else logits[np.arange(count), target]
    names = ("start", *_PARTS, "unexplained")
    shares = {name: np.asarray(part).reshape(count) for name, part in zip(names, found.conservation, strict=True)}
    columns = {
        "epoch": np.full(count, epoch),
        "image": np.arange(count),
        "target": target,
        "logit": logit,
        **shares,
        "share_inside": nothing if masks is None else share_inside(maps, masks),
        "similarity": nothing if before is None else similarity(maps, before, kind="pearson"),
    }
    return [{name: columns[name][i].item() for name in COLUMNS} for i in range(count)]


def share_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The share of |relevance| inside the mask of each image, float64 [B]; NaN where there is no relevance."""
    size = np.abs(maps.astype(np.float64)).reshape(len(maps), -1)
    whole = size.sum(axis=1)
    inside = (size * masks.reshape(len(masks), -1)).sum(axis=1)
    return np.divide(inside, whole, out=np.full(len(maps), np.nan), where=whole > 0)


def curves(found: list[dict[str, float]]) -> dict[str, float]:
    """Means over the images of one epoch, see `CURVES`: those that are known of at least one image."""
    values: dict[str, list[float]] = {name: [] for name in CURVES}
    for row in found:
        start = row["start"]
        shares = {"arrived" if part == "sum_of_relevance" else part: row[part] for part in _PARTS}
        known = {name: value / start for name, value in shares.items()} if start else {}
        for name, value in {**known, "share_inside": row["share_inside"], "similarity": row["similarity"]}.items():
            if np.isfinite(value):
                values[name].append(value)
    return {name: float(np.mean(known)) for name, known in values.items() if known}
