"""Explains what VGG16 or VGG19 sees in photographs and saves heatmaps: python vgg/lrp.py --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow greets CPU-only machines with notes

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf import cli, loading

OUT = Path(os.path.relpath(Path(__file__).resolve().parent / "results"))
IMAGENET = 1000  # classes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Heatmaps of what VGG sees: photograph beside relevance.")
    cli.add_images(parser)
    parser.add_argument("--model", choices=list(loading.IMAGENET), default="vgg16", help="default: vgg16")
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|FILE",
                        help="FILE: .keras, .h5 or .weights.h5; default: imagenet, which Keras downloads")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE",
                        help="class names: JSON, or one a line; default: ImageNet's")  # fmt: skip
    parser.add_argument("--unsafe", action="store_true", help="run Python code that --weights FILE carries")
    cli.add_rule_options(parser)
    cli.add_picture_options(parser, OUT)
    parser.set_defaults(run=explain)
    return cli.guarded(parser, argv)


def explain(options: argparse.Namespace) -> int:
    model = loading.vgg(options.model, options.weights, unsafe=options.unsafe)
    classes = loading.Classes()
    if options.classes:
        classes = loading.load_classes(options.classes)
    elif model.output_shape[-1] == IMAGENET:
        classes = loading.imagenet_classes()
    # Both were trained on pixels of Caffe's kind: BGR, less the mean colour.
    preprocessing = loading.get_preprocessing(options.model)
    identity = [options.model, options.weights]
    return cli.explain_images(model, options, preprocessing, classes, identity)


if __name__ == "__main__":
    sys.exit(main())
