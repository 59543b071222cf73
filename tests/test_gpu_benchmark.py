"""benchmarks/gpu.py on the smallest net: what is carried to a machine with a GPU, and what is measured from it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import REPOSITORY

from lrp_tf.engine.savings import bfloat16

PRESETS = ("epsilon_plus_flat", "epsilon_gamma_box")


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    """Its modules can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        yield


@pytest.fixture
def gpu_net() -> ModuleType:
    return importlib.import_module("gpu_net")


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `gpu.py export` writes."""
    folder = tmp_path_factory.mktemp("carried")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16, "LEAST_WORK", 0)  # so that a tiny net has steps that are chosen
        patch.setattr(bfloat16, "LIMITS", bfloat16.Limits(0, 0))
        importlib.import_module("gpu_export").export(folder, ["tiny"], PRESETS, [2])
    return folder


def test_weights_are_arguments_and_no_constants(carried: Path, gpu_net: ModuleType) -> None:
    manifest = json.loads((carried / "manifest.json").read_text(encoding="utf-8"))
    net = gpu_net.Net(carried, manifest, "tiny")
    assert {(name, dtype) for name, dtype, _ in net.functions} == {
        *((name, "float32") for name in ("forward", "gradient", *PRESETS)),
        *((name, "bfloat16") for name in PRESETS),
    }
    for (_, _, batch), function in net.functions.items():
        text = net.text(function)
        signature = re.search(r"func\.func @main\((.*?)\) -> tensor<([\dx]*)xf32>", text)
        found = [[int(n) for n in shape.split("x")] for shape in re.findall(r"tensor<([\dx]*)x\w+>", signature[1])]
        shapes = {path: list(value.shape) for path, value in net.weights.items()}
        shapes |= {"x": list(net.images(batch).shape), "target": [batch]}
        assert found == [shapes[argument] for argument in function["arguments"]]
        assert [int(n) for n in signature[2].split("x")] == function["output"]
        assert "loc(" not in text
        assert 'dense<"' not in text, "an array among the constants"


def test_the_reference_is_the_relevance_of_those_weights(carried: Path, gpu_net: ModuleType) -> None:
    """The net that the manifest describes is built anew from it."""
    import keras
    import models

    import lrp_tf

    manifest = json.loads((carried / "manifest.json").read_text(encoding="utf-8"))
    net = gpu_net.Net(carried, manifest, "tiny")
    keras.backend.clear_session()
    model = models.build("tiny")
    for variable, value in zip(model.variables, net.weights.values(), strict=True):
        variable.assign(value)
    x = net.images(2)
    logits = np.asarray(models.logits(model)(x))
    relevance = lrp_tf.Explainer(model, "epsilon_plus_flat")(x, net.targets(logits))
    row = {"name": "epsilon_plus_flat", **net.agreement("epsilon_plus_flat", np.asarray(relevance))}
    assert row["deviation"] < 1e-5
    assert gpu_net.agrees(row, "float32")
    other = net.agreement("epsilon_gamma_box", np.asarray(relevance))
    assert not gpu_net.agrees(other, "float32")
    assert "no time" in gpu_net.line({"name": "wrong", **other})
    assert not gpu_net.agrees({"correlation": float("nan")}, "bfloat16")


def test_other_random_numbers_are_noticed(gpu_net: ModuleType) -> None:
    recipe = gpu_net.seeded.recipe("conv/kernel", (3, 3, 2, 4), 0, calm=False)
    value = gpu_net.seeded.weights([recipe])["conv/kernel"]
    assert abs(value.std() - np.sqrt(2 / 18)) < 0.1
    with pytest.raises(ValueError, match="draws other numbers for conv/kernel"):
        gpu_net.seeded.weights([recipe | {"sum": gpu_net.seeded.total(value) + 0.1}])


@pytest.mark.slow
@pytest.mark.skipif(not util.find_spec("jax"), reason="gpu.py run needs jax, which no extra of lrp_tf installs")
def test_jax_runs_what_was_carried(carried: Path, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "run", str(carried), "--model", "tiny", "--batch", "2"]
    command += ["--runs", "3", "--precision", "float32", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    jax = {row["name"]: row for row in rows if row["library"] == "jax"}
    assert set(jax) == {"jax.grad", "forward", "gradient", *PRESETS}
    for row in jax.values():
        assert row["deviation"] < 1e-5
        assert row["ms"] > 0
