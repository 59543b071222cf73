"""What the options of the scripts that train have in common; needs no TensorFlow."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

DECAYS = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.01}  # weight decay, where none is asked for
DIGITS = ("auto", "mnist", "digits")  # names of data whose mirror images mean something else


class Parser(argparse.ArgumentParser):
    """Prints errors in one line, without the usage, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an option: a whole number from `low` to `high`."""
    wanted = f"a whole number from {low}" + ("" if high is None else f" to {high}")

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) and (high is None or int(text) <= high)):
            raise argparse.ArgumentTypeError(f"expected {wanted}, received {text!r}")
        return int(text)

    return parse


def number(low: float, high: float, *, open_low: bool = False) -> Callable[[str], float]:
    """The type of an option: a number from `low` to `high`; with `open_low` above `low`."""
    wanted = f"a number {'above' if open_low else 'from'} {low:g} {'up ' if open_low else ''}to {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"expected {wanted}, received {text!r}")
        return value

    return parse


# --- options that several scripts have -----------------------------------------------------------


def add_data(group: argparse._ArgumentGroup, augment: str) -> None:
    """Options of the pictures; `augment`: what digits get by default, in words."""
    group.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps MNIST")
    group.add_argument("--classes", type=Path, metavar="FILE", help="class names of FILE.npz: JSON, or one per line")
    group.add_argument("--validation-share", type=number(0, 0.5, open_low=True), default=0.1, metavar="S",
                       help="of the training pictures, for the curves and the best epoch; default: 0.1")  # fmt: skip
    group.add_argument("--augment", nargs="+", choices=["none", "flip", "shift", "crop"], metavar="NAME",
                       help="flip (mirror), shift (by up to an eighth), crop (and enlarge); none; default: flip shift, "
                       f"for digits {augment}")  # fmt: skip


def add_optimizer(group: argparse._ArgumentGroup, clip_norm: float) -> None:
    """Options of the optimiser whose defaults do not depend on the network, but for `clip_norm`."""
    group.add_argument("--optimizer", choices=list(DECAYS), default="adam", help="sgd has momentum 0.9; default: adam")
    group.add_argument("--schedule", choices=["constant", "cosine", "step"], default="cosine",
                       help="step: a tenth from half of the epochs on, a hundredth from three quarters on; "
                       "default: cosine, down to 0")  # fmt: skip
    group.add_argument("--weight-decay", type=number(0, 1), metavar="F",
                       help="of kernels, times the learning rate; default: sgd 0.0005, adamw 0.01, adam 0")  # fmt: skip
    group.add_argument("--clip-norm", type=number(0, 1e6), default=clip_norm, metavar="N",
                       help=f"gradients are scaled down to this length; 0: not; default: {clip_norm:g}")  # fmt: skip


def check_data(arguments: argparse.Namespace) -> None:
    """Refuse options of `add_data` that contradict one another, or would do nothing.

    Raises:
        ValueError: some do.
    """
    augment = arguments.augment or ()
    if "none" in augment and len(augment) > 1:
        raise ValueError(f"--augment: expected none alone, or others. Received: {' '.join(augment)}")
    if "flip" in augment and arguments.dataset in DIGITS:
        refuse_flip()
    check_place(arguments)
    if arguments.classes and not arguments.dataset.endswith(".npz"):
        raise ValueError("--classes names the classes of FILE.npz. Expected no such option for other data")


def refuse_flip() -> NoReturn:
    """Raise the error of digits that are to be mirrored."""
    raise ValueError("--augment flip: mirrored digits are no digits. Expected shift, crop or none for them")


def check_place(arguments: argparse.Namespace) -> None:
    """Raise ValueError if --data-dir is given for data that it is not for."""
    if arguments.data_dir and arguments.dataset not in ("auto", "mnist"):
        raise ValueError("--data-dir is where MNIST lies. Expected no such option for other data")


INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


def as_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    run: Callable[[argparse.Namespace], None],
    told: Callable[[Exception], str],
    kept: str,
) -> None:
    """Run a study that `--resume` continues: errors in one line, and a word about an interruption.

    Args:
        told: the line of an error. kept: what an interruption does not lose, in the plural.
    """
    arguments = parser.parse_args(argv)
    try:
        run(arguments)
    except (ImportError, OSError, ValueError, TypeError) as error:
        parser.error(told(error))
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, f"\nInterrupted. Finished {kept} are kept: use --resume to continue.\n")


def add_again(parser: argparse.ArgumentParser) -> None:
    """What becomes of an earlier study in the folder."""
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue a study that was interrupted")
    again.add_argument("--overwrite", action="store_true", help="remove an earlier study in the folder first")


def writable(out: Path, files: Sequence[str]) -> Path:
    """Make the folder and write to it, so that a mistake shows before the training, not after it.

    Args:
        files: names that will be written there.

    Raises:
        OSError: the folder cannot be made or written, or has a folder of such a name.
    """
    out = Path(os.path.expanduser(out))
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise OSError(f"--out: expected a folder that can be written, received {out} ({error.strerror})") from error
    for name in files:
        if (out / name).is_dir():
            raise OSError(f"--out: {out / name} is a folder, which a file of that name cannot replace")
    return out
