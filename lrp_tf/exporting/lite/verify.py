"""Whether a file gives the relevance of its explainer: run once, for two targets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Graph
from lrp_tf.engine.explanation import Explanation
from lrp_tf.engine.targets import class_count
from lrp_tf.explainer import Explainer
from lrp_tf.exporting.lite.quiet import quietly
from lrp_tf.exporting.text import ExportError
from lrp_tf.files.form import begins_with_scaling
from lrp_tf.rules import ZBox


class Apart(NamedTuple):
    """Largest differences, each as a part of the largest magnitude of its kind.

    Attributes:
        relevance, logits: of the maps and of what is explained.
        shares: of `conservation` without its last share, which is rounding; 0: the file has none.
    """

    relevance: float
    logits: float
    shares: float

    def or_more(self, other: Apart) -> Apart:
        """The larger of both, each."""
        return Apart(*map(max, self, other))


def interpreter(content: bytes, threads: int = 1) -> Any:
    """TensorFlow's own interpreter of a file, without its remark that another package has it, too."""
    with quietly():
        return tf.lite.Interpreter(model_content=content, num_threads=threads)


def difference(
    explainer: Explainer, content: bytes, contrast: str | int | None, sample: np.ndarray | None = None
) -> tuple[Apart, Apart]:
    """The largest differences between a file and its explainer.

    The top class is asked for as -1, and another one by its number.

    Returns:
        The differences; and how much the explainer's own results change by one more rounding of each input.

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
    found = rounding = Apart(0.0, 0.0, 0.0)
    for target, got in answers.items():
        if target == contrast:
            continue
        wanted = _results(explainer.explain(x, target=target, contrast=contrast))
        turned = _results(explainer.explain(rounded(x), target=target, contrast=contrast))
        found = found.or_more(_all_apart(got, wanted))
        rounding = rounding.or_more(_all_apart({name: turned[name] for name in got if name in turned}, wanted))
    return found, rounding


def _results(explanation: Explanation) -> dict[str, np.ndarray]:
    """An explanation under the names of a file's outputs."""
    shares = np.stack([np.asarray(share) for share in explanation.conservation.of_six()], axis=-1)
    return {
        "relevance": np.asarray(explanation.relevance),
        "logits": np.asarray(explanation.logits),
        "conservation": shares,
    }


def _all_apart(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> Apart:
    shares = 0.0
    if "conservation" in got:
        shares = _apart(got["conservation"][:, :-1], wanted["conservation"][:, :-1])
    return Apart(_apart(got["relevance"], wanted["relevance"]), _apart(got["logits"], wanted["logits"]), shares)


def rounded(x: np.ndarray) -> np.ndarray:
    """x with one more rounding of each entry, up or down at random: what float32 leaves open, whoever computes."""
    up = np.random.default_rng(0).integers(0, 2, x.shape).astype(bool)
    return np.nextafter(x, np.where(up, np.inf, -np.inf).astype(x.dtype))


def _apart(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference as a part of the largest magnitude; infinite where either is not finite."""
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
