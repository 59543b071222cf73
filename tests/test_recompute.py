"""`recompute=True`: the same relevance from values that are computed again, and less memory."""

import itertools
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, randomize
from keras import layers as kl

import lrp_tf
from lrp_tf.engine.savings import recomputation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOKENS = np.random.default_rng(0).integers(0, 9, (2, 6)).astype("int32")
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype("float32")


def decoder(layers=2, width=4, heads=2):
    """Token ids -> the scores of nine next tokens behind each, [6, 9]."""
    inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(9, width)(inputs) + kl.Embedding(6, width)(np.arange(6))
    for n in range(layers):
        h = kl.LayerNormalization()(x)
        x = x + kl.MultiHeadAttention(heads, width // heads, name=f"attention{n}")(h, h, use_causal_mask=True)
        x = x + kl.Dense(width, name=f"down{n}")(kl.Dense(2 * width, activation="gelu")(kl.LayerNormalization()(x)))
    return randomize(keras.Model(inputs, kl.Dense(9)(x)))


def residual(blocks=3):
    """Sums with a summand that other savings recompute, ReLUs that two steps share, and a long skip."""
    inputs = keras.Input((8, 8, 2))
    x = first = kl.Conv2D(3, 3, padding="same", activation="relu", name="first")(inputs)
    for n in range(blocks):
        y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(3, 3, padding="same")(x)))
        x = kl.ReLU(name=f"block{n}")(kl.Add()([x, kl.BatchNormalization()(kl.Conv2D(3, 3, padding="same")(y))]))
    return randomize(keras.Model(inputs, kl.Dense(3, name="logits")(kl.Flatten()(kl.Add()([x, first])))))


def both(model, composite="epsilon_plus_flat", **options):
    """An explainer that keeps the values of the forward pass, and one that computes them again."""
    found = [lrp_tf.Explainer(model, composite, recompute=r, check=False, **options) for r in (False, True)]
    assert [min(len(e.clone.plan.segments), 3) for e in found] == [1, 3]
    return found


def same(one, other):
    """Explanations alike up to rounding; a fused operation may round in another way."""
    parts = lambda e: (e.relevance, e.logits, e.layers)  # noqa: E731
    close(parts(one), parts(other), 2e-6)
    books = [np.stack(e.conservation[:5]) for e in (one, other)]
    close(*books, 2e-6)
    assert np.abs(other.conservation.unexplained).max() < 1e-4


def test_a_decoder_with_several_starts_and_layers():
    one, other = both(decoder(), "attn_lrp")
    starts = np.zeros((2, 3, 6, 9), "float32")  # three targets of each sample
    starts[:, 0, 5, 1], starts[:, 1, 5, 2], starts[:, 2, 0, 0] = 1, -1, 2
    found = [e.explain(TOKENS, start=starts, layers=["attention1", "down0"]) for e in (one, other)]
    same(*found)
    assert found[0].layers["down0"].shape == (2, 3, 6, 4)


def test_an_image_net_with_targets_contrast_filter_and_layers():
    one, other = both(residual(), relevance_filter=0.3)
    asked = {"target": [0, 2], "contrast": "softmax", "layers": ["block1", "first"]}
    same(one.explain(IMAGES, **asked), other.explain(IMAGES, **asked))


def test_compiled_again_saved_and_exported(tmp_path):
    one, other = both(residual())
    expected = one(IMAGES, 1)
    close(tf.function(lambda x: other(x, 1))(IMAGES), expected, 2e-6)
    close(lrp_tf.Explainer(residual(), recompute=True, jit_compile=True)(IMAGES, 1), expected, 2e-6)
    other(IMAGES, 1)
    other.save(tmp_path / "model.lrp")
    loaded = lrp_tf.Explainer.load(tmp_path / "model.lrp", other.model)
    close(loaded(IMAGES, 1), other(IMAGES, 1), 0)
    assert loaded.with_model(residual()).clone.recomputes
    lrp_tf.export(other, tmp_path / "served/1")
    served = tf.saved_model.load(tmp_path / "served/1").signatures["explain_target"]
    names = [name for name in served.structured_input_signature[1] if name != "target"]
    found = served(**{names[0]: tf.constant(IMAGES), "target": tf.constant([1, 1])})
    close(found["relevance"], expected, 2e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_gradient_of_the_clone(compiled):
    model, x = residual(), tf.constant(IMAGES)
    one, other = (lrp_tf.clone_with_rules(model, recompute=r) for r in (False, True))

    def gradient(clone):
        run = tf.function(clone) if compiled else clone
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = run(x)
        return z, tape.gradient(z, x)

    close(gradient(other), gradient(one), 2e-6)
    found = []
    for call in (other, model):
        with tf.GradientTape() as tape:
            z = call(x)
        found.append(tape.gradient(z, model.trainable_weights))
    close(found[0], found[1], 1e-5)


def test_memory_falls_to_a_part(monkeypatch):
    """TensorFlow neither merges what is computed again with the first pass, nor computes all of it at once."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import memory

    inputs = x = keras.Input((1024,))
    for _ in range(20):
        x = kl.Dense(1024, activation="tanh", kernel_initializer="zeros", bias_initializer="ones")(x)
    model = keras.Model(inputs, kl.Dense(2)(x))
    batch = tf.ones([256, 1024])
    kept, again = (memory.growth(lambda x, e=e: e(x, 0), batch) for e in both(model, "epsilon"))
    assert kept > 20  # MiB: a value of each layer is 1
    assert again < 0.5 * kept


# --- where a plan is cut -------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [16, 64, 256])
def test_memory_grows_with_the_square_root_of_the_depth(blocks):
    inputs = x = keras.Input((8,))
    for _ in range(blocks):
        x = kl.ReLU()(x)
    graph = lrp_tf.clone_with_rules(keras.Model(inputs, kl.Dense(1)(x)), "epsilon").graph
    found = recomputation.segments(graph)
    assert [step for segment in found for step in segment.steps] == graph.steps
    made = set(graph.inputs)
    for segment in found:
        assert made.issuperset(segment.read)
        made |= {ref for step in segment.steps for ref in step.outputs}
    held = len(found) - 1 + max(len(segment.steps) for segment in found)  # in tensors of one size
    assert math.sqrt(blocks) <= held <= 2 * math.sqrt(blocks) + 2


def test_cuts_lie_where_the_model_is_narrow():
    inputs = x = keras.Input((4,))
    for n in range(8):
        x = kl.Dense(4, name=f"narrow{n}")(kl.ReLU()(kl.Dense(64)(x)))
    graph = lrp_tf.clone_with_rules(keras.Model(inputs, x), "epsilon").graph
    found = recomputation.segments(graph)
    assert len(found) > 2
    assert all(segment.steps[-1].name.startswith("narrow") for segment, _ in itertools.pairwise(found))
