"""Do the reference samples of a prediction's top channel belong together? On CIFAR-10: animals or vehicles.

    python benchmarks/reference_crops.py model.keras cifar10_part.npz --out crops

The reference is built from the training pictures, which the model takes as values from 0 to 1. For each test picture
the channel with the largest share of |R| is looked up at each layer. How many of that channel's reference crops fall
into one superclass, the larger one among them, is set against as many crops drawn at random. Each channel that is on
top of any test picture counts once; intervals are bootstrapped over these channels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np

import lrp_tf
from lrp_tf.concepts import Reference, build_reference
from lrp_tf.evaluate import statistics

ANIMALS = (2, 3, 4, 5, 6, 7)  # bird, cat, deer, dog, frog, horse
DRAWS = 20_000


def main() -> None:
    """Build, look up, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="cifar10_part.npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reference, which is kept")
    parser.add_argument("--layers", nargs="+", default=["block2_relu2", "block3_relu2"])
    parser.add_argument("--composite", default="epsilon_plus_flat")
    parser.add_argument("--pictures", type=int, default=1000, help="test pictures")
    parser.add_argument("-n", type=int, default=8, help="reference samples of a channel")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = keras.models.load_model(options.model)
    with np.load(options.data) as file:
        x, y = file["x_train"].astype(np.float32) / 255, file["y_train"].ravel()
        test, labels = file["x_test"][: options.pictures].astype(np.float32) / 255, file["y_test"].ravel()
    right = model.predict(test, 200, verbose=0).argmax(axis=1) == labels[: len(test)]
    print(f"{len(test)} test pictures, {right.mean():.1%} right; {len(x)} training pictures", flush=True)
    explainer = lrp_tf.Explainer(model, options.composite)
    path = options.out / "reference.h5"
    reference = build_reference(explainer, (x, y), options.layers, path=path, n=options.n, batch=100)
    animals = np.isin(y, ANIMALS)
    random = larger(np.random.default_rng(0).choice(animals, (DRAWS, options.n)))
    together = (random == 1).mean()
    print(f"random crops: {random.mean():.3f} of {options.n} in the larger superclass, all in one {together:.3f}")
    for layer in options.layers:
        tops, own = top_channels(explainer, test, layer), np.isin(labels[: len(test)], ANIMALS)
        channels, counts = np.unique(tops, return_counts=True)
        print(
            f"\n{layer}: {len(channels)} of {reference.layers[layer]} channels are on top of some picture", flush=True
        )
        for by in ("relevance", "activation"):
            report(reference, layer, channels, counts, by, animals, random.mean())
            of_the_picture(reference, layer, tops, own, by, animals)


def top_channels(explainer: lrp_tf.Explainer, x: np.ndarray, layer: str) -> np.ndarray:
    """The channel with the largest |relevance| in each picture."""
    found = []
    for first in range(0, len(x), 100):
        relevance = np.asarray(explainer.channel_relevance(x[first : first + 100], layers=[layer])[layer])
        found.extend(np.abs(relevance.sum(axis=tuple(range(1, relevance.ndim - 1)))).argmax(axis=1).tolist())
    return np.array(found)


def larger(animals: np.ndarray) -> np.ndarray:
    """The share of the larger superclass, of bools [N, n] or [n]."""
    share = np.mean(animals, axis=-1)
    return np.maximum(share, 1 - share)


def report(
    reference: Reference,
    layer: str,
    channels: np.ndarray,
    counts: np.ndarray,
    by: str,
    animals: np.ndarray,
    chance: float,
) -> None:
    """Print how many crops of each channel fall into one superclass."""
    shares, weights = [], []
    for channel, count in zip(channels.tolist(), counts.tolist(), strict=True):
        found = reference.samples(layer, channel, by=by)
        ids = found.ids[found.scores > 0]
        if len(ids) == reference.settings["n"]:
            shares.append(float(larger(animals[ids])))
            weights.append(count)
    values = np.array(shares)
    low, high = statistics.interval(values, [0])
    mean, by_pictures = values.mean(), np.average(values, weights=weights)
    print(f"  highest {by}, {len(values)} channels: {mean:.3f} ({low:.3f} to {high:.3f}) in the larger superclass")
    print(f"    minus random crops {mean - chance:+.3f} ({low - chance:+.3f} to {high - chance:+.3f})")
    print(f"    all in one {np.mean(values == 1):.3f}; each picture counts once: {by_pictures:.3f}", flush=True)


def of_the_picture(
    reference: Reference, layer: str, tops: np.ndarray, own: np.ndarray, by: str, animals: np.ndarray
) -> None:
    """Print how many crops are of the picture's own superclass: those of its top channel, and of any other one.

    Args:
        tops: of each picture its top channel. own: whether it shows an animal.
    """
    shares = np.full(reference.layers[layer], np.nan)  # of animals among the crops of each channel
    for channel in range(len(shares)):
        found = reference.samples(layer, channel, by=by)
        ids = found.ids[found.scores > 0]
        shares[channel] = animals[ids].mean() if len(ids) else np.nan
    top, other = (np.where(own, share, 1 - share) for share in (shares[tops], np.nanmean(shares)))
    low, high = statistics.interval(top - other, [1])
    print(
        f"    of the picture's own superclass {np.nanmean(top):.3f}, of an average channel's crops {other.mean():.3f}"
    )
    print(
        f"    difference {np.nanmean(top - other):+.3f} ({low:+.3f} to {high:+.3f}), over {len(tops)} pictures",
        flush=True,
    )


if __name__ == "__main__":
    main()
