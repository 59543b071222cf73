"""Explains a trained digit classifier and saves heatmaps: python mnist/lrp.py --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before the import: TensorFlow writes notes on machines without a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from train import OUT as LOGS
from train import TRAINED_ON

try:
    import lrp_tf
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import lrp_tf
from lrp_tf import composites, heatmap
from lrp_tf.heatmap.look import FORMATS
from lrp_tf.training.digits import CLASSES, DataError, load
from lrp_tf.training.options import Parser, writable

OUT = Path(__file__).resolve().parent / "results"
LOW, HIGH = 0.0, 1.0  # The range of the images, for z^B rules.


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        out = writable(arguments.out, [])
        model = load_model(arguments.model)
        digits = load(arguments.dataset, arguments.data_dir)
        composite = make_composite(arguments.composite)
        explainer = lrp_tf.Explainer(model, composite)
        images, labels = examples(digits.x_test, digits.y_test, arguments.digits)
    except (DataError, ImportError, OSError, ValueError, TypeError) as error:
        parser.error(str(error))
    print(f"{arguments.model.name} on {digits.name}, composite {composite.name}")
    if (trained := trained_on(model)) not in (None, kind(digits.name)):
        print(f"Remark: the model was trained on {trained}, these images are {digits.name}: it may see less in them.")

    targets = {"top": None, "label": labels}
    target = targets[arguments.target] if arguments.target in targets else int(arguments.target)
    explanation = explainer.explain(images, target)
    tell(labels, explanation)
    save_digits(out, arguments.format, images, labels, explanation)
    save_all_classes(out, arguments.format, explainer, images[0], labels[0])
    print(f"{len(images) + 2} pictures in {out}")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Explains a digit classifier: input beside heatmap for a test image of each digit.")
    parser.add_argument("--model", type=Path, default=LOGS / "model.keras", help="default: what mnist/train.py saved")
    parser.add_argument("--dataset", default="auto", metavar="auto|mnist|digits|FILE.npz", help="as in train.py")
    parser.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps MNIST")
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(CLASSES)), choices=range(CLASSES),
                        metavar="D", help="which digits to explain; default: all ten")  # fmt: skip
    parser.add_argument("--composite", default="epsilon_plus", metavar="NAME|TEXT|FILE.toml",
                        help=f"one of {', '.join(composites.PRESETS)}; or entries of your own, as in "
                        '"first: flat; all: epsilon", or a file with them (docs/composites.md); '
                        "default: epsilon_plus")  # fmt: skip
    parser.add_argument("--target", default="top", choices=["top", "label", *map(str, range(CLASSES))],
                        help="the class to explain: the predicted one, the true one, or a digit")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default: mnist/results")
    parser.add_argument("--format", choices=FORMATS, default="png",
                        help="png and webp lose nothing, jpg has quality 95; default: png")  # fmt: skip
    return parser


def load_model(path: Path) -> keras.Model:
    """The saved classifier.

    Raises:
        OSError: no such file. ValueError: not a Keras model of 28x28 digits.
    """
    if not path.is_file():
        raise OSError(f"--model: expected a saved Keras model, received {path} (no such file). Remedy: run train.py")
    try:
        model = keras.models.load_model(path, compile=False)
        shapes = [tuple(tensor.shape[1:]) for tensor in (*model.inputs, *model.outputs)]
    except Exception as error:  # a damaged file raises almost any type
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"--model: expected a Keras model, received {path}, which cannot be read: {reason}") from error
    if shapes != [(28, 28, 1), (CLASSES,)]:
        raise ValueError(
            f"--model: expected a model from images (28, 28, 1) to ({CLASSES},) classes, received {path} with {shapes}"
        )
    return model


def trained_on(model: keras.Model) -> str | None:
    """The data that train.py trained the model on; None if the model was not made by train.py."""
    return kind(model.name.removeprefix(TRAINED_ON)) if model.name.startswith(TRAINED_ON) else None


def kind(dataset: str) -> str:
    """The name of a dataset without suffix, since mnist.npz holds the images of mnist."""
    return dataset.removesuffix(".npz")


def make_composite(name: str) -> composites.Composite:
    """The composite of a preset's name, a text or a .toml file; presets with a z^B rule get the range of the images."""
    if name.endswith(".toml"):
        return composites.load(name)
    if ":" in name:
        return composites.parse(name, name=name)
    bounds = {"low": LOW, "high": HIGH} if name in composites.PRESETS and composites.needs_bounds(name) else {}
    return composites.get(name, **bounds)


def examples(images: np.ndarray, labels: np.ndarray, digits: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The first test image of each of `digits`, whether it is classified correctly or not.

    Raises:
        ValueError: a digit that the test images lack.
    """
    if missing := sorted(set(digits) - set(labels.tolist())):
        raise ValueError(f"--digits: the test images hold no {missing}")
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in digits]
    return images[first], labels[first]


def tell(labels: np.ndarray, explanation: lrp_tf.Explanation) -> None:
    """Print a line for each digit: its logit, and what became of it."""
    print("digit  predicted  explained       logit          ΣR        bias  stabilizer       other        rest")
    predicted = np.argmax(explanation.output, axis=-1)
    parts = explanation.conservation
    for i, label in enumerate(labels):
        numbers = [part.numpy()[i] for part in (parts.start, parts.relevance, parts.bias)]
        numbers += [parts.stabilizer.numpy()[i], parts.other.numpy()[i]]
        rest = numbers[0] - sum(numbers[1:])
        values = "".join(f"{value:12.5f}" for value in numbers)
        print(f"{label:5d}{predicted[i]:11d}{int(explanation.target[i]):11d}{values}{rest:12.1e}")
    print("logit = ΣR + bias + stabilizer + other + rest")


def save_digits(
    out: Path, suffix: str, images: np.ndarray, labels: np.ndarray, explanation: lrp_tf.Explanation
) -> None:
    """Save input and heatmap side by side, in a file for each digit and in one sheet of all; `suffix` is the format."""
    relevance, target = explanation.relevance.numpy(), explanation.target.numpy()
    rows, titles = [], []
    for i, label in enumerate(labels):
        predicted = int(np.argmax(explanation.output[i]))
        title = (
            f"digit {label}, predicted {predicted} (p = {explanation.output[i, predicted]:.3f})\n"
            f"class {target[i]}: logit {explanation.logits[i, target[i]]:.2f}, ΣR {relevance[i].sum():.2f}"
        )
        heatmap.save(out / f"digit_{label}.{suffix}", relevance[i], image=images[i], title=title)
        rows.append([heatmap.image_to_rgb(images[i]), heatmap.to_rgb(relevance[i])])
        titles.append(title)
    # Two digits per row: ten rows of two pictures would be a strip.
    pairs = [[tile for row in rows[i : i + 2] for tile in row] for i in range(0, len(rows), 2)]
    heatmap.grid(out / f"digits.{suffix}", pairs, titles=[titles[i : i + 2] for i in range(0, len(titles), 2)])


def save_all_classes(out: Path, suffix: str, explainer: lrp_tf.Explainer, image: np.ndarray, label: int) -> None:
    """Save one sheet: what speaks for and against each of the ten classes in this image, on one common scale."""
    explanation = explainer.explain(image[None], target=[list(range(CLASSES))])
    relevance = explanation.relevance.numpy()[0]
    scale = np.abs(relevance).max()
    tiles = [heatmap.to_rgb(r, scale=scale) for r in relevance]
    labels = [
        f"class {k}: logit {explanation.logits[0, k]:.2f}, p = {explanation.output[0, k]:.3f}" for k in range(CLASSES)
    ]
    labels = [f"the digit {label}", *labels, ""]
    tiles = [heatmap.image_to_rgb(image), *tiles, None]
    rows = [tiles[i : i + 4] for i in range(0, len(tiles), 4)]
    heatmap.grid(out / f"why_not.{suffix}", rows, labels=labels, suptitle="Why this class, and why not another?")


if __name__ == "__main__":
    main()
