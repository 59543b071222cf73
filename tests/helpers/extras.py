"""Packages of extras that tests need."""

from __future__ import annotations

import importlib.util
import os

import pytest


def need(*packages: str, extra: str) -> None:
    """Without one of these packages a test is skipped; where CI is set, which installs all extras, it fails.

    Args:
        packages: names to import; nothing is imported here. extra: what installs them.
    """
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if lacking:
        missing_here(f'needs {", ".join(lacking)}: pip install -e ".[{extra}]"')


def missing_here(reason: str) -> None:
    """Skip a test or, above all tests, a module; fail where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)
