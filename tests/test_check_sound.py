"""`check` passes sound explanations: every kind of model, preset and precision."""

import keras
import numpy as np
import pytest
from helpers.checked import IMG, SEQUENCES, TOKENS, VEC, checked
from helpers.checking import dense_net, image_net, images, randomize, sequential
from helpers.custom_layers import gated_net, token_model, transformer
from keras import layers as kl
from keras import ops

from lrp_tf import composites


def segmentation(size=None):
    return sequential((size, size, 2), kl.Conv2D(4, 3, padding="same", activation="relu"), kl.Conv2D(3, 1))


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((8, 8, 2), name="b")
    h = kl.Concatenate()([kl.Dense(3, activation="relu")(a), kl.GlobalAveragePooling2D()(kl.Conv2D(3, 3)(b))])
    outputs = {"one": kl.Dense(3, activation="softmax")(h), "two": kl.Dense(1, activation="sigmoid")(h)}
    return randomize(keras.Model({"a": a, "b": b}, outputs))


BOTH = {"a": VEC, "b": IMG}
SOUND = {
    "images": (image_net, IMG, {}),
    "open size": (segmentation, IMG, {}),
    "two inputs, first output": (two_inputs, BOTH, {"output": "one"}),
    "two inputs, second output": (two_inputs, BOTH, {"output": "two"}),
    "followed": (lambda: randomize(gated_net()), images(3, 8, 3, dtype="float32"), {}),
    "attention": (lambda: randomize(transformer()), SEQUENCES, {}),
    "tokens and masks": (lambda: randomize(token_model()), TOKENS, {}),
    "time": (lambda: sequential((6, 4), kl.TimeDistributed(kl.Dense(3)), kl.Flatten(), kl.Dense(2)), SEQUENCES, {}),
    "separable": (lambda: sequential((8, 8, 2), kl.SeparableConv2D(4, 3), kl.Flatten(), kl.Dense(2)), IMG, {}),
    "filter": (image_net, IMG, {"relevance_filter": 0.3}),
}


def masked(minus):
    """Attention that masks by what it adds, or by what stands for what it must not see."""
    allowed, added = np.tril(np.ones((6, 6), bool)), np.triu(np.full((6, 6), minus, "float32"), 1)

    class Masked(kl.Layer):
        def call(self, q):
            scores = ops.matmul(q, ops.transpose(q, (0, 2, 1)))
            h = ops.matmul(ops.softmax(scores + added), q)
            return h + ops.matmul(ops.softmax(ops.where(allowed, scores, minus)), q)

    return sequential((6, 4), kl.Dense(5, name="first"), Masked(name="attend"), kl.Flatten(), kl.Dense(3))


def safe_log():
    """The logarithm of what `where` leaves out is NaN, and nobody reads it."""

    class SafeLog(kl.Layer):
        def call(self, x):
            return ops.where(x > 0, ops.log(x), 0.0 * x)

    return dense_net(kl.Dense(5), SafeLog(name="log"))


SOUND |= {
    "masks of -Inf": (lambda: masked(-np.inf), SEQUENCES, {}),
    "NaN that is left out": (safe_log, VEC, {}),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.usefixtures("seldom_compiled")
def test_sound_explanations_pass(name):
    build, x, options = SOUND[name]
    samples = 1 if list(SOUND).index(name) % 2 else 3
    x = keras.tree.map_structure(lambda a: a[:samples], x)
    found = checked(build(), x, **options)
    assert found, str(found)
    assert [f.name for f in found.findings] == ["output", "layers", "finite", "books", "growth", "samples"]


@pytest.mark.parametrize("preset", composites.PRESETS)
@pytest.mark.usefixtures("seldom_compiled")
def test_every_preset_passes(preset):
    bounds = {"low": -4.0, "high": 4.0} if composites.needs_bounds(preset) else {}
    found = checked(image_net(), IMG, composites.get(preset, **bounds))
    assert found, str(found)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precisions(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = randomize(gated_net())
    finally:
        keras.config.set_dtype_policy(before)
    found = checked(model, images(2, 8, 3))
    assert found, str(found)
    assert found["output"].limit == (1e-6 if policy == "float64" else 0.1)


@pytest.mark.parametrize(("policy", "minus"), [("mixed_float16", -np.inf), ("mixed_bfloat16", -1e9)])
def test_masks_in_half_precision(policy, minus):
    """float16 has no -1e9: what masks there is -Inf, and samples that are masked throughout are no NaN."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        models = masked(minus), randomize(token_model())
    finally:
        keras.config.set_dtype_policy(before)
    tokens = TOKENS.copy()
    tokens[:, 4:] = 0
    for model, x in zip(models, (SEQUENCES, tokens), strict=True):
        found = checked(model, x)
        assert found, str(found)
