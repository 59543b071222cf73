"""The attack of Szegedy et al. (2014): the smallest perturbation, found by L-BFGS inside the box."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from lrp_tf.core.counts import whole
from lrp_tf.evaluate.adversarial import lockstep
from lrp_tf.evaluate.adversarial.attack import Attempt, Best, Box, Clock, plain, positive
from lrp_tf.evaluate.adversarial.network import Network
from lrp_tf.evaluate.extras import optional

# What the weight is multiplied by until the target is reached, and how often: from 0.1 to 1e7.
GROWTH, EXPANSIONS = 10.0, 9


class Seen(NamedTuple):
    """What the network says to an image: loss, gradient, and whether it has the margin that the search aims at."""

    loss: float
    gradient: np.ndarray
    reached: bool


# An image, float32, and whether the gradient is asked for; without it loss and gradient have no meaning.
Question: TypeAlias = tuple[np.ndarray, bool]
Ask: TypeAlias = Callable[[Question], Seen]


class LBFGS:
    """The smallest perturbation by L-BFGS inside the box (Szegedy et al. 2014).

        attack = lrp_tf.evaluate.adversarial.get("lbfgs")
        attempts = attack(network, x, target)
        attempts[0].success, attempts[0].margin, attempts[0].weight

    With r = x' - x it minimises

        |r|^2 + w L(x'),    low <= x' <= high

    by scipy's L-BFGS-B, in float64. The paper writes c |r| + L, so that c corresponds to 1 / w. L is the smooth margin

        L = log(1 + sum_{j != t} exp(s (z_j - z_t + confidence))) / s,    s = sharpness / lead

    where the lead is max_j z_j - z_t + confidence at x. With s = 1 and no confidence it is the paper's cross entropy,
    which asks for more than the boundary; a sharper one stops there, and finds nearer images. Dividing by the lead
    makes the attack independent of the scale of the logits.

    The weight grows tenfold from 0.1 / lead, each time from where the last one ended, until an optimum reaches the
    target. Bisection of log w between the last two, each time from the nearest image so far, looks for the least weight
    that does; a bisection of the segment to x follows. All images on the way count: the nearest that has the margin is
    the result.

    Line searches end early when float32 gradients cannot tell a descent (scipy's ABNORMAL): such a run counts by its
    best point, as one that ran out of iterations does, and the search goes on with the next weight.

    A batch of images is optimised side by side: each in a thread of its own, which sleeps while the gradients that all
    have asked for are computed in one batch. See `Network` why this does not change what each of them gets.

    Args:
        sharpness: see above.
        iterations: of each minimisation, at most.
        bisections: of the weight.
        segment: bisections of the segment at the end.
        low, high: the box.
        confidence: the margin that is asked for.
        seed: has no effect, since nothing is drawn.

    Raises:
        ValueError: numbers out of range. ImportError: scipy is missing; the message names its extra.
    """

    name = "lbfgs"

    def __init__(
        self,
        *,
        sharpness: float = 1000.0,
        iterations: int = 50,
        bisections: int = 6,
        segment: int = 8,
        low: float = 0.0,
        high: float = 1.0,
        confidence: float = 0.0,
        seed: int = 0,
    ) -> None:
        optional("scipy.optimize")
        self._box, self._sharpness = Box(low, high, confidence), positive("sharpness", sharpness)
        self._iterations = whole("iterations", iterations, least=1)
        self._bisections, self._segment = whole("bisections", bisections), whole("segment", segment)
        self.settings = plain({
            "sharpness": sharpness, "iterations": iterations, "bisections": bisections, "segment": segment,
            "low": low, "high": high, "confidence": confidence,
        })  # fmt: skip

    def __call__(self, network: Network, x: np.ndarray, target: np.ndarray) -> list[Attempt]:
        """See `Attack`."""
        x, target, leads = self._box.checked(network, x, target)
        clock, best = Clock(len(x)), Best(x, target, self._box.confidence)

        def answers(rows: list[int], questions: list[Question]) -> list[Seen]:
            """Gradients in one batch, and plain predictions in another."""
            found: dict[int, Seen] = {}
            for graded in (True, False):
                chosen = [i for i, (_, wanted) in enumerate(questions) if wanted is graded]
                if not chosen:
                    continue
                images, at = np.stack([questions[i][0] for i in chosen]), np.array(rows)[chosen]
                if graded:
                    values = network.values(
                        images, target[at], confidence=self._box.confidence, sharpness=self._sharpness / leads[at]
                    )
                    reached = best.see(images, values.logits, at)
                    clock.gradients[at] += 1
                    seen = zip(values.loss, values.gradient, reached, strict=True)
                    found |= {i: Seen(float(loss), g, bool(r)) for i, (loss, g, r) in zip(chosen, seen, strict=True)}
                else:
                    reached = best.see(images, network.logits(images), at)
                    clock.predictions[at] += 1
                    nothing = np.zeros(0)
                    found |= {i: Seen(0.0, nothing, bool(r)) for i, r in zip(chosen, reached, strict=True)}
            return [found[i] for i in range(len(questions))]

        searches = [
            functools.partial(_Search(x[i], leads[i], self._box, self._iterations).run, self._bisections, self._segment)
            for i in range(len(x))
        ]
        weights = lockstep.run(searches, answers, network.batch_size)
        return clock.attempts(network, best.x, target, self._box.confidence, weights)


@dataclasses.dataclass
class _Search:
    """The search for one image. What is best is kept by who answers; here it is only the nearest that was reached."""

    original: np.ndarray
    lead: float
    box: Box
    iterations: int

    def __post_init__(self) -> None:
        self._start = self.original.astype(np.float64).ravel()
        self._nearest = self._start
        self._distance = np.inf

    def run(self, bisections: int, segment: int, ask: Ask) -> float | None:
        """The weight of the nearest image that an optimum led to, None if the target was never reached."""
        # The first one that reaches it, and the last one that does not.
        found = self._expanded(ask)
        if found is None:
            return None
        below, above = found
        for _ in range(bisections):
            weight = float(np.sqrt(below * above))
            if self._minimised(weight, self._nearest, ask)[0]:
                above = weight
            else:
                below = weight
        self._shorten(segment, ask)
        return float(above)

    def _expanded(self, ask: Ask) -> tuple[float, float] | None:
        weight, point = 0.1 / self.lead, self._start
        for _ in range(EXPANSIONS):
            reached, point = self._minimised(weight, point, ask)
            if reached:
                return weight / GROWTH, weight
            weight *= GROWTH
        return None

    def _minimised(self, weight: float, start: np.ndarray, ask: Ask) -> tuple[bool, np.ndarray]:
        """Whether the optimum for a weight reaches the target, and where it is."""
        lowest, reached = np.inf, False

        def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal lowest, reached
            image = self._image(point)
            seen = ask((image, True))
            r = image.astype(np.float64).ravel() - self._start
            value = float(r @ r) + weight * seen.loss
            if value < lowest:
                lowest, reached = value, seen.reached
            self._note(image, seen.reached)
            return value, 2 * r + weight * seen.gradient.astype(np.float64).ravel()

        limits = [(float(np.float32(self.box.low)), float(np.float32(self.box.high)))] * start.size
        found = optional("scipy.optimize").minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=limits,
            options={"maxiter": self.iterations, "ftol": 1e-6, "gtol": 1e-7, "maxls": 10},
        )
        return reached, found.x

    def _shorten(self, steps: int, ask: Ask) -> None:
        """Bisect the segment from the original to the nearest image."""
        end, low, high = self._nearest, 0.0, 1.0
        for _ in range(steps):
            middle = (low + high) / 2
            image = self._image(self._start + middle * (end - self._start))
            seen = ask((image, False))
            self._note(image, seen.reached)
            low, high = (low, middle) if seen.reached else (middle, high)

    def _image(self, point: np.ndarray) -> np.ndarray:
        return self.box.clipped(point).reshape(self.original.shape)

    def _note(self, image: np.ndarray, reached: bool) -> None:
        point = image.astype(np.float64).ravel()
        if reached and (distance := float(np.linalg.norm(point - self._start))) < self._distance:
            self._nearest, self._distance = point, distance
