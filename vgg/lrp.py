"""Explains what VGG16 or VGG19 sees in photographs and saves heatmaps: python vgg/lrp.py --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf import cli
from lrp_tf.cli import options

if TYPE_CHECKING:
    import keras

    from lrp_tf.files import loading

OUT = Path(os.path.relpath(Path(__file__).resolve().parent / "results"))
IMAGENET = 1000  # classes
DEFAULT = "vgg16"


def main(argv: list[str] | None = None) -> int:
    """The script; returns the exit code of `lrp-tf`."""
    return cli.guarded(make_parser, explain, argv)


def make_parser() -> argparse.ArgumentParser:
    parser = options.Intermixed(description="Heatmaps of what VGG sees: photograph beside relevance.")
    options.add_images(parser)
    parser.add_argument("--model", choices=["vgg16", "vgg19"], help="default: vgg16")
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|FILE",
                        help="FILE: .keras, .h5 or .weights.h5, or what vgg/train.py made, which needs no --model; "
                        "default: imagenet, which Keras downloads")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE",
                        help="class names: JSON, or one per line; default: ImageNet's")  # fmt: skip
    parser.add_argument("--unsafe", action="store_true", help="run Python code that --weights FILE carries")
    options.add_rule_options(parser, several=True)
    options.add_picture_options(parser, OUT)
    return parser


def explain(chosen: argparse.Namespace) -> int:
    from lrp_tf.cli.explain import explain_images  # not before: --help needs no TensorFlow
    from lrp_tf.files import loading

    model, preprocessing = network(chosen)
    classes = loading.Classes()
    if chosen.classes:
        classes = loading.load_classes(chosen.classes)
    elif model.output_shape[-1] == IMAGENET:
        classes = loading.imagenet_classes()
    identity = [chosen.model or DEFAULT, chosen.weights]
    return explain_images(model, chosen, preprocessing, classes, identity)


def network(chosen: argparse.Namespace) -> tuple[keras.Model, loading.Preprocessing]:
    """The model and what its pixels go through: nothing, if a file holds a whole model that scales its input itself."""
    from lrp_tf import Explainer
    from lrp_tf.files import form, loading

    if chosen.weights != "imagenet" and loading.holds_model(chosen.weights):
        model = loading.load_model(chosen.weights, unsafe=chosen.unsafe)
        if form.begins_with_scaling(Explainer(model, "epsilon").graph):
            if chosen.model is not None:
                raise loading.LoadError(
                    f"--weights {chosen.weights} holds a whole network, which scales its pixels itself. Expected no "
                    f"--model. Received: --model {chosen.model}"
                )
            return model, loading.get_preprocessing("none")
    # VGG16 and VGG19 were trained on pixels as Caffe has them: BGR, minus the mean colour.
    name = chosen.model or DEFAULT
    model = loading.vgg(name, chosen.weights, unsafe=chosen.unsafe)
    return model, loading.get_preprocessing(name)


if __name__ == "__main__":
    sys.exit(main())
