"""Attacks in the maximum norm: one step along the sign of the gradient, and many, projected to a ball."""

from __future__ import annotations

import zlib

import numpy as np

from lrp_tf.core.counts import whole
from lrp_tf.evaluate.adversarial.attack import Attempt, Box, Clock, margins, plain, positive
from lrp_tf.evaluate.adversarial.network import Network


class FGSM:
    """The fast gradient sign method (Goodfellow, Shlens and Szegedy 2015), targeted.

        attack = lrp_tf.evaluate.adversarial.get("fgsm", epsilon=0.1)
        attempts = attack(network, x, target)

    x' = clip(x - epsilon sign(dL / dx)), where L is the cross entropy of the target. One gradient.

    Args:
        epsilon: the largest change of a pixel.
        low, high: the box.
        confidence: the margin that counts as success; it does not change the image.
        seed: has no effect, since nothing is drawn.

    Raises:
        ValueError: an epsilon that is not above 0, an empty box, a negative confidence.
    """

    name = "fgsm"

    def __init__(
        self, *, epsilon: float = 0.3, low: float = 0.0, high: float = 1.0, confidence: float = 0.0, seed: int = 0
    ) -> None:
        self._box, self._epsilon = Box(low, high, confidence), positive("epsilon", epsilon)
        self.settings = plain({
            "epsilon": epsilon, "low": low, "high": high, "confidence": confidence
        })  # fmt: skip

    def __call__(self, network: Network, x: np.ndarray, target: np.ndarray) -> list[Attempt]:
        """See `Attack`."""
        x, target, _ = self._box.checked(network, x, target)
        clock = Clock(len(x))
        _, gradient = network.loss_and_gradient(x, target)
        clock.gradients += 1
        moved = self._box.clipped(x - np.float32(self._epsilon) * np.sign(gradient, dtype=np.float32))
        return clock.attempts(network, moved, target, self._box.confidence)


class PGD:
    """Projected gradient descent in the maximum norm (Madry et al. 2018), targeted.

        attack = lrp_tf.evaluate.adversarial.get("pgd", epsilon=0.1, steps=20)
        attempts = attack(network, x, target)

    x' <- P(x' - step sign(dL / dx')), where L is the cross entropy of the target and P projects to |x' - x| <= epsilon
    and the box. An image that has reached its target by `confidence` is left as it is, since distances are compared.

    Args:
        epsilon: the largest change of a pixel.
        step: of each iteration.
        steps: at most that many.
        random_start: begin at a point drawn evenly from the ball, as the paper does, and not at the image. It is drawn
            from the seed, the image and the target, so that it does not depend on the rest of the batch.
        low, high: the box.
        confidence: the margin that is asked for.
        seed: of the start, from 0.

    Raises:
        ValueError: numbers out of range.
    """

    name = "pgd"

    def __init__(
        self,
        *,
        epsilon: float = 0.3,
        step: float = 0.01,
        steps: int = 40,
        random_start: bool = True,
        low: float = 0.0,
        high: float = 1.0,
        confidence: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._box, self._epsilon = Box(low, high, confidence), positive("epsilon", epsilon)
        self._step, self._steps = positive("step", step), whole("steps", steps, least=1)
        self._random, self._seed = bool(random_start), whole("seed", seed)
        self.settings = plain({
            "epsilon": epsilon, "step": step, "steps": steps, "random_start": random_start,
            "low": low, "high": high, "confidence": confidence, "seed": seed,
        })  # fmt: skip

    def __call__(self, network: Network, x: np.ndarray, target: np.ndarray) -> list[Attempt]:
        """See `Attack`."""
        x, target, _ = self._box.checked(network, x, target)
        clock = Clock(len(x))
        least, most = self._box.clipped(x - np.float32(self._epsilon)), self._box.clipped(x + np.float32(self._epsilon))
        found = np.stack([self._start(*each) for each in zip(x, target, least, most, strict=True)])
        best, margin = found.copy(), np.full(len(x), -np.inf)
        active = np.arange(len(x))
        for _ in range(self._steps):
            values = network.values(found[active], target[active])
            clock.gradients[active] += 1
            now = margins(values.logits, target[active])
            better = active[now > margin[active]]
            best[better], margin[better] = found[better], now[now > margin[active]]
            go = ~((now >= self._box.confidence) & (now > 0))
            active, gradient = active[go], values.gradient[go]
            if not active.size:
                break
            moved = found[active] - np.float32(self._step) * np.sign(gradient, dtype=np.float32)
            found[active] = np.clip(moved, least[active], most[active])
        if active.size:  # what the last step led to has not been seen yet
            now = margins(network.logits(found[active]), target[active])
            clock.predictions[active] += 1
            better = active[now > margin[active]]
            best[better] = found[better]
        return clock.attempts(network, best, target, self._box.confidence)

    def _start(self, x: np.ndarray, target: int, least: np.ndarray, most: np.ndarray) -> np.ndarray:
        if not self._random:
            return x.copy()
        generator = np.random.default_rng([self._seed, int(target), zlib.crc32(np.ascontiguousarray(x).tobytes())])
        return np.clip(x + generator.uniform(-self._epsilon, self._epsilon, x.shape), least, most).astype(np.float32)
