"""Options of `lrp-tf explain --ray`. Without TensorFlow and Ray."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

HERE = "here"  # the value of --ray without an address
_ADDRESS = re.compile(r"auto|ray://.+|\[?[\w.:-]+\]?:\d+")


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """--ray, --workers, --gpus-per-worker, --to and --image-column."""
    parser.add_argument("--ray", nargs="?", const=HERE, type=_address, metavar="ADDRESS",
                        help="explain in many processes (extra: ray): of this machine, or of the Ray cluster at "
                        "ADDRESS, auto or HOST:PORT; then images may lie in .tar and .parquet files, and at s3:// "
                        "or gs://")  # fmt: skip
    parser.add_argument("--workers", type=_count, metavar="N",
                        help="of --ray; default: one for each GPU, or for each CPU")  # fmt: skip
    parser.add_argument("--gpus-per-worker", type=_gpus, metavar="F", help="of --ray, 0.25 if four share a GPU")
    parser.add_argument("--to", choices=["pictures", "csv", "parquet"], default="pictures",
                        help="of --ray: pictures and tables, tables alone, or tables and relevance as tensors; "
                        "default: pictures")  # fmt: skip
    parser.add_argument("--image-column", metavar="NAME",
                        help="of --ray: the column of pictures in parquet files; --id names the rows")  # fmt: skip


def apart(args: Sequence[str]) -> list[str]:
    """Arguments in which --ray has its own value: what follows it and is no address is an image, or the model."""
    found: list[str] = []
    for i, arg in enumerate(args):
        following = args[i + 1] if i + 1 < len(args) else ""
        found.append(f"--ray={HERE}" if arg == "--ray" and not _ADDRESS.fullmatch(following) else arg)
    return found


def _address(text: str) -> str:
    if text != HERE and not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected auto or HOST:PORT of a Ray cluster, received {text}")
    return text


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {text}")
    return number


def _gpus(text: str) -> float:
    number = float(text)
    if not number >= 0 or (number > 1 and number != round(number)):
        raise argparse.ArgumentTypeError(f"expected a part of a GPU or a whole number of them, received {text}")
    return number
