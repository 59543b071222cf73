"""What README and docs show runs; what their tables claim is there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from helpers.pictures import photos

import lrp_tf
from lrp_tf import cli, composites, flows, rules
from lrp_tf.core import linear
from lrp_tf.serving import signatures
from lrp_tf.tools import layer_table, metric_table

# A page without a block of Python has nothing to run.
_ALL = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
ALL_PAGES = [str(path.relative_to(REPOSITORY)) for path in _ALL]
WITH_PYTHON = [page for page in ALL_PAGES if "```python\n" in (REPOSITORY / page).read_text(encoding="utf-8")]
# The blocks of docs/serving.md speak to a server, those of docs/ray.md to a cluster; slow tests make the same calls.
PAGES = [page for page in WITH_PYTHON if page not in ("docs/serving.md", "docs/ray.md")]


def blocks(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def network() -> keras.Model:
    """A net that the examples fit: conv2, block1_conv, head."""
    return keras.Sequential([
        keras.Input((12, 12, 1)),
        keras.layers.Conv2D(4, 3, activation="relu", name="block1_conv"),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv2"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(8, activation="relu", name="dense"),
        keras.layers.Dense(10, activation="softmax", name="head"),
    ])  # fmt: skip


# To trace costs most of the time. Of the pages one of five is compiled by default, README.md first, and those whose
# examples read by tf.data, fit or save; the slow tests compile the others.
COMPILED = {"docs/attention.md", "docs/callbacks.md", "docs/speed.md", "docs/training-on-relevance.md", *PAGES[::5]}
RUNS = [pytest.param(page, page in COMPILED, id=page) for page in PAGES]
RUNS += [
    pytest.param(page, True, id=f"{page}-compiled", marks=pytest.mark.slow) for page in PAGES if page not in COMPILED
]


@pytest.fixture
def compiled(request: pytest.FixtureRequest) -> Iterator[None]:
    tf.config.run_functions_eagerly(not request.param)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("page", "compiled"), RUNS, indirect=["compiled"])
def test_examples_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(linear, "_REGISTRY", dict(linear._REGISTRY))
    monkeypatch.setattr(flows.base, "_REGISTRY", dict(flows.base._REGISTRY))
    monkeypatch.setattr(composites.presets, "PRESETS", dict(composites.PRESETS))
    metrics = importlib.import_module("lrp_tf.evaluate.metric")  # evaluate.metric is the decorator
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))
    model = network()
    model.save("model.keras")
    names = {"model": model, "x": np.random.default_rng(0).uniform(size=(4, 12, 12, 1)).astype("float32")}
    names["dataset"] = tf.data.Dataset.from_tensor_slices(names["x"])
    photos(tmp_path / "photos", 2)
    if page in ("docs/contrast.md", "docs/heatmaps.md"):  # which say nothing of how an explainer is made
        names["explainer"] = lrp_tf.Explainer(model)
        names["R"] = names["explainer"](names["x"])
    if page == "docs/clever-hans.md":  # samples of one class, and a mark to put on them
        names |= {"labels": np.full(4, 3), "add_mark": lambda x: np.maximum(x, np.eye(12)[None, ..., None] > 0)}
        names |= {"x_test": names["x"], "test_labels": np.array([0, 1, 3, 3])}
    found = blocks(page)
    assert found
    for block in found:
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        assert (tmp_path / "why.png").exists()
        assert "head:softmax" in capsys.readouterr().out
        assert names["R"].shape == (4, 12, 12, 1)
        assert names["e"].layers["conv2"].shape == (4, 8, 8, 4)
    if page == "docs/rules.md":
        handlers = lrp_tf.Explainer(model, names["composite"]).clone.handlers
        used = {step.name: repr(rule) for step, rule in handlers.items() if isinstance(rule, rules.Rule)}
        assert used == {"block1_conv": "Flat()", "conv2": "ZPlus()", "dense": "Epsilon(1e-06)", "head": "WSquare()"}
    if page == "docs/composites.md":
        check_composites(names)
    if page == "docs/photographs.md":
        assert names["outcome"].done == 2
        assert (tmp_path / "results" / "photo1.png").exists()
    if page == "docs/extending.md":
        check_extensions(names)


def check_composites(names: dict) -> None:
    """Each row of the tables says the same in Python and as text."""
    assert names["R"].shape == names["x"].shape
    table = (REPOSITORY / "docs/composites.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \| (`[^|]+) \|", table, re.MULTILINE)
    known = {**vars(composites), **vars(rules), **vars(keras.layers), "flows": flows}
    for left, right in rows:
        python, text = (re.findall("`(.+?)`", cell) for cell in (left, right))
        if "(" in right:  # the table of rules has Python on its right
            python, text = [f"(None, {code})" for code in text], [f"all: {code}" for code in python]
        else:
            python, text = [f"({code}, rules.Flat())" for code in python], [f"{code}: flat" for code in text]
        for code, written in zip(python, text, strict=True):
            assert composites.Composite([eval(code, {**known, "rules": rules})]) == composites.parse(written), written
    assert len(rows) == 26


def check_extensions(names: dict) -> None:
    """The rule, the layer and the flow of the page do what the page says."""
    assert names["R"].shape == names["x"].shape
    inputs = keras.Input((6,))
    swapped = names["Swap"]()(inputs)
    masked = names["MaskedDense"]()(swapped)
    model = keras.Model(inputs, keras.layers.Dense(3)(masked))
    x = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    for rule in (rules.Epsilon(), rules.ZPlus(), names["PositiveWeights"]()):
        explanation = lrp_tf.Explainer(model, rule).explain(x)
        assert np.abs(explanation.conservation.unexplained).max() < 1e-5
    # the same net without Swap and with a plain Dense
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, use_bias=False), keras.layers.Dense(3)])
    plain.set_weights([model.layers[2].w.numpy(), *model.layers[3].get_weights()])
    want = lrp_tf.Explainer(plain, rules.Epsilon())(x[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(lrp_tf.Explainer(model, rules.Epsilon())(x), want, rtol=1e-4, atol=1e-6)


def test_examples_of_extensions_are_short() -> None:
    for block in blocks("docs/extending.md"):
        assert len(block.strip().splitlines()) < 15


def test_supported_table_is_true() -> None:
    table = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("## What is supported")[1].split("\n## ")[0]
    status = {row[0].split(" ")[0]: row[1] for row in layer_table.table().rows}
    named = {name for name in re.findall(r"\b[A-Z]\w+\b", table) if name in status}
    assert {name for name in named if status[name] != "supported"} == set()
    for rule in ("Zero", "Epsilon", "ZPlus", "AlphaBeta", "Gamma", "Flat", "WSquare", "ZBox", "Pass"):
        assert rule in table
        assert hasattr(rules, rule)
    for preset in lrp_tf.composites.PRESETS:
        assert re.search(rf"\b{preset}\b", table)


def test_page_of_all_layers_is_the_generated_one() -> None:
    """Row by row, for the classes that this version of Keras has."""
    page = (REPOSITORY / "docs/layers.md").read_text(encoding="utf-8")
    written = {line.split(" ")[1]: line for line in page.splitlines() if line.startswith("| ")}
    made = {line.split(" ")[1]: line for line in layer_table.markdown().splitlines() if line.startswith("| ")}
    assert len(made) > 100
    assert {name: written.get(name) for name in made} == made


def test_page_of_all_metrics_is_the_generated_one() -> None:
    assert len(metric_table.table().rows) >= 24
    assert (REPOSITORY / "docs/metrics.md").read_text(encoding="utf-8") == metric_table.markdown()


@pytest.mark.parametrize(("command", "name"), [("explain", "photographs"), ("explain-text", "text")])
def test_pages_of_commands_name_every_option(command: str, name: str, capsys: pytest.CaptureFixture) -> None:
    page = (REPOSITORY / f"docs/{name}.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert len(options) > 15
    assert {option for option in options if option not in page} == set()


def test_page_of_serving_names_every_signature_and_status() -> None:
    page = (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
    for status in signatures.STATUS:
        assert f"`{status}`" in page
    methods = [name for name in vars(signatures.Served) if name.startswith("explain")]
    for name in ("serving_default", *methods, "explain_top_k", "explain_image", "explain_image_rest"):
        assert f"| `{name}`" in page


def test_links_lead_somewhere() -> None:
    for page in ALL_PAGES:
        path = REPOSITORY / page
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{page}: {target}"
