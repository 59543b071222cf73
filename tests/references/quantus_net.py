"""The net, samples and maps of `quantus_references.py` and `test_quantus.py`: NumPy only."""

from __future__ import annotations

import numpy as np

CLASSES = 3
SIDE = 8
_RANDOM = np.random.RandomState(0)  # whose streams NumPy keeps as they are


# Inputs and weights are exact in float32, since Quantus hands float32 to torch.
def _grid(*shape: int, low: float = -1.0) -> np.ndarray:
    """Multiples of 1/1024 between low and 1: exact in float32, and hardly two of them are equal."""
    return np.round(_RANDOM.uniform(low, 1, shape) * 1024) / 1024


# Channels last, as lrp_tf has them; one channel, so that a pixel is what Quantus calls a feature.
X = _grid(4, SIDE, SIDE, 1, low=0.0)
Y = np.array([0, 2, 1, 2])
# No two values of a map are equal, nor two absolute values; the maps differ in how sparse they are.
MAPS = np.stack([_RANDOM.permutation(SIDE * SIDE) - 20.25 for _ in X]).reshape(X.shape) / 64
MAPS = np.sign(MAPS) * np.abs(MAPS) ** np.array([0.5, 1.5, 2, 3]).reshape(-1, 1, 1, 1)
# An object in each picture, of another size.
MASKS = np.zeros((4, SIDE, SIDE), bool)
for _number, _mask in enumerate(MASKS):
    _mask[_number : 2 * _number + 3, 1 : 4 + _number] = True
HIDDEN, OUT, BIAS = _grid(SIDE * SIDE, 12), _grid(12, CLASSES) / 8, _grid(CLASSES) + np.array([0.5, -0.5, 0.5])


def logits(x: np.ndarray) -> np.ndarray:
    """[B, 8, 8, 1] → [B, 3], in float64."""
    return np.maximum(x.reshape(len(x), -1).astype(np.float64) @ HIDDEN, 0) @ OUT + BIAS


def explain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient times input of the score of y, [B, 8, 8, 1]."""
    active = x.reshape(len(x), -1).astype(np.float64) @ HIDDEN > 0
    return x * ((active * OUT[:, y].T) @ HIDDEN.T).reshape(x.shape)


def linear(x: np.ndarray) -> np.ndarray:
    """A linear model, [B, 8, 8, 1] → [B, 3], whose contributions are known and sum up without rounding."""
    return x.reshape(len(x), -1).astype(np.float64) @ HIDDEN[:, :CLASSES]


def contributions(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What each pixel adds to `linear`'s score of class y."""
    return x * HIDDEN[:, y].T.reshape(x.shape)
