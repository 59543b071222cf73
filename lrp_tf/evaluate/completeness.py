"""Does relevance add up to the score, and is it zero where the score depends on nothing?"""

from __future__ import annotations

import keras
import numpy as np

from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.case import Case
from lrp_tf.evaluate.copies import alike, copy_of
from lrp_tf.evaluate.features import Features, rows
from lrp_tf.evaluate.fills import FillLike
from lrp_tf.evaluate.metric import metric


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator != 0)


def _sums(case: Case) -> np.ndarray:
    return case.positions.reshape(len(case), -1).sum(axis=1)


@metric("completeness", better=None, paper="Bach et al. 2015")
def conservation(case: Case) -> np.ndarray:
    """Σ R / score: the part of the score that the map adds up to; 1 where LRP conserves relevance.

    Biases absorb the rest; which ones, `Explainer.report` says.
    """
    return _ratio(_sums(case), case.score)


@metric("completeness", better="lower", paper="Sundararajan et al. 2017")
def completeness(case: Case, *, baseline: FillLike = 0.0, exact: float | None = None) -> np.ndarray:
    """|Σ R - D| / |D|, where D is by how much the score exceeds that of a baseline: 0 where a map is complete.

    Args:
        baseline: the input that the map explains the difference to; as `perturb`'s `fill`.
        exact: only tests whether the gap is at most this: 1 or 0. Quantus: 0, with the baseline "black", and of maps
            whose largest value is 1 unless normalise=False.
    """
    empty = Features.of(case, baseline).keeping(np.zeros(case.positions.shape, bool))
    difference = case.score - case.scores(empty)
    gap = _ratio(np.abs(_sums(case) - difference), np.abs(difference))
    return gap if exact is None else np.where(np.isnan(gap), gap, gap <= exact)


@metric("completeness", better="lower", paper="Nguyen & Martinez 2020")
def non_sensitivity(
    case: Case,
    *,
    epsilon: float = 1e-5,
    features_in_step: int | None = None,
    fill: FillLike = "black",
    region: int | tuple[int, ...] | None = None,
) -> np.ndarray:
    """How many features have relevance though the score does not depend on them, or none though it does.

    Args:
        epsilon: |R| below this part of the sample's largest (Quantus: the batch's) is none; so is a lesser change.
        features_in_step: removed at once and counted as one; by default as many as it takes for 100 steps.
    """
    features = Features.of(case, fill, region)
    magnitude = np.abs(features.relevance)
    largest = magnitude.max(axis=1, keepdims=True)
    order = np.broadcast_to(np.arange(features.count), magnitude.shape)
    wrong = np.zeros(len(case))
    for group in features.steps(order, features_in_step):
        none = (np.take_along_axis(magnitude, group, axis=1) < epsilon * largest).all(axis=1)
        moved = case.scores(features.without(rows(group, features.count))) - case.score
        wrong += none ^ (np.abs(moved) < epsilon)
    return np.where(largest[:, 0] > 0, wrong, np.nan)


@metric("completeness", better="lower", paper="Kindermans et al. 2019", needs=("model",))
def input_invariance(case: Case, *, shift: float = 1.0) -> np.ndarray:
    """The largest change of R, of the largest |R|, if inputs are shifted and the first bias takes the shift back.

    The model of the shifted inputs computes what the model does. A gradient is 0; x times gradient, and so LRP, is not,
    since it says what x contributes beyond 0: read this as the choice of a zero point, not as right or wrong.

    Args:
        shift: added to every value; the first layer is a Dense, or a convolution without padding, with a bias.

    Raises:
        ValueError: another first layer.
    """
    assert case.model is not None  # as Metric checked
    assert case.rebuild is not None
    explain, x = case.rebuild(_shifted(case.model, case.x, shift)), (case.x + shift).astype(case.x.dtype)
    found = protocol.relevance(explain(x, case.target), case.x, case.channel_axis).astype(np.float64)
    change = np.abs(found - case.relevance).reshape(len(case), -1).max(axis=1)
    return _ratio(change, np.abs(case.relevance).reshape(len(case), -1).max(axis=1).astype(np.float64))


def _shifted(model: keras.Model, x: np.ndarray, shift: float) -> keras.Model:
    """A copy that computes of x + shift what the model computes of x.

    Raises:
        ValueError: its first layer cannot take the shift back, or is not the only one that reads the input.
    """
    copy = copy_of(model, x)
    first: keras.Layer = next(layer for layer in copy.layers if not isinstance(layer, keras.layers.InputLayer))
    kinds = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    plain = type(first) in kinds and first.use_bias and getattr(first, "padding", "valid") == "valid"
    if plain:
        kernel = keras.ops.convert_to_numpy(first.kernel)
        first.bias.assign_sub(shift * kernel.reshape(-1, kernel.shape[-1]).sum(axis=0))
        plain = alike(model, x[:2], copy, (x[:2] + shift).astype(x.dtype), 1e-3)
    if not plain:
        raise ValueError(
            "input_invariance expects a model that begins with one Dense, or one convolution without padding, that has "
            f"a bias. Received: {model.name!r}, which begins with {first!r}"
        )
    return copy
