"""The options of vgg/train.py; needs no TensorFlow."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lrp_tf.training import options
from lrp_tf.training.options import Parser, number, whole

DEPTHS = (11, 13, 16, 19)
SMALLEST, LARGEST = 32, 1024  # pixels
OUT = Path(os.path.relpath(Path(__file__).resolve().parent / "logs"))
RESULTS = ("model.keras", "best.keras", "checkpoint.npz", "history.csv")


def make_parser() -> argparse.ArgumentParser:
    # Without abbreviations: --compare-precision passes options on by their names.
    parser = Parser(
        allow_abbrev=False, description="Trains VGG from scratch; its result is explained by vgg/lrp.py and lrp-tf."
    )
    _add_data(parser)
    _add_network(parser)
    _add_training(parser)
    group = parser.add_argument_group("results")
    group.add_argument("--out", type=Path, metavar="DIR", help="default: vgg/logs/ and the name of the data")
    group.add_argument("--keep", choices=["last", "best"],
                       help="the epoch that becomes model.keras; best: by the validation pictures; default: last, with "
                       "--schedule constant best")  # fmt: skip
    group.add_argument("--resume", action="store_true", help="continue the training whose checkpoint is in --out")
    group.add_argument("--overwrite", action="store_true", help="replace an earlier training in --out")
    group.add_argument("--log-relevance", type=whole(1), metavar="N",
                       help="every N epochs, heatmaps and numbers of test pictures in --out/relevance")  # fmt: skip
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="digits", metavar="digits|mnist|cifar10|FOLDER|FILE.npz",
                       help="FOLDER: one sub folder of pictures for each class; FILE.npz: laid out as Keras' mnist.npz "
                       "or CIFAR-10; default: scikit-learn's digits")  # fmt: skip
    options.add_data(group, "shift alone")


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--depth", type=int, choices=DEPTHS, default=11, help="layers with weights; default: 11")
    group.add_argument("--size", type=whole(SMALLEST, LARGEST), default=SMALLEST, metavar="PIXELS",
                       help="height and width of the pictures; default: 32")  # fmt: skip
    group.add_argument("--width", type=number(0, 4, open_low=True), default=1.0, metavar="F",
                       help="factor on the channels and units of the hidden layers; default: 1")  # fmt: skip
    group.add_argument("--units", type=whole(1), metavar="N",
                       help="of the two hidden dense layers; default: 4096, below 128 pixels 512")  # fmt: skip
    group.add_argument("--batch-norm", action="store_true", help="BatchNormalization behind each convolution")
    group.add_argument("--dropout", type=number(0, 0.95), default=0.5, metavar="RATE",
                       help="behind the hidden dense layers; default: 0.5")  # fmt: skip
    group.add_argument("--mixed-precision", nargs="?", const="auto", choices=["auto", "float16", "bfloat16"],
                       metavar="float16|bfloat16", help="compute in half precision; without a value float16 on a GPU, "
                       "bfloat16 on a CPU")  # fmt: skip
    group.add_argument("--compare-precision", action="store_true",
                       help="train in float32 and in mixed precision, and compare")  # fmt: skip


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=whole(1), metavar="N", help="default: 15 for digits, else 30")
    group.add_argument("--batch", type=whole(1), metavar="B",
                       help="pictures of a step; default: 64, of fewer than 5,000 training pictures 32")  # fmt: skip
    options.add_optimizer(group, clip_norm=1.0)
    group.add_argument("--learning-rate", type=number(0, 10, open_low=True), metavar="RATE",
                       help="its peak; default: 0.05 for sgd, else 0.001, without --batch-norm 0.0005")  # fmt: skip
    group.add_argument("--warm-up", type=number(0, 1000), default=1.0, metavar="EPOCHS",
                       help="the learning rate rises over so many epochs; default: 1")  # fmt: skip
    group.add_argument("--seed", type=whole(0, 2**31 - 1), default=0, metavar="N", help="default: 0")
    group.add_argument("--deterministic", action="store_true",
                       help="the same numbers in every run on the same machine; slower on a GPU")  # fmt: skip


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict one another.

    Raises:
        ValueError: some do.
    """
    options.check_data(arguments)
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume and --overwrite contradict one another. Expected one of them")


def out_of(arguments: argparse.Namespace) -> Path:
    """The folder of the results: made, and tried, so that a mistake shows before the training, not after it.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: it holds an earlier training, and neither --resume nor --overwrite was given.
    """
    name = Path(os.path.expanduser(arguments.dataset)).name.removesuffix(".npz") or "data"
    out = options.writable(arguments.out or OUT / name, RESULTS)
    there = [name for name in ("checkpoint.npz", "model.keras") if (out / name).exists()]
    if there and not (arguments.resume or arguments.overwrite or arguments.compare_precision):
        raise ValueError(
            f"--out: {out} holds an earlier training ({there[0]}). Remedy: --resume, --overwrite, or another --out"
        )
    return out


def clear(out: Path) -> None:
    """Remove an earlier training. Only once the new one can begin: a mistake in its options must not cost the old."""
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
