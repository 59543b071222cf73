"""The options of `lrp-tf` and vgg/lrp.py. Without TensorFlow, so that --help and mistakes are answered at once."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import lrp_tf
from lrp_tf.cli.command import Command
from lrp_tf.cli.composite_option import PRESETS, composite, spread
from lrp_tf.cli.merge_options import shard
from lrp_tf.cli.ray_options import add_ray_options, apart
from lrp_tf.cli.volume_options import add_volume_options

# The modules that define these names need TensorFlow or matplotlib; a test compares both.
FITS = ("squash", "crop", "pad")
STYLES = ("side-by-side", "overlay", "heatmap")
FORMATS = ("png", "jpg", "webp", "pdf", "svg")
PALETTES = (
    "seismic",
    "bwr",
    "RdBu_r",
    "coolwarm",
    "lrp",
    "coldnhot",
    "vivid",
    "magnitude",
    "vivid_magnitude",
    "rainbow",
    "jet",
    "hot",
    "gray",
)
MAX_PIXELS = 50_000_000
DEFAULT = "epsilon_plus_flat"  # of --composite


class _Version(argparse.Action):
    """Looks up the versions only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from importlib.metadata import version

        versions = f"lrp_tf {lrp_tf.__version__}, Keras {version('keras')}, TensorFlow {version('tensorflow')}"
        print(versions)  # parser.exit(message=…) writes to standard error
        parser.exit()


class Intermixed(argparse.ArgumentParser):
    """Takes images and texts before, between and behind options; argparse takes them in one place alone.

    Behind `--` everything is an image or text, whatever it begins with.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        if any(action.dest == "composites" and "--composite" in action.option_strings for action in self._actions):
            args = spread(args)
        if any(action.dest == "ray" for action in self._actions):
            args = apart(args)
        found, rest = super().parse_known_args(args, namespace)
        for kind in ("images", "texts", "outs"):
            if isinstance(names := getattr(found, kind, None), list):
                end = rest.index("--") if "--" in rest else len(rest)
                spaced = kind == "texts"  # "-5 degrees" is a text, and no option
                more = [text for text in rest[:end] if text == "-" or text[:1] != "-" or (spaced and " " in text)]
                names += [*more, *rest[end + 1 :]]
                rest = [text for text in rest[:end] if text not in more]
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._meant(rest)}")
        return found, rest

    def _meant(self, unknown: list[str]) -> str:
        """The options that are nearest to those that are not known, in words."""
        known = [option for action in self._actions for option in action.option_strings]
        near = [difflib.get_close_matches(text.partition("=")[0], known, 1, 0.7) for text in unknown]
        if names := " ".join(name for names in near for name in names):
            return f". Did you mean {names}?"
        files = [text for text in unknown if re.match(r"-[^-]", text)]
        return f". For files whose names begin with a dash: -- {' '.join(files)}" if files else ""


Commands = Mapping[str, Command]


def parser(more: Commands = MappingProxyType({})) -> argparse.ArgumentParser:
    """The parser of `lrp-tf`; `command` in its result is the name of the command.

    Args:
        more: further commands.
    """
    parser = argparse.ArgumentParser(
        "lrp-tf", description="explains what any saved Keras model says of images and texts."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="of lrp_tf, Keras and TensorFlow")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Intermixed)

    explain = commands.add_parser("explain", help="pictures of what speaks for and against a class in images")
    add_model_options(explain)
    add_images(explain)
    add_preprocessing(explain)
    add_rule_options(explain, several=True)
    add_picture_options(explain, Path("results"))
    add_volume_options(explain)
    add_columns(explain, rows=True)
    add_ray_options(explain)

    summary = commands.add_parser("summary", help="table of a model: layer, operation, rule")
    add_model_options(summary)
    add_rule_options(summary)

    report = commands.add_parser("report", help="table of one image: what each layer received, passed on and absorbed")
    _add_single(report)
    add_target(report)

    check = commands.add_parser(
        "check", help="whether explanations hold: clone against model, books, samples; exit 0 or 1"
    )
    _add_single(check)

    for name, (add_options, text) in more.items():
        add_options(commands.add_parser(name, help=text))

    listing = commands.add_parser("composites", help="the presets and their rules, as text for --composite")
    add_imports(listing)
    return parser


def _add_single(parser: argparse.ArgumentParser) -> None:
    """The options of a command that takes one sample."""
    add_model_options(parser)
    add_image(parser)
    add_preprocessing(parser)
    add_rule_options(parser)
    add_fit(parser)
    add_threads(parser)


# What takes options: a parser, or a group of one.
Options: TypeAlias = argparse._ActionsContainer

# --- groups of options -------------------------------------------------------------------------


def add_model_options(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """MODEL and its kin; `optional`: None where there is none."""
    nargs: dict[str, Any] = {"nargs": "?"} if optional else {}
    parser.add_argument("model", type=Path, metavar="MODEL", help="saved Keras model, .keras or .h5", **nargs)
    parser.add_argument("--output", help="name or index of the output to explain, of a model with several")
    parser.add_argument("--unsafe", action="store_true", help="run Python code that the file carries (Lambda layers)")
    add_imports(parser)


def add_imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE",
                        help="Python module that registers layers or presets of your own; may be repeated")  # fmt: skip


def add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE",
                        help="file, folder, glob pattern, - (list on standard input) or @list.txt")  # fmt: skip


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preprocess", metavar="NAME|scale:1/255|none|module:function",
                        help="what the model's pixels went through in training; none: they stay 0 to 255")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names: JSON, or one per line")


def add_rule_options(
    parser: argparse.ArgumentParser, default: str | None = DEFAULT, told: str = "", *, several: bool = False
) -> None:
    """--composite and its kin.

    Args:
        default: of --composite; None: the command chooses, as `told`.
        several: --composite takes several, `composites` in the result; None: the default alone.
    """
    more = "; several at once: --composite epsilon epsilon_plus" if several else ""
    how: dict[str, Any] = {"dest": "composites", "action": "append"} if several else {"default": default}
    parser.add_argument("--composite", type=composite, **how,
                        metavar="NAME[:OPTION=VALUE,...]|TEXT|FILE.toml",
                        help=f"{', '.join(PRESETS)}; with options as in epsilon_gamma_box:gamma=0.5,low=-1,high=1; or "
                        'entries of your own, as in "first: flat; Conv2D: gamma 0.25; Dense: epsilon", or a file with '
                        f"them (docs/composites.md){more}; default: {told or default}")  # fmt: skip
    add_rule_settings(parser)


def add_rule_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zero-bias", action="store_true", help="biases absorb no relevance. Outputs that only "
                        "a bias makes positive, of which nets with BatchNormalization have many, absorb it then (as "
                        "other), unless --composite NAME:when_empty=magnitude hands it on. Not for epsilon, which then "
                        "divides by sums that cancel: absurd maps")  # fmt: skip
    parser.add_argument("--relevance-filter", type=float, metavar="F",
                        help="keep the largest fraction F of |R| in each layer, such as 0.1: crisper maps")  # fmt: skip
    parser.add_argument("--fast", choices=["auto", "bfloat16"],
                        help="compute the rules' convolutions in bfloat16 where this machine is faster in it; bfloat16 "
                        "is an error where it is not, auto computes in float32 there")  # fmt: skip


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", nargs="+", default=["top1"], metavar="top1|topK:N|CLASS",
                        help="classes to explain, by number or name, several at once; default: top1")  # fmt: skip
    add_contrast(parser)


def add_contrast(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--contrast", metavar="softmax|mean|CLASS",
                        help="explain a class rather than the others: weighted by their probabilities, all alike, or "
                        "one class by number or name")  # fmt: skip


def add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="file; of a table the first row, or patients.csv:17")
    add_columns(parser)


def add_columns(parser: argparse.ArgumentParser, rows: bool = False) -> None:
    """The options of tables; `rows`: that of their pictures, too."""
    tables = parser.add_argument_group(
        "tables", "a CSV file with a header, whose rows are the samples (docs/tables.md)"
    )
    tables.add_argument("--columns", nargs="+", action="extend", metavar="NAME", help="the features, in their order")
    tables.add_argument("--drop", nargs="+", action="extend", metavar="NAME", help="columns that are no features")
    tables.add_argument("--id", metavar="NAME", help="the column with the names of the rows")
    if rows:
        tables.add_argument("--rows", type=_count_or_none, metavar="N",
                            help="how many rows get a picture, the first ones; default: 20")  # fmt: skip


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resize", choices=FITS, default="squash",
                        help="how a picture becomes the model's size; default: squash")  # fmt: skip
    parser.add_argument("--size", type=_size, metavar="HxW", help="of the input, where the model leaves it open")
    parser.add_argument("--max-pixels", type=count, default=MAX_PIXELS, metavar="N",
                        help="larger pictures are failures; default: 50 million")  # fmt: skip


def add_picture_options(parser: argparse.ArgumentParser, out: Path) -> None:
    add_target(parser)
    add_fit(parser)
    add_output(parser, out, None, "images or arrays at once, or rows of tables; default: 8, of rows 256")
    parser.add_argument("--style", choices=[*STYLES, "all"], default="side-by-side")
    add_colours(parser)
    add_display(parser)
    parser.add_argument("--save-relevance", action="store_true", help="write .npy files, too")
    parser.add_argument("--layers", nargs="+", default=[], metavar="NAME",
                        help="sums of layers' relevance in layers.csv, by name or regular expression")  # fmt: skip
    parser.add_argument("--save-layers", action="store_true", help="write their maps to .layers.npz files, too")
    parser.add_argument("--gallery", action="store_true",
                        help="write index.html, too: all pictures under their heatmaps, in a browser")  # fmt: skip
    parser.add_argument("--shard", type=shard, metavar="i/N",
                        help="explain every Nth file of the list alone, from file i on (0 <= i < N); N processes may "
                        "share --out, and lrp-tf merge makes one run of them (docs/shards.md)")  # fmt: skip
    parser.add_argument("--atlas", type=Path, metavar="REFERENCE",
                        help="with --gallery: an atlas of each photograph, what its channels stand for, from a file of "
                        "lrp-tf reference")  # fmt: skip
    parser.add_argument("--atlas-layer", metavar="NAME", help="of the atlases; default: the only layer of the file")
    parser.add_argument("--atlas-top", type=count, metavar="K", help="channels of an atlas; default: 5")
    parser.add_argument("--atlas-images", type=Path, metavar="DIR",
                        help="where the images of the file lie now, if they were moved")  # fmt: skip
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=count, metavar="N",
                        help="of TensorFlow, of OpenCV and for reading files, at most; default: all cores")  # fmt: skip


def add_output(
    parser: argparse.ArgumentParser,
    out: Path,
    batch: int | None = 8,
    what: str = "images at once; default: %(default)s",
) -> None:
    """--out, --batch, --resume and --overwrite; `what`: what --help says of --batch."""
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--batch", type=count, default=batch, metavar="N", help=what)
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="skip what an earlier run with --out finished")
    earlier.add_argument("--overwrite", action="store_true", help="begin the tables of an earlier run anew")


def add_colours(parser: Options) -> None:
    parser.add_argument("--cmap", metavar="NAME",
                        help=f"{', '.join(PALETTES)}, any of matplotlib; default: seismic; vivid over photographs; "
                        "magnitude with --show abs")  # fmt: skip
    parser.add_argument("--color-gamma", type=float, default=1.0, metavar="G", help="below 1 shows faint relevance")
    parser.add_argument("--gamma", dest="color_gamma", action=_Renamed, type=float, help=argparse.SUPPRESS)
    parser.add_argument("--reduce", choices=["sum", "mean", "absmax"], default="sum", help="over the channels")


def add_display(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=scale, metavar="R|99%|image|run",
                        help="|R| of full colour: a number, a quantile of each map (99%%), the largest of all targets "
                        "of an image (image, image:99%%) or of the whole run, which computes all relevance twice; "
                        "default: each map's own maximum")  # fmt: skip
    parser.add_argument("--show", choices=["signed", "abs"], default="signed",
                        help="abs: |R|, for nets whose signs cancel; default: signed")  # fmt: skip
    parser.add_argument("--smooth", type=_smooth, metavar="SIGMA|auto",
                        help="draw maps through a Gaussian of SIGMA pixels of the model's input; auto: half the first "
                        "convolution's stride, against its lattice; default: none")  # fmt: skip
    parser.add_argument("--colorbar", action="store_true", help="draw the colours beside their relevance")
    parser.add_argument("--dpi", type=float, default=100, metavar="N",
                        help="pixels per inch of pictures with texts; default: %(default)s")  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="png",
                        help="png and webp lose nothing, jpg has quality 95; default: png")  # fmt: skip


def scale(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # checked together with the colours


def _smooth(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        if text == "auto":
            return text
        raise argparse.ArgumentTypeError(f"expected a number of pixels or auto, received {text}") from None


class _Renamed(argparse.Action):
    """An option under its former name, which means something else in other places."""

    def __call__(
        self, parser: argparse.ArgumentParser, chosen: argparse.Namespace, value: object, name: str | None = None
    ) -> None:
        new = f"--{self.dest.replace('_', '-')}"
        print(f"{parser.prog}: {name} is now {new}; the old name will be dropped. The gamma of a rule is "
              "--composite NAME:gamma=G", file=sys.stderr)  # fmt: skip
        setattr(chosen, self.dest, value)


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {text}")
    return number


def _count_or_none(text: str) -> int:
    return int(text) and count(text)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(count, text.lower().split("x"))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, as in 224x224, received {text}") from error
    return height, width
