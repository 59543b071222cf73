"""How far components move when maps are ranked by relevance, after Dieter and Zisgen 2023 (10.1007/s11063-023-11166-8).

Rank 1 is the most relevant component. Components of equal relevance, such as the black background of a digit, share
their mean rank, so that nothing depends on the order in which they are stored. Of the top k, k is the share of all K
components that is asked for, rounded, and at least 1. Components that are tied at its edge are in it by equal parts,
which sum to the places that are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from lrp_tf.evaluate.correlation import spearman
from lrp_tf.evaluate.extras import optional

By: TypeAlias = Literal["pixel", "value"]
Order: TypeAlias = Literal["signed", "absolute"]
TOP = (0.01, 0.05, 0.1)
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95)
NEAR = 0.01  # of K: shifts up to that count as "near"


@dataclasses.dataclass(frozen=True)
class Shift:
    """How two maps of one pair differ in their ranks.

    Attributes:
        measures: by name; shifts are shares of K, the number of components.

            | name | |
            |---|---|
            | left_top_P | share of the first map's top P % that is not in the second one's |
            | unmoved_top_P | share of the first map's top P % whose rank is the same in both |
            | shift_top_P | mean absolute shift of the first map's top P % |
            | unmoved | share of all components whose rank is the same in both |
            | near | share of all components that move by 1 % of K or less |
            | shift_mean, shift_qQ | mean and quantiles of the absolute shift of all components |
            | spearman | correlation of the ranks; NaN where all values of a map are equal |

        by_component: rank in the second map minus rank in the first, float64 [K].
    """

    measures: dict[str, float]
    by_component: np.ndarray


def components(relevance: np.ndarray, *, by: By = "pixel", order: Order = "signed") -> np.ndarray:
    """What is ranked, float64 [B, K]: relevance [B, ..., C], summed over C for pixels; absolute values by option.

    Raises:
        ValueError: NaN or Inf; an unknown `by` or `order`; a map without axes. TypeError: no numbers.
    """
    if by not in ("pixel", "value"):
        raise ValueError(f"by expects 'pixel' or 'value'. Received: {by!r}")
    if order not in ("signed", "absolute"):
        raise ValueError(f"order expects 'signed' or 'absolute'. Received: {order!r}")
    found = np.asarray(relevance)
    if not (np.issubdtype(found.dtype, np.floating) or np.issubdtype(found.dtype, np.integer)):
        raise TypeError(f"relevance expects numbers. Received: {found.dtype}")
    if found.ndim < 2 or not found.size:
        raise ValueError(f"relevance expects maps [B, ..., C] or [B, K]. Received: {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("relevance expects finite numbers, since NaN has no rank. Received: NaN or Inf")
    found = found.astype(np.float64)
    if by == "pixel" and found.ndim > 2:
        found = found.sum(axis=-1)
    found = found.reshape(len(found), -1)
    return np.abs(found) if order == "absolute" else found


def ranks(relevance: np.ndarray, *, by: By = "pixel", order: Order = "signed") -> np.ndarray:
    """The rank of each component, float64 [B, K]; 1 is the most relevant one, and ties share their mean rank.

        adversarial.ranks(explainer(x))                        # of pixels
        adversarial.ranks(explainer(x), by="value")            # of each channel of each pixel

    Args:
        relevance: maps [B, ..., C], whose last axis is that of channels, or [B, K], which are ranked as they are.
        by: "pixel", channels are summed first; "value", each value is a component.
        order: "signed", the largest relevance first; "absolute", the largest absolute relevance first.

    Raises:
        ValueError, TypeError: see `components`. ImportError: SciPy is not installed.
    """
    return optional("scipy.stats").rankdata(-components(relevance, by=by, order=order), axis=1)


def places(share: float, count: int) -> int:
    """How many of `count` components the top `share` has: rounded, at least 1.

    Raises:
        ValueError: a share that is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"top expects shares above 0 and up to 1. Received: {share!r}")
    return max(1, int(np.floor(round(share * count, 9) + 0.5)))  # 0.29 * 50 is a little below 14.5


def membership(rank: np.ndarray, k: int) -> np.ndarray:
    """How much of each component is in the top k, [B, K] in [0, 1]; each row sums to k.

    Args:
        rank: mean ranks [B, K]. A group of n that is tied and begins behind a better ones has the rank a + (n + 1) / 2.
    """
    found = np.zeros(rank.shape)
    for row, into in zip(rank, found, strict=True):
        _, inverse, size = np.unique(row, return_inverse=True, return_counts=True)
        ahead = np.cumsum(size) - size  # components that are better
        into[:] = np.clip((k - ahead) / size, 0, 1)[inverse]
    return found


def shift(
    before: np.ndarray,
    after: np.ndarray,
    *,
    top: Sequence[float] = TOP,
    by: By = "pixel",
    order: Order = "signed",
) -> list[Shift]:
    """How far the components of each pair of maps move, see `Shift`.

        found = adversarial.shift(explainer(x, target=label), explainer(attacked, target=target))
        found[0].measures["left_top_10"]

    Args:
        before, after: maps of one shape, [B, ..., C] or [B, K].
        top: shares of the components; the top 10 % is 0.1.
        by, order: as in `ranks`.

    Raises:
        ValueError: other shapes, NaN, shares out of range, two that have one name. TypeError: no numbers.
    """
    if np.shape(before) != np.shape(after):
        raise ValueError(f"shift expects two maps of one shape. Received: {np.shape(before)}, {np.shape(after)}")
    if len({name(share) for share in top}) < len(top):
        raise ValueError(f"top expects shares that differ by a hundredth of a per cent. Received: {tuple(top)}")
    first, second = (ranks(maps, by=by, order=order) for maps in (before, after))
    moved = second - first
    far = np.abs(moved) / first.shape[1]
    found: dict[str, np.ndarray] = {}
    for share in top:
        k = places(share, first.shape[1])
        inside, later = membership(first, k), membership(second, k)
        found[f"left_top_{name(share)}"] = np.maximum(inside - later, 0).sum(axis=1) / k
        found[f"unmoved_top_{name(share)}"] = 1 - (inside * (moved != 0)).sum(axis=1) / k
        found[f"shift_top_{name(share)}"] = (inside * far).sum(axis=1) / k
    found["unmoved"], found["near"] = (moved == 0).mean(axis=1), (far <= NEAR).mean(axis=1)
    found["shift_mean"] = far.mean(axis=1)
    found |= {f"shift_q{100 * q:g}": np.quantile(far, q, axis=1) for q in QUANTILES}
    found["spearman"] = spearman(first, second)
    return [Shift({key: float(values[i]) for key, values in found.items()}, row) for i, row in enumerate(moved)]


def name(share: float) -> str:
    """A share as a per cent number in the names of measures: 0.05 is 5, 0.005 is 0.5."""
    return f"{100 * share:.4g}"


def shuffled(relevance: np.ndarray, seed: Sequence[int], *, by: By = "pixel", order: Order = "signed") -> np.ndarray:
    """The components [B, K] of maps in random order: what a map that knows nothing of the other one looks like."""
    found = components(relevance, by=by, order=order)
    return np.random.default_rng(list(seed)).permuted(found, axis=1)
