"""Which concepts a caller asks for -> what a pass under conditions is made for, and its checked arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import shape_text
from lrp_tf.engine import channels as naming
from lrp_tf.engine.channels import Channels
from lrp_tf.engine.conditions import Asked, Wanted
from lrp_tf.engine.plan import Plan

# What a caller may pass; `checked` tells what is right.
Indices: TypeAlias = Sequence | np.ndarray | tf.Tensor | None
Conditions: TypeAlias = Mapping[str, Sequence[int]] | None

BRANCHES = ("keep", "cut")


def checked(
    plan: Plan,
    x: tf.Tensor,
    layer: str,
    channels: Indices,
    top: int | None,
    positions: Indices,
    conditions: Conditions,
    branches: str,
) -> tuple[Wanted, Asked]:
    """What a pass for the samples x [B, ...] is made for, and its arguments.

    Raises:
        ValueError: a layer, channel or position that there is not, conditions that no relevance of the layer passes,
            none or both of `channels` and `top`. TypeError: no integers. See also `channels.find`.
    """
    if branches not in BRANCHES:
        raise ValueError(f'branches expects "keep" or "cut". Received: {branches!r}')
    at = naming.find(plan, layer)
    others = _conditions(plan, at, conditions, cut=branches == "cut")
    samples = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    placed = None if positions is None else _positions(at, positions)
    chosen, indices = _channels(at, channels, top, x.shape[0], placed)
    if placed is not None and indices is not None and len(placed) != (count := indices.shape[-1]):
        if len(placed) != 1 or count is None:
            raise ValueError(
                f"Expected one position for all channels, or one for each. Received: {len(placed)} positions for "
                f"{count} channels. Remedy: a call without channels for positions as a whole"
            )
        placed = np.tile(placed, [count, 1])
    wanted = Wanted(at, tuple(others), chosen, placed is not None, branches == "cut")
    return wanted, Asked(
        None if indices is None else _for_each(indices, samples),
        None if placed is None else _for_each(placed[None], samples),
        tuple(tf.constant(found, tf.int32) for found in others.values()),
    )


def _for_each(indices: np.ndarray | tf.Tensor, samples: int | tf.Tensor) -> tf.Tensor:
    """Indices [k], [1, k, n] or [B, k] as int32 of each sample."""
    found = tf.cast(indices, tf.int32)
    found = found[None] if found.shape.rank == 1 else found
    if found.shape[0] != 1:
        return found
    return tf.tile(found, [samples, *[1] * (found.shape.rank - 1)])


def _channels(
    at: Channels, channels: Indices, top: int | None, batch: int | None, placed: np.ndarray | None
) -> tuple[str, Any]:
    """`Wanted.chosen`, and channels or ranks, [k] or [B, k]; None: all channels."""
    if channels is None and top is None and placed is not None:
        return "all", None
    if (channels is None) == (top is None):
        raise ValueError(
            f"concepts expects channels= or top=, and not both. Received: channels={channels!r}, top={top!r}"
        )
    if top is not None:
        if not isinstance(top, (int, np.integer)) or isinstance(top, bool):
            raise TypeError(f"top expects how many channels, an integer. Received: {top!r}")
        if top < 1 or (at.size is not None and top > at.size):
            raise ValueError(f"top expects 1 to {at.size}, the channels of {at.name!r}. Received: {top}")
        if placed is not None and len(placed) != 1:
            raise ValueError(f"top expects a single position, or none. Received: {len(placed)} positions")
        return "top", np.arange(top)
    found = _integers(channels, "channels")
    rank = len(found.shape)
    if rank not in (1, 2) or found.shape[-1] == 0 or (rank == 2 and batch is not None and found.shape[0] != batch):
        raise ValueError(
            f"channels expects one at least: [k] for all samples, or [B, k] for a batch of {batch}. Received: shape "
            f"{tuple(found.shape)}"
        )
    _check_range(found, at.size, f"channel of layer {at.name!r}")
    return "channels", found


def _positions(at: Channels, positions: Indices) -> np.ndarray:
    """[k, n], an index for each axis of positions."""
    sizes = [at.ref.shape[axis - 1] for axis in at.others]
    found = np.asarray(_integers(positions, "positions"))
    found = found[:, None] if found.ndim == 1 and len(sizes) == 1 else found
    if not sizes or at.padding or found.ndim != 2 or found.shape[1] != len(sizes) or not len(found):
        remedy = f", or the layer ahead of it: {at.name!r} only pads" if at.padding else ""
        raise ValueError(
            f"positions expects [k, {len(sizes)}], an index for each axis of positions of layer {at.name!r}, whose "
            f"output is {shape_text(at.ref.shape)}{remedy}. Received: shape {found.shape}"
        )
    for column, size in zip(found.T, sizes, strict=True):
        _check_range(column, size, f"position of layer {at.name!r}")
    return found


def _conditions(plan: Plan, at: Channels, conditions: Conditions, cut: bool) -> dict[Channels, np.ndarray]:
    """Channels of other layers, all of which hold together with a concept of the layer."""
    if conditions is not None and not isinstance(conditions, Mapping):
        raise TypeError(f"conditions expects layer -> channels. Received: {conditions!r}")
    found: dict[Channels, np.ndarray] = {}
    for name, channels in (conditions or {}).items():
        other = naming.find(plan, name)
        if other == at or other in found:
            raise ValueError(f"conditions expects other layers than {at.name!r}, each once. Received: {name!r}")
        held = np.asarray(_integers(channels, f"conditions[{name!r}]"))
        if held.ndim != 1 or not held.size:
            raise ValueError(f"conditions[{name!r}] expects one channel at least, [n]. Received: shape {held.shape}")
        _check_range(held, other.size, f"channel of layer {name!r}")
        for one in [at, *(found if cut else [])]:
            if not (naming.reaches(plan, one, other) or naming.reaches(plan, other, one)):
                raise ValueError(
                    f"Layers {one.name!r} and {name!r} lie on branches beside one another: no relevance passes both. "
                    "Expected conditions at layers ahead of one another"
                )
        found[other] = held
    return found


def _integers(indices: Any, name: str) -> np.ndarray | tf.Tensor:
    """Indices as an array, or as the tensor that they are.

    Raises:
        TypeError: no integers. ValueError: rows that differ in length.
    """
    if tf.is_tensor(indices) and not hasattr(indices, "numpy"):
        found = indices  # symbolic: the compiled pass checks its range
    else:
        try:
            found = np.asarray(indices)
        except ValueError as error:
            raise ValueError(f"{name} must be an array; its rows differ in length. Received: {indices!r}") from error
        found = found.astype(int) if not found.size else found
    if found.dtype == object or not tf.as_dtype(found.dtype).is_integer:
        raise TypeError(f"{name} expects integers. Received: {indices!r}")
    return found


def _check_range(indices: np.ndarray | tf.Tensor, size: int | None, what: str) -> None:
    if not isinstance(indices, np.ndarray):
        return
    wrong = indices[(indices < 0) | (indices >= (size or np.iinfo(np.int32).max))]
    if wrong.size:
        raise ValueError(f"No such {what}. Expected 0 to {(size or 0) - 1}. Received: {wrong.ravel()[:5].tolist()}")
