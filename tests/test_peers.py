"""run.py --peers as far as it goes without torch: what is missing, what agrees, and what is handed over."""

from __future__ import annotations

from types import ModuleType

import keras
import numpy as np
import pytest
from helpers import REPOSITORY


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import peers

    return peers


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import twin

    return twin


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import folding

    return folding


def test_a_remedy_is_named_when_there_is_no_peer(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch"}
    monkeypatch.setattr(peers.util, "find_spec", lambda name: object() if name in there else None)
    assert peers.absent() == {"zennit", "captum", "shap", "tf_explain"}
    message = peers.missing()
    assert message.endswith("pip install torch==2.13.0 zennit captum shap tf-explain")
    assert "\n" not in message
    there.add("captum")
    assert peers.missing() is None
    there -= {"torch", "captum"}
    there.add("shap")
    assert peers.missing() is None


def test_what_is_absent_or_fails_gets_a_line(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise AttributeError("In user code:\n\n  a file\n  'Dense' object has no attribute 'output_shape'\n")

    monkeypatch.setattr(peers.util, "find_spec", lambda name: object() if name == "tf_explain" else None)
    monkeypatch.setattr(peers.metadata, "version", lambda name: "0.3.1")
    methods = {"SHAP DeepExplainer": None, "tf-explain GradCAM": fails, "tf-explain Other": lambda *_: lambda: None}
    monkeypatch.setattr(peers.peers_keras, "METHODS", methods)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    found = peers.measure(model, peers.models.image(model, 2), ["epsilon"], 2, peers.composites.get)
    assert found["versions"]["shap"] == "absent"
    assert found["left_out"]["zennit epsilon"] == "torch, zennit cannot be imported"
    failed, other = found["on_keras"]
    assert failed["error"] == "AttributeError: 'Dense' object has no attribute 'output_shape'"
    assert other["maps_s"] > 0
    assert other["times_ours"] > 0
    assert "tf-explain GradCAM" + " " * 26 + "does not run: AttributeError" in capsys.readouterr().out


def test_only_close_relevances_agree(peers: ModuleType) -> None:
    expected = np.array([[1.0, -4.0]])
    assert peers.deviation(expected + [[0.0, 1.0]], expected) == 0.25
    assert peers.agree(peers.deviation(expected * (1 + 1e-8), expected))
    assert not peers.agree(peers.deviation(expected * 1.01, expected))
    assert not peers.agree(peers.deviation(expected * np.nan, expected))
    with pytest.raises(ValueError, match="differ in shape"):
        peers.deviation(expected[0], expected)


def test_every_row_is_compared_or_has_a_reason(peers: ModuleType) -> None:
    rows, reasons = peers.compared(list(peers.composites.PRESETS))
    assert not set(rows) & set(reasons)
    for name in peers.composites.PRESETS:
        for peer in ("zennit", "captum"):
            assert (f"{peer} {name}" in rows) != (f"{peer} {name}" in reasons)


def test_a_row_that_disagrees_has_no_time(peers: ModuleType, capsys: pytest.CaptureFixture) -> None:
    peers.show({"name": "zennit epsilon", "deviation": 0.5})
    assert "no time: deviates by 5.0e-01" in capsys.readouterr().out


def test_twin_folds_pads_and_permutes(twin: ModuleType, folding: ModuleType, peers: ModuleType) -> None:
    inputs = keras.Input((4, 5, 2))
    x = keras.layers.ZeroPadding2D(1)(inputs)
    x = keras.layers.Conv2D(3, 1, name="conv")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Dense(2, activation="softmax", name="dense")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, x)
    peers.set_biases(model)
    exact = peers.in_float64(model)
    nodes = twin.describe(exact)
    arrays = folding.arrays(nodes, {v.path: keras.ops.convert_to_numpy(v) for v in exact.variables})
    assert [(node["kind"], node["relu"]) for node in nodes] == [("conv", True), ("flatten", False), ("dense", False)]
    assert nodes[0]["options"]["padding"] == ((1, 1), (1, 1))
    image = np.random.default_rng(1).normal(size=(1, 4, 5, 2))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))).transpose(0, 3, 1, 2)
    z = np.einsum("bchw,oc->bohw", padded, arrays["conv/weight"][..., 0, 0]) + arrays["conv/bias"][:, None, None]
    z = np.maximum(z, 0).reshape(1, -1) @ arrays["dense/weight"].T + arrays["dense/bias"]
    np.testing.assert_allclose(np.exp(z) / np.exp(z).sum(), exact(image), rtol=1e-9)


@pytest.mark.parametrize("layer", [keras.layers.SeparableConv2D(3, 3), keras.layers.ReLU(5.0)], ids=["kind", "option"])
def test_layers_without_a_counterpart_are_refused(twin: ModuleType, layer: keras.Layer) -> None:
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3), layer])
    with pytest.raises(ValueError, match=f"{layer.name}.*no counterpart"):
        twin.describe(model)
