"""Explainers of lrp_tf for libraries that evaluate explanations."""

from __future__ import annotations

from typing import Any, Protocol

import keras
import numpy as np

from lrp_tf.evaluate.methods import model_of, rebuild_of
from lrp_tf.evaluate.protocol import Array, Explain, relevance


class QuantusExplain(Protocol):
    """What Quantus calls."""

    def __call__(self, model: object, inputs: Array, targets: Array, **options: Any) -> np.ndarray: ...


def quantus(explain: Explain, *, channel_axis: int | None = -1) -> QuantusExplain:
    """The explainer as the `explain_func` of Quantus' metrics.

        explain_func = evaluate.quantus(explainer)
        maps = explain_func(model=model, inputs=x, targets=target)    # [B, 1, H, W]
        # quantus.MaxSensitivity(...)(model=model, x_batch=x, y_batch=target, a_batch=None, explain_func=explain_func)

    Quantus hands over its model, which may be one whose weights it changed. An explainer that has `with_model`, as
    those of lrp_tf, then explains that one. Inputs come with their channels first or last; those that the model does
    not take are turned round.

    Args:
        channel_axis: of the inputs that the explainer takes; None if they have no channels.

    Returns:
        Relevance summed over channels, [B, 1, *positions], which Quantus lays over inputs of either layout; [B, F] of
        features.

    Raises:
        ValueError: another model, and an explainer that explains only its own. TypeError: a model that is none of
            Keras. Both when Quantus calls.
    """
    own = model_of(explain)
    found: tuple[object, Explain] = (own, explain)

    def call(model: object, inputs: Array, targets: Array, **options: Any) -> np.ndarray:
        nonlocal found
        if model is not None and model is not found[0]:
            found = (model, _of_model(explain, own, model))
        x = np.asarray(inputs)
        axis = None if x.ndim == 2 or channel_axis is None else channel_axis % x.ndim
        shape = getattr(found[0], "input_shape", None)
        if axis not in (None, 1) and not _takes(shape, x) and _takes(shape, turned := np.moveaxis(x, 1, axis)):
            x = turned
        values = relevance(found[1](x, np.asarray(targets).astype(np.int64)), x, axis)
        if x.ndim == 2:
            return values
        return (values if axis is None or values.ndim < x.ndim else values.sum(axis=axis))[:, None]

    return call


def _of_model(explain: Explain, own: keras.Model | None, model: object) -> Explain:
    """The same kind of explainer for a model."""
    if own is None and rebuild_of(explain) is None:
        return explain  # one that knows no model, such as a Sobel filter
    if not isinstance(model, keras.Model):
        raise TypeError(f"the explainer expects a Keras model. Received: {type(model).__name__}")
    if model is own:
        return explain
    rebuild = rebuild_of(explain)
    if rebuild is None:
        raise ValueError(
            f"another model is to be explained. Expected an explainer with with_model(model). Received: {explain!r}"
        )
    return rebuild(model)


def _takes(shape: tuple[int | None, ...] | None, x: np.ndarray) -> bool:
    """Whether a model whose inputs have this shape takes x."""
    return (
        isinstance(shape, tuple)
        and len(shape) == x.ndim
        and all(side in (None, other) for side, other in zip(shape[1:], x.shape[1:], strict=True))
    )
