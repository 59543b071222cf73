"""What an attack is, what it returns, and what all attacks share: checked images, the best image so far."""

from __future__ import annotations

import dataclasses
import numbers
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lrp_tf.evaluate.adversarial.network import Network

# Attacks that look for the smallest perturbation aim at a margin above `confidence` by this share of the largest
# logit. Rounding on another machine, or at another batch size, is far less and so does not undo them.
SLACK = 1e-4


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What an attack made of one image.

        attempts = attack(network, x, target)
        attempts[0].x, attempts[0].success, attempts[0].margin

    Attributes:
        x: the adversarial image, float32, of the original's shape, inside the box. If the attack failed, the image
            with the largest margin that it saw.
        success: the target's logit is the largest one, by at least the attack's `confidence`.
        margin: the target's logit minus the largest other one.
        predictions, gradients: how often this image went forward alone, and forward and backward.
        seconds: an equal share of what its batch took.
        weight: of the loss, where the attack searches for it; None if it does not, or found none.
    """

    x: np.ndarray
    success: bool
    margin: float
    predictions: int
    gradients: int
    seconds: float
    weight: float | None = None


class Attack(Protocol):
    """A targeted attack: `attack(network, x, target)` gives an `Attempt` for each image.

    Attributes:
        name: as `get` knows it.
        settings: all that decides the result, as JSON has it.
    """

    name: str
    settings: dict[str, object]

    def __call__(self, network: Network, x: np.ndarray, target: np.ndarray) -> list[Attempt]:
        """Attack images x [B, ...] in the box for the classes `target` [B].

        Raises:
            TypeError, ValueError: images outside of the box or of another shape, NaN, a class out of range, an image
                that is in the target class already, a network that gives NaN or Inf.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Box:
    """The smallest and largest value of a pixel, and the margin that is asked for."""

    low: float = 0.0
    high: float = 1.0
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low and high expect finite numbers, low < high. Received: {self.low!r}, {self.high!r}")
        if not (np.isfinite(self.confidence) and self.confidence >= 0):
            raise ValueError(f"confidence expects a number from 0. Received: {self.confidence!r}")

    def clipped(self, x: np.ndarray) -> np.ndarray:
        """x inside the box, float32."""
        return np.clip(x.astype(np.float32), np.float32(self.low), np.float32(self.high))

    def checked(self, network: Network, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, float32, classes, int64 [B], and leads, float64 [B]; it costs a prediction of each image.

        A lead is the largest other logit minus the target's, plus the confidence: what an attack has to make up for.

        Raises:
            TypeError, ValueError: see `Attack`.
        """
        x = network.checked(x)
        target = network.checked_target(target, len(x))
        if (x < np.float32(self.low)).any() or (x > np.float32(self.high)).any():
            raise ValueError(
                f"x expects values in [{self.low:g}, {self.high:g}]. Received: [{x.min():g}, {x.max():g}]. "
                "Remedy: low= and high= of the model's input"
            )
        margin = margins(network.logits(x), target)
        if (same := np.flatnonzero(margin > 0)).size:
            raise ValueError(
                f"target expects another class than the network's own. Received: {target[same[0]]} for image "
                f"{same[0]} of the batch, which is in that class already"
            )
        # A tie without confidence has a lead of 0, which nothing can be divided by.
        return x.astype(np.float32), target, np.maximum(self.confidence - margin, 1e-6)


def margins(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The target's logit minus the largest other one, float64 [B]."""
    values = np.array(logits, np.float64)
    rows = np.arange(len(values))
    own = values[rows, target]
    values[rows, target] = -np.inf
    return own - values.max(axis=1)


def needed(logits: np.ndarray, confidence: float) -> np.ndarray:
    """The margin that the search for the smallest perturbation aims at, [B], see `SLACK`."""
    return confidence + SLACK * np.abs(np.asarray(logits, np.float64)).max(axis=1)


class Best:
    """The best image so far of each original: the nearest with the margin, or the one with the largest margin.

    Attributes:
        x: [B, ...].
        reached: whether it has the margin that the search aims at.
        distance: its L2 distance to the original; Inf where not reached.
    """

    def __init__(self, original: np.ndarray, target: np.ndarray, confidence: float) -> None:
        self._original, self._target, self._confidence = original.astype(np.float64), target, confidence
        self.x = original.copy()
        self.margin = np.full(len(original), -np.inf)
        self.distance = np.full(len(original), np.inf)

    @property
    def reached(self) -> np.ndarray:
        return np.isfinite(self.distance)

    def see(self, x: np.ndarray, logits: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Take note of images and their logits, of these rows; whether they have the margin that is aimed at."""
        margin = margins(logits, self._target[rows])
        success = margin >= needed(logits, self._confidence)
        gap = x.astype(np.float64) - self._original[rows]
        distance = np.sqrt(np.square(gap).reshape(len(x), -1).sum(axis=1))
        nearer = success & (distance < self.distance[rows])
        closer = ~success & ~self.reached[rows] & (margin > self.margin[rows])
        better = np.arange(len(self.x))[rows][nearer | closer]
        self.x[better], self.margin[better] = x[nearer | closer], margin[nearer | closer]
        self.distance[np.arange(len(self.x))[rows][nearer]] = distance[nearer]
        return success


class Clock:
    """Counts what each image of a batch costs, and makes the attempts of a batch.

    It begins with the prediction that `Box.checked` makes, and ends with one of the result.
    """

    def __init__(self, samples: int) -> None:
        self.predictions = np.ones(samples, np.int64)
        self.gradients = np.zeros(samples, np.int64)
        self._begin = time.perf_counter()

    def attempts(
        self, network: Network, x: np.ndarray, target: np.ndarray, confidence: float, weights: list[Any] | None = None
    ) -> list[Attempt]:
        """The attempts that ended with images x [B, ...], judged by the network."""
        margin = margins(network.logits(x), target)
        self.predictions += 1
        seconds = (time.perf_counter() - self._begin) / len(x)
        return [
            Attempt(
                x=x[i],
                success=bool(margin[i] >= confidence and margin[i] > 0),
                margin=float(margin[i]),
                predictions=int(self.predictions[i]),
                gradients=int(self.gradients[i]),
                seconds=seconds,
                weight=None if weights is None else weights[i],
            )
            for i in range(len(x))
        ]


def positive(name: str, value: float) -> float:
    """The value as a float, a number above 0.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} expects a number above 0. Received: {value!r}")
    return float(value)


def plain(settings: Mapping[str, Any]) -> dict[str, object]:
    """Settings as JSON has them: NumPy's numbers become Python's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
