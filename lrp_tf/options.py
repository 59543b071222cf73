"""The options of `lrp-tf` and vgg/lrp.py. Needs no TensorFlow, so that --help and mistakes answer at once."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lrp_tf

# The modules that own these names need TensorFlow or matplotlib; a test holds the two together.
PRESETS = (
    *("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"),
    *("epsilon_gamma_box", "tutorial"),
)
FITS = ("squash", "crop", "pad")
STYLES = ("side-by-side", "overlay", "heatmap")
PALETTES = ("seismic", "bwr", "RdBu_r", "coolwarm", "lrp", "coldnhot", "rainbow", "jet", "hot", "gray")
MAX_PIXELS = 50_000_000


class _Version(argparse.Action):
    """Versions are looked up only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        parser.exit(
            message=f"lrp_tf {lrp_tf.__version__}, Keras {version('keras')}, TensorFlow {version('tensorflow')}\n"
        )


def parser() -> argparse.ArgumentParser:
    """What `lrp-tf` takes; `command` names the command."""
    parser = argparse.ArgumentParser("lrp-tf", description="explains the images that any saved Keras model classifies.")
    parser.add_argument("--version", action=_Version, nargs=0, help="of lrp_tf, Keras and TensorFlow")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    explain = commands.add_parser("explain", help="pictures of what speaks for and against a class in images")
    add_model_options(explain)
    add_images(explain)
    add_preprocessing(explain)
    add_rule_options(explain)
    add_picture_options(explain, Path("results"))

    summary = commands.add_parser("summary", help="table of a model: layer, operation, rule")
    add_model_options(summary)
    add_rule_options(summary)

    report = commands.add_parser("report", help="table of one image: what each layer received, passed on and absorbed")
    add_model_options(report)
    report.add_argument("image", metavar="IMAGE")
    add_preprocessing(report)
    add_rule_options(report)
    add_fit(report)
    add_target(report)

    export = commands.add_parser("export", help="a SavedModel for TensorFlow Serving that explains what it predicts")
    add_model_options(export)
    export.add_argument("out", type=Path, metavar="OUT", help="version folder, served/1: its name is an integer")
    add_preprocessing(export)
    add_rule_options(export)
    add_fit(export)
    add_colours(export)
    export.add_argument("--top-k", type=_count, metavar="K", help="explain_top_k too: the K top classes of a sample")
    export.add_argument("--no-warmup", action="store_true", help="write no warm-up requests (extra: serving)")

    commands.add_parser("composites", help="the presets and their rules")
    return parser


# --- groups of options -------------------------------------------------------------------------


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="saved Keras model, .keras or .h5")
    parser.add_argument("--output", help="name or index of the output to explain, of a model with several")
    parser.add_argument("--unsafe", action="store_true", help="run Python code that the file carries (Lambda layers)")
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE",
                        help="Python module that registers the model's own layers; may be repeated")  # fmt: skip


def add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE",
                        help="file, folder, glob pattern, - (list on standard input) or @list.txt")  # fmt: skip


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preprocess", metavar="NAME|scale:1/255|none|module:function",
                        help="what the model's pixels went through in training; none: they stay 0 to 255")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names: JSON, or one a line")


def add_rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--composite", default="epsilon_plus_flat", metavar="NAME",
                        help=f"{', '.join(PRESETS)}; default: %(default)s")  # fmt: skip
    parser.add_argument("--zero-bias", action="store_true", help="let biases absorb no relevance")
    parser.add_argument("--relevance-filter", type=float, metavar="F",
                        help="keep the largest fraction F of |R| in each layer, 0.1 say: crisper maps")  # fmt: skip


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", nargs="+", default=["top1"], metavar="top1|topK:N|CLASS",
                        help="classes to explain, by number or name, several at once; default: top1")  # fmt: skip


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resize", choices=FITS, default="squash",
                        help="how a picture becomes the model's size; default: squash")  # fmt: skip
    parser.add_argument("--size", type=_size, metavar="HxW", help="of the input, where the model leaves it open")
    parser.add_argument("--max-pixels", type=_count, default=MAX_PIXELS, metavar="N",
                        help="larger pictures are failures; default: 50 million")  # fmt: skip


def add_picture_options(parser: argparse.ArgumentParser, out: Path) -> None:
    add_target(parser)
    add_fit(parser)
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--batch", type=_count, default=8, metavar="N", help="images at once; default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="skip what an earlier run with --out finished")
    parser.add_argument("--style", choices=[*STYLES, "all"], default="side-by-side")
    add_colours(parser)
    parser.add_argument("--save-relevance", action="store_true", help="write .npy files, too")


def add_colours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cmap", default="seismic", metavar="NAME",
                        help=f"{', '.join(PALETTES)}, any of matplotlib; default: %(default)s")  # fmt: skip
    parser.add_argument("--gamma", type=float, default=1.0, metavar="G", help="below 1 shows faint relevance")
    parser.add_argument("--reduce", choices=["sum", "mean", "absmax"], default="sum", help="over the channels")
    parser.add_argument("--scale", type=float, metavar="R", help="|R| of full colour; default: each map's own maximum")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {text}")
    return number


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(_count, text.lower().split("x"))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, as in 224x224, received {text}") from error
    return height, width
