"""The options of `lrp-tf reference`; needs no TensorFlow."""

from __future__ import annotations

import argparse
from pathlib import Path

from lrp_tf.cli import options
from lrp_tf.cli.merge_options import shard

# The modules that define these need TensorFlow; a test compares both.
POOLINGS = ("sum", "max", "positive")
STARTS = ("output", "one")
N = 8
FOLDER = "folder"  # --labels: the folder of a file is its class


def add_reference(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf reference`."""
    options.add_model_options(parser, optional=True)
    options.add_images(parser)
    options.add_preprocessing(parser)
    options.add_rule_options(parser)
    options.add_fit(parser)
    parser.add_argument("--layers", nargs="+", default=[], metavar="NAME", help="by name or regular expression")
    parser.add_argument("--n", type=options.count, default=N, metavar="N",
                        help="samples to keep for each channel and class; default: %(default)s")  # fmt: skip
    parser.add_argument("--labels", metavar=f"{FOLDER}|FILE.csv",
                        help="relevance of the labelled class, under which a sample is kept: the folder that a "
                        "file lies in, or a table with the columns file and class; default: the predicted "
                        "class")  # fmt: skip
    parser.add_argument("--pooling", choices=POOLINGS, default=POOLINGS[0],
                        help="a channel's score over the positions of its map; default: %(default)s")  # fmt: skip
    parser.add_argument("--start", choices=STARTS, default=STARTS[0],
                        help="relevance starts as the class's value before the softmax, or as 1; "
                        "default: %(default)s")  # fmt: skip
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N",
                        help="every N-th batch from batch I on, 0 <= I < N: for N processes or machines")  # fmt: skip
    parser.add_argument("--merge", nargs="+", type=Path, metavar="FILE",
                        help="instead: one file out of those of all shards; takes no MODEL")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HDF5 file to write")
    parser.add_argument("--batch", type=options.count, default=32, metavar="N",
                        help="images at once; default: %(default)s")  # fmt: skip
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="continue an earlier run into --out")
    earlier.add_argument("--overwrite", action="store_true", help="begin anew")


COMMANDS: dict[str, options.Command] = {
    "reference": (add_reference, "what channels stand for: the images with the most relevance and activation of each"),
}
