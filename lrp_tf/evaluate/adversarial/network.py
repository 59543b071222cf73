"""A classifier as an attack sees it: logits, losses of a target and their gradients, with every call counted."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.engine import diagnosis
from lrp_tf.evaluate import protocol
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.explainer import Explainer

Loss: TypeAlias = Literal["cross_entropy", "margin"]
LOSSES = ("cross_entropy", "margin")


class Values(NamedTuple):
    """A loss at some images: the loss [B], float64; its gradient [B, ...] and the logits [B, C], float32.

    Gradient and logits of a float64 model are float64.
    """

    loss: np.ndarray
    gradient: np.ndarray
    logits: np.ndarray


class Network:
    """A Keras classifier, compiled: its logits, and gradients of a loss that asks for a target class.

        network = lrp_tf.evaluate.adversarial.Network(model)
        network.logits(x)                                          # [B, C], before the softmax
        loss, gradient = network.loss_and_gradient(x, target)      # [B], [B, ...]
        network.predictions, network.gradients                     # samples so far

    With logits z, target t and a confidence k, the losses are

        cross_entropy:  log(1 + sum_{j != t} exp(s (z_j - z_t + k))) / s
        margin:         max_{j != t} z_j - z_t + k

    With s = 1 and k = 0 the first is -log p_t. As s, `sharpness`, grows, it approaches max(margin, 0).

    The model may end in a softmax, in a sigmoid unit (classes 0 and 1), in either as an activation or as a layer, or in
    logits. A single unit v has the logits [-v, v], as everywhere in lrp_tf; in its cross entropy z_j - z_t + k is
    halved, so that it is -log of the model's own probability, sigmoid(v) or sigmoid(-v).

    The model runs in inference mode and is never changed; its weights are read at every call.

    Batches are filled up to `batch_size`, so that TensorFlow runs the same kernels whatever is asked for: the values
    of an image do not depend on which images it is asked with, nor on how many.

    Attributes:
        classes: C.
        shape: of an image; None where the model leaves a side open.
        predictions: samples that went forward alone, so far.
        gradients: samples that went forward and backward, so far.

    Args:
        model: a Keras model of one float input whose output is [B, C], [B, 1] or [B].
        batch_size: samples that run at once.

    Raises:
        TypeError: no Keras model. ValueError: another kind of model; a batch_size below 1.
    """

    def __init__(self, model: keras.Model, *, batch_size: int = 32) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"Network expects a Keras model. Received: {type(model).__name__}")
        explainer = Explainer(model, "gradient")
        self._predict, self._clone = Predictor(explainer, batch_size=batch_size), explainer.clone
        (self._input,) = self._clone.graph.inputs
        if not tf.as_dtype(self._input.dtype).is_floating:
            raise ValueError(
                f"an attack needs an input that the output has a gradient with respect to. Expected: floats. Received: "
                f"{self._input.dtype}. Remedy: a model of the part behind what reads the integers"
            )
        if self._predict.classes is None or self._predict.classes < 2:
            raise ValueError(
                f"an attack needs a known number of classes. Received: {self._clone.graph.outputs[0].shape}"
            )
        self.model, self.batch_size, self.classes = model, batch_size, self._predict.classes
        self.shape: tuple[int | None, ...] = tuple(self._input.shape)
        self.predictions = self.gradients = 0
        self._run = tf.function(self._values, autograph=False, reduce_retracing=True)

    def __repr__(self) -> str:
        return f"Network({self.model.name!r}, {self.classes} classes)"

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Pre-softmax values [B, C], float32.

        Raises:
            ValueError: x of another shape; NaN or Inf in x or in what the model computes.
        """
        return self._both(x)[0]

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Probabilities [B, C]: the model's own output, or the softmax of the logits of a model that ends in these.

        Raises:
            ValueError: as `logits`.
        """
        logits, output = self._both(x)
        if self._predict.knows_probabilities:
            return output
        powers = np.exp(self._halved(logits - logits.max(axis=1, keepdims=True)))
        return powers / powers.sum(axis=1, keepdims=True)

    def loss_and_gradient(
        self,
        x: np.ndarray,
        target: np.ndarray,
        loss: Loss = "cross_entropy",
        *,
        confidence: float = 0.0,
        sharpness: float | np.ndarray = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A loss [B], float64, and its gradient by x, [B, ...]; see `values`."""
        return self.values(x, target, loss, confidence=confidence, sharpness=sharpness)[:2]

    def values(
        self,
        x: np.ndarray,
        target: np.ndarray,
        loss: Loss = "cross_entropy",
        *,
        confidence: float = 0.0,
        sharpness: float | np.ndarray = 1.0,
    ) -> Values:
        """A loss of each image, its gradient by the image, and the logits, from one pass forward and backward.

        Args:
            x: [B, ...].
            target: the class that the loss asks for, an integer or [B] integers.
            loss: "cross_entropy" or "margin".
            confidence: k of the formulas.
            sharpness: s of the formulas, a number or [B].

        Raises:
            ValueError: x of another shape; a class out of range; NaN or Inf in x or in what the model computes.
        """
        if loss not in LOSSES:
            raise ValueError(f"loss expects one of {LOSSES}. Received: {loss!r}")
        x = self.checked(x)
        target = self.checked_target(target, len(x))
        if np.shape(sharpness) not in ((), (len(x),)):
            raise ValueError(f"sharpness expects a number or {(len(x),)} numbers. Received: {np.shape(sharpness)}")
        sharp = np.broadcast_to(np.asarray(sharpness, np.float64), (len(x),))
        if not (np.isfinite(confidence) and np.isfinite(sharp).all() and (sharp > 0).all()):
            raise ValueError(
                "confidence expects a finite number and sharpness finite ones above 0. "
                f"Received: {confidence!r}, {sharpness!r}"
            )
        margin, found, sound = tf.constant(confidence, tf.float64), [], True
        for part, size in self._parts(len(x)):
            tensors = [tf.constant(array) for array in self._filled(x[part], target[part], sharp[part])]
            *values, finite = self._run(*tensors, margin, loss)
            found.append([value.numpy()[:size] for value in values])
            sound &= bool(finite)
        self.gradients += len(x)
        values = Values(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        if not (sound and all(np.isfinite(v).all() for v in values)):
            self._refuse(x, "the loss and its gradient")
        return values

    def checked(self, x: np.ndarray) -> np.ndarray:
        """x as the model's floats.

        Raises:
            TypeError: no numbers. ValueError: another shape, no image, NaN or Inf.
        """
        x = protocol.inputs(x)
        if len(x.shape[1:]) != len(self.shape) or any(
            side not in (None, given) for side, given in zip(self.shape, x.shape[1:], strict=True)
        ):
            raise ValueError(f"x has the wrong shape. Expected: {(None, *self.shape)}. Received: {x.shape}")
        return np.ascontiguousarray(x, tf.as_dtype(self._input.dtype).as_numpy_dtype)

    def checked_target(self, target: np.ndarray, batch: int) -> np.ndarray:
        """int64 [batch] classes.

        Raises:
            TypeError: no integers. ValueError: another shape, a class that the model does not have.
        """
        classes = protocol.targets(target, batch)
        if (classes >= self.classes).any():
            raise ValueError(f"target expects classes from 0 to {self.classes - 1}. Received: {classes.max()}")
        return classes

    def _parts(self, samples: int) -> list[tuple[slice, int]]:
        size = self.batch_size
        return [(slice(first, first + size), min(size, samples - first)) for first in range(0, samples, size)]

    def _filled(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The arrays with their last row repeated up to the batch size."""
        return [np.concatenate([a, np.repeat(a[-1:], self.batch_size - len(a), axis=0)]) for a in arrays]

    def _both(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = self.checked(x)
        found = [self._predict.both(*self._filled(x[part])) for part, _ in self._parts(len(x))]
        self.predictions += len(x)
        logits, output = (np.concatenate(parts)[: len(x)] for parts in zip(*found, strict=True))
        if not (np.isfinite(logits).all() and np.isfinite(output).all()):
            self._refuse(x, "the logits")
        return logits, output

    def _halved(self, logits: np.ndarray) -> np.ndarray:
        return logits / 2 if self._predict.single else logits

    def _values(
        self, x: tf.Tensor, target: tf.Tensor, sharpness: tf.Tensor, confidence: tf.Tensor, loss: Loss
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        forward = self._clone.forward([x])
        output = self._clone.output(forward)
        with tf.GradientTape() as tape:
            tape.watch(output)
            logits = tf.reshape(output, [tf.shape(x)[0], -1])
            logits = tf.concat([-logits, logits], axis=1) if self._predict.single else logits
            found = self._loss(tf.cast(logits, tf.float64), target, sharpness, confidence, loss)
        initial = tape.gradient(found, output)
        (gradient,) = (self._clone.propagate(forward, initial).relevance[ref] for ref in self._clone.graph.inputs)
        sound = diagnosis.finite(self._clone, [x], forward, [gradient], False)
        return found, gradient, logits, sound

    def _loss(
        self, logits: tf.Tensor, target: tf.Tensor, sharpness: tf.Tensor, confidence: tf.Tensor, loss: Loss
    ) -> tf.Tensor:
        lead = logits - tf.gather(logits, target, batch_dims=1)[:, None] + confidence
        others = tf.one_hot(target, self.classes, on_value=False, off_value=True, dtype=tf.bool)
        least = tf.constant(-np.inf, tf.float64)
        if loss == "margin":
            return tf.reduce_max(tf.where(others, lead, least), axis=1)
        scale = sharpness / 2 if self._predict.single else sharpness
        # The target's own place holds exp(0) = 1.
        lead = tf.where(others, scale[:, None] * lead, tf.zeros_like(lead))
        return tf.reduce_logsumexp(lead, axis=1) / sharpness

    def _refuse(self, x: np.ndarray, what: str) -> None:
        """Raise the error of a model that gives NaN or Inf, with the image that it gives it for."""
        for i in range(len(x)):
            logits, _ = self._predict.both(x[i : i + 1])
            if not np.isfinite(logits).all():
                raise ValueError(f"the model gives NaN or Inf for image {i} of the batch. Expected: finite logits")
        raise ValueError(
            f"NaN or Inf in {what}. Expected: finite values. Received: finite logits, but not finite within the model"
        )
