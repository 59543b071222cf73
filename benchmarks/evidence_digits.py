"""A vision transformer on digits: where relevance lies, and whether the score depends on it."""

from __future__ import annotations

import argparse
import functools

import evidence_methods as methods
import evidence_nets as nets
import keras
import numpy as np

import lrp_tf
from lrp_tf import evaluate, gradients
from lrp_tf.training import digits as handwritten

GAMMAS = (0.05, 0.25, 0.5, 1.0)
CONTRASTED = 0.5  # the γ that is measured with a contrast, too
PATCH = 4
TRAINING = 20_000


def digits(options: argparse.Namespace) -> dict:
    """Each method's SRG by patches, and the share of relevance on the strokes; the predicted class is explained."""
    loaded = handwritten.load(options.data)
    rng = np.random.default_rng(options.seed)
    some, chosen = (rng.permutation(len(x)) for x in (loaded.x_train, loaded.x_test))
    some, chosen = some[:TRAINING], chosen[: options.samples]
    mean, deviation = loaded.x_train.mean(), loaded.x_train.std()  # so that the background is not zero
    scaled = functools.partial(_scaled, mean=mean, deviation=deviation)

    def train() -> keras.Model:
        model = nets.vit(patch=PATCH)
        nets.fit(model, scaled(loaded.x_train[some]), loaded.y_train[some], max(6, 60_000 // len(some)), batch=64)
        return model

    model = nets.kept(f"vit_{loaded.name}", options.models, options.seed, train)
    right = model.predict(scaled(loaded.x_test), 500, verbose=0).argmax(1) == loaded.y_test
    found = evaluate.compare(
        explainers(model, options.seed),
        scaled(loaded.x_test[chosen]),
        metrics={
            "SRG": evaluate.get("srg", region=PATCH),
            "SRG, logit, black": evaluate.get("srg", region=PATCH, fill="black", of="scores"),
            "SRG, logit, black, by |R|": evaluate.get("srg", region=PATCH, fill="black", of="scores", pooling="abs"),
            "on strokes": evaluate.get("relevance_mass", part="positive"),
            "on strokes, |R|": evaluate.get("relevance_mass", part="absolute"),
        },
        masks=loaded.x_test[chosen, ..., 0] > 0.3,
        batch_size=100,
        seed=options.seed,
    )
    rows = {
        name: dict(zip(found.metrics, np.nanmean(found.values[i], -1), strict=True))
        for i, name in enumerate(found.methods)
    }
    print(f"\n{loaded.name}: {right.mean():.1%} of {len(right)} test images right, {len(chosen)} explained\n")
    print(found.overview(), flush=True)
    return {"data": loaded.name, "accuracy": float(right.mean()), "samples": len(chosen), "methods": rows}


def _scaled(x: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return ((x - mean) / deviation).astype(np.float32)


def explainers(model: keras.Model, seed: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for preset in ("attn_lrp", "cp_lrp"):
        made = {"": lrp_tf.Explainer(model, preset)}
        made |= {f", γ {gamma:g}": lrp_tf.Explainer(model, preset, gamma=gamma) for gamma in GAMMAS}
        found |= {preset + name: explainer for name, explainer in made.items()}
        for name in ("", f", γ {CONTRASTED:g}"):
            found[f"{preset}{name}, contrast"] = functools.partial(made[name], contrast="softmax")
    found["epsilon"] = lrp_tf.Explainer(model, "epsilon")
    found["gradient"] = gradients.Gradient(model)
    found["gradient × input"] = gradients.InputTimesGradient(model)
    found["integrated gradients"] = integrated = gradients.IntegratedGradients(model)
    found["integrated gradients, contrast"] = functools.partial(integrated, contrast="softmax")
    rolled = methods.rollout(model)

    def rollout(x: np.ndarray, target: np.ndarray) -> np.ndarray:
        side = x.shape[1] // PATCH
        return rolled(x, target).reshape(-1, side, side).repeat(PATCH, 1).repeat(PATCH, 2)

    return found | {"attention rollout": rollout, "Sobel": "sobel", "random": "random"}
