"""Do explanations find what a recurrent net decided by, 30 steps and more before the end? Trains small ones to see.

    python benchmarks/recurrent.py --json recurrent.json
    python benchmarks/recurrent.py --tasks occurrence bump --layers lstm --models trained --picture docs/recurrent.png

Five kinds of sequences of 60 steps, whose deciding steps are known (`recurrent_nets`); counted is their share among the
entries with the highest relevance, or with the highest |relevance|. LRP by every rule for gates, beside gradients,
occlusion and what sees no net: |x|, and chance among the steps that may hold evidence. Some ten minutes on two cores.
Everything comes from --seed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import evidence_methods as methods
import evidence_nets
import keras
import numpy as np
import recurrent_nets as nets
import tensorflow as tf

import lrp_tf
from lrp_tf import composites, flows, gradients, heatmap, rules
from lrp_tf.engine.explanation import Conservation

# (x, target [B], contrast as the Explainer's) -> relevance [B, LENGTH] of tokens, [B, LENGTH, channels] of signals.
Explain = Callable[..., np.ndarray]
GATES = ("held", "share", "proportional", "absolute")
GAMMA = 0.25
OF_NO_CLASS = ("|x|", "random")
BATCH = 100
COLUMNS = {"R": {}, "|R|": {}, "R, contrast": {"contrast": "softmax"}, "|R|, contrast": {"contrast": "softmax"}}


def lrp(model: keras.Model) -> dict[str, lrp_tf.Explainer]:
    """An Explainer for every rule of products, and Gamma on the linear steps."""
    found = {"LRP": lrp_tf.Explainer(model, "epsilon", epsilon=1e-9)}
    for gates in GATES[1:]:
        entries = [(composites.products(), flows.Product(gates=gates)), (None, rules.Epsilon(1e-9))]
        found[f"LRP, gates {gates}"] = lrp_tf.Explainer(model, composites.Composite(entries))
    entries = [(composites.last(), rules.Epsilon(1e-9)), (None, rules.Gamma(GAMMA, 1e-9))]
    return found | {f"LRP, γ {GAMMA}": lrp_tf.Explainer(model, composites.Composite(entries))}


def of_model(model: keras.Model, task: nets.Task, seed: int) -> dict[str, Explain]:
    """Every method under its name."""
    found: dict[str, Explain] = {name: _parts(explainer) for name, explainer in lrp(model).items()}
    behind, vectors, summed = model, lambda x: x, lambda r: r
    if task.tokens:
        embedding = model.get_layer("embedding")
        behind = keras.Model(embedding.output, model.output, name="behind_the_embedding")
        vectors, summed = lambda x: tf.convert_to_tensor(embedding(x)), lambda r: r.sum(-1)
    plain, times = _parts(gradients.Gradient(behind)), _parts(gradients.InputTimesGradient(behind))
    integrated = _parts(gradients.IntegratedGradients(behind, baseline=0.0, n=16, chunk=1600))
    fill = nets.NEUTRAL if task.tokens else 0.0
    length = (lambda r: np.linalg.norm(r, axis=-1)) if task.tokens else np.abs
    found["gradient"] = lambda x, t, **c: length(plain(vectors(x), t, **c))
    found["gradient x input"] = lambda x, t, **c: summed(times(vectors(x), t, **c))
    found["integrated gradients"] = lambda x, t, **c: summed(integrated(vectors(x), t, **c))
    found["occlusion"] = _parts(gradients.Occlusion(model, window=1, fill=fill, chunk=6000))
    found["|x|"] = lambda x, t, **c: length(np.asarray(vectors(x)))
    found["random"] = lambda x, t, **c: chance(x, seed)
    return found


def _parts(method: Callable) -> Explain:
    """What a method gives for parts of a batch."""

    def explain(x: np.ndarray | tf.Tensor, target: np.ndarray, **contrast: object) -> np.ndarray:
        parts = [slice(first, first + BATCH) for first in range(0, len(x), BATCH)]
        return np.concatenate([np.asarray(method(x[p], target[p], **contrast), np.float64) for p in parts])

    return explain


def chance(x: np.ndarray, seed: int) -> np.ndarray:
    """Random numbers, which know that the steps of the gap hold no evidence."""
    drawn = np.random.default_rng(seed).random(x.shape)
    drawn[:, nets.LENGTH - nets.GAP :] -= 1
    return drawn


def precision(relevance: np.ndarray, evidence: np.ndarray) -> float:
    """Of entries where the evidence's channel is known, of time steps elsewhere: their sums over channels count."""
    if relevance.ndim > evidence.ndim:
        relevance = relevance.sum(-1)
    return methods.precision(relevance.reshape(len(evidence), -1), evidence.reshape(len(evidence), -1))


def measured(name: str, layer: str, options: argparse.Namespace) -> tuple[dict, dict[str, np.ndarray]]:
    """Figures of one net, and its maps with what they explain."""
    task, began = nets.TASKS[name], time.perf_counter()
    model, accuracy = trained(name, layer, options)
    x, label, evidence = task.make(np.random.default_rng(options.seed + 2), 2 * options.samples)
    right = np.flatnonzero(model.predict(x, 500, verbose=0).argmax(1) == label)[: options.samples]
    x, label, evidence = x[right], label[right], evidence[right]
    rows, maps = {}, {}
    for method, explain in of_model(model, task, options.seed).items():
        rows[method] = {}
        for column, contrast in COLUMNS.items():
            if contrast and method in OF_NO_CLASS:
                continue
            relevance = explain(x, label, **contrast)
            maps.setdefault(method, relevance)
            if column.startswith("|"):
                relevance = np.abs(relevance if relevance.ndim == evidence.ndim else relevance.sum(-1))
            rows[method][column] = precision(relevance, evidence)
    shares = books(lrp_tf.Explainer(model, "epsilon", epsilon=1e-9).explain(x[:BATCH], label[:BATCH]).conservation)
    seconds = time.perf_counter() - began
    methods.show(f"{name}, {layer}: {accuracy:.2%} of test sequences right, {len(x)} explained, {seconds:.0f} s", rows)
    print("Where the score went, medians: " + ", ".join(f"{k} {v:.3f}" for k, v in shares.items()), flush=True)
    figures = {"accuracy": accuracy, "samples": len(x), "seconds": seconds, "methods": rows, "shares": shares}
    return figures, maps | {"x": x, "label": label, "evidence": evidence}


def books(conservation: Conservation) -> dict[str, float]:
    """Medians over samples of relevance, bias and stabiliser, each of the score."""
    start = np.asarray(conservation.start)
    parts = {name: np.asarray(getattr(conservation, name)) / start for name in ("relevance", "bias", "stabilizer")}
    return {name: float(np.median(share)) for name, share in parts.items()}


def trained(name: str, layer: str, options: argparse.Namespace) -> tuple[keras.Model, float]:
    """A net and its accuracy on 2,000 sequences that it has not seen."""
    task = nets.TASKS[name]

    def train() -> keras.Model:
        model = nets.net(task, layer, options.width)
        x, label, _ = task.make(np.random.default_rng(options.seed), task.times * options.train)
        evidence_nets.fit(model, x, label, options.epochs, rate=5e-3)
        return model

    model = evidence_nets.kept(f"{name}_{layer}", options.models, options.seed, train)
    x, label, _ = task.make(np.random.default_rng(options.seed + 1), 2000)
    return model, float((model.predict(x, 500, verbose=0).argmax(1) == label).mean())


def overview(found: dict[str, dict], column: str) -> None:
    """One table of all nets: methods by rows, nets by columns."""
    names = list(next(iter(found.values()))["methods"])
    table = {name: {net: one["methods"][name].get(column, np.nan) for net, one in found.items()} for name in names}
    means = {name: float(np.mean(list(row.values()))) for name, row in table.items()}
    rows = {name: row | {"mean": means[name]} for name, row in table.items() if not np.isnan(means[name])}
    methods.show(f"By {column}", rows)


def draw(path: Path, maps: dict[str, np.ndarray], n: int = 0) -> None:
    """The first signal of the task "bump", coloured by LRP."""
    relevance, x = maps["LRP"][n], maps["x"][n]
    names = ["decides", *["decides nothing"] * (x.shape[1] - 1)]
    heatmap.signal(path, relevance, x, names=names, title=f"Up or down? {('Down', 'Up')[maps['label'][n]]}.")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tasks", nargs="+", choices=nets.TASKS, default=list(nets.TASKS))
    made.add_argument("--layers", nargs="+", choices=nets.LAYERS, default=["lstm", "gru"])
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--width", type=int, default=32)
    made.add_argument("--train", type=int, default=20_000, help="sequences to train on, twice as many for some")
    made.add_argument("--epochs", type=int, default=6)
    made.add_argument("--samples", type=int, default=300, help="sequences to explain")
    made.add_argument("--picture", type=Path, help="draw a signal of the task bump")
    made.add_argument("--models", type=Path, metavar="FOLDER", help="keep trained models there, and read them")
    made.add_argument("--json", type=Path, metavar="FILE")
    return made


def main() -> None:
    options = parser().parse_args()
    found = {}
    for name in options.tasks:
        for layer in options.layers:
            found[f"{name}, {layer}"], maps = measured(name, layer, options)
            if options.picture and name == "bump" and layer == options.layers[0]:
                draw(options.picture, maps)
    for column in COLUMNS:
        overview(found, column)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
