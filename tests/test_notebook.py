"""The notebook runs without a warning, and what it holds is what it gives."""

from __future__ import annotations

import base64
import importlib.util
import json
from types import ModuleType

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY

START = REPOSITORY / "notebooks" / "start.ipynb"


def stored() -> list[dict]:
    return json.loads(START.read_text(encoding="utf-8"))["cells"]


def pictures(cells: list[dict]) -> dict[str, np.ndarray]:
    """Cell -> its picture."""
    found = {}
    for cell in cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                raw = base64.b64decode("".join(output["data"]["image/png"]))
                found[cell["id"]] = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    return found


def test_the_notebook_is_committed_as_it_was_executed() -> None:
    cells = stored()
    assert START.stat().st_size < 1_500_000
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]
    found = pictures(cells)
    assert len(found) >= 5
    for name, picture in found.items():
        assert picture.shape[1] <= 900, name
        blue, green, red = (picture[..., c].astype(int) for c in range(3))
        assert (red - np.maximum(blue, green) > 60).any(), name  # relevance, or a curve, in red
    assert all(cell["source"] for cell in cells)


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebook", REPOSITORY / "notebooks" / "run.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    """`executed` raises for errors and for whatever a cell writes to standard error."""
    cells = module().executed(START)["cells"]
    fresh, kept = pictures(cells), pictures(stored())
    assert set(fresh) == set(kept)
    for name, picture in kept.items():
        assert fresh[name].shape == picture.shape, name
    assert stored() == json.loads(START.read_text(encoding="utf-8"))["cells"]
