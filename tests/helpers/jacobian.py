"""LRP the slow way: from the dense Jacobian of a linear layer, in float64, straight from the formulas.

Written against the formulas of the papers and on purpose without anything of lrp_tf: explicit sums over the matrix
w[i, j] = d z_j / d x_i, with numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def dense_matrix(forward: Callable[[tf.Tensor], tf.Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """w [n_in, n_out] of a linear map on samples of `shape`, column by column from unit vectors."""
    size = int(np.prod(shape))
    basis = tf.constant(np.eye(size).reshape(size, *shape), tf.float64)
    return np.asarray(forward(basis)).reshape(size, -1)


def sign(z: np.ndarray) -> np.ndarray:
    return np.where(z >= 0, 1.0, -1.0)


def epsilon_of(z: np.ndarray, stabilizer: float | tuple[str, float]) -> np.ndarray:
    """A number, or ("relative", f): f times the root mean square of z over the sample."""
    if isinstance(stabilizer, tuple):
        return stabilizer[1] * np.sqrt(np.mean(z**2)) * np.ones_like(z)
    return np.full_like(z, stabilizer)


def share(contributions: np.ndarray, denominator: np.ndarray, r: np.ndarray, stabilizer: float | tuple) -> np.ndarray:
    """sum_j contributions[i, j] r_j / s(denominator_j)."""
    s = denominator + epsilon_of(denominator, stabilizer) * sign(denominator)
    return (contributions * (r / s)[None, :]).sum(axis=1)


def hand_on(xw: np.ndarray, bias: np.ndarray, ones: np.ndarray, left: np.ndarray, how: str, stabilizer) -> np.ndarray:
    """What `when_empty` makes of the relevance left [m] that a rule's own terms have nothing to share for."""
    found = np.zeros(len(xw))
    if how == "absorb":
        return found
    if how == "magnitude":
        size = np.abs(xw)
        total = size.sum(0) + np.abs(bias)
        found = share(size, total, np.where(total > 0, left, 0.0), stabilizer)
        left = np.where(total > 0, 0.0, left)
    return found + share(ones, ones.sum(0), left, stabilizer)


def relevance(
    rule: str, x: np.ndarray, w: np.ndarray, b: np.ndarray, r: np.ndarray, stabilizer=1e-6, zero_bias=False, **p
) -> np.ndarray:
    """Relevance of one flat sample x [n] under `rule`, for w [n, m], b [m] and r [m]."""
    bias = np.zeros_like(b) if zero_bias else b
    pos, neg = lambda a: np.maximum(a, 0.0), lambda a: np.minimum(a, 0.0)
    xw = x[:, None] * w
    if rule in ("Epsilon", "Zero"):
        return share(xw, xw.sum(0) + bias, r, stabilizer)
    if rule in ("ZPlus", "AlphaBeta"):
        alpha, beta = (1.0, 0.0) if rule == "ZPlus" else (p["alpha"], p["beta"])
        up, down = pos(xw), neg(xw)  # x+ w+ + x- w-, and x+ w- + x- w+
        positive = share(up, up.sum(0) + pos(bias), r, stabilizer)
        negative = share(down, down.sum(0) + neg(bias), r, stabilizer)
        empty = [part.sum(0) + sign(bias) == 0 for part, sign in ((up, pos), (down, neg))]
        left = np.where(empty[0], alpha * r, 0.0) - np.where(empty[1], beta * r, 0.0)
        more = hand_on(xw, bias, p.get("ones"), left, p.get("when_empty", "absorb"), stabilizer)
        return alpha * positive - beta * negative + more
    if rule == "Gamma":
        gamma = p["gamma"]
        z = xw.sum(0) + bias
        up = pos(x)[:, None] * (w + gamma * pos(w)) + neg(x)[:, None] * (w + gamma * neg(w))
        down = pos(x)[:, None] * (w + gamma * neg(w)) + neg(x)[:, None] * (w + gamma * pos(w))
        above = share(up, up.sum(0) + bias + gamma * pos(bias), np.where(z > 0, r, 0.0), stabilizer)
        below = share(down, down.sum(0) + bias + gamma * neg(bias), np.where(z < 0, r, 0.0), stabilizer)
        left = np.where(z == 0, r, 0.0)
        return above + below + hand_on(xw, bias, p.get("ones"), left, p.get("when_empty", "absorb"), stabilizer)
    if rule == "Flat":
        # The inputs that an output sees: those that a kernel of ones reaches.
        seen = p["ones"]
        return share(seen, seen.sum(0), r, stabilizer)
    if rule == "WSquare":
        return share(w**2, (w**2).sum(0), r, stabilizer)
    if rule == "JointWSquare":
        v = share(w, xw.sum(0) + bias, r, stabilizer)
        return v**2 / (v**2).sum() * r.sum()
    if rule == "ZBox":
        low, high = p["low"].reshape(-1, 1), p["high"].reshape(-1, 1)
        c = xw - low * pos(w) - high * neg(w)
        return share(c, c.sum(0), r, stabilizer)
    if rule == "Pass":
        return r
    raise ValueError(rule)
