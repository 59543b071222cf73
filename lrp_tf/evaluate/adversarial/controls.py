"""What an adversarial example is held against: noise of the same norm, and undisturbed images of the other class.

Without them, "so many of the most relevant pixels moved" has no zero point: maps move under any disturbance, and differ
between any two images.
"""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate.adversarial.network import Network
from lrp_tf.evaluate.extras import optional

_DRAWS_AT_ONCE = 16
_WIDEST = 2.0**60  # times the standard deviation

# What a pair of maps is made of; the first map is that of the original for its class.
KINDS = {
    "adversarial": "the adversarial example, for its target",
    "noise": "the original with noise of the same norm, for the class that the network then says",
    "noise_same_class": "the original with noise of the same norm that keeps the class, for that class",
    "other_class": "the original itself, for the target",
    "other_image": "an undisturbed image of the target's class, for the target",
    "chance": "the adversarial example's map with its components in random order",
}


def noise_like(
    original: np.ndarray, adversarial: np.ndarray, *, seed: int, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """The original with Gaussian noise, clipped to the box, as far from it as the adversarial image is.

        noisy = adversarial.noise_like(x[0], attempt.x, seed=0)

    One draw of noise is scaled until the L2 norm behind the clipping is that of adversarial - original.

    Args:
        original, adversarial: one image each, of one shape. seed: of the draw.

    Returns:
        float32. Its norm is right to 1e-4, unless the perturbation is so small that float32 rounds it.

    Raises:
        ValueError: other shapes; an original outside of the box, NaN; a norm that no scale of the noise reaches within
            the box. ImportError: SciPy is not installed.
    """
    return _noisy(original, adversarial, np.random.default_rng([seed, 0]), low, high)


def noise_keeping_class(
    network: Network,
    original: np.ndarray,
    adversarial: np.ndarray,
    label: int,
    *,
    seed: int,
    tries: int = 100,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[np.ndarray | None, int]:
    """Noise as in `noise_like`, drawn until the network still says `label`; and how many draws that took.

    The draws differ from those of `noise_like`.

    Returns:
        The noisy image, or None if none of `tries` kept the class.

    Raises:
        ValueError: as `noise_like`; tries below 1.
    """
    if tries < 1:
        raise ValueError(f"tries expects a positive integer. Received: {tries}")
    for first in range(0, tries, _DRAWS_AT_ONCE):
        numbers = range(first, min(first + _DRAWS_AT_ONCE, tries))
        # A generator for each draw: which one is found does not depend on how many are drawn at once.
        drawn = [
            _noisy(original, adversarial, np.random.default_rng([seed, 1, number]), low, high) for number in numbers
        ]
        kept = np.flatnonzero(network.logits(np.stack(drawn)).argmax(axis=1) == label)
        if kept.size:
            return drawn[kept[0]], first + int(kept[0]) + 1
    return None, tries


def _noisy(
    original: np.ndarray, adversarial: np.ndarray, generator: np.random.Generator, low: float, high: float
) -> np.ndarray:
    x, other = (np.asarray(image, np.float64) for image in (original, adversarial))
    if x.shape != other.shape or not x.size:
        raise ValueError(f"noise expects two images of one shape. Received: {x.shape}, {other.shape}")
    low, high = float(np.float32(low)), float(np.float32(high))
    if not (np.isfinite(other).all() and (x >= low).all() and (x <= high).all()):
        raise ValueError(
            f"noise expects finite images in [{low:g}, {high:g}]. Received: [{x.min():g}, {x.max():g}] and "
            f"[{other.min():g}, {other.max():g}]. Remedy: low= and high= of the model's input"
        )
    wanted = float(np.linalg.norm((other - x).ravel()))
    if not wanted:
        return np.asarray(original, np.float32).copy()
    noise = generator.standard_normal(x.shape)

    def disturbed(scale: float) -> np.ndarray:
        return np.clip(x + scale * noise, low, high).astype(np.float32)

    def gap(scale: float) -> float:
        return float(np.linalg.norm((disturbed(scale) - x).ravel())) - wanted

    widest = wanted / float(np.linalg.norm(noise.ravel()))  # right where nothing is clipped
    while gap(widest) < 0:
        widest *= 2
        if widest > _WIDEST:
            raise ValueError(
                f"noise within [{low:g}, {high:g}] expects a norm of at most {wanted + gap(widest):.4g}, which it has "
                f"when every pixel is at its bound. Received: {wanted:.4g}. Remedy: a smaller perturbation"
            )
    scale = optional("scipy.optimize").brentq(gap, 0.0, widest, xtol=1e-12 * widest, rtol=1e-12)
    return disturbed(scale)


def partner(labels: np.ndarray, predictions: np.ndarray, target: int, *, seed: int) -> int | None:
    """The number of an undisturbed image of class `target` that the network classifies rightly; None if there is none.

    Args:
        labels, predictions: true and predicted classes [N]. seed: decides among several.

    Raises:
        ValueError: labels and predictions of other shapes.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ValueError(f"partner expects classes [N] each. Received: {labels.shape}, {predictions.shape}")
    found = np.flatnonzero((labels == target) & (predictions == target))
    return int(np.random.default_rng([seed, target]).choice(found)) if found.size else None
