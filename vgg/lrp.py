"""Explains what VGG16 or VGG19 sees in photographs and saves heatmaps: python vgg/lrp.py --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf import cli
from lrp_tf.cli import options

OUT = Path(os.path.relpath(Path(__file__).resolve().parent / "results"))
IMAGENET = 1000  # classes


def main(argv: list[str] | None = None) -> int:
    """The script; returns the exit code of `lrp-tf`."""
    return cli.guarded(make_parser, explain, argv)


def make_parser() -> argparse.ArgumentParser:
    parser = options.Intermixed(description="Heatmaps of what VGG sees: photograph beside relevance.")
    options.add_images(parser)
    parser.add_argument("--model", choices=["vgg16", "vgg19"], default="vgg16", help="default: vgg16")
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|FILE",
                        help="FILE: .keras, .h5 or .weights.h5; default: imagenet, which Keras downloads")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE",
                        help="class names: JSON, or one per line; default: ImageNet's")  # fmt: skip
    parser.add_argument("--unsafe", action="store_true", help="run Python code that --weights FILE carries")
    options.add_rule_options(parser, several=True)
    options.add_picture_options(parser, OUT)
    return parser


def explain(chosen: argparse.Namespace) -> int:
    from lrp_tf.cli.explain import explain_images  # not before: --help needs no TensorFlow
    from lrp_tf.files import loading

    model = loading.vgg(chosen.model, chosen.weights, unsafe=chosen.unsafe)
    classes = loading.Classes()
    if chosen.classes:
        classes = loading.load_classes(chosen.classes)
    elif model.output_shape[-1] == IMAGENET:
        classes = loading.imagenet_classes()
    # Both were trained on pixels as Caffe has them: BGR, minus the mean colour.
    preprocessing = loading.get_preprocessing(chosen.model)
    identity = [chosen.model, chosen.weights]
    return explain_images(model, chosen, preprocessing, classes, identity)


if __name__ == "__main__":
    sys.exit(main())
