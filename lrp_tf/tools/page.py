"""A table of the library as a command that prints it or writes it as a page of docs/."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from lrp_tf.atomic import atomic


def command(name: str, description: str | None, table: Callable[[], object], markdown: Callable[[], str]) -> None:
    """Print `table()`, or with `--markdown FILE` write `markdown()`."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table as a page")
    arguments = parser.parse_args()
    if arguments.markdown is None:
        print(table())
        return
    atomic(arguments.markdown, lambda temporary: temporary.write_text(markdown(), encoding="utf-8"))
