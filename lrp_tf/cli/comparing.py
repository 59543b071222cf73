"""The options of `lrp-tf evaluate` and `lrp-tf grid`; needs no TensorFlow."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

from lrp_tf.cli import options
from lrp_tf.cli.composite_option import NamedPreset, Written, composite

# The modules that define these need TensorFlow; a test compares both.
BASELINES = ("absolute", "sobel", "laplace", "centre", "random")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf evaluate`."""
    _add_shared(parser)
    parser.add_argument("--methods", type=named_list, action="extend", default=[],
                        metavar="NAME[:OPTION=VALUE,...],...",
                        help="to compare with: classes of lrp_tf.gradients, as in Gradient,SmoothGrad:n=25, and "
                        f"{', '.join(BASELINES)}; may be repeated")  # fmt: skip
    parser.add_argument("--metrics", type=named_list, action="extend", metavar="NAME[:OPTION=VALUE,...],...",
                        help="default: srg; --metrics list prints all of them; may be repeated")  # fmt: skip
    parser.add_argument("--target", type=lambda text: [text], default=["top1"], metavar="top1|CLASS",
                        help="the class to explain, by number or name; default: top1, each image's own")  # fmt: skip
    parser.add_argument("--contrast", action="append", default=[], metavar="none|softmax|mean|CLASS",
                        help="explain the class rather than the others; may be repeated: none and softmax compare "
                        "both")  # fmt: skip
    parser.add_argument("--boxes", type=Path, metavar="FILE",
                        help='where the objects are, for metrics of localisation, JSON: {"cat.jpg": [[x0, y0, x1, '
                        "y1]]} in pixels of the picture; pictures without boxes have no value there")  # fmt: skip
    parser.add_argument("--reference", metavar="NAME", help="what others are set against; default: the best")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers; default: 0")
    options.add_fit(parser)
    options.add_output(parser, Path("evaluation"), batch=32)


def add_grid(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf grid`."""
    _add_shared(parser)
    options.add_target(parser)
    parser.set_defaults(target=["topK:3"])
    options.add_fit(parser)
    parser.add_argument("--out", type=Path, default=Path("grids"), metavar="DIR", help="default: %(default)s")
    options.add_colours(parser)
    options.add_display(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    options.add_model_options(parser)
    options.add_images(parser)
    options.add_preprocessing(parser)
    parser.add_argument("--composites", type=composite_list, action="extend", metavar="NAME,NAME:OPTION=VALUE,...",
                        help="as --composite of explain, separated by commas; a text of your own goes into an option "
                        "of its own: --composites epsilon,epsilon_plus --composites 'first: flat; all: epsilon'; "
                        "default: all presets")  # fmt: skip
    options.add_rule_settings(parser)
    options.add_threads(parser)


def composite_list(text: str) -> list[NamedPreset | Written]:
    """Composites that are separated by commas; a text with several entries is one."""
    parts = [text] if re.search(r"[;\n]", text) else separated(text)
    joined: list[str] = []
    for part in parts:
        # As in "Conv2D, Dense: gamma 0.25": a list of layers in an entry.
        if joined and re.match(r"\s+[^:]*:\s", part):
            joined[-1] += f",{part}"
        else:
            joined.append(part)
    return [composite(part.strip()) for part in joined if part.strip()]


def named_list(text: str) -> list[NamedPreset]:
    """NAME or NAME:OPTION=VALUE,OPTION=VALUE, several separated by commas; values are numbers, words, lists."""
    return [_named(part.strip()) for part in separated(text) if part.strip()]


def separated(text: str) -> list[str]:
    """The parts between commas outside brackets and quotes; OPTION=VALUE belongs to the part before."""
    parts = [part[0] for part in re.finditer(r"""(?:\[[^\]]*\]|\([^)]*\)|"[^"]*"|'[^']*'|[^,])+""", text)]
    joined: list[str] = []
    for part in parts:
        if joined and re.match(r"\s*\w+\s*=", part):
            joined[-1] += f",{part}"
        else:
            joined.append(part)
    return joined


def _named(text: str) -> NamedPreset:
    name, _, rest = text.partition(":")
    given: dict[str, object] = {}
    for item in re.finditer(r"(?:\[[^\]]*\]|\([^)]*\)|[^,])+", rest):
        key, equals, value = item[0].partition("=")
        if not equals or not key.strip().isidentifier() or key.strip() in given:
            raise argparse.ArgumentTypeError(
                f"expected NAME or NAME:OPTION=VALUE,OPTION=VALUE, as in SmoothGrad:n=25. Received: {text!r}"
            )
        given[key.strip()] = _value(value.strip())
    return NamedPreset(name.strip(), given)


def _value(text: str) -> object:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word


COMMANDS: dict[str, options.Command] = {
    "evaluate": (add_evaluate, "whether explanations are right: composites and baselines by metrics, with intervals"),
    "grid": (add_grid, "a picture for each image: composites in rows, classes in columns"),
}
