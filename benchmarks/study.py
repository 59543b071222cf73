"""Which explanation is right? All presets, with and without a contrast, gradients and baselines, on three trained nets.

    python benchmarks/study.py digits --data mnist.npz --out study/digits
    python benchmarks/study.py cifar --data cifar10_part.npz --out study/cifar
    python benchmarks/study.py mobilenet --data photos --weights mobilenet075.weights.h5 --out study/mobilenet

digits: the CNN of mnist/train.py; cifar: a CNN with BatchNormalization; both are trained first and kept in OUT.
mobilenet: MobileNet (alpha 0.75) with ImageNet weights, on photographs with boxes.json. OUT gets the tables
and plots of `lrp_tf.evaluate.compare`; a run that was killed continues. Needs the extra "evaluate". What is explained
is the predicted class.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, evaluate, gradients
from lrp_tf.cli.comparing import named_list
from lrp_tf.files import images
from lrp_tf.training import digits as handwritten
from lrp_tf.training import nets

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("srg", "road", "faithfulness_correlation", "random_logit", "sparseness")
ON_OBJECTS = ("relevance_rank", "relevance_mass", "pointing_game")


def digits(options: argparse.Namespace) -> tuple[keras.Model, np.ndarray, None]:
    loaded = handwritten.load(str(options.data), None)
    model = kept(options.out / "model.keras", lambda: trained(loaded))
    return model, shuffled(loaded.x_test)[: options.samples], None


def trained(loaded: handwritten.Digits) -> keras.Model:
    model, epochs = nets.digits(), 2
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * -(-len(loaded.x_train) // 128))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(loaded.x_train, loaded.y_train, 128, epochs, verbose=2)
    return model


def cifar(options: argparse.Namespace) -> tuple[keras.Model, np.ndarray, None]:
    with np.load(options.data) as file:
        parts = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    scaled = {name: parts[name].astype(np.float32) / 255 for name in ("x_train", "x_test")}

    def train() -> keras.Model:
        model = cifar_net()
        model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        flipped = np.concatenate([scaled["x_train"], scaled["x_train"][:, :, ::-1]])
        slower = keras.callbacks.LearningRateScheduler(lambda epoch: 2e-3 * 0.6**epoch)
        model.fit(flipped, np.tile(parts["y_train"].ravel(), 2), 64, 6, verbose=2, callbacks=[slower])
        return model

    model = kept(options.out / "model.keras", train)
    right = (model.predict(scaled["x_test"], verbose=0).argmax(1) == parts["y_test"].ravel()).mean()
    print(f"accuracy on {len(scaled['x_test'])} test pictures: {right:.3f}")
    return model, scaled["x_test"][: options.samples], None


def cifar_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((32, 32, 3))
    for channels in (32, 64, 128):
        for _ in range(2):
            x = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(channels, 3, padding="same", use_bias=False)(x)))
        x = kl.Dropout(0.2)(kl.MaxPooling2D()(x))
    return keras.Model(inputs, kl.Dense(10, "softmax")(kl.GlobalAveragePooling2D()(x)), name="cifar")


def mobilenet(options: argparse.Namespace) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(options.weights)
    fit, files = images.Fit(224, 224, "squash"), sorted(options.data.glob("*.jpg"))
    boxes = {entry["file"]: entry for entry in json.loads((options.data / "boxes.json").read_text(encoding="utf-8"))}
    pixels = [images.read(str(file)) for file in files]
    x = np.stack([fit.apply(image) for image in pixels]).astype(np.float32) / 127.5 - 1
    masks = np.zeros(x.shape[:3], bool)  # nothing where there is no box: the metrics are then undefined
    for i, (file, image) in enumerate(zip(files, pixels, strict=True)):
        for x0, y0, x1, y1 in boxes.get(file.name, {"boxes_xyxy": []})["boxes_xyxy"]:
            across, down = 224 / image.shape[1], 224 / image.shape[0]
            masks[i, round(y0 * down) : round(y1 * down), round(x0 * across) : round(x1 * across)] = True
    return model, x, masks


def kept(path: Path, make: object) -> keras.Model:
    """The model that an earlier run trained, or a new one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = make()
        model.save(path)
    return keras.models.load_model(path)


def shuffled(x: np.ndarray) -> np.ndarray:
    return x[np.random.default_rng(0).permutation(len(x))]


def explainers(model: keras.Model, low: float) -> dict[str, object]:
    """Every method under its name; the inputs are between `low` and 1."""
    found: dict[str, object] = {}
    for name in composites.PRESETS:
        box = {"low": low, "high": 1.0} if composites.needs_bounds(name) else {}
        found[name] = explainer = lrp_tf.Explainer(model, name, **box)
        found[f"{name}, contrast"] = functools.partial(explainer, contrast="softmax")
    found["gradient"] = gradients.Gradient(model)
    found["gradient × input"] = gradients.InputTimesGradient(model)
    found["SmoothGrad"] = gradients.SmoothGrad(model)
    found["SmoothGrad²"] = gradients.SmoothGrad(model, reduce="mean_square")
    found["integrated gradients"] = gradients.IntegratedGradients(model)
    found["guided backpropagation"] = functools.partial(lrp_tf.Explainer(model, "guided_backprop"), start="one")
    found["Grad-CAM"] = gradients.GradCAM(model)
    found["Grad-CAM++"] = gradients.GradCAMPlusPlus(model)
    found["occlusion"] = gradients.Occlusion(model, window=max(1, model.input_shape[1] // 7))
    return found | {"|x|": "absolute", "Sobel": "sobel", "centre": "centre", "random": "random"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=["digits", "cifar", "mobilenet"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="these alone; default: all")
    parser.add_argument(
        "--metrics", type=named_list, nargs="+", default=[named_list(name) for name in METRICS],
        metavar="NAME[:OPTION=VALUE,...]",
    )  # fmt: skip
    parser.add_argument("--reference", metavar="METHOD", help="what all are set against in pairs; default: the best")
    options = parser.parse_args()
    model, x, masks = {"digits": digits, "cifar": cifar, "mobilenet": mobilenet}[options.net](options)
    metrics = {str(item): evaluate.get(item.name, **item.options) for items in options.metrics for item in items}
    metrics |= {name: evaluate.get(name) for name in ON_OBJECTS if masks is not None}
    methods = explainers(model, float(x.min()))
    chosen = {name: methods[name] for name in options.methods or methods}
    began = time.perf_counter()
    found = evaluate.compare(
        chosen, x, metrics=metrics, masks=masks, batch_size=50, resume=options.out / "kept",
        reference=options.reference,
    )  # fmt: skip
    found.save(options.out)
    print(found.markdown() if options.reference else found.overview())
    print(f"{len(x)} samples, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
