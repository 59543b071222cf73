"""The L2 attack of Carlini and Wagner (2017)."""

from __future__ import annotations

import numpy as np

from lrp_tf.core.counts import whole
from lrp_tf.evaluate.adversarial.attack import Attempt, Best, Box, Clock, plain, positive
from lrp_tf.evaluate.adversarial.network import Network

# The edge of the box is out of reach of a tanh; images are moved away from it by this share of its half width.
INSIDE = 1e-6
# A search ends when the loss has not fallen by this share within a tenth of the iterations, as in the authors' code.
PROGRESS = 1e-4
# The largest weight, as in the authors' code.
LARGEST = 1e10


class CarliniWagner:
    """The L2 attack of Carlini and Wagner (2017), targeted.

        attack = lrp_tf.evaluate.adversarial.get("cw", confidence=1.0, steps=20)
        attempts = attack(network, x, target)

    With x' = low + (high - low) (tanh(w) + 1) / 2 it minimises over w, by Adam (beta 0.9 and 0.999),

        |x' - x|^2 + c max(max_{j != t} z_j - z_t, -confidence)

    for several weights c, each time from x itself. Where a weight led to the target the next one is halfway to the
    largest that did not, otherwise halfway to the smallest that did, or ten times as large as long as none did. The
    nearest image that reached its target is the result. A search of one weight ends early where the loss has stopped
    falling.

    Args:
        weight: c at first.
        searches: how many weights are tried.
        steps: of Adam for each weight, at most.
        rate: Adam's learning rate.
        low, high: the box.
        confidence: the margin that is asked for, kappa of the paper.
        seed: has no effect, since nothing is drawn.

    Raises:
        ValueError: numbers out of range.
    """

    name = "cw"

    def __init__(
        self,
        *,
        weight: float = 1e-2,
        searches: int = 9,
        steps: int = 100,
        rate: float = 0.1,
        low: float = 0.0,
        high: float = 1.0,
        confidence: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._box, self._weight, self._rate = (
            Box(low, high, confidence),
            positive("weight", weight),
            positive("rate", rate),
        )
        self._searches, self._steps = whole("searches", searches, least=1), whole("steps", steps, least=1)
        self.settings = plain({
            "weight": weight, "searches": searches, "steps": steps, "rate": rate,
            "low": low, "high": high, "confidence": confidence,
        })  # fmt: skip

    def __call__(self, network: Network, x: np.ndarray, target: np.ndarray) -> list[Attempt]:
        """See `Attack`."""
        x, target, _ = self._box.checked(network, x, target)
        clock, best = Clock(len(x)), Best(x, target, self._box.confidence)
        weight = np.full(len(x), float(self._weight))
        below, above = np.zeros(len(x)), np.full(len(x), np.inf)
        found = np.full(len(x), np.nan)
        for _ in range(self._searches):
            before = best.distance.copy()
            reached = self._search(network, x, target, weight, best, clock)
            found = np.where(best.distance < before, weight, found)
            above, below = np.where(reached, np.minimum(above, weight), above), np.where(reached, below, weight)
            middle = (below + np.where(np.isfinite(above), above, 0)) / 2
            weight = np.minimum(np.where(np.isfinite(above), middle, 10 * weight), LARGEST)
        weights = [None if np.isnan(value) else float(value) for value in found]
        return clock.attempts(network, best.x, target, self._box.confidence, weights)

    def _search(
        self, network: Network, x: np.ndarray, target: np.ndarray, weight: np.ndarray, best: Best, clock: Clock
    ) -> np.ndarray:
        """Minimise for one weight of each image; which of them reached their target on the way."""
        centre, half = (self._box.high + self._box.low) / 2, (self._box.high - self._box.low) / 2
        original = x.astype(np.float64)
        w = np.arctanh((original - centre) / half * (1 - INSIDE))
        # The image itself is the origin of distances, so that the least of them is 0.
        first, second = np.zeros_like(w), np.zeros_like(w)
        active, reached = np.arange(len(x)), np.zeros(len(x), bool)
        previous = np.full(len(x), np.inf)
        axes = (slice(None), *[None] * (x.ndim - 1))
        for step in range(1, self._steps + 1):
            tanh = np.tanh(w[active])
            image = self._box.clipped(centre + half * tanh)
            values = network.values(image, target[active], "margin", confidence=self._box.confidence)
            clock.gradients[active] += 1
            reached[active] |= best.see(image, values.logits, active)
            r = centre + half * tanh - original[active]
            short = weight[active] * (values.loss > 0)
            loss = np.square(r).reshape(len(r), -1).sum(axis=1) + short * values.loss
            gradient = (2 * r + short[axes] * values.gradient) * half * (1 - tanh**2)
            first[active] = 0.9 * first[active] + 0.1 * gradient
            second[active] = 0.999 * second[active] + 0.001 * gradient**2
            scaled = np.sqrt(second[active] / (1 - 0.999**step)) + 1e-8
            w[active] -= self._rate * first[active] / (1 - 0.9**step) / scaled
            if step % max(1, self._steps // 10) == 0:
                falls = loss <= (1 - PROGRESS) * previous[active]
                previous[active] = np.minimum(loss, previous[active])
                active = active[falls]
                if not active.size:
                    break
        return reached
