"""Relevance of the channels of a layer for many samples, and directions of concepts among its outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_tf.engine import streams
from lrp_tf.engine.channels import find
from lrp_tf.explainer import Explainer


def concept_vectors(
    explainer: Explainer, x: np.ndarray, target: Any = None, *, layer: str, batch: int | None = 64
) -> np.ndarray:
    """Relevance of each channel of a layer, summed over positions, float [N, C].

        vectors = concepts.concept_vectors(explainer, x, labels, layer="conv2")

    Relevance is propagated down to the layer alone.

    Args:
        x: samples, [N, ...], of a model with one input.
        target: a class for each sample, [N]; one for all; None: each sample's top class.
        layer: as `Explainer.concepts` takes it.
        batch: samples that are explained at once; None: all.

    Raises:
        ValueError: no samples, several inputs, targets of another length, a batch below 1, and all that
            `Explainer.channel_relevance` raises.
    """
    size = streams.checked_size(batch, "batch")
    if (inputs := len(explainer.clone.graph.inputs)) != 1 or isinstance(x, Mapping):
        raise ValueError(
            f"concept_vectors expects one array x, of a model with one input. Received: {type(x).__name__}, of a model "
            f"with {inputs}. Remedy: explainer.channel_relevance(x, target, layers=[{layer!r}]) of each batch, summed "
            "over positions"
        )
    if not len(x):
        raise ValueError("concept_vectors expects one sample or more. Received: none")
    each = target is not None and np.ndim(target) > 0
    if each and len(target) != len(x):
        raise ValueError(f"target expects a class for each of {len(x)} samples. Received: {len(target)}")
    channels = find(explainer.clone.plan, layer)
    found = []
    for first in range(0, len(x), size or len(x)):
        part = slice(first, first + (size or len(x)))
        given = explainer.channel_relevance(x[part], target[part] if each else target, layers=[layer])
        found.append(np.asarray(channels.sums(given[layer])))
    return np.concatenate(found)


def shares(vectors: np.ndarray) -> np.ndarray:
    """Relevance as shares: divided by the sum of its absolute values, sample by sample; zeros stay zeros.

        concepts.shares(vectors)

    Args:
        vectors: concept vectors [N, C] or maps [N, ...].
    """
    vectors = np.asarray(vectors)
    total = np.abs(vectors).sum(axis=tuple(range(1, vectors.ndim)), keepdims=True)
    return vectors / np.where(total > 0, total, 1)


def concept_direction(outputs: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """The direction in which outputs of a layer differ where a concept is present, of length 1, [C].

        direction = concepts.concept_direction(outputs, marked)
        corrected = concepts.suppress(model, "dense", direction=direction)

    It is the difference of the two means (the pattern of Pahde et al. 2022), not the normal of a separating plane,
    which also turns to cancel what has nothing to do with the concept. It is purest where the samples with and
    without the concept are the same ones otherwise.

    Args:
        outputs: of a layer, [N, C] or [N, ..., C]: means over positions are compared. The last axis is taken for that
            of channels, which an array cannot tell: np.moveaxis(outputs, 1, -1) for those of a layer with channels
            first, which `suppress` refuses.
        marked: bool [N]: which samples have the concept.

    Raises:
        ValueError: other shapes, no sample with or none without the concept, means that do not differ, NaN or Inf.
    """
    outputs, marked = np.asarray(outputs, np.float64), np.asarray(marked)
    if outputs.ndim < 2 or marked.dtype != bool or marked.shape != outputs.shape[:1]:
        raise ValueError(
            f"concept_direction expects outputs [N, ..., C] and marked as bool [N]. Received: {list(outputs.shape)} "
            f"and {marked.dtype} {list(marked.shape)}"
        )
    if marked.all() or not marked.any():
        raise ValueError(
            f"marked expects samples with the concept and without it. Received: {int(marked.sum())} of {len(marked)}"
        )
    pooled = outputs.reshape(len(outputs), -1, outputs.shape[-1]).mean(axis=1)
    found = pooled[marked].mean(axis=0) - pooled[~marked].mean(axis=0)
    length = float(np.linalg.norm(found))
    if not (math.isfinite(length) and length > 0):
        raise ValueError(f"concept_direction expects finite means that differ. Received: a distance of {length}")
    return found / length
