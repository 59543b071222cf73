"""The `explain` signature in LiteRT: float32 throughout, on a device without TensorFlow."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from helpers.checking import randomize
from keras import layers as kl

import lrp_tf

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
BUILTINS, SELECT = tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS


def network(*middle: keras.Layer) -> keras.Model:
    inputs = keras.Input((28, 28, 1), name="digit")
    x = kl.Conv2D(8, 3, strides=2, use_bias=False)(inputs)
    x = kl.ReLU()(kl.BatchNormalization()(x))
    x = kl.Add()([x, kl.Conv2D(8, 3, padding="same", activation="relu")(x)])
    for layer in middle:
        x = layer(x)
    x = kl.Dense(32, activation="relu")(kl.Flatten()(x))
    return randomize(keras.Model(inputs, kl.Dense(10, activation="softmax")(x)))


def converted(path: Path, *more: tf.lite.OpsSet) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["explain"])
    converter.target_spec.supported_ops = [BUILTINS, *more]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own
        return converter.convert()


def exported(explainer: lrp_tf.Explainer, tmp_path: Path) -> Path:
    return lrp_tf.export(explainer, tmp_path / "1", warmup=False, print_fn=None).path


@pytest.mark.parametrize(
    "composite", ["epsilon_plus_flat", pytest.param("epsilon_alpha2_beta1", marks=pytest.mark.slow)]
)
def test_explain_runs_with_builtin_operations_alone(tmp_path: Path, composite: str) -> None:
    explainer = lrp_tf.Explainer(network(kl.GlobalAveragePooling2D()), composite)
    interpreter = tf.lite.Interpreter(model_content=converted(exported(explainer, tmp_path)))
    explain = interpreter.get_signature_runner("explain")
    for batch in (1, 3):
        x = np.random.default_rng(batch).uniform(size=(batch, 28, 28, 1)).astype("float32")
        found, wanted = explain(digit=x), explainer.explain(x)
        assert found["status"].tolist() == [b"ok"] * batch
        np.testing.assert_array_equal(found["target"], wanted.target)
        for name, want in (
            ("relevance", wanted.relevance),
            ("outputs", wanted.output),
            ("logits", wanted.logits),
            ("conservation", np.stack(wanted.conservation.of_six(), axis=-1)),
        ):
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], want, rtol=0, atol=5e-6 * np.abs(want).max())
    x[1, 3, 3] = np.nan
    found = explain(digit=x)
    assert found["status"].tolist() == [b"ok", b"NaN or Inf in the input", b"ok"]
    np.testing.assert_allclose(found["relevance"][0], wanted.relevance[0], atol=5e-6 * np.abs(wanted.relevance).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (lambda: kl.MaxPooling2D(2), {"MaxPoolGrad"}),
        (lambda: kl.AveragePooling2D(2), {"AvgPoolGrad"}),
        (lambda: kl.DepthwiseConv2D(3), {"DepthwiseConv2dNativeBackpropInput"}),
        (lambda: kl.Conv2D(8, 3, groups=2), {"ConcatOffset", "ShapeN"}),
    ],
)
def test_what_needs_select_tf_ops_is_named(tmp_path: Path, layer: object, operations: set[str]) -> None:
    path = exported(lrp_tf.Explainer(network(layer())), tmp_path)
    needed = {name.decode() for name in re.findall(rb"Flex(\w+)", converted(path, SELECT))} - {"Delegate"}
    assert needed == operations
    page = (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
    assert all(f"`{operation}`" in page for operation in operations)
