"""Every `lrp-tf` command line that README and docs show is one that the parser takes."""

from __future__ import annotations

import re
import shlex

import pytest
from helpers import REPOSITORY

from lrp_tf import cli

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """(page, command line), from indented code and from backticks, with continued lines joined."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line.strip() for line in re.findall(r"^ {4,}lrp-tf .*$", text, re.MULTILINE)]
        # What stands behind three blanks, or behind #, tells what the command does.
        lines = [re.split(r"\s{3,}| # ", line)[0] for line in lines]
        spans = re.findall(r"`(lrp-tf [^`]*\.keras[^`]*)`", re.sub(r"\s*\n\s*", " ", text))
        found += [(page.name, line) for line in [*lines, *spans] if "…" not in line]
    return found


def test_there_are_commands() -> None:
    assert len(commands()) > 30
    assert {"README.md", "photographs.md", "start.md"} <= {page for page, _ in commands()}


@pytest.mark.parametrize(
    ("page", "line"), [pytest.param(*found, id=f"{found[0]}-{i}") for i, found in enumerate(commands())]
)
def test_commands_of_the_docs_parse(page: str, line: str, capsys: pytest.CaptureFixture) -> None:
    try:
        cli._parser().parse_args(shlex.split(line)[1:])
    except SystemExit as stop:
        if stop.code:
            pytest.fail(f"{page}: {line}\n{capsys.readouterr().err}")
