"""A planted mark removed: by a cut, by training with a penalty on its relevance, and by both."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.concepts.planted import nets
from lrp_tf.concepts.planted.marks import Mark, Planted
from lrp_tf.concepts.suppress import suppress
from lrp_tf.concepts.vectors import concept_direction
from lrp_tf.explainer import Explainer
from lrp_tf.losses import relevance_penalty

RULE = "epsilon"  # of the relevance that is penalised: it is zero where the picture is, so that only marks pay
PAIRS = 500  # samples with and without the mark that the direction is made of
TUNED_EPOCHS = 0.34  # of those of the training, after a cut


class Terms(NamedTuple):
    """The weight of a penalty, and what its relevance is set against: see `Explainer.__call__`."""

    weight: float
    contrast: str | None


def suppressed(model: keras.Model, data: Planted, mark: Mark) -> keras.Model:
    """The model without the direction in which its flattened features differ when pictures get the mark.

    Whoever has found the mark can put it on pictures that are free of it, which gives the purest direction.
    """
    free = data.x[~data.marked][:PAIRS]
    without, with_it = (nets.outputs_of(model, nets.CUT, x) for x in (free, mark(free)))
    marked = np.arange(2 * len(free)) >= len(free)
    direction = concept_direction(np.concatenate([without, with_it]), marked)
    # Not zero: pictures without the mark lie somewhere along the direction, too.
    return suppress(model, nets.CUT, direction=direction, neutral=without.mean(axis=0))


def trained_on(model: keras.Model, data: Planted, mark: Mark, epochs: int, seed: int) -> keras.Model:
    """As `suppressed`, trained on the same data for a third of the epochs: it learns what the mark spared it."""
    cut = suppressed(model, data, mark)
    nets.train(cut, data.x, data.labels, max(1, round(TUNED_EPOCHS * epochs)), seed)
    return cut


def penalised(data: Planted, mark: Mark, classes: int, epochs: int, seed: int, terms: Terms) -> keras.Model:
    """A net trained from the start with a penalty on the share of the relevance that lies on the mark.

    Raises:
        ValueError: the loss is not finite.
    """
    model = nets.classifier(data.x.shape[1:], classes, seed)
    share = relevance_penalty(Explainer(model, RULE), marks="artefact")

    def penalty(x: tf.Tensor, labels: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        # Against other classes: a net that may not use the mark for its class uses it against the others.
        return terms.weight * share(x, masks, target=labels, contrast=terms.contrast)

    nets.train(model, data.x, data.labels, epochs, seed, masks=mark.region(data.x), penalty=penalty)
    return model
