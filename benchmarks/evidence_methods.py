"""Explanations of transformers: presets of LRP, gradients behind the embedding, attention rollout, chance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from evidence_nets import NEUTRAL, RotaryAttention

import lrp_tf
from lrp_tf import gradients

# (x, target [B], contrast as the Explainer's) -> relevance [B, *positions]; rollout and chance know neither of the two.
Explain = Callable[..., np.ndarray]
PRESETS: dict[str, tuple[str, dict[str, float]]] = {
    "attn_lrp": ("attn_lrp", {}),
    "attn_lrp, γ 0.05": ("attn_lrp", {"gamma": 0.05}),
    "attn_lrp, γ 0.25": ("attn_lrp", {"gamma": 0.25}),
    "cp_lrp": ("cp_lrp", {}),
    "cp_lrp, γ 0.05": ("cp_lrp", {"gamma": 0.05}),
    "epsilon": ("epsilon", {}),
}
OF_NO_CLASS = ("attention rollout", "random")
BATCH = 100


def of_tokens(model: keras.Model, embedding: str, seed: int = 0) -> dict[str, Explain]:
    """Every method for a model that takes tokens, under its name."""
    found = {name: _lrp(lrp_tf.Explainer(model, preset, **given)) for name, (preset, given) in PRESETS.items()}
    layer = model.get_layer(embedding)
    behind = keras.Model(layer.output, model.output, name="behind_the_embedding")

    def vectors(x: np.ndarray) -> tf.Tensor:
        return tf.convert_to_tensor(layer(x))

    plain, times = gradients.Gradient(behind), gradients.InputTimesGradient(behind)
    integrated = gradients.IntegratedGradients(behind, baseline=0.0, n=16, chunk=800)
    covered = gradients.Occlusion(model, window=1, fill=NEUTRAL, chunk=3200)
    found["gradient"] = lambda x, t, c=None: np.linalg.norm(_parts(plain, vectors(x), t, c), axis=-1)
    found["gradient x input"] = lambda x, t, c=None: _parts(times, vectors(x), t, c).sum(-1)
    found["integrated gradients"] = lambda x, t, c=None: _parts(integrated, vectors(x), t, c).sum(-1)
    found["occlusion"] = lambda x, t, c=None: _parts(covered, x, t, c)
    found["attention rollout"] = rollout(model)
    found["random"] = lambda x, t, c=None: np.random.default_rng(seed).random(x.shape)
    return found


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Compile nothing: for a few batches of a small net, compiling costs more than it saves."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def _lrp(explainer: lrp_tf.Explainer) -> Explain:
    return lambda x, t, c=None: _parts(explainer, x, t, c)


def _parts(method: Callable, x: np.ndarray | tf.Tensor, target: np.ndarray, contrast: object) -> np.ndarray:
    """What a method gives for parts of a batch; `contrast` may hold a class for each sample."""
    found = []
    for first in range(0, len(x), BATCH):
        part = slice(first, first + BATCH)
        rival = contrast[part] if isinstance(contrast, np.ndarray) else contrast
        with eagerly():
            found.append(np.asarray(method(x[part], target[part], contrast=rival), np.float64))
    return np.concatenate(found)


def rollout(model: keras.Model) -> Explain:
    """Attention rollout (Abnar and Zuidema 2020): the product over layers of (mean of heads + identity) / 2.

    A row of it says where the query's vector comes from, if layers did nothing but attend. The row is that of the last
    token of a decoder, of the first token of a text encoder, and the mean of all rows of a model without either.
    """
    found = [layer for layer in model.layers if isinstance(layer, (keras.layers.MultiHeadAttention, RotaryAttention))]
    inputs = [layer.input[0] if isinstance(layer.input, (list, tuple)) else layer.input for layer in found]
    ahead = keras.Model(model.inputs, inputs)
    causal, pooled = isinstance(found[0], RotaryAttention), model.name == "vit"

    def explain(x: np.ndarray, target: np.ndarray, contrast: object = None) -> np.ndarray:
        rows = []
        for first in range(0, len(x), BATCH):
            read = ahead(tf.convert_to_tensor(x[first : first + BATCH]))
            read = read if isinstance(read, (list, tuple)) else [read]
            whole = np.eye(read[0].shape[1])
            for layer, h in zip(found, read, strict=True):
                weights = layer.attend(h)[1] if causal else layer(h, h, return_attention_scores=True)[1]
                mean = np.asarray(weights, np.float64).mean(1)
                whole = (mean + np.eye(mean.shape[-1])) / 2 @ whole
            rows.append(whole.mean(1) if pooled else whole[:, -1 if causal else 0])
        return np.concatenate(rows)

    return explain


def precision(relevance: np.ndarray, evidence: np.ndarray) -> float:
    """The share of evidence among the k highest positions, k the number of evidence tokens; the mean over samples.

    Args:
        relevance: [B, T]; -Inf where a position does not take part. evidence: bool [B, T].
    """
    rank = np.argsort(np.argsort(-relevance, axis=1, kind="stable"), axis=1)
    count = evidence.sum(1)
    return float((((rank < count[:, None]) & evidence).sum(1) / count).mean())


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table in Markdown; what a row lacks is empty."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[c]:.3f}' if c in row else '' for c in columns)} |", flush=True)
