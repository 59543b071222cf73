"""A Llama-like decoder that continues a repeated sequence: what explains its next token, and where the answer is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import evidence_methods as methods
import evidence_nets as nets
import keras
import numpy as np
from evidence_picture import Panel

import lrp_tf
from lrp_tf import composites, flows

LENGTH, WORDS = 40, 40
PERIODS = (20, 30)  # of the texts that are explained: the next word stood there once


def decoder(options: argparse.Namespace) -> dict:
    """What relevance of the next token says, without and with contrasts, and patching by relevance."""
    model = nets.next_token(nets.kept("decoder", options.models, options.seed, lambda: trained(options)))
    rng = np.random.default_rng(options.seed + 2)
    tokens, period = nets.repeated(rng, 2 * options.samples, LENGTH, WORDS, *PERIODS)
    right = model.predict(tokens[:, :-1], 500, verbose=0).argmax(1) == tokens[:, -1]
    rows = np.flatnonzero(right)[: options.samples]
    tokens, period = tokens[rows], period[rows]
    title = f"decoder: {right.mean():.1%} of next tokens right, {len(rows)} explained"
    found = {"accuracy": float(right.mean()), "samples": len(rows)}
    maps = relevances(model, tokens, options.seed)
    found["methods"] = {name: measured(*maps[name], period) for name in maps}
    found["panels"] = [panel(tokens, period, {name: relevance for name, (relevance, _) in maps.items()})]
    methods.show(title, found["methods"])
    found["patching"] = patching(model, tokens[:100], period[:100], options.seed)
    methods.show("patching: effect of a cell, of 5, and correlation with the effects of all cells", found["patching"])
    return found


def trained(options: argparse.Namespace) -> keras.Model:
    """Learns to continue sequences of 8 to 32 different words that repeat; the first time nobody can know the next."""
    model = nets.decoder(LENGTH, WORDS, width=options.width)
    tokens, _ = nets.repeated(np.random.default_rng(options.seed), 2 * options.train, LENGTH, WORDS, 8, 32)
    nets.fit(model, tokens[:, :-1], tokens[:, 1:], options.epochs, rate=2e-3, batch=64)
    return model


def places(period: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the next word stood, [B], and what finds it, bool [B, LENGTH]: the last word and its copy, too."""
    rows, source = np.arange(len(period)), LENGTH - period
    evidence = np.zeros((len(period), LENGTH), bool)
    evidence[rows, source] = evidence[rows, source - 1] = evidence[:, -1] = True
    return source, evidence


def relevances(model: keras.Model, tokens: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """method, and method with contrast -> relevance [B, LENGTH] for the next word, and for another one of the text.

    With the contrast "a rival" each of the two is set against the other.
    """
    x, target, rival = tokens[:, :-1], tokens[:, -1], tokens[:, LENGTH - 3]
    contrasts = {"": (None, None), ", softmax": ("softmax", "softmax"), ", a rival": (rival, target)}
    found = {}
    for method, explain in methods.of_tokens(model, "stream0", seed).items():
        for name, (one, other) in contrasts.items():
            if not name or method not in (*methods.OF_NO_CLASS, "occlusion"):
                found[method + name] = explain(x, target, one), explain(x, rival, other)
    return found


def measured(relevance: np.ndarray, of_rival: np.ndarray, period: np.ndarray) -> dict[str, float]:
    rows, (source, evidence) = np.arange(len(period)), places(period)
    share = np.abs(relevance) / np.abs(relevance).sum(1, keepdims=True)
    return {
        "precision": methods.precision(relevance, evidence),
        "source first": float((relevance.argmax(1) == source).mean()),
        "on source": float(share[rows, source].mean()),
        "on first token": float(share[:, 0].mean()),
        "on last token": float(share[:, -1].mean()),
        "as of the rival": float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(relevance, of_rival, strict=True)])),
    }


def panel(tokens: np.ndarray, period: np.ndarray, maps: dict[str, np.ndarray]) -> Panel:
    names = [f"{preset}{contrast}" for preset in ("attn_lrp", "cp_lrp") for contrast in ("", ", softmax")]
    rows = {name: maps[name][0] for name in [*names, "gradient x input", "attention rollout"] if name in maps}
    words = ["BOS", *map(str, tokens[0, 1:-1])]
    return Panel(f"Which word follows? {tokens[0, -1]}.", words, places(period)[1][0], rows)


# --- patching ----------------------------------------------------------------------------------


def patching(model: keras.Model, tokens: np.ndarray, period: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """How far cells (stream, position) that a score puts first move the answer towards that of a counterfactual.

    The counterfactual has another word where the answer stood. Patching a cell replaces its activation by that of the
    counterfactual; the effect is the fall of z_answer - z_other, as a share of the fall when the whole input changes.
    """
    x, answer, source = tokens[:, :-1], tokens[:, -1], places(period)[0]
    rng, rows = np.random.default_rng(seed), np.arange(len(x))
    other = np.array([rng.choice(np.setdiff1d(np.arange(1, WORDS), row)) for row in x], np.int32)
    counter = x.copy()
    counter[rows, source] = other
    effect = np.stack([patched(*cut, x, counter, answer, other) for cut in cuts(model)], 1)
    return {name: judged(score, effect) for name, score in scores(model, x, counter, answer, other, rng).items()} | {
        "the effect itself": judged(effect, effect)
    }


def cuts(model: keras.Model) -> Iterator[tuple[keras.Model, keras.Model]]:
    """The model in two parts, at each of its streams."""
    for layer in streams(model):
        yield keras.Model(model.inputs, layer.output), keras.Model(layer.output, model.output)


def streams(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.name.startswith("stream")]


def patched(
    ahead: keras.Model, behind: keras.Model, x: np.ndarray, counter: np.ndarray, answer: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """The effect of each position of one stream, [B, LENGTH]."""
    here, there = (ahead.predict(tokens, 500, verbose=0) for tokens in (x, counter))
    mixed = np.repeat(here[:, None], LENGTH, 1)  # [B, position that is patched, position, channel]
    mixed[:, np.arange(LENGTH), np.arange(LENGTH)] = there

    def difference(h: np.ndarray) -> np.ndarray:
        z = behind.predict(h, 500, verbose=0)
        times = len(z) // len(answer)
        rows = np.arange(len(z))
        return z[rows, answer.repeat(times)] - z[rows, other.repeat(times)]

    before, after = difference(here), difference(there)
    found = difference(mixed.reshape(-1, *here.shape[1:])).reshape(len(x), LENGTH)
    return (before[:, None] - found) / (before - after)[:, None]


def scores(
    model: keras.Model, x: np.ndarray, counter: np.ndarray, answer: np.ndarray, other: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What each method says of the cells before anything is patched, [B, streams, LENGTH]."""
    names = [layer.name for layer in streams(model)]
    states = keras.Model(model.inputs, [layer.output for layer in streams(model)])
    here, there = (np.stack(states.predict(tokens, 500, verbose=0), 1) for tokens in (x, counter))

    def at(composite: str | composites.Composite, start: str = "output") -> np.ndarray:
        explainer = lrp_tf.Explainer(model, composite)
        with methods.eagerly():
            found = explainer.explain(x, answer, contrast=other, start=start, layers=names)
        return np.stack([np.asarray(found.layers[name]) for name in names], 1)

    share = np.divide(here - there, here, out=np.zeros_like(here), where=here != 0)
    found = {}
    for preset in ("attn_lrp", "cp_lrp"):
        relevance = at(preset)
        found[f"{preset}: R"] = relevance.sum(-1)
        found[f"{preset}: R (h - h') / h"] = (relevance * share).sum(-1)
    embedding = (composites.of_type(keras.layers.Embedding), flows.Lookup())  # else nothing asks for gradients
    gradient = composites.Composite([embedding, *composites.get("gradient").entries])
    found["gradient (h - h')"] = (at(gradient, "one") * (here - there)).sum(-1)
    found["|h - h'|"] = np.linalg.norm(here - there, axis=-1)
    found["random"] = rng.random(here.shape[:3])
    return found


def judged(score: np.ndarray, effect: np.ndarray) -> dict[str, float]:
    """The mean effect of the cell, and of the 5 cells, with the highest scores; correlation of scores and effects."""
    score, effect = (a.reshape(len(a), -1) for a in (score, effect))
    ordered = np.take_along_axis(effect, np.argsort(-score, axis=1, kind="stable"), 1)
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(score, effect, strict=True)]
    return {
        "first": float(ordered[:, 0].mean()),
        "first 5": float(ordered[:, :5].mean()),
        "correlation": float(np.mean(alike)),
    }
