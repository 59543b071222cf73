"""ruff is clean, imports flow one way, the core stays light, private Keras stays in two files."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

PACKAGE = REPOSITORY / "lrp_tf"


DESIGN = (REPOSITORY / "docs/design.md").read_text(encoding="utf-8")


@functools.cache
def packages() -> dict[str, set[str]]:
    """Which packages each package may import, by docs/design.md; a single file is a package of its own."""
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \|.*\| ([^|]+) \|$", DESIGN, re.MULTILINE)
    table: dict[str, set[str]] = {}
    for names, allowed in rows:
        above = set(table)
        known = set(re.findall(r"[\w.]+", allowed.replace("all of the above", ""))) | {"version"}
        for name in re.findall(r"[\w.]+", names):
            table[name] = known | (above if "all of the above" in allowed else set())
    return table


@functools.cache
def modules() -> dict[str, Path]:
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


@functools.cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lrp_tf":
            module = node.module.removeprefix("lrp_tf").lstrip(".")
            inner = {f"{module}.{alias.name}".lstrip(".") for alias in node.names} & set(modules())
            found |= inner or {module}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("lrp_tf.") for a in node.names if a.name.startswith("lrp_tf.")}
    return found - {""}


@functools.cache
def package_of(name: str) -> str:
    """The longest package of the table that holds a module."""
    while name and name not in packages():
        name = name.rpartition(".")[0]
    return name


def test_imports_follow_the_table() -> None:
    table = packages()
    for name, path in modules().items():
        home = package_of(name)
        assert home, f"{name} belongs to no package of docs/design.md"
        more = {i for i in imports(path) if package_of(i) not in table[home] | {home}}
        # What a package consists of counts as the package: engine.savings is imported by engine.
        more = {i for i in more if not package_of(i).startswith(f"{home}.")}
        assert not more, f"{name} imports more than docs/design.md says: {sorted(more)}"


def test_tables_have_no_cycle() -> None:
    for table in (packages(), {name: imports(path) - {name} for name, path in modules().items()}):
        table = {name: {i for i in allowed if i in table} for name, allowed in table.items()}
        done: set[str] = set()
        while ready := [name for name, allowed in table.items() if name not in done and allowed <= done]:
            done.update(ready)
        assert done == set(table), f"these import one another: {sorted(set(table) - done)}"


def test_every_file_has_a_line_in_the_design() -> None:
    listed = set(re.findall(r"^\| `([\w/]+\.py)` \|", DESIGN, re.MULTILINE))
    inits = {path for path in modules().values() if path.name == "__init__.py"}
    files = {str(path.relative_to(PACKAGE)) for path in set(modules().values()) - inits if path.parent != PACKAGE}
    assert listed - {"cli/__init__.py"} == files


def test_errors_of_the_library_name_no_options_of_the_command() -> None:
    for name, path in modules().items():
        if package_of(name) in ("files", "gallery", "serving", "heatmap"):
            assert not re.search(r"(?<![-\w])--[a-z]", path.read_text(encoding="utf-8")), name


def test_private_keras_only_where_models_are_traced() -> None:
    private = re.compile(r"keras\.src|_keras_history|_inbound_nodes|_run_through_graph|_functional\b|_flatten_layers")
    for name, path in modules().items():
        code = "\n".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        if name in ("core.graph", "core.operations"):  # they know the names of modules, no more
            code = re.sub(r'"keras\.src[\w.]*"', "", code)
        assert name in ("tracing.follow", "tracing.inputs", "tracing.symbolic") or not private.search(code), name


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_is_clean(command: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_importing_the_core_costs_nothing_beside_keras() -> None:
    """Keras itself loads matplotlib and scikit-learn where they are installed; lrp_tf adds nothing of the kind."""
    code = (
        "import sys, keras, tensorflow; before = set(sys.modules); import lrp_tf; lrp_tf.Explainer;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['lrp_tf']"


def test_no_machine_paths_in_the_repository() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout
    pattern = re.compile(r"(?<![\w.])/(?:work|farm|root|home)/")
    for name in files.splitlines():
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".toml", ".cff", ""} and path.is_file() and path.name != "test_style.py":
            assert not pattern.search(path.read_text(encoding="utf-8")), name


def test_files_and_functions_stay_short() -> None:
    names = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout
    paths = [REPOSITORY / name for name in names.splitlines()] or [*PACKAGE.rglob("*.py")]
    for path in paths:
        code = path.read_text(encoding="utf-8")
        assert code.count("\n") <= 400, path
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_rules_and_flows_are_plain_formulas() -> None:
    """No context variable, and nothing that is fetched from a function by name."""
    for name, path in modules().items():
        code = path.read_text(encoding="utf-8")
        assert "contextvars" not in code, name
        assert not re.search(r"getattr\([^)]*\)\(\)", code), name


def test_no_conflict_is_left() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout
    for name in names.splitlines() or ["mkdocs.yml", "CHANGELOG.md", "setup.py"]:
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".cff", ""} and path.is_file():
            assert not re.search(r"^(<{7}|>{7}) ", path.read_text(encoding="utf-8"), re.MULTILINE), name
