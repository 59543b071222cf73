"""Plants a mark on one class, finds it by concepts and removes it: python mnist/clever_hans.py --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf.training.options import Parser, add_again, as_command, check_place, number, whole

if TYPE_CHECKING:
    from lrp_tf.concepts.planted import Data
    from lrp_tf.training.sources import Images

HERE = Path(__file__).resolve().parent
OUT = HERE / "clever"
MARKS = ("square", "texture")
PREVALENCES = (1.0, 3.0, 10.0, 30.0, 100.0)
FEW, EPOCHS, EPOCHS_OF_MANY = 5000, 12, 5  # training pictures up to which a training has 12 epochs


def main(argv: list[str] | None = None) -> None:
    as_command(make_parser(), argv, run, told, "cells")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Plants a mark on pictures of one class, looks for it by clusters, prototypes and the "
                    "top concept, and removes it by a cut and by a penalty on its relevance.")  # fmt: skip
    add = parser.add_argument
    add("--dataset", default="digits", metavar="digits|mnist|cifar10|FILE.npz", help="pictures; default: digits, which "
        "come with scikit-learn")  # fmt: skip
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps MNIST")
    add("--samples", type=whole(200), metavar="N", help="training pictures, of each class alike; default: all")
    add("--label", type=whole(0), default=3, metavar="CLASS", help="the class that gets the mark; default: 3")
    add("--mark", nargs="+", choices=MARKS, default=list(MARKS), metavar="|".join(MARKS), help="default: both")
    add("--prevalence", nargs="+", type=number(0, 100, open_low=True), default=list(PREVALENCES), metavar="PERCENT",
        help="of the training pictures of the class that have the mark; default: 1 3 10 30 100")  # fmt: skip
    add("--seeds", type=whole(1, 100), default=3, metavar="N", help="trainings of each; default: 3")
    add("--epochs", type=whole(1, 1000), metavar="N", help=f"of each training; default: {EPOCHS}, above {FEW} training "
        f"pictures {EPOCHS_OF_MANY}")  # fmt: skip
    add("--weight", type=number(0, 1e6, open_low=True), default=10.0, metavar="W", help="of the penalty; default: 10")
    add("--contrast", choices=("softmax", "mean", "none"), default="softmax", help="what the relevance "
        "of the penalty is set against; default: softmax")  # fmt: skip
    add("--out", type=Path, default=OUT, metavar="DIR", help="default: mnist/clever")
    add_again(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Load, run the study, say where the results are."""
    check_place(arguments)
    from lrp_tf.cli import quiet

    quiet.import_tensorflow()
    from lrp_tf.concepts import planted
    from lrp_tf.concepts.planted import run as runs
    from lrp_tf.training import sources

    # Before anything is trained: what the folder holds.
    if runs.held(arguments.out) and not (arguments.resume or arguments.overwrite):
        raise ValueError(f"--out: {arguments.out} holds a study. Remedy: --resume, --overwrite, or another --out")
    images = sources.load(arguments.dataset, None, arguments.data_dir)
    data = data_of(images, arguments)
    epochs = arguments.epochs or (EPOCHS if len(data.x) <= FEW else EPOCHS_OF_MANY)
    plan = planted.Plan(
        marks=tuple(dict.fromkeys(arguments.mark)),
        prevalences=tuple(dict.fromkeys(percent / 100 for percent in arguments.prevalence)),
        seeds=tuple(range(arguments.seeds)),
        epochs=epochs,
        weight=arguments.weight,
        contrast=None if arguments.contrast == "none" else arguments.contrast,
    )
    if arguments.overwrite and arguments.out.is_dir():
        runs.clear(arguments.out)
    say(f"{images.name}: {len(data.x)} training pictures, {len(data.x_test)} test pictures, {epochs} epochs")
    planted.study(arguments.out, data, plan, say=told_line, name=images.name)
    say(f"results: {arguments.out / 'study.md'}")


def data_of(images: Images, arguments: argparse.Namespace) -> Data:
    """Pictures of 0..1, as many as are asked for.

    Raises:
        ValueError: a class that the data do not have.
    """
    import numpy as np

    from lrp_tf.concepts.planted import Data
    from lrp_tf.training.sources import split

    if arguments.label >= len(images.names):
        raise ValueError(f"--label: expected a number below {len(images.names)}. Received: {arguments.label}")
    x, labels = images.x_train, images.y_train
    if arguments.samples is not None and arguments.samples < len(x):
        _, kept = split(labels, arguments.samples / len(x), seed=0)
        x, labels = x[kept], labels[kept]
    scaled = [part.astype(np.float32) / np.float32(255) for part in (x, images.x_test)]
    return Data(scaled[0], labels, scaled[1], images.y_test, arguments.label)


def told_line(text: str) -> None:
    """Print a line of progress; an interruption that TensorFlow swallowed ends the study here."""
    from lrp_tf.terminal import raise_interrupt

    say(text)
    raise_interrupt()


def say(text: str) -> None:
    from lrp_tf.terminal import printable
    from lrp_tf.terminal import say as tell

    tell(printable(text))


def told(error: Exception) -> str:
    """The message of an error in one line, with options in place of arguments."""
    from lrp_tf.cli.messages import message_of

    text = " ".join(message_of(error).split())
    return text.replace("out expects", "--out: expected").replace("resume: ", "--resume: ")


if __name__ == "__main__":
    main()
