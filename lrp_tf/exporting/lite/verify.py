"""Whether a file gives the relevance of its explainer: run once, for two targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Graph
from lrp_tf.engine.targets import class_count
from lrp_tf.explainer import Explainer
from lrp_tf.exporting.lite.quiet import quietly
from lrp_tf.exporting.text import ExportError
from lrp_tf.files.form import begins_with_scaling
from lrp_tf.rules import ZBox


def interpreter(content: bytes, threads: int = 1) -> Any:
    """TensorFlow's own interpreter of a file, without its remark that another package has it, too."""
    with quietly():
        return tf.lite.Interpreter(model_content=content, num_threads=threads)


def difference(
    explainer: Explainer, content: bytes, contrast: str | int | None, sample: np.ndarray | None = None
) -> tuple[float, float]:
    """The largest difference between a file and its explainer, as a part of the largest |relevance| or |logit|.

    The top class is asked for as -1, and another one by its number.

    Returns:
        The difference; and how much the explainer's own relevance changes by one more rounding of each input.

    Raises:
        ExportError: the interpreter refuses the file.
        ValueError: a sample of another shape.
    """
    x = _sample(explainer, sample)
    try:
        with quietly():  # tensors are allocated, and the delegate says so
            explain = interpreter(content).get_signature_runner("explain")
            first = explain(x=x, target=np.array([-1], np.int32))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"LiteRT refuses the file: {str(error).splitlines()[0]}. Please report it as a bug"
        ) from error
    classes = class_count(explainer.graph) or 2
    top = int(first["target"][0])
    answers = {top: first}
    for other in [c % classes for c in range(top + 1, top + classes) if c % classes != contrast][:1]:
        answers[other] = explain(x=x, target=np.array([other], np.int32))
    found = rounding = 0.0
    for target, got in answers.items():
        if target == contrast:
            continue
        wanted = explainer.explain(x, target=target, contrast=contrast)
        found = max(found, _apart(got["relevance"], wanted.relevance), _apart(got["logits"], wanted.logits))
        turned = explainer.explain(rounded(x), target=target, contrast=contrast)
        rounding = max(rounding, _apart(np.asarray(turned.relevance), wanted.relevance))
    return found, rounding


def rounded(x: np.ndarray) -> np.ndarray:
    """x with one more rounding of each entry, up or down at random: what float32 leaves open, whoever computes."""
    up = np.random.default_rng(0).integers(0, 2, x.shape).astype(bool)
    return np.nextafter(x, np.where(up, np.inf, -np.inf).astype(x.dtype))


def _apart(got: np.ndarray, wanted: tf.Tensor) -> float:
    """The largest difference as a part of the largest magnitude; infinite where either is not finite."""
    want = np.asarray(wanted)
    largest = np.abs(want).max()
    apart = np.abs(got - want).max() / largest if largest > 0 else np.abs(got).max()
    return float(apart) if np.isfinite(apart) else float("inf")


def _sample(explainer: Explainer, sample: np.ndarray | None) -> np.ndarray:
    """A batch of one sample, [1, ...] in float32."""
    graph = explainer.graph
    shape = (1, *known_shape(graph.inputs[0].shape))
    if sample is not None:
        given = np.asarray(sample, np.float32)
        if given.shape not in (shape, shape[1:]):
            raise ValueError(f"Expected a sample of shape {shape[1:]}. Received: {given.shape}")
        return given.reshape(shape)
    low, high = _range(explainer, graph)
    return (low + np.random.default_rng(0).uniform(size=shape) * (high - low)).astype(np.float32)


def known_shape(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """A shape of which every size is known."""
    return tuple(size for size in shape if size is not None)


def _range(explainer: Explainer, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """The range of inputs that the rules expect: outside of the box of ZBox its denominators cancel."""
    for step, handler in explainer.clone.plan.handlers.items():
        if isinstance(handler, ZBox) and step.inputs and step.inputs[0] in graph.inputs:
            low, high = np.asarray(handler.low), np.asarray(handler.high)
            if low.ndim != 1 or step.linear is None or step.linear.channel_axis(step.op) == -1:
                return low, high
    if begins_with_scaling(graph):
        return np.asarray(0.0), np.asarray(255.0)
    return np.asarray(0.0 if explainer.clone.nonnegative else -1.0), np.asarray(1.0)
