"""The bidirectional LSTM of Arras et al. 2017, "Explaining Recurrent Neural Network Predictions in Sentiment Analysis".

Loops over samples, time steps and entries, in numpy and float64, from the equations of the paper (arXiv 1706.07206).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def _redistribute(h: np.ndarray, w: np.ndarray, z: np.ndarray, r: np.ndarray, epsilon: float) -> np.ndarray:
    """Their eq. 2 with delta = 0: the messages h_i w_ij R_j / (z_j + epsilon sign(z_j)), summed over j."""
    received = np.zeros(len(h))
    for j in range(len(z)):
        sign = 1.0 if z[j] >= 0 else -1.0
        for i in range(len(h)):
            received[i] += h[i] * w[i, j] / (z[j] + epsilon * sign) * r[j]
    return received


def _encoder(
    x: np.ndarray, w: np.ndarray, u: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, Callable[[np.ndarray, float], np.ndarray]]:
    """One direction: the last h of x [T, E], and a function: (R of that h, epsilon) -> R of x."""
    time, n = len(x), u.shape[0]
    h, c = np.zeros((time + 1, n)), np.zeros((time + 1, n))  # row t is the state ahead of time step t
    pre, gates = np.zeros((time, 4 * n)), np.zeros((time, 4 * n))
    for t in range(time):
        pre[t] = x[t] @ w + h[t] @ u + b  # i, f, g, o
        gates[t] = 1 / (1 + np.exp(-pre[t]))
        gates[t, 2 * n : 3 * n] = np.tanh(pre[t, 2 * n : 3 * n])
        i, f, g, o = np.split(gates[t], 4)
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
    wg, ug = w[:, 2 * n : 3 * n], u[:, 2 * n : 3 * n]

    def explain(relevance: np.ndarray, epsilon: float) -> np.ndarray:
        rx, rh, rc = np.zeros_like(x), relevance, np.zeros(n)
        one = np.eye(n)
        for t in reversed(range(time)):
            i, f, g, _ = np.split(gates[t], 4)
            rc = rc + rh  # the gate o takes nothing
            rg = _redistribute(i * g, one, c[t + 1], rc, epsilon)
            rc = _redistribute(f * c[t], one, c[t + 1], rc, epsilon)
            z = pre[t, 2 * n : 3 * n]
            rx[t] = _redistribute(x[t], wg, z, rg, epsilon)
            rh = _redistribute(h[t], ug, z, rg, epsilon)
        return rx

    return h[-1], explain


def lstm_of_arras(
    x: np.ndarray, forward: Sequence[np.ndarray], backward: Sequence[np.ndarray], out: Sequence[np.ndarray], target: int
) -> tuple[np.ndarray, Callable[[float], np.ndarray]]:
    """Logits of a bidirectional LSTM for x [T, E], and a function: epsilon -> relevance [T, E] of the target's logit.

    Args:
        forward, backward: kernel [E, 4 H], recurrent kernel [H, 4 H] and bias [4 H] in the order i, f, g, o.
        out: kernel [2 H, classes] and bias of the layer behind the two last states.
    """
    left, explain_left = _encoder(x, *forward)
    right, explain_right = _encoder(x[::-1], *backward)
    h = np.concatenate([left, right])
    logits = h @ out[0] + out[1]

    def explain(epsilon: float) -> np.ndarray:
        start = np.where(np.arange(len(logits)) == target, logits, 0.0)
        rh = _redistribute(h, out[0], logits, start, epsilon)
        n = len(left)
        return explain_left(rh[:n], epsilon) + explain_right(rh[n:], epsilon)[::-1]

    return logits, explain
