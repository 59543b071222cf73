"""The options of `lrp-tf benchmark`; needs no TensorFlow."""

from __future__ import annotations

import argparse
from pathlib import Path

from lrp_tf.cli import options
from lrp_tf.cli.comparing import composite_list

# The modules that define these need TensorFlow; a test compares both.
PROBLEMS = ("linear", "multiplicative", "rigid", "xor")
BACKGROUNDS = ("white", "correlated", "image")
TEXTS = ("occurrence", "pair", "negation", "shortcut", "lookup")
NETS = ("mlp", "cnn", "encoder")
CONTRASTS = ("none", "softmax")
INPUTS = ("signed", "unsigned", "standardized")


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf benchmark`."""
    parser.add_argument("--problems", nargs="+", choices=[*PROBLEMS, *TEXTS], default=list(PROBLEMS), metavar="NAME",
                        help=f"of pictures: {', '.join(PROBLEMS)}; or of texts: {', '.join(TEXTS)}; default: all of "
                        "pictures")  # fmt: skip
    parser.add_argument("--backgrounds", nargs="+", choices=BACKGROUNDS, help="of pictures; default: all")
    parser.add_argument("--nets", nargs="+", choices=NETS, help="default: mlp and cnn, or encoder, which reads texts")
    parser.add_argument("--size", type=int, choices=(8, 64), default=8, help="of the pictures; default: 8")
    parser.add_argument("--inputs", choices=INPUTS, default="signed",
                        help="pixels from -1 to 1, 0 to 1, or of mean 0 and variance 1; default: signed")  # fmt: skip
    parser.add_argument("--methods", type=composite_list, action="extend", metavar="NAME[:OPTION=VALUE,...],...",
                        help="presets, with options, composites in a text or .toml file, classes of lrp_tf.gradients, "
                        "absolute, sobel, laplace, centre, random; tuned: what tune chooses for each net; all: all but "
                        "tuned; --methods list prints them; may be repeated; default: all")  # fmt: skip
    parser.add_argument("--grid", nargs="+", metavar="NAME=VALUES",
                        help="what tuned tries, as --grid of tune: one grid for all nets; default: one for each "
                        "kind of net, see docs/benchmark.md")  # fmt: skip
    parser.add_argument("--contrast", nargs="+", choices=CONTRASTS, default=["none"],
                        help="explain the class, or the class against the other one; both compares both")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="each its own samples and nets; default: 5")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--samples", type=int, default=200, metavar="N", help="explained of each net; default: 200")
    parser.add_argument("--training", type=int, metavar="N",
                        help="samples of each problem, most of them to train on; default: the paper's, 10,000 or "
                        "40,000")  # fmt: skip
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="of training, at most; default: 150 (mlp), 60 (cnn), 4 (encoder)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark"), metavar="DIR", help="default: %(default)s")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="skip nets that an earlier run with --out finished")
    earlier.add_argument("--overwrite", action="store_true", help="begin an earlier run anew")
    options.add_imports(parser)
    options.add_threads(parser)


COMMANDS: dict[str, options.Command] = {
    "benchmark": (add_benchmark, "how well methods find evidence that is known: small nets, pictures and texts")
}
