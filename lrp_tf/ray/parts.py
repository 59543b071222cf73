"""Relevance in parquet files: `relevance/part-*.parquet`, each of one block of images, whole or not there.

A worker writes a part under a name that nobody reads. The driver gives it its name when the rows of its images are
about to be recorded, and at the start of a run that is resumed it removes parts whose images are not all recorded:
whatever was killed meanwhile, every image is in one part, and in one only. Read them all with
`pyarrow.parquet.read_table("results/relevance")`.
"""

from __future__ import annotations

import secrets
from collections.abc import Set
from pathlib import Path

import numpy as np

from lrp_tf.files.errors import optional
from lrp_tf.gallery.finished import Finished
from lrp_tf.ray.columns import arrow, tensors, typed

FOLDER = "relevance"


def text(path: str) -> str:
    r"""A path as parquet files hold it, which are UTF-8: other bytes are written out, as "\xff"."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write(out: Path, found: list[Finished]) -> str | None:
    """Write the relevance of images under a temporary name, which is returned; None: none has a result.

    Args:
        found: with their relevance, [k, ...].

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    done = [one for one in found if one.reason is None]
    if not done:
        return None
    parquet = optional("pyarrow.parquet", extra="ray", what="which writes parquet files")
    rows = [row for one in done for row in one.rows]
    maps = np.concatenate([one.relevance for one in done if one.relevance is not None])
    table = arrow().table(
        {
            "file": [text(str(row[0])) for row in rows],
            **typed([row[2:] for row in rows]),
            "relevance": tensors(maps),
        }
    )
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    name = f".tmp-{secrets.token_hex(8)}.parquet"
    try:
        parquet.write_table(table, out / FOLDER / name, compression="zstd", compression_level=1)
    except BaseException:
        (out / FOLDER / name).unlink(missing_ok=True)
        raise
    return name


def commit(out: Path, name: str) -> None:
    """Give a part its name. What was recorded of its images before is another matter: see `settle`.

    Raises:
        OSError: it is gone.
    """
    folder = out / FOLDER
    (folder / name).rename(folder / name.replace(".tmp-", "part-", 1))


def settle(out: Path, recorded: Set[str]) -> set[str]:
    """Remove the parts of a killed run whose images are not all recorded; returns the files in those that stay.

    Args:
        recorded: the files in the table of results, as `text`.
    """
    parquet = optional("pyarrow.parquet", extra="ray", what="which reads parquet files")
    kept: set[str] = set()
    for path in sorted((out / FOLDER).glob("part-*.parquet")):
        try:
            files = set(parquet.read_table(path, columns=["file"])["file"].to_pylist())
        except (OSError, ValueError):  # a file system that went down lost what it had not yet written
            files = set()
        if files and files <= recorded:
            kept |= files
        else:
            path.unlink()
    return kept


def clear(out: Path) -> None:
    """Remove all parts, for a run that begins anew."""
    for path in (out / FOLDER).glob("*.parquet"):
        path.unlink()
