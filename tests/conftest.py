"""Quiet TensorFlow before its first import, and what several tests share."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import pytest

# Keras is imported by the fixtures: pytest-xdist's first process, for which the others wait, needs none.
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for helpers and references
pytest.register_assert_rewrite("helpers")  # so that a failing assert in a helper shows its values


@pytest.fixture(autouse=True)
def _seed() -> None:
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Models in double precision, so that only rounding in double precision is forgiven."""
    import keras

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(params=["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """Functions run eagerly, which takes a fraction of the time, and in the slow tests compiled."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(request.param == "eager")
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def seldom_compiled(request: pytest.FixtureRequest) -> Iterator[None]:
    """One of five cases of a test is compiled, the others run eagerly; what is slow is compiled always.

    For tests of numbers: to trace a tiny net takes six times as long as to compute it eagerly. The first case is
    compiled. Five is prime to most numbers of values, so that each value has its turn.
    """
    import tensorflow as tf

    case = getattr(request.node, "callspec", None)
    compiled = case is None or sum(case.indices.values()) % 5 == 0 or request.node.get_closest_marker("slow")
    tf.config.run_functions_eagerly(not compiled)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier of images."""
    from helpers.pictures import classifier

    path = tmp_path_factory.mktemp("model") / "small.keras"
    classifier().save(path)
    return path


@pytest.fixture
def lrp(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Runs lrp-tf in an empty folder; returns exit code, standard output and error."""
    from lrp_tf import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def pytest_collection_finish() -> None:
    """Tests that call gc.collect() look through their own objects, not through the million that are there by now."""
    gc.collect()
    gc.freeze()


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list | None:
    """No cases are made of slow tests that do not run: they are two of three, and every process makes its own."""
    if collector.config.option.markexpr != "not slow" or not (inspect.isfunction(obj) or inspect.isclass(obj)):
        return None
    return [] if any(mark.name == "slow" for mark in getattr(obj, "pytestmark", [])) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first, so that no process waits for another at the end."""
    longest = ["test_serving.py", "test_exactness.py", "test_layers.py"]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))
