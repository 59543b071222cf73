"""The methods that a benchmark judges on texts: relevance of tokens, gradients behind the embedding, baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf import gradients
from lrp_tf.evaluate import baselines
from lrp_tf.evaluate.evidence.texts import NEUTRAL
from lrp_tf.evaluate.protocol import Array, Explain
from lrp_tf.explainer import Explainer

_EMBEDDING = "embedding"  # the layer's name
# Vectors of a token -> its relevance.
_NORM: Callable[[np.ndarray], np.ndarray] = lambda found: np.linalg.norm(found, axis=-1)  # noqa: E731
_SUM: Callable[[np.ndarray], np.ndarray] = lambda found: found.sum(axis=-1)  # noqa: E731
_REDUCED = {"Gradient": _NORM, "SmoothGrad": _NORM, "InputTimesGradient": _SUM, "IntegratedGradients": _SUM}
NAMES = (*_REDUCED, "Occlusion")


class _OfTokens:
    """Explains token ids [B, T]. The first token, from which the class is read, gets no relevance.

    Args:
        explain: of ids or, if `embedding` is given, of its vectors.
        reduced: relevance of ids or vectors -> [B, T].
    """

    def __init__(
        self,
        explain: Callable[..., Array],
        embedding: keras.Layer | None = None,
        reduced: Callable[[np.ndarray], np.ndarray] = lambda found: found,
    ) -> None:
        self.explain, self.embedding, self.reduced = explain, embedding, reduced

    def __call__(self, x: Array, target: Array, /, **contrast: Any) -> np.ndarray:
        ids = tf.cast(np.asarray(x), tf.int32)
        inputs = ids if self.embedding is None else tf.convert_to_tensor(self.embedding(ids))
        found = self.reduced(np.array(self.explain(inputs, target, **contrast), np.float64))
        found[:, 0] = 0
        return found


def of_explainer(explainer: Explainer) -> Explain:
    """An explainer whose model takes ids."""
    return _OfTokens(explainer)


def gradient(model: keras.Model, name: str, options: Mapping[str, Any]) -> Explain:
    """A method of `lrp_tf.gradients` by name.

    Raises:
        ValueError: a method that vectors of tokens do not have.
    """
    if name not in NAMES:
        raise ValueError(f"{name} is not defined for tokens. Expected one of {list(NAMES)}")
    if name == "Occlusion":
        return _OfTokens(gradients.Occlusion(model, **{"fill": NEUTRAL, **options}))
    layer = model.get_layer(_EMBEDDING)
    behind = keras.Model(layer.output, model.output, name="behind_the_embedding")
    return _OfTokens(getattr(gradients, name)(behind, **options), layer, _REDUCED[name])


def baseline(name: str, seed: int) -> Explain:
    """A baseline by name.

    Raises:
        ValueError: one that reads ids as if they were numbers.
    """
    if name != "random":
        raise ValueError(f"{name} is not defined for tokens, whose ids are names and no numbers. Expected random")
    return _OfTokens(baselines.get(name, seed=seed))
