"""L-BFGS beside Carlini and Wagner's attack of other libraries: success, mean L2, calls and attacks per second.

    python mnist/train.py --dataset digits
    python benchmarks/attacks.py mnist/logs/model.keras
    python benchmarks/attacks.py mnist/logs/model.keras --peers foolbox art --each 2

The pairs are the first rightly classified test digits of each class, for all nine other targets. Foolbox and ART are no
dependencies of lrp_tf: pip install foolbox adversarial-robustness-toolbox. Both get the same weights without the
softmax, since they attack what the model puts out. With --alone, L-BFGS also runs image by image, for the time
that the batches of gradients save.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.evaluate import adversarial
from lrp_tf.training import digits as handwritten

PACKAGES = ("lrp_tf", "tensorflow", "keras", "numpy", "scipy", "foolbox", "adversarial-robustness-toolbox")
OURS = {"lbfgs": {}, "cw": {}, "cw, 1000 steps": {"steps": 1000, "rate": 0.01}, "pgd": {}, "fgsm": {}}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="of mnist/train.py --dataset digits")
    parser.add_argument("--each", type=int, default=1, metavar="N", help="digits of each class; default: 1")
    parser.add_argument("--attacks", nargs="*", default=["lbfgs", "cw", "pgd", "fgsm"], choices=list(OURS))
    parser.add_argument("--peers", nargs="*", default=[], choices=["foolbox", "art"])
    parser.add_argument("--steps", type=int, default=1000, help="of the peers, for each weight; default: 1000")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of the peers; default: 0.01")
    parser.add_argument("--batch", type=int, default=32, help="gradients that run at once; default: 32")
    parser.add_argument("--alone", action="store_true", help="L-BFGS image by image, too")
    options = parser.parse_args(argv)
    print(", ".join(versions()), flush=True)
    model = keras.models.load_model(options.model)
    x, target = pairs(adversarial.Network(model), options.each)
    print(f"{len(x)} pairs", flush=True)
    for name in options.attacks:
        ours(name, adversarial.Network(model, batch_size=options.batch), x, target)
    if options.alone:
        ours("lbfgs", adversarial.Network(model, batch_size=1), x, target, alone=True)
    for name in options.peers:
        peer(name, model, x, target, options)


def versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def pairs(network: adversarial.Network, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Test digits that the network classifies rightly, each for all nine other classes."""
    digits = handwritten.load("digits")
    right = network.logits(digits.x_test).argmax(axis=1) == digits.y_test
    chosen = [np.flatnonzero(right & (digits.y_test == label))[:each] for label in range(network.classes)]
    numbers = np.repeat(np.concatenate(chosen), network.classes - 1)
    labels = digits.y_test[numbers[:: network.classes - 1]]
    target = np.concatenate([np.delete(np.arange(network.classes), label) for label in labels])
    return digits.x_test[numbers], target


def ours(name: str, network: adversarial.Network, x: np.ndarray, target: np.ndarray, alone: bool = False) -> None:
    attack = adversarial.get(name.split(",")[0], **OURS[name])
    network.values(x[:1], target[:1])  # compiles
    network.logits(x[:1])
    begin = time.perf_counter()
    parts = [slice(i, i + 1) for i in range(len(x))] if alone else [slice(None)]
    attempts = [attempt for part in parts for attempt in attack(network, x[part], target[part])]
    seconds = time.perf_counter() - begin
    gradients, predictions = (np.mean([getattr(a, which) for a in attempts]) for which in ("gradients", "predictions"))
    shown = f"{gradients:.0f} gradients and {predictions:.0f} predictions an attack"
    title = f"{name}{', image by image' if alone else ''}"
    report(title, np.stack([a.x for a in attempts]), x, np.array([a.success for a in attempts]), seconds, shown)


def report(name: str, found: np.ndarray, x: np.ndarray, success: np.ndarray, seconds: float, calls: str = "") -> None:
    lengths = np.array([adversarial.distances(a, b)["l2"] for a, b in zip(x, found, strict=True)])
    mean = lengths[success].mean() if success.any() else np.nan
    print(
        f"{name:>24}: {success.mean():.1%} reach their target, mean L2 {mean:.4f}, {len(x) / seconds:.2f} attacks/s"
        + (f", {calls}" if calls else ""),
        flush=True,
    )


def peer(name: str, model: keras.Model, x: np.ndarray, target: np.ndarray, options: argparse.Namespace) -> None:
    """The library's attack, judged by our own network."""
    logits = without_softmax(model)
    run: Callable[..., np.ndarray] = {"foolbox": foolbox, "art": art}[name]
    begin = time.perf_counter()
    found = np.asarray(run(logits, x, target, options.steps, options.rate), np.float32)
    seconds = time.perf_counter() - begin
    inside = found.min() >= 0 and found.max() <= 1
    success = adversarial.Network(model).logits(found).argmax(axis=1) == target
    report(f"{name}, {options.steps} steps", found, x, success, seconds, "" if inside else "outside of the box")


def without_softmax(model: keras.Model) -> keras.Model:
    """The same weights, and logits at the end."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.layers[-1].activation = keras.activations.linear
    return copy


def foolbox(model: keras.Model, x: np.ndarray, target: np.ndarray, steps: int, rate: float) -> np.ndarray:
    library = importlib.import_module("foolbox")
    attack = library.attacks.L2CarliniWagnerAttack(steps=steps, stepsize=rate, initial_const=1e-2)
    wanted = library.criteria.TargetedMisclassification(tf.constant(target))
    return attack.run(library.TensorFlowModel(model, bounds=(0, 1)), tf.constant(x), wanted).numpy()


def art(model: keras.Model, x: np.ndarray, target: np.ndarray, steps: int, rate: float) -> np.ndarray:
    classifiers = importlib.import_module("art.estimators.classification")
    attacks = importlib.import_module("art.attacks.evasion")
    classes = model.output_shape[-1]
    classifier = classifiers.TensorFlowV2Classifier(
        model=model,
        nb_classes=classes,
        input_shape=x.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0, 1),
    )
    attack = attacks.CarliniL2Method(
        classifier, targeted=True, max_iter=steps, learning_rate=rate, batch_size=len(x), verbose=False
    )
    return attack.generate(x, np.eye(classes, dtype=np.float32)[target])


if __name__ == "__main__":
    main()
