"""The options of `lrp-tf export`; needs no TensorFlow."""

from __future__ import annotations

import argparse
from pathlib import Path

from lrp_tf.cli import options
from lrp_tf.cli.command import Command

# Format -> the options that are its own, beside those of all formats. `cli.exporting` refuses the others'.
FORMATS: dict[str, tuple[str, ...]] = {
    "savedmodel": ("resize", "max_pixels", "cmap", "color_gamma", "reduce", "scale", "top_k", "no_warmup"),
    "stablehlo": ("batch", "target"),
    "tflite": ("conservation", "no_check"),
}


def add_export(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf export`."""
    options.add_model_options(parser)
    parser.add_argument("out", type=Path, metavar="OUT",
                        help="a folder that does not exist, of savedmodel a version folder, served/1: its name is an "
                        "integer; of tflite a file")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="savedmodel",
                        help="savedmodel: for TensorFlow Serving (docs/serving.md); stablehlo: for jax, without "
                        "TensorFlow (docs/stablehlo.md); tflite: for LiteRT, on phones (docs/litert.md); "
                        "default: savedmodel")  # fmt: skip
    options.add_preprocessing(parser)
    options.add_rule_options(parser)
    options.add_fit(parser)
    options.add_contrast(parser)
    served = parser.add_argument_group("savedmodel", "options of this format alone, with --resize and --max-pixels")
    options.add_colours(served)
    served.add_argument("--scale", type=float, metavar="R", help="|R| of full colour; default: each map's own maximum")
    served.add_argument("--top-k", type=options.count, metavar="K",
                        help="explain_top_k too: the K top classes of a sample")  # fmt: skip
    served.add_argument("--no-warmup", action="store_true", help="write no warm-up requests (extra: serving)")
    fixed = parser.add_argument_group("stablehlo", "options of this format alone")
    fixed.add_argument("--batch", type=options.count, default=1, metavar="B",
                       help="samples of every call: shapes are fixed; default: 1")  # fmt: skip
    fixed.add_argument("--target", default="top1", metavar="top1|CLASS",
                       help="what run.py explains unless it is told another class, by number or name; default: "
                       "top1")  # fmt: skip
    lite = parser.add_argument_group("tflite", "options of this format alone")
    lite.add_argument("--conservation", action="store_true",
                      help="an output that says where the score went (docs/conservation.md)")  # fmt: skip
    lite.add_argument("--no-check", action="store_true",
                      help="do not run the file once to compare it with the explainer")  # fmt: skip


COMMANDS: dict[str, Command] = {
    "export": (
        add_export,
        "the model and its explanations for TensorFlow Serving, for jax without TensorFlow, or for phones",
    ),
}
