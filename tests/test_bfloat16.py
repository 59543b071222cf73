"""bfloat16: where it is chosen, what it costs in accuracy, where it is refused. The machine's abilities are made up."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import images, raises, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import rules
from lrp_tf.engine.savings import bfloat16, switched_off

NONE = "its CPU has neither avx512_bf16 nor amx_bf16"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(bfloat16, "obstacle", lambda: None)


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(bfloat16, "obstacle", lambda: NONE)


def network():
    """Kernels of every kind. Of these "large" alone gains in both ways, and "late" in sharing out."""
    inputs = keras.Input((24, 24, 3))
    x = kl.Conv2D(64, 3, padding="same", activation="relu", name="thin")(inputs)
    x = kl.Conv2D(64, 3, padding="same", activation="relu", name="large")(x)
    x = kl.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = kl.Conv2D(64, 1, activation="relu", name="pointwise")(x)
    x = kl.Conv2D(64, 3, padding="same", groups=2, activation="relu", name="grouped")(x)
    x = kl.Conv2D(64, 3, padding="same", dilation_rate=2, activation="relu", name="dilated")(x)
    x = kl.MaxPooling2D(4)(x)
    x = kl.Conv2D(256, 3, padding="same", activation="relu", name="late")(x)
    x = kl.Dense(3, name="logits")(kl.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, x))


def precisions(explainer):
    return {step.name: step.marks.precision for step in explainer.graph.steps if step.linear is not None}


def samples():
    return images(2, 24, 3, dtype="float32")


# --- where -------------------------------------------------------------------------------------


def test_each_step_is_chosen_by_what_it_saves_and_casts():
    found = precisions(lrp_tf.Explainer(network(), rules.ZPlus(), fast="bfloat16"))
    assert found.pop("large") == "bfloat16"
    assert found.pop("late") == "bfloat16, denominators in float32"
    assert {found[name] for name in ("depthwise", "grouped", "dilated", "logits")} == {
        "float32: only plain 2-D convolutions are faster"
    }
    assert found["thin"] == "float32: 1.0 million multiply-adds are too few, below 5"
    assert found["pointwise"] == "float32: 2.4 million multiply-adds are too few, below 5"


def test_few_multiply_adds_for_each_entry_do_not_pay():
    inputs = keras.Input((112, 112, 3))
    model = keras.Model(inputs, kl.Conv2D(64, 3, name="thin")(inputs))
    found = precisions(lrp_tf.Explainer(model, rules.ZPlus(), fast="auto"))
    assert found == {"thin": "float32: 26 multiply-adds for each entry are too few, below 30"}
    with raises(ValueError, "nothing faster", "'thin' \\(Conv2D\\)", "26 multiply-adds"):
        lrp_tf.Explainer(model, rules.ZPlus(), fast="bfloat16")


def test_maps_of_open_size_do_not_pay():
    inputs = keras.Input((None, None, 64))
    model = keras.Model(inputs, kl.Conv2D(64, 3, name="open")(inputs))
    found = precisions(lrp_tf.Explainer(model, rules.ZPlus(), fast="auto"))
    assert found == {"open": "float32: the size of its output is open, (None, None, None, 64)"}


def test_only_what_bears_it():
    found = precisions(lrp_tf.Explainer(network(), rules.Epsilon(), fast="bfloat16"))
    assert found["large"] == "bfloat16, denominators in float32"  # z itself, which may cancel
    keeps = rules.ZPlus(when_empty="magnitude")  # what is empty shows in float32 alone
    assert precisions(lrp_tf.Explainer(network(), keeps, fast="auto"))["large"] == found["large"]
    found = precisions(lrp_tf.Explainer(network(), rules.Flat(), fast="auto"))
    assert found["large"] == "float32: Flat does not bear bfloat16"


def types_of_convolutions(explainer, x):
    explainer(x)
    (function,) = explainer._compiled.values()
    kinds = ("Conv2D", "Conv2DBackpropInput")
    ops = [op for op in function.graph.get_operations() if op.type in kinds]
    return {(op.type, op.outputs[0].dtype) for op in ops if "lrp_large" in op.name}


def test_the_model_s_own_values_stay_in_float32():
    x = samples()
    forward, back = ("Conv2D", tf.float32), ("Conv2DBackpropInput", tf.bfloat16)
    found = types_of_convolutions(lrp_tf.Explainer(network(), rules.Epsilon(), fast="bfloat16"), x)
    assert found == {forward, back}
    found = types_of_convolutions(lrp_tf.Explainer(network(), rules.ZPlus(), fast="bfloat16"), x)
    assert found == {forward, ("Conv2D", tf.bfloat16), back}


def test_summary_and_repr_say_where():
    explainer = lrp_tf.Explainer(network(), "epsilon_plus_flat", fast="bfloat16")
    assert "fast='bfloat16': bfloat16 at 2 of 8 kernels" in repr(explainer)
    table = explainer.summary(print_fn=None)
    assert dict(zip(table.column("layer"), table.column("relevance in"), strict=True))["large"] == "bfloat16"
    plain = lrp_tf.Explainer(network(), "epsilon_plus_flat")
    assert "fast" not in repr(plain)
    assert "relevance in" not in plain.summary(print_fn=None).columns


# --- how close ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        rules.Epsilon(),
        rules.ZPlus(),
        rules.AlphaBeta(2, 1),
        rules.Gamma(0.01),
        rules.Gamma(0.25, stabilizer=rules.Relative(0.1)),
        rules.WSquare(),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("seldom_compiled")
def test_relevance_stays_close_and_the_books_close(rule):
    model, x = network(), samples()
    plain = lrp_tf.Explainer(model, rule).explain(x)
    explainer = lrp_tf.Explainer(model, rule, fast="bfloat16")
    found = explainer.explain(x)
    assert np.array_equal(found.logits, plain.logits)
    assert found.relevance.dtype == tf.float32
    deviation = np.abs(found.relevance - plain.relevance).max() / np.abs(plain.relevance).max()
    assert 1e-5 < deviation < 0.01  # it was at work, and is close
    assert np.corrcoef(np.ravel(found.relevance), np.ravel(plain.relevance))[0, 1] > 0.9999
    assert explainer.check(x, print_fn=None)


def test_it_follows_a_model_that_trains():
    model, x = network(), samples()
    explainer = lrp_tf.Explainer(model, "epsilon_plus_flat", fast="bfloat16")
    before = explainer(x)
    kernel = model.get_layer("large").kernel
    kernel.assign(-kernel)
    after = explainer(x)
    fresh = lrp_tf.Explainer(model, "epsilon_plus_flat", fast="bfloat16")(x)
    assert np.array_equal(after, fresh)
    assert not np.array_equal(after, before)


def test_several_targets_are_those_of_one_at_a_time():
    explainer, x = lrp_tf.Explainer(network(), "epsilon_plus_flat", fast="bfloat16"), samples()
    together = explainer(x, [[0, 1, 2]] * 2)
    for target in range(3):
        alone = explainer(x, target)
        assert np.abs(together[:, target] - alone).max() < 0.01 * np.abs(alone).max()


# --- where not ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("without")
def test_auto_is_float32_where_the_machine_has_none():
    model, x = network(), samples()
    explainer = lrp_tf.Explainer(model, "epsilon_plus_flat", fast="auto")
    assert np.array_equal(explainer(x), lrp_tf.Explainer(model, "epsilon_plus_flat")(x))
    assert set(precisions(explainer).values()) == {f"float32: {NONE}"}
    assert "fast='auto': bfloat16 at 0 of 8 kernels" in repr(explainer)
    with raises(ValueError, "slower than float32 on this machine", NONE, 'fast="auto"'):
        lrp_tf.Explainer(model, "epsilon_plus_flat", fast="bfloat16")


def test_switched_off_it_computes_in_float32():
    model, x = network(), samples()
    with switched_off():
        found = lrp_tf.Explainer(model, "epsilon_plus_flat", fast="bfloat16")(x)
        assert np.array_equal(found, lrp_tf.Explainer(model, "epsilon_plus_flat")(x))


def small():
    inputs = keras.Input((8, 8, 2))
    return randomize(keras.Model(inputs, kl.Dense(3)(kl.Flatten()(kl.Conv2D(4, 3, name="conv")(inputs)))))


@pytest.mark.parametrize(
    ("build", "composite", "texts"),
    [
        (network, "flat", ["nothing faster", "Flat does not bear bfloat16", "Remedy"]),
        (small, "epsilon_plus", ["nothing faster", "'conv' \\(Conv2D\\)", "0.0 million multiply-adds are too few"]),
    ],
)
def test_it_is_refused_where_nothing_gains(build, composite, texts):
    composite = rules.Flat() if composite == "flat" else composite
    with raises(ValueError, *texts):
        lrp_tf.Explainer(build(), composite, fast="bfloat16")
    lrp_tf.Explainer(build(), composite, fast="auto")


def test_it_is_refused_under_xla_on_a_cpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with raises(ValueError, "slower", "XLA", "Remedy"):
        lrp_tf.Explainer(network(), jit_compile=True, fast="bfloat16")
    assert "bfloat16 at 0 of 8" in repr(lrp_tf.Explainer(network(), jit_compile=True, fast="auto"))


def test_unknown_values_are_refused():
    with raises(ValueError, '"bfloat16", "auto" or None', "Received: 'float16'"):
        lrp_tf.Explainer(small(), fast="float16")


@pytest.mark.usefixtures("double_precision")
def test_a_model_in_float64_stays_in_it():
    found = precisions(lrp_tf.Explainer(network(), rules.ZPlus(), fast="auto"))
    assert found["large"] == "float64: the model computes in float64"


@pytest.mark.parametrize(
    ("flags", "onednn", "expected"),
    [
        ("flags : fma avx512_bf16 amx_bf16", "1", "amx_bf16"),
        ("flags : fma avx512f avx512_bf16", "1", "avx512_bf16"),
        ("flags : fma avx512f", "1", None),
        ("flags : fma avx512_bf16", "0", None),
    ],
)
def test_the_abilities_are_read_from_the_cpu(flags, onednn, expected, monkeypatch, tmp_path):
    monkeypatch.undo()  # the fixture's own machine
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setitem(os.environ, "TF_ENABLE_ONEDNN_OPTS", onednn)
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(bfloat16, "Path", lambda name: tmp_path / "cpuinfo")
    assert bfloat16.kind() == expected
    assert (bfloat16.obstacle() is None) == (expected is not None)


def test_books_close_where_there_is_nothing_to_share():
    """No contribution is positive, so that all relevance ends at the convolution as "other"."""
    inputs = keras.Input((24, 24, 64))
    x = kl.Conv2D(64, 3, padding="same", kernel_initializer=keras.initializers.RandomUniform(-1, 0))(inputs)
    model = keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling2D()(x)))
    explainer = lrp_tf.Explainer(model, rules.ZPlus(), fast="bfloat16", nonnegative=True)
    assert "bfloat16" in precisions(explainer).values()
    parts = explainer.explain(np.abs(images(2, 24, 64, dtype="float32"))).conservation
    np.testing.assert_allclose(parts.other, parts.start, rtol=1e-4)
    assert np.abs(parts.unexplained).max() < 1e-5
