"""Every model of keras.applications, with random weights of realistic size, through `lrp_tf.tools.coverage`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from lrp_tf.tools import coverage

DEFAULT = "epsilon_plus_flat"
FIRST = [names[0] for names in coverage.FAMILIES.values()]


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Compiling deep nets takes longer than running them once."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
    keras.backend.clear_session()


def test_the_constructors_are_those_of_keras() -> None:
    public = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(coverage.constructors()) == public
    assert len(public) >= 40
    assert sorted(name for names in coverage.FAMILIES.values() for name in names) == sorted(public)


def test_command_prints_and_writes_the_table(tmp_path, capsys: pytest.CaptureFixture) -> None:
    page, data = tmp_path / "page.md", tmp_path / "data.json"
    options = ["--models", "MobileNetV3Small", "--presets", DEFAULT, "--markdown", str(page), "--json", str(data)]
    assert coverage.main(options) == 0
    assert "MobileNetV3Small" in capsys.readouterr().out
    assert "| MobileNetV3Small |" in page.read_text()
    (row,) = json.loads(data.read_text())["rows"]
    assert row["steps"] > 100
    assert "Product" not in row["kinds"]
    assert {"Conv2D", "DepthwiseConv2D", "Multiply"} <= set(row["kinds"])
    assert abs(row["unexplained"]) < 1e-5
    assert sum(row[name] for name in ("relevance", "bias", "stabilizer", "other")) == pytest.approx(1, abs=1e-4)


def test_a_leak_fails_the_row(monkeypatch: pytest.MonkeyPatch, eagerly: None) -> None:
    """A flow that drops a hundredth of its relevance is seen."""
    from lrp_tf import flows

    class Leaky(flows.Share):
        def backward(self, step, saved):
            propagate = super().backward(step, saved)
            return lambda relevances, account: [None if r is None else 0.99 * r for r in propagate(relevances, account)]

    monkeypatch.setitem(flows.base._REGISTRY, (keras.layers.GlobalAveragePooling2D, None), Leaky())
    model = coverage.build("MobileNetV3Small")
    assert not coverage.check(model, coverage.image(model), DEFAULT).passed


def test_an_error_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args, **kwargs):
        raise ValueError("no such net")

    monkeypatch.setattr(coverage, "build", broken)
    (row,) = coverage.rows(["VGG16"], [DEFAULT])
    assert row.error == "ValueError: no such net"
    assert not row.passed


def check(name: str, presets: list[str]) -> None:
    found = list(coverage.rows([name], presets))
    assert [row.preset for row in found] == presets
    assert [(row.preset, row.error, row) for row in found if not row.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in coverage.constructors() if name not in FIRST])
def test_default_preset(name: str, eagerly: None) -> None:
    check(name, [DEFAULT])


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_every_preset_for_one_of_each_family(name: str, eagerly: None) -> None:
    check(name, coverage.FOR_IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_without_biases_relevance_adds_up_to_the_logit(name: str, eagerly: None) -> None:
    """But for the outputs that nothing positive contributes to: ZPlus has nothing to share there, and says so."""
    epsilon, plus = coverage.rows([name], ["epsilon", "epsilon_plus"], zero_bias=True)
    for row in (epsilon, plus):
        assert not row.error
        assert row.bias == 0
        assert abs(row.stabilizer) < 1e-3
        np.testing.assert_allclose(row.relevance + row.other, 1, atol=1e-3, err_msg=str(row))
    np.testing.assert_allclose(epsilon.relevance, 1, atol=1e-3)
