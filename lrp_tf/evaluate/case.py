"""What a metric judges: samples, their relevance, and who explained and who predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import keras
import numpy as np

from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.protocol import Array, Explain, Predict

# Makes the same kind of explainer for another model, such as one whose weights were permuted.
Rebuild = Callable[[keras.Model], Explain]


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch of explained samples. Make one with `Case.of`, which checks everything.

    Attributes:
        x: samples, float [B, ...].
        target: the class that is explained of each, int64 [B].
        relevance: of x's shape, or without its axis of channels.
        explain: the explainer; metrics that explain again call it.
        predict: the classifier.
        channel_axis: the axis of channels of x; None if there is none.
        masks: where the object is, bool [B, *positions]; None if that is not known.
        model: the Keras model, for metrics that need its weights; rebuild: see `Rebuild`.
        seed: of all random numbers. ids: int64 [B], the number of each sample in its data set: a sample gets the same
            random numbers in whatever batch it comes.
    """

    x: np.ndarray
    target: np.ndarray
    relevance: np.ndarray
    explain: Explain
    predict: Predict
    channel_axis: int | None
    masks: np.ndarray | None
    model: keras.Model | None
    rebuild: Rebuild | None
    seed: int
    ids: np.ndarray

    @classmethod
    def of(
        cls,
        x: Array,
        target: Array,
        explain: Explain,
        predict: Predict,
        *,
        relevance: Array | None = None,
        channel_axis: int | None = -1,
        masks: Array | None = None,
        model: keras.Model | None = None,
        rebuild: Rebuild | None = None,
        seed: int = 0,
        ids: Array | None = None,
    ) -> Case:
        """The case of a batch; relevance that is not given comes from `explain`.

        Args:
            channel_axis: of x [B, ...]; features [B, F] have none, whatever is given.

        Raises:
            ValueError: shapes that do not fit, NaN or Inf. TypeError: no numbers; targets that are no integers.
        """
        x = protocol.inputs(x)
        axis = protocol.channels(x, channel_axis)
        target = protocol.targets(target, len(x))
        found = explain(x, target) if relevance is None else relevance
        found = protocol.relevance(found, x, axis)
        positions = x.shape if axis is None else tuple(np.delete(x.shape, axis).tolist())
        if masks is not None:
            masks = np.asarray(masks)
            if masks.shape != positions:
                raise ValueError(f"masks has the wrong shape. Expected: {positions}. Received: {masks.shape}")
            masks = masks.astype(bool)
        ids = protocol.numbers(ids, len(x))
        return cls(x, target, found, explain, predict, axis, masks, model, rebuild, seed, ids)

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def positions(self) -> np.ndarray:
        """Relevance of each position (pixel, time, feature): summed over channels, [B, *positions] float64."""
        found = self.relevance.astype(np.float64)
        return found if found.ndim < self.x.ndim or self.channel_axis is None else found.sum(axis=self.channel_axis)

    @cached_property
    def memory(self) -> dict[Hashable, Any]:
        """What several metrics of the case share, such as the curves of a perturbation, by a key of their own."""
        return {}

    @cached_property
    def predictions(self) -> np.ndarray:
        """The scores of all classes of the samples as they are, float64 [B, C]."""
        return protocol.scores(self.predict(self.x), len(self))

    @cached_property
    def score(self) -> np.ndarray:
        """The target's score of the samples as they are, float64 [B]."""
        return protocol.of_target(self.predictions, self.target)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The target's score of other inputs of the same samples, float64 [B]."""
        found = protocol.scores(self.predict(x.astype(self.x.dtype, copy=False)), len(self))
        return protocol.of_target(found, self.target)

    def probability(self, x: np.ndarray, link: protocol.Link = None) -> np.ndarray:
        """The target's probability of other inputs of the same samples, float64 [B].

        Args:
            link: what makes it of the scores, see `perturb`. None: `predict.probabilities`, as of a `Predictor` whose
                model ends in a softmax or sigmoid; of other scores the softmax, of a single unit's the sigmoid.
        """
        x = x.astype(self.x.dtype, copy=False)
        own = getattr(self.predict, "probabilities", None)
        if link is None and own is not None and getattr(self.predict, "knows_probabilities", True):
            return protocol.of_target(protocol.scores(own(x), len(self)), self.target)
        usual: protocol.Link = "sigmoid" if getattr(self.predict, "single", False) else "softmax"
        found = protocol.linked(protocol.scores(self.predict(x), len(self)), link or usual)
        return protocol.of_target(found, self.target)

    def explained(self, x: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
        """Relevance of other inputs of the same samples, for their targets or for other ones; shaped as `relevance`."""
        found = self.explain(x.astype(self.x.dtype, copy=False), self.target if target is None else target)
        return protocol.relevance(found, self.x, self.channel_axis)

    def at(self, keep: np.ndarray, x: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """x where `keep` (bool [B, *positions]) holds, and elsewhere `fill`, which broadcasts to x."""
        where = keep if self.channel_axis is None else np.expand_dims(keep, self.channel_axis)
        return np.where(where, x, fill).astype(self.x.dtype)

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """Random numbers for each sample, by the seed, the sample's id and a purpose, such as the metric's name."""
        return protocol.generators(self.seed, self.ids, purpose)
