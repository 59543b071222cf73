"""What relevance enters is the composite's to say: gates, softmax, queries and keys, against formulas in NumPy."""

import keras
import numpy as np
import pytest
from helpers.checking import close, raises, randomize
from helpers.flowing import Flow, s, values
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf import composites, flows, rules

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:(?s).* was passed an input with a mask:UserWarning"),  # layers within a layer
]
EPSILON = (None, rules.Epsilon())


def through_gates(*ahead):
    """Epsilon, with gates that share in every product."""
    products = (composites.of_type(kl.Multiply), flows.Product(gates="share"))
    of_ops = (lambda step: step.kind == "ops.Multiply" and bool(step.gates), flows.Product(gates="share"))
    return composites.Composite([*ahead, products, of_ops, EPSILON], "through_gates")


def dense(x, weights, R):
    """Relevance of x [..., C] under Epsilon from R [..., F]."""
    w, b = weights
    return x * ((R / s(x @ w + b)) @ w.T)


# --- gates: squeeze-and-excitation -------------------------------------------------------------


class Excite:
    """A squeeze-and-excitation block in layers or in keras.ops, and its relevance by hand."""

    def __init__(self, kind):
        self.kind, self.squeeze, self.excite = kind, kl.Dense(2, activation="relu"), kl.Dense(3)

    def __call__(self, x):
        if self.kind == "layers":
            g = kl.Activation("sigmoid")(self.excite(self.squeeze(kl.GlobalAveragePooling2D()(x))))
            return kl.Multiply()([x, kl.Reshape((1, 1, 3))(g)])
        g = ops.sigmoid(self.excite(self.squeeze(ops.mean(x, axis=(1, 2)))))
        return ops.multiply(x, ops.reshape(g, (-1, 1, 1, 3)))

    def relevance(self, x, R):
        one, two = ([w.numpy() for w in layer.weights] for layer in (self.squeeze, self.excite))
        mean = x.mean((1, 2))
        hidden = np.maximum(mean @ one[0] + one[1], 0)
        gate = dense(mean, one, dense(hidden, two, R.sum((1, 2)) / 2))
        return R / 2 + x / 16 * (gate / s(mean))[:, None, None]


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("kind", ["layers", "ops"])
def test_relevance_enters_a_gate(kind):
    x, block = values(4, 4, 3), Excite(kind)
    flow = Flow(block, x, composite=through_gates())
    close(flow.R[0], block.relevance(x, flow.start))
    assert np.abs(flow.R[0] - flow.start).max() > 0.1


@pytest.mark.parametrize("kind", ["layers", "ops"])
def test_without_an_entry_a_gate_is_held(kind):
    x = values(4, 4, 3)
    flow = Flow(Excite(kind), x)
    close(flow.R[0], flow.start)
    close(flow.bias, np.zeros(3))


def excited():
    """A net whose gate shares, and what it is made of."""
    block, head, i = Excite("layers"), kl.Dense(4), keras.Input((4, 4, 3))
    model = randomize(keras.Model(i, head(kl.Flatten()(block(kl.Activation("linear")(i))))))
    return model, block, [w.numpy() for w in head.weights]


def test_relevance_enters_a_gate_for_several_targets():
    x, targets = values(4, 4, 3), [[0, 2], [1, 1], [3, 0]]
    model, block, head = excited()
    explainer = lrp_tf.Explainer(model, through_gates())
    found = explainer.explain(x, targets)
    close(explainer(x, targets), found.relevance)
    assert np.abs(found.conservation.unexplained).max() < 1e-9
    flat = np.asarray(keras.Model(model.input, model.layers[-2].output)(x))
    for column in range(2):
        chosen = np.eye(4)[np.array(targets)[:, column]] * (flat @ head[0] + head[1])
        expected = block.relevance(x, dense(flat, head, chosen).reshape(x.shape))
        close(np.asarray(found.relevance)[:, column], expected)


def test_the_first_convolution_does_not_depend_on_what_gates_do():
    """`first()` looks through a product with a gate, whichever flow the composite gives it."""
    i = keras.Input((6, 6, 2))
    gate = kl.Activation("sigmoid")(i)
    model = randomize(keras.Model(i, kl.Conv2D(3, 3, name="conv")(kl.Multiply()([i, gate]))))
    composite = composites.Composite([(composites.first(), rules.Flat()), *through_gates().entries])
    handlers = {step.name: rule for step, rule in lrp_tf.clone_with_rules(model, composite).handlers.items()}
    assert handlers["conv"] == rules.Flat()


@pytest.mark.parametrize("make", [flows.Product, flows.Contraction])
def test_a_word_for_gates_that_is_none(make):
    with raises(ValueError, "gates expects one of", "'held', 'share'", "Received: 'shared'"):
        make(gates="shared")


# --- a softmax ---------------------------------------------------------------------------------


class Taylor(flows.Flow):
    """softmax: R_i = x_i (R_i - p_i sum_j R_j), the first terms of its Taylor series (Achtibat et al. 2024)."""

    def backward(self, step, saved):
        (x,), (p,) = saved

        def propagate(relevances, account):
            (R,) = relevances
            found = x * (R - p * ops.sum(R, -1, keepdims=True))
            if account is not None:
                account.add("bias", R - found)
            return [found]

        return propagate


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SOFTMAX = {"layer": lambda z: kl.Softmax()(z), "ops": lambda z: ops.softmax(z)}


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("own", [False, True], ids=["unchanged", "own flow"])
@pytest.mark.parametrize("kind", SOFTMAX)
def test_relevance_enters_a_softmax(kind, own):
    x, v, scores = values(4), values(5, seed=2), kl.Dense(5)
    ahead = [(lambda step: step.activation == "softmax", Taylor())] if own else []
    flow = Flow(lambda x, v: kl.Multiply()([SOFTMAX[kind](scores(x)), v]), x, v, composite=through_gates(*ahead))
    weights = [w.numpy() for w in scores.weights]
    z, R = x @ weights[0] + weights[1], flow.start / 2
    if own:
        R = z * (R - softmax(z) * R.sum(-1, keepdims=True))
    close(flow.R, [dense(x, weights, R), flow.start / 2])


@pytest.mark.parametrize("kind", SOFTMAX)
def test_without_an_entry_a_softmax_is_held(kind):
    x, v, scores = values(4), values(5, seed=2), kl.Dense(5)
    flow = Flow(lambda x, v: kl.Multiply()([SOFTMAX[kind](scores(x)), v]), x, v)
    close(flow.R, [np.zeros_like(x), flow.start])


# --- queries and keys --------------------------------------------------------------------------


def is_weighted_sum(step):
    """The product of attention weights and values: of the einsums, the one that reads a softmax."""
    return step.kind == "ops.Einsum" and bool(step.gates)


ATTENTION = composites.Composite([(is_weighted_sum, flows.Contraction(gates="share")), EPSILON], "attention")


def attention(weights, q, v, start, mask, scaled_first):
    """Relevance of queries and of what keys and values are made of, by hand."""
    wq, bq, wk, bk, wv, bv, wo, bo = weights
    heads = lambda t, w, b: np.einsum("btc,cnh->btnh", t, w) + b  # noqa: E731
    back = lambda t, w, b, R: t * np.einsum("btnh,cnh->btc", R / s(heads(t, w, b)), w)  # noqa: E731
    Q, K, V = heads(q, wq, bq), heads(v, wk, bk), heads(v, wv, bv)
    scale = Q.shape[-1] ** -0.5
    product = np.einsum("btnh,bsnh->bnts", Q * scale if scaled_first else Q, K)
    a = softmax(np.where(mask[:, None], product if scaled_first else product * scale, -1e30))
    o = np.einsum("bnts,bsnh->btnh", a, V)
    R = o * np.einsum("btd,nhd->btnh", start / s(np.einsum("btnh,nhd->btd", o, wo) + bo), wo)
    g = R / s(o) / 2
    of_values, of_weights = V * np.einsum("bnts,btnh->bsnh", a, g), a * np.einsum("btnh,bsnh->bnts", g, V)
    of_weights = np.where(mask[:, None], of_weights, 0)  # what a padded query weighs is no score
    g = of_weights / s(product) / 2
    Qs = Q * scale if scaled_first else Q
    of_queries, of_keys = Qs * np.einsum("bnts,bsnh->btnh", g, K), K * np.einsum("bnts,btnh->bsnh", g, Qs)
    return back(q, wq, bq, of_queries), back(v, wk, bk, of_keys) + back(v, wv, bv, of_values)


def weights_of(layer):
    return [w.numpy() for w in layer.weights if "seed" not in w.path]


MASK = np.random.default_rng(0).random((3, 4, 6)) < 0.7
MASK[..., 0] = True


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["fused", "plain"])  # Keras computes in two ways
@pytest.mark.parametrize("masked", [False, True])
def test_relevance_enters_queries_and_keys(masked, dropout):
    q, v, layer = values(4, 3), values(6, 3, seed=2), kl.MultiHeadAttention(2, 4, dropout=dropout)
    inputs = [q, v, MASK] if masked else [q, v]
    flow = Flow(lambda q, v, m=None: layer(q, v, attention_mask=m), *inputs, composite=ATTENTION, tolerance=1e-7)
    mask = MASK if masked else np.ones_like(MASK)
    expected = attention(weights_of(layer), q, v, flow.start, mask, scaled_first=dropout > 0)
    close(flow.R[:2], list(expected), 1e-6)
    assert np.abs(flow.R[0]).max() > 0.01


def test_relevance_enters_queries_and_keys_of_tokens():
    """Integers and their mask: R of a token is the sum over its vector."""
    tokens = np.array([[1, 2, 3, 0], [4, 5, 0, 0], [6, 1, 2, 3]], "int32")
    embedding, layer = kl.Embedding(7, 3, mask_zero=True), kl.MultiHeadAttention(2, 4)

    def function(tokens):
        h = embedding(tokens)
        return layer(h, h)

    flow = Flow(function, tokens, composite=ATTENTION, tolerance=1e-7)
    x, valid = embedding.embeddings.numpy()[tokens], tokens > 0
    expected = attention(weights_of(layer), x, x, flow.start, valid[:, :, None] & valid[:, None], scaled_first=False)
    close(flow.R[0], sum(expected).sum(-1), 1e-6)


def test_without_an_entry_queries_and_keys_are_held():
    q, v = values(4, 3), values(6, 3, seed=2)
    layer = kl.MultiHeadAttention(2, 4)
    close(Flow(lambda q, v: layer(q, v), q, v, tolerance=1e-7).R[0], np.zeros_like(q))


# --- flows of the user's -----------------------------------------------------------------------


class ToTheSecond(flows.Share):
    """A sum whose first summand gets nothing: its share is absorbed, as that of a constant."""

    def enters(self, step):
        return (1,)


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("add", [lambda a, b: kl.Add()([a, b]), ops.add], ids=["layer", "ops"])
def test_a_flow_chooses_what_relevance_enters(add):
    a, b = values(5), values(5, seed=2)
    own = composites.Composite([(lambda step: "Add" in str(step.kind), ToTheSecond()), EPSILON])
    flow = Flow(add, a, b, composite=own)
    g = flow.start / s(a + b)
    close(flow.R, [np.zeros_like(a), b * g])
    close(flow.bias, (a * g).sum(-1))


def test_what_lies_behind_an_input_that_nothing_enters_is_out_of_reach():
    """The convolution makes the first summand alone: no relevance reaches it or its input."""
    x, b = values(6, 6, 2), values(4, 4, 3, seed=2)
    conv = kl.Conv2D(3, 3)
    own = composites.Composite([(composites.of_type(kl.Add), ToTheSecond()), EPSILON])
    flow = Flow(lambda x, b: kl.Add()([conv(x), b]), x, b, composite=own)
    close(flow.R[0], np.zeros_like(x))
    g = flow.start / s(flow.y)
    close(flow.R[1], b * g)


def above(step):
    return step.kind == "ops.Greater"


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("given", [True, False])
def test_a_flow_opens_a_step_that_is_detached_otherwise(given):
    x, y = values(5), values(5, seed=2)
    entries = [(above, flows.PassThrough()), EPSILON] if given else [EPSILON]
    function = lambda x, y: kl.Add()([ops.cast(x > 0.1, "float64"), y])  # noqa: E731
    flow = Flow(function, x, y, composite=composites.Composite(entries))
    mask, g = (x > 0.1).astype("float64"), flow.start / s(flow.y)
    close(flow.R, [mask * g if given else np.zeros_like(x), y * g])
    close(flow.bias, np.zeros(3) if given else (mask * g).sum(-1))


@pytest.mark.parametrize("given", [True, False])
def test_a_rule_reads_what_a_detached_step_made(given):
    """A comparison multiplied by a constant matrix is a linear step, whether or not relevance leaves it."""
    x, w = values(5), np.random.default_rng(3).normal(size=(5, 4))
    entries = [(above, flows.PassThrough()), EPSILON] if given else [EPSILON]
    function = lambda x: ops.matmul(ops.cast(x > 0.1, "float64"), w)  # noqa: E731
    flow = Flow(function, x, composite=composites.Composite(entries))
    mask = (x > 0.1).astype("float64")
    expected = mask * (flow.start / s(mask @ w) @ w.T)
    close(flow.R[0], expected if given else np.zeros_like(x))
    close(flow.bias, np.zeros(3) if given else flow.start.sum(-1))


def test_integers_that_a_detached_step_made_meet_a_kernel():
    x, w = values(5), np.random.default_rng(3).normal(size=(5, 4))
    flow = Flow(lambda x: ops.matmul(ops.cast(x > 0.1, "int32"), w) + ops.mean(x, -1, keepdims=True), x)
    assert np.abs(flow.R[0]).max() > 0


class Astray(flows.Share):
    def enters(self, step):
        return (0, 2)


def test_positions_that_a_step_does_not_have():
    a = keras.Input((4,))
    model = keras.Model(a, kl.Add(name="sum")([a, kl.Dense(4)(a)]))
    own = composites.Composite([(composites.of_type(kl.Add), Astray()), EPSILON])
    with raises(ValueError, r"'sum' \(Add\)", r"inputs \(0, 2\)", "positions in step.inputs, of which there are 2"):
        lrp_tf.Explainer(model, own)
