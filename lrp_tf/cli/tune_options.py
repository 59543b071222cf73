"""The options of `lrp-tf tune`; needs no TensorFlow."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from lrp_tf.cli import options
from lrp_tf.cli.comparing import composite_list, named_list
from lrp_tf.cli.composite_option import NamedPreset, composite

# The module that defines these needs TensorFlow; a test compares both.
SEARCHES = ("grid", "cma")


def add_tune(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf tune`."""
    options.add_model_options(parser)
    options.add_images(parser)
    options.add_preprocessing(parser)
    parser.add_argument("--grid", nargs="+", action="extend", default=[], metavar="NAME=VALUE,...",
                        help="what varies: rule, gamma, epsilon, zero_bias, for every part of the net or, with .first, "
                        ".lower, .upper or .dense behind it, for one; values are numbers, words, and ranges such as "
                        "0.01:1:log7; default: gamma.lower=0,0.01:1:log4 gamma.upper=0,0.01:1:log4")  # fmt: skip
    parser.add_argument("--metric", type=_metric, default=NamedPreset("srg", {}), metavar="NAME[:OPTION=VALUE,...]",
                        help="that chooses, as in srg:steps=10; default: srg")  # fmt: skip
    parser.add_argument("--budget", type=_budget, metavar="TIME", help="as 90s, 5m or 1h; default: no end")
    parser.add_argument("--default", type=composite, default=options.DEFAULT,
                        metavar="NAME[:OPTION=VALUE,...]|TEXT|FILE.toml",
                        help="what the best is compared with; default: %(default)s")  # fmt: skip
    parser.add_argument("--also", type=composite_list, action="extend", metavar="NAME,...",
                        help="composites that are ranked with the grid; default: all presets that need no bounds of "
                        "the input")  # fmt: skip
    parser.add_argument("--search", choices=SEARCHES, default="grid",
                        help="cma: CMA-ES over the ranges in --grid (extra: tune); default: grid")  # fmt: skip
    parser.add_argument("--target", type=lambda text: [text], default=["top1"], metavar="top1|CLASS",
                        help="the class to explain, by number or name; default: top1, each image's own")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the halves and of all random numbers")
    options.add_fit(parser)
    options.add_output(parser, Path("tuning"), batch=16)
    options.add_threads(parser)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What --grid took: its own values, and images behind them."""
    own = [text for text in arguments if re.match(r"[A-Za-z_.]+=", text)]
    return own, [text for text in arguments if text not in own]


def _metric(text: str) -> NamedPreset:
    found = named_list(text)
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"expected one metric, as srg or srg:steps=10. Received: {text!r}")
    return found[0]


def _budget(text: str) -> str:
    if not re.fullmatch(r"\s*(\d+(\.\d*)?|\.\d+)\s*(s|m|min|h|)\s*", text) or not re.search("[1-9]", text):
        raise argparse.ArgumentTypeError(f"expected a time above 0, as 90s, 5m or 1.5h. Received: {text!r}")
    return text


COMMANDS: dict[str, options.Command] = {
    "tune": (add_tune, "which setting of the rules suits a model: one half of the images chooses, the other reports"),
}
