"""A really trained MobileNet on real photographs: the maps lie on what the net was shown."""

from __future__ import annotations

import json

import cv2
import keras
import numpy as np
import pytest
from helpers import REPOSITORY

import lrp_tf
from lrp_tf import composites

FOLDER = REPOSITORY.parent / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / "photos").exists(), reason="needs trained weights, which the repository lacks"),
]
SIZE = 224


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(FOLDER / "mobilenet075.weights.h5")
    return model


@pytest.fixture(scope="module")
def photographs() -> tuple[list[dict], np.ndarray]:
    """The photographs with boxes around the object of the net's top class, as the net wants them."""
    boxes = json.loads((FOLDER / "photos" / "boxes.json").read_text())
    images = [cv2.imread(str(FOLDER / "photos" / entry["file"])) for entry in boxes]
    images = [
        cv2.cvtColor(cv2.resize(i, (SIZE, SIZE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB) for i in images
    ]
    return boxes, keras.applications.mobilenet.preprocess_input(np.stack(images).astype("float32"))


@pytest.mark.parametrize("name", composites.PRESETS)
def test_positive_relevance_prefers_the_box(mobilenet: keras.Model, photographs: tuple, name: str) -> None:
    boxes, x = photographs
    bounds = {"low": -1.0, "high": 1.0} if composites.needs_bounds(name) else {}
    explanation = lrp_tf.Explainer(mobilenet, composites.get(name, **bounds)).explain(x)
    np.testing.assert_allclose(explanation.output, mobilenet(x), atol=1e-4)
    assert np.abs(explanation.conservation.unexplained).max() < 1e-5
    inside = 0
    for entry, r in zip(boxes, np.maximum(explanation.relevance.numpy().sum(-1), 0), strict=True):
        mask = np.zeros((SIZE, SIZE), bool)
        for x0, y0, x1, y1 in np.array(entry["boxes_xyxy"]) * SIZE // 256:
            mask[y0:y1, x0:x1] = True
        inside += (r * mask).sum() / r.sum() > mask.mean()
    print(f"{name}: {inside} of {len(boxes)}")
    assert inside >= 13
