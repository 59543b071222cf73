"""Relevance of positions: where it is booked as such, where it must not be, and how it is given to the tokens."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import close, raises, randomize
from helpers.transformers import decoder, vision_transformer
from keras import layers as kl
from keras import ops

import lrp_tf

pytestmark = [pytest.mark.usefixtures("mode"), pytest.mark.usefixtures("double_precision")]
TOKENS = np.array([[1, 4, 2, 6], [3, 0, 5, 5]], "int32")
T, C = 4, 4  # as many tokens as channels, and below as heads: sizes alone tell no axis


class Adds(kl.Layer):
    """x + w, or x * w, with a weight of any shape, or a constant of the layer."""

    def __init__(self, shape=None, value=None, times=False):
        super().__init__()
        self.form, self.value, self.times = shape, value, times

    def build(self, shape):
        if self.form is not None:
            self.w = self.add_weight(shape=self.form, name="w", initializer="random_normal")

    def call(self, x):
        w = self.w if self.form is not None else ops.convert_to_tensor(self.value, x.dtype)
        return x * w if self.times else x + w


def model_of(*added, head=True):
    """Token ids [T] -> vectors [T, C] -> `added` -> the mean over tokens -> two classes."""
    inputs = keras.Input((T,), dtype="int32")
    x = kl.Embedding(7, C, name="vectors")(inputs)
    for layer in added:
        x = layer(x)
    return randomize(keras.Model(inputs, kl.Dense(2)(ops.mean(x, 1) if len(x.shape) == 3 else kl.Flatten()(x))))


def heads_of(layer):
    """Attention by hand with `layer` on queries [B, H, T, d] ("q") or on the scores [B, H, T, S]."""

    def attend(x, layer=layer[1], where=layer[0]):
        split = lambda t: ops.transpose(ops.reshape(t, (-1, T, 4, 1)), (0, 2, 1, 3))  # noqa: E731
        q, k, v = (split(kl.Dense(4)(x)) for _ in range(3))
        scores = ops.matmul(layer(q) if where == "q" else q, ops.transpose(k, (0, 1, 3, 2)))
        weights = ops.softmax(layer(scores) if where == "scores" else scores)
        return ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, T, 4))

    return attend


def places(model, composite="attn_lrp"):
    """(axes of the tokens, times) of each step that reads positions."""
    found = lrp_tf.clone_with_rules(model, composite).plan.positions.places.values()
    return [([t.axes for t in place.tokens], place.product) for place in found]


def test_learnt_positions_by_hand():
    model = model_of(Adds((1, T, C)))
    table, w, kernel, bias = (v.numpy() for v in model.weights)
    x, p = table[TOKENS], np.broadcast_to(w, (2, T, C))
    z = x + p
    r = z / T * kernel[:, 1]  # the contributions to the logit: epsilon is next to nothing
    booked, given = (lrp_tf.Explainer(model, "attn_lrp", epsilon=1e-14, positions=p) for p in (None, "token"))
    one, other = booked.explain(TOKENS, 1), given.explain(TOKENS, 1)
    close(one.relevance, (r * x / z).sum(-1), 1e-8)
    close(other.relevance - one.relevance, (r * p / z).sum(-1), 1e-8)
    close(one.conservation.positions, (r * p / z).sum((1, 2)), 1e-8)
    close(one.conservation.bias, np.full(2, bias[1]), 1e-8)
    close(other.conservation.bias, one.conservation.bias)
    assert np.abs(other.conservation.positions).max() < 1e-12
    table = booked.report(TOKENS, 1, print_fn=None)
    close(table.column("positions")[-1], float(np.sum(one.conservation.positions)))
    assert max(map(abs, table.column("unexplained"))) < 1e-12


RELATIVE = np.random.default_rng(0).normal(size=(1, 4, T, T))
SLOPES = -np.arange(T) * np.array([[0.5], [0.25], [0.1], [0.05]])[:, None]  # ALiBi: [H, 1, S]
ANGLES = np.cos(np.arange(T)[:, None] / 10.0 ** np.arange(C))
FIRES = {
    "a table": ([Adds((1, T, C))], [([(1,)], False)]),
    "a table that is not trained": ([Adds(value=np.zeros((T, C)))], [([(1,)], False)]),
    "embedded numbers": ([lambda x: x + kl.Embedding(T, C)(np.arange(T))], [([(1,)], False)]),
    "sinusoids beside a bias": ([Adds((C,)), Adds(value=ANGLES), kl.ReLU()], [([(1,)], False)]),
    "behind a kernel": ([kl.Dense(C), Adds((T, C))], [([(1,)], False)]),
    "rotary factors": ([heads_of(("q", Adds(value=ANGLES[:, :1], times=True)))], [([(2,)], True)]),
    "relative biases": ([heads_of(("scores", Adds(value=RELATIVE)))], [([(2,), (3,)], False)]),
    "slopes": ([heads_of(("scores", Adds(value=SLOPES)))], [([(3,)], False)]),
}
MASK = np.where(np.tril(np.ones((T, T))), 0.0, -1e9)
SILENT = {
    "a bias of channels": [Adds((C,)), Adds((1, 1, C)), kl.Dense(C)],
    "the same for every token": [Adds(value=np.tile([[1.0, 2.0, 3.0, 4.0]], (T, 1)))],
    "scales and biases of heads": [heads_of(("q", Adds((4, 1, 1)))), heads_of(("q", Adds((4, 1, 1), times=True)))],
    "a mask of scores": [heads_of(("scores", Adds(value=MASK)))],
    "a mask of tokens": [Adds(value=[[1.0], [1.0], [0.0], [1.0]], times=True)],
    "a table of features": [kl.Flatten(), kl.Dense(C), Adds((C,))],
    "tokens that are lost": [lambda x: ops.matmul(ops.transpose(x, (0, 2, 1)), x), Adds((1, 4, 4))],
}


@pytest.mark.parametrize("name", FIRES)
def test_what_is_a_position(name):
    added, expected = FIRES[name]
    assert places(model_of(*added)) == expected


@pytest.mark.parametrize("name", SILENT)
def test_what_is_none(name):
    model = model_of(*SILENT[name])
    assert places(model) == []
    with raises(ValueError, "positions", "has none", "Remedy: leave"):
        lrp_tf.Explainer(model, "attn_lrp", positions="token")


@pytest.mark.parametrize("axis", [2, 3], ids=["half to the query", "half to the key"])
def test_a_relative_bias_belongs_to_both(axis):
    """A table that varies along queries or keys alone gives all to them."""
    shape = [1, 4, T, 1] if axis == 2 else [1, 4, 1, T]
    assert places(model_of(heads_of(("scores", Adds(shape))))) == [([(axis,)], False)]


def test_a_product_with_rotary_factors_shares_with_them():
    model = model_of(Adds(value=ANGLES, times=True))
    one, other = (
        lrp_tf.Explainer(model, "attn_lrp", positions=p).explain(TOKENS, 1, layers=["vectors"]) for p in (None, "token")
    )
    close(other.layers["vectors"], one.layers["vectors"] / 2)
    close(other.relevance, one.relevance)  # the other half comes back to the same token
    assert np.abs(one.conservation.positions).max() == 0


@pytest.mark.parametrize("positions", [None, "token"])
def test_a_decoder_and_a_vision_transformer_conserve(positions):
    """Tokens + positions + what is absorbed are the score."""
    ids = np.array([[1, 4, 2, 9, 3, 3]], "int32")
    for model, x, target in [
        (decoder(), ids, [[5, 3]]),
        (vision_transformer(), np.random.default_rng(0).normal(size=(1, 8, 8, 3)), 1),
    ]:
        e = lrp_tf.Explainer(model, "attn_lrp", positions=positions).explain(x, target)
        rest = e.conservation.start - sum(e.conservation[1:-1])
        assert np.abs(rest).max() < 1e-4 * np.abs(e.conservation.start).max()
        close(np.sum(e.relevance), float(e.conservation.relevance[0]))


def test_positions_of_patches_are_spread_over_their_pixels():
    model, x = vision_transformer(), np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    one, other = (lrp_tf.Explainer(model, "attn_lrp", positions=p).explain(x, 1) for p in (None, "token"))
    given = (other.relevance - one.relevance).numpy().reshape(2, 2, 4, 2, 4, 3)  # patches of 4 x 4
    close(given, np.broadcast_to(given.mean((2, 4, 5), keepdims=True), given.shape))
    kept = other.conservation.positions  # that of the class token, which has no pixels
    close(one.conservation.positions, given.sum((1, 2, 3, 4, 5)) + kept)
    assert np.abs(kept).max() > 0


def test_an_argument_that_is_none_of_the_two():
    with raises(ValueError, "positions expects", "Received: 'tokens'"):
        lrp_tf.Explainer(model_of(Adds((T, C))), positions="tokens")


class TestCompiled:
    """Of functions that are compiled, whatever the others run in."""

    @pytest.fixture(autouse=True)
    def compiled(self, mode):
        tf.config.run_functions_eagerly(False)

    def test_several_targets_recomputation_and_functions(self):
        model = model_of(Adds((1, T, C)), heads_of(("scores", Adds(value=RELATIVE))))
        one, other = (lrp_tf.Explainer(model, "attn_lrp", positions="token", recompute=r) for r in (False, True))
        single = [one(TOKENS, target) for target in (0, 1)]
        close(one(TOKENS, [[0, 1], [0, 1]]), np.stack(single, 1))
        close(other(TOKENS, 1), single[1])
        close(tf.function(lambda x: one(x, 1))(TOKENS), single[1])
        e = one.explain(TOKENS, 1, contrast="mean")
        assert np.abs(e.conservation.unexplained).max() < 1e-9
        close(np.sum(e.relevance, 1), e.conservation.relevance)

    def test_copies_files_exports_and_streams(self, tmp_path):
        """Of layers of Keras alone, which a file needs."""
        table = np.random.default_rng(1).normal(size=(T, C))
        model = model_of(lambda x: x + table, heads_of(("scores", lambda scores: scores + RELATIVE)))
        explain = lrp_tf.Explainer(model, "attn_lrp", positions="token")
        expected = explain(TOKENS, 0).numpy()
        assert np.abs(expected - lrp_tf.Explainer(model, "attn_lrp")(TOKENS, 0)).max() > 1e-3 * np.abs(expected).max()
        explain.save(tmp_path / "net.lrp")
        lrp_tf.export(explain, tmp_path / "1")
        served = tf.saved_model.load(tmp_path / "1").signatures["explain_target"]
        name = next(name for name in served.structured_input_signature[1] if name != "target")
        found = {
            "pickle": pickle.loads(pickle.dumps(explain))(TOKENS, 0),
            "load": lrp_tf.Explainer.load(tmp_path / "net.lrp", model)(TOKENS, 0),
            "with_model": explain.with_model(model)(TOKENS, 0),
            "export": served(**{name: tf.constant(TOKENS), "target": tf.constant([0, 0])})["relevance"],
            "map": np.concatenate([part.numpy() for part in explain.map(TOKENS, batch=1, target=0)]),
        }
        for way, relevance in found.items():
            np.testing.assert_allclose(relevance, expected, rtol=0, atol=1e-9, err_msg=way)
