"""The methods against what captum gave for the same net, see references/captum_references.py."""

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.checking import close
from keras import layers as kl

from lrp_tf import gradients

TOLERANCE = 5e-6
RULES = ("left", "right", "middle", "gauss_legendre")


@pytest.fixture(scope="module")
def captum():
    """What captum gave, and the net."""
    with np.load(REPOSITORY / "tests/references/captum.npz") as file:
        found, only = dict(file), {"dtype": "float64"}
    model = keras.Sequential([
        keras.Input((11, 11, 2), dtype="float64"),
        kl.Conv2D(4, 3, name="first", **only),
        kl.ReLU(name="relu", **only),
        kl.MaxPooling2D(**only),
        kl.Conv2D(5, 3, activation="relu", name="second", **only),
        kl.GlobalAveragePooling2D(**only),
        kl.Dense(3, name="head", **only),
    ])  # fmt: skip
    for name in ("first", "second", "head"):
        model.get_layer(name).set_weights([found[f"{name}_kernel"], found[f"{name}_bias"]])
    return found, model


def test_gradients(captum):
    found, model = captum
    x, target = found["x"], found["target"]
    close(gradients.Gradient(model)(x, target), found["gradient"], TOLERANCE)
    close(gradients.InputTimesGradient(model)(x, target), found["input_times_gradient"], TOLERANCE)
    for composite in ("guided_backprop", "deconvnet"):
        close(gradients.Gradient(model, composite)(x, target), found[composite], TOLERANCE)
    for rule in RULES:
        method = gradients.IntegratedGradients(model, baseline=0.2, n=10, rule=rule)
        close(method(x, target), found[f"integrated_{rule}"], TOLERANCE)


def test_gradcam_and_occlusion(captum):
    found, model = captum
    x, target = found["x"], found["target"]
    cam = gradients.GradCAM(model, layer="relu")(x, target).numpy()
    close(cam.sum(-1), found["gradcam"], TOLERANCE)
    # captum gives the whole fall to each entry of a window; its last windows reach beyond the picture.
    covered = gradients.Occlusion(model, window=3, fill=0.1)(x, target).numpy() * 18
    close(covered[:, :6, :6], found["occlusion"][:, :6, :6], TOLERANCE)
