"""The options of `lrp-tf merge`, and --shard; needs no TensorFlow."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from lrp_tf.cli.command import Command


def add_merge(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf merge`."""
    parser.add_argument("outs", nargs="+", type=Path, metavar="OUT",
                        help="the --out of the shards; several, if they wrote into several")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder of the run, with links to the pictures of the shards; default: the one OUT, where "
                        "the run takes the place of the shards")  # fmt: skip
    parser.add_argument("--partial", action="store_true", help="accept that shards are missing or not finished")


def shard(text: str) -> tuple[int, int]:
    """i/N with 0 <= i < N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"expected i/N, as in 3/8, the fourth of eight. Received: {text}")
    index, count = map(int, found.groups())
    if not index < count:
        raise argparse.ArgumentTypeError(
            f"expected i/N with i from 0 to N - 1: shards are counted from 0. Received: {text}"
            + (f"; the last of {count} is {count - 1}/{count}" if count else "")
        )
    return index, count


COMMANDS: dict[str, Command] = {"merge": (add_merge, "make one run of the shards of a list (explain --shard)")}
