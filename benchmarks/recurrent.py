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
import warnings
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

# (x, target [B]) -> relevance [B, LENGTH] of tokens, [B, LENGTH, channels] of signals.
Explain = Callable[[np.ndarray, np.ndarray], np.ndarray]
GATES = ("held", "share", "proportional", "absolute")
EPSILONS, GAMMAS = (0.001, 0.01), (0.25, 1.0)
BATCH = 100


def lrp(model: keras.Model) -> dict[str, lrp_tf.Explainer]:
    """Explainers: every rule of products, larger epsilons, and Gamma on the linear steps."""
    found = {"LRP": lrp_tf.Explainer(model, "epsilon")}
    found |= {f"LRP, ε {e:g}": lrp_tf.Explainer(model, "epsilon", epsilon=e) for e in EPSILONS}
    for gates in GATES[1:]:
        entries = [(composites.products(), flows.Product(gates=gates)), (None, rules.Epsilon())]
        found[f"LRP, gates {gates}"] = lrp_tf.Explainer(model, composites.Composite(entries))
    for gamma in GAMMAS:
        entries = [(composites.last(), rules.Epsilon()), (None, rules.Gamma(gamma))]
        found[f"LRP, γ {gamma:g}"] = lrp_tf.Explainer(model, composites.Composite(entries))
    return found


def others(model: keras.Model, task: nets.Task, seed: int) -> dict[str, Explain]:
    """What LRP is compared with, under its name."""
    found: dict[str, Explain] = {}
    behind, vectors, summed = model, lambda x: x, lambda r: r
    if task.tokens:
        embedding = model.get_layer("embedding")
        behind = keras.Model(embedding.output, model.output, name="behind_the_embedding")
        vectors, summed = lambda x: tf.convert_to_tensor(embedding(x)), lambda r: r.sum(-1)
    plain, times = _parts(gradients.Gradient(behind)), _parts(gradients.InputTimesGradient(behind))
    integrated = _parts(gradients.IntegratedGradients(behind, baseline=0.0, n=16, chunk=1600))
    fill = nets.NEUTRAL if task.tokens else 0.0
    length = (lambda r: np.linalg.norm(r, axis=-1)) if task.tokens else np.abs
    found["gradient"] = lambda x, t: length(plain(vectors(x), t))
    found["gradient x input"] = lambda x, t: summed(times(vectors(x), t))
    found["integrated gradients"] = lambda x, t: summed(integrated(vectors(x), t))
    found["occlusion"] = _parts(gradients.Occlusion(model, window=1, fill=fill, chunk=6000))
    found["|x|"] = lambda x, t: length(np.asarray(vectors(x)))
    found["random"] = lambda x, t: chance(x, seed)
    return found


def _parts(method: Callable) -> Explain:
    """What a method gives for parts of a batch."""

    def explain(x: np.ndarray | tf.Tensor, target: np.ndarray) -> np.ndarray:
        parts = [slice(first, first + BATCH) for first in range(0, len(x), BATCH)]
        return np.concatenate([np.asarray(method(x[p], target[p]), np.float64) for p in parts])

    return explain


def chance(x: np.ndarray, seed: int) -> np.ndarray:
    """Random numbers, which know that the steps of the gap hold no evidence."""
    drawn = np.random.default_rng(seed).random(x.shape)
    drawn[:, nets.LENGTH - nets.GAP :] = 0
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
    rows, maps, explainers = {}, {}, lrp(model)
    every = {method: _parts(explainer) for method, explainer in explainers.items()} | others(model, task, options.seed)
    for method, explain in every.items():
        rows[method], relevance = {}, finite(explain, x, label)
        if relevance is None:
            continue
        maps[method] = relevance
        size = np.abs(relevance if relevance.ndim == evidence.ndim else relevance.sum(-1))
        rows[method] = {"R": precision(relevance, evidence), "|R|": precision(size, evidence)}
    seconds = time.perf_counter() - began
    methods.show(f"{name}, {layer}: {accuracy:.2%} of test sequences right, {len(x)} explained, {seconds:.0f} s", rows)
    shares = {method: books(explainers[method], x[:BATCH], label[:BATCH]) for method in explainers if method in maps}
    methods.show("What became of the score: medians of its parts", shares)
    figures = {"accuracy": accuracy, "samples": len(x), "seconds": seconds, "methods": rows, "shares": shares}
    return figures, maps | {"x": x, "label": label, "evidence": evidence}


def finite(explain: Explain, x: np.ndarray, label: np.ndarray) -> np.ndarray | None:
    """Relevance; None where it grew out of all numbers, which an Explainer refuses to return."""
    try:
        return explain(x, label)
    except ValueError as error:
        if "NaN or Inf" not in str(error):
            raise
        return None


def books(explainer: lrp_tf.Explainer, x: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Medians over samples of what became of the score, as parts of it."""
    explanation = explainer.explain(x, label)
    conservation = explanation.conservation
    size = np.abs(np.asarray(explanation.relevance, np.float64)).reshape(len(x), -1).sum(1)
    found = {
        "ΣR": conservation.relevance,
        "Σ|R|": size,
        "bias": conservation.bias,
        "stabilizer": conservation.stabilizer,
    }
    return {name: float(np.median(np.asarray(value) / np.asarray(conservation.start))) for name, value in found.items()}


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
    """One table of all nets: methods by rows, nets by columns. A cell is empty where relevance became NaN or Inf."""
    names = dict.fromkeys(name for rows in found.values() for name in rows)
    table = {name: {net: rows[name][column] for net, rows in found.items() if rows.get(name)} for name in names}
    methods.show(f"All nets by {column}", {name: row for name, row in table.items() if row})


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
    warnings.simplefilter("ignore", lrp_tf.RelevanceWarning)  # the tables tell where relevance grows
    found = {}
    for name in options.tasks:
        for layer in options.layers:
            found[f"{name}, {layer}"], maps = measured(name, layer, options)
            if options.picture and name == "bump" and layer == options.layers[0]:
                draw(options.picture, maps)
    for column in ("R", "|R|"):
        overview({net: one["methods"] for net, one in found.items()}, column)
    for column in ("ΣR", "Σ|R|"):
        overview({net: one["shares"] for net, one in found.items()}, column)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
