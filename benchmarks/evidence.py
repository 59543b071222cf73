"""Do explanations find what a transformer decided by? Trains small ones where that is known, and measures.

    python benchmarks/evidence.py --kind text --json text.json
    python benchmarks/evidence.py --kind digits --data mnist.npz
    python benchmarks/evidence.py --kind text decoder --picture docs/attention.png

text: four kinds of text, each with its own encoder; what decides a text is known, and counted is its share among the
tokens with the highest relevance. digits: a vision transformer; the share of relevance on the strokes, and the area
between least and most relevant patches first (SRG). decoder: a Llama-like decoder that continues a repeated sequence;
what relevance says of the next token, and whether it knows where in the net the answer is: patching. Minutes each on
two cores; digits need the extras "mnist" and "evaluate". Everything comes from --seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import evidence_methods as methods
import evidence_nets as nets
import keras
import numpy as np
from evidence_decoder import decoder
from evidence_digits import digits
from evidence_picture import Panel, draw


def text(options: argparse.Namespace) -> dict:
    """Of each task: precision by relevance and by |relevance|, and the share of |relevance| on the first token."""
    found = {}
    for name, task in nets.TASKS.items():
        if options.tasks and name not in options.tasks:
            continue
        began = time.perf_counter()
        model, accuracy = trained(name, options)
        x, label, evidence = task.make(np.random.default_rng(options.seed + 2), 2 * options.samples)
        right = np.flatnonzero(model.predict(x, 512, verbose=0).argmax(1) == label)[: options.samples]
        rows, maps, known = {}, {}, evidence[right]
        for method, explain in methods.of_tokens(model, "embedding", options.seed).items():
            maps[method] = relevance = explain(x[right], label[right])
            rows[method] = {"R": precision(relevance, known), "|R|": precision(np.abs(relevance), known)}
            if method not in methods.OF_NO_CLASS:
                relevance = explain(x[right], label[right], "softmax")
                rows[method]["R, contrast"] = precision(relevance, known)
                rows[method]["|R|, contrast"] = precision(np.abs(relevance), known)
            rows[method]["first token"] = float((np.abs(relevance[:, 0]) / np.abs(relevance).sum(1)).mean())
        found[name] = {"accuracy": accuracy, "samples": len(right), "methods": rows}
        seconds = time.perf_counter() - began
        if name == "negation":
            found["panels"] = [panel(x[right], label[right], known, maps)]
        methods.show(f"{name}: {accuracy:.1%} of test texts right, {len(right)} explained, {seconds:.0f} s", rows)
    return found


def panel(x: np.ndarray, label: np.ndarray, evidence: np.ndarray, maps: dict[str, np.ndarray]) -> Panel:
    """The first text that is turned round, without its first token."""
    n = int(np.flatnonzero(evidence.sum(1) == 2)[0])
    rows = {name: maps[name][n, 1:] for name in SHOWN if name in maps}
    title = f"Good or bad? {('Bad', 'Good')[label[n]]}."
    return Panel(title, [nets.WORDS[word] for word in x[n, 1:]], evidence[n, 1:], rows)


def precision(relevance: np.ndarray, evidence: np.ndarray) -> float:
    """Without the first token, from which the class is read."""
    return methods.precision(relevance[:, 1:], evidence[:, 1:])


def trained(name: str, options: argparse.Namespace) -> tuple[keras.Model, float]:
    """An encoder and its accuracy on 2,000 texts that it has not seen."""
    task = nets.TASKS[name]

    def train() -> keras.Model:
        model = nets.encoder(task.classes, options.layers, options.width)
        x, label, _ = task.make(np.random.default_rng(options.seed), task.times * options.train)
        nets.fit(model, x, label, options.epochs)
        return model

    model = nets.kept(name, options.models, options.seed, train)
    x, label, _ = task.make(np.random.default_rng(options.seed + 1), 2000)
    return model, float((model.predict(x, 512, verbose=0).argmax(1) == label).mean())


SHOWN = ("attn_lrp", "cp_lrp", "gradient x input", "integrated gradients", "attention rollout")
KINDS = {"text": text, "digits": digits, "decoder": decoder}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    made.add_argument("--tasks", nargs="+", choices=nets.TASKS, help="of text; default: all")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--layers", type=int, default=2)
    made.add_argument("--width", type=int, default=64)
    made.add_argument("--train", type=int, default=20_000, help="texts to train on, twice as many for some")
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--samples", type=int, default=500, help="samples to explain")
    made.add_argument("--data", default="digits", help="of digits: 'digits' (scikit-learn's), 'mnist' or FILE.npz")
    made.add_argument("--picture", type=Path, help="draw maps of a text and of the decoder")
    made.add_argument("--models", type=Path, metavar="FOLDER", help="keep trained models there, and read them")
    made.add_argument("--json", type=Path, metavar="FILE")
    return made


def main() -> None:
    options = parser().parse_args()
    found = {kind: KINDS[kind](options) for kind in options.kind}
    panels = [one for kind in found.values() for one in kind.pop("panels", [])]
    if options.picture and panels:
        draw(options.picture, panels)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
