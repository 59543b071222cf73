"""Explains what a network sees in a film or before a camera, frame by frame: python vgg/video.py --help."""

from __future__ import annotations

import argparse
import math
import sys
from fractions import Fraction
from pathlib import Path

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from networks import NETWORKS

from lrp_tf import cli
from lrp_tf.cli import options

STYLES = ("side-by-side", "overlay")


def main(argv: list[str] | None = None) -> int:
    """The script; returns the exit code: 0, 1 the source ended early, 2 wrong use, 130 interrupted."""
    return cli.guarded(make_parser, explain, argv)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="A film of what a network sees: each frame beside its heatmap, with the top class and frames per "
        "second; or a page on this machine, where a paused picture can be patched. See docs/video.md."
    )
    parser.add_argument("--source", default="0", metavar="N|FILE", help="number of a camera, or a film; default: 0")
    parser.add_argument("--out", type=Path, metavar="FILE.mp4", help="film to write, H.264: .mp4, .mov or .mkv")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--serve", type=_port, metavar="PORT",
                        help="show a page on 127.0.0.1:PORT; 0: any free port. Without --out a film is played at its "
                        "own speed, again and again, and frames that come too fast are dropped")  # fmt: skip
    parser.add_argument("--fps", type=_rate, metavar="F",
                        help="constant rate of --out: frames are left out or shown longer, the film stays as long; "
                        "default: the source's times")  # fmt: skip
    parser.add_argument("--max-frames", type=_positive, metavar="N", help="stop after N frames")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N",
                        help="frames of a film that are explained at once; live it is 1; default: 1")  # fmt: skip
    parser.add_argument("--height", type=_positive, metavar="N",
                        help="of a frame in the film; default: the source's, but 240 to 480")  # fmt: skip
    _add_model(parser)
    options.add_rule_options(parser)
    parser.add_argument("--target", nargs=1, default=["top1"], metavar="top1|CLASS",
                        help="class to explain, by number or name; default: top1, each frame's own")  # fmt: skip
    options.add_fit(parser)
    parser.add_argument("--style", choices=STYLES, default="side-by-side",
                        help="overlay: the relevance over the frame in grey, beside the frame")  # fmt: skip
    options.add_colours(parser)
    parser.add_argument("--scale", type=options.scale, default="99%", metavar="R|99%|frame",
                        help="|R| of full colour: a number; a quantile that follows the film slowly, so that colours "
                        "do not flicker; frame or frame:99%%, of each frame by itself; default: 99%%")  # fmt: skip
    parser.add_argument("--show", choices=["signed", "abs"], default="signed", help="abs: |R|; default: signed")
    parser.add_argument("--smooth", type=_smooth, metavar="SIGMA|auto",
                        help="draw maps through a Gaussian of SIGMA pixels of the input; default: none")  # fmt: skip
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="vgg16", metavar="NAME|PATH.keras",
                        help=f"{', '.join(NETWORKS)}, or a saved Keras model; default: vgg16")  # fmt: skip
    parser.add_argument("--weights", metavar="imagenet|none|FILE",
                        help="of the network: Keras downloads imagenet; none: random, to try the script; FILE: .keras, "
                        ".h5 or .weights.h5; default: imagenet, and those of PATH.keras")  # fmt: skip
    parser.add_argument("--unsafe", action="store_true", help="run Python code that a file carries")
    parser.add_argument("--output", help="name or index of the output to explain, of a model with several")
    options.add_imports(parser)
    options.add_preprocessing(parser)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, received {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, received {text!r}")
    return int(text)


def _smooth(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of pixels or auto, received {text!r}") from None


def _rate(text: str) -> Fraction:
    """30, 29.97 or 30000/1001."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not Fraction(1, 100) <= rate <= 1000 or not math.isfinite(rate):
        raise argparse.ArgumentTypeError(f"expected 0.01 to 1000 frames per second, received {text}")
    return rate.limit_denominator(1001)


def explain(chosen: argparse.Namespace) -> int:
    from running import run  # not before: --help needs no TensorFlow

    return run(chosen)


if __name__ == "__main__":
    sys.exit(main())
