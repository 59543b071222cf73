"""Folders of what a command has finished, for --resume and --overwrite."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from lrp_tf.files.errors import LoadError


def folder_of(options: argparse.Namespace, name: str, what: str) -> Path:
    """The folder `name` below --out, empty unless the run is to be resumed.

    Args:
        what: --out holds, with its article: "an evaluation".

    Raises:
        LoadError: it holds something of an earlier run, and neither --resume nor --overwrite was given.
    """
    folder: Path = options.out / name
    if folder.exists() and not options.resume:
        if not options.overwrite:
            raise LoadError(
                f"{options.out} holds {what}. Remedy: --resume to finish it, --overwrite to begin anew, or another "
                "--out"
            )
        shutil.rmtree(folder)
    return folder
