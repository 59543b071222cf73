"""What `export_stablehlo` writes gives the Explainer's relevance in jax, in a process without TensorFlow."""

import keras
import numpy as np
import pytest
from helpers import transformers
from helpers.checking import randomize
from helpers.extras import need
from helpers.layer_cases import CASES
from helpers.small_nets import IMG, dense_net, image_net, maps_net
from helpers.stablehlo import Calls, close
from keras import layers as kl

import lrp_tf

pytestmark = pytest.mark.slow

PRESETS = ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box")
BOX = {"epsilon_gamma_box": {"low": -4.0, "high": 4.0}}


def photos(*shape, kind="float32"):
    return np.random.default_rng(5).normal(size=(2, *shape)).astype(kind)


def mobilenet():
    return randomize(keras.applications.MobileNet(input_shape=(64, 64, 3), alpha=0.25, weights=None, classes=20))


def several():
    """Two inputs, one of them of integers, and two outputs in a dict."""
    a, b = keras.Input((4,), name="row"), keras.Input((3,), name="words", dtype="int64")
    both = kl.Concatenate()([a, kl.Flatten()(kl.Embedding(6, 2)(b))])
    outputs = {"label": kl.Dense(3, activation="softmax", name="y")(both), "size": kl.Dense(1, name="z")(both)}
    return randomize(keras.Model({"row": a, "words": b}, outputs))


ROWS = {"row": photos(4), "words": np.array([[1, 5, 0], [2, 2, 4]])}


def of_policy(name):
    """A net of that dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        i = keras.Input((8, 8, 2))
        h = kl.MaxPooling2D()(kl.Conv2D(4, 3, activation="relu")(i))
        return randomize(keras.Model(i, kl.Dense(3, activation="softmax")(kl.Flatten()(h))))
    finally:
        keras.config.set_dtype_policy(before)


def layer(name):
    return lambda: CASES[name][0]()[0]


def explainer(build, *args, **options):
    return lambda: lrp_tf.Explainer(build(), *args, **options)


# name -> (explainer, inputs, arguments of a call, largest deviation of its maximum)
MODELS = {
    **{p: (explainer(image_net, p, **BOX.get(p, {})), IMG[:2], {}, 1e-5) for p in PRESETS},
    "mobilenet": (explainer(mobilenet), photos(64, 64, 3), {}, 1e-5),
    "float64": (explainer(lambda: of_policy("float64")), photos(8, 8, 2, kind="float64"), {}, 1e-12),
    "mixed": (explainer(lambda: of_policy("mixed_float16")), photos(8, 8, 2), {}, 1e-5),
    "bfloat16": (explainer(lambda: of_policy("bfloat16")), photos(8, 8, 2), {}, 1e-2),
    "several": (explainer(several, output="label"), ROWS, {"target": [2, 1]}, 1e-5),
    "single": (explainer(several, output="size"), ROWS, {}, 1e-5),
    "maps": (explainer(lambda: maps_net(5)), photos(5, 5, 2), {"target": [[0, 1, 2], [4, 4, 0]]}, 1e-5),
    "lstm": (explainer(layer("LSTM")), CASES["LSTM"][0]()[1][:2], {}, 1e-5),
    "filter": (explainer(image_net, relevance_filter=0.2), IMG[:2], {}, 1e-5),
    "vit": (explainer(transformers.vision_transformer, "attn_lrp"), photos(8, 8, 3), {}, 1e-4),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """name -> (what jax gave, what the Explainer gave); a process with jax runs them all."""
    need("jax", extra="jax")
    calls, wanted = Calls(tmp_path_factory.mktemp("jax")), {}
    for name, (make, x, options, _) in MODELS.items():
        made, first = make(), options.get("target")
        lrp_tf.export_stablehlo(made, 2, calls.root / f"export_{name}", target=first and [first[1]] * 2)
        calls.add(name, f"export_{name}", x, **options)
        wanted[name] = made.explain(x, first)
    calls.run()
    return {name: (calls.found(name), wanted[name]) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_jax_gives_the_relevance_of_the_explainer(found, name):
    got, wanted = found[name]
    limit = MODELS[name][3]
    assert got["status"].tolist() == [0, 0]
    np.testing.assert_array_equal(got["target"], wanted.target)
    close(got["logits"], wanted.logits, limit)
    if name in ("several", "single"):
        close(got["relevance_row"], wanted.relevance["row"], limit)
        assert wanted.relevance["words"] is None or "relevance_words" in got
    else:
        close(got["relevance"], wanted.relevance, limit)
    books = np.stack(wanted.conservation.of_six(), axis=-1)
    size = np.abs(books).max(-1, keepdims=True)
    assert (np.abs(got["conservation"] - books) <= 10 * limit * size).all()


@pytest.fixture(scope="module")
def one_net(tmp_path_factory):
    """(the Explainer, results of several calls of one export by name)."""
    need("jax", extra="jax")
    made, calls = lrp_tf.Explainer(dense_net(activation="softmax")), Calls(tmp_path_factory.mktemp("calls"))
    x = photos(4)
    broken, huge = x.copy(), x.copy()
    broken[1, 2] = np.nan
    huge[0] *= 1e38
    lrp_tf.export_stablehlo(made, 2, calls.root / "plain", target=[2, 0])
    lrp_tf.export_stablehlo(made, 2, calls.root / "softmax", contrast="softmax")
    lrp_tf.export_stablehlo(made, 2, calls.root / "rival", contrast=1)
    calls.add("default", "plain", x)
    calls.add("top", "plain", x, target=-1)
    calls.add("both", "plain", x, target=[-1, 1])
    calls.add("inside", "plain", x, target=[-1, 1], jit=True)
    calls.add("derivative", "plain", x, grad=True)
    calls.add("out", "plain", x, target=[1, 3])
    calls.add("low", "plain", x, target=[-2, 1])
    calls.add("broken", "plain", broken)
    calls.add("huge", "plain", huge)
    calls.add("softmax", "softmax", x, target=2)
    calls.add("rival", "rival", x, target=[1, 2])
    calls.run()
    return made, x, calls.found


def test_the_target_is_an_argument(one_net):
    made, x, found = one_net
    top = made.explain(x).target.numpy()
    for name, targets in (("default", [2, 0]), ("top", top), ("both", [top[0], 1]), ("inside", [top[0], 1])):
        np.testing.assert_array_equal(found(name)["target"], targets)
        close(found(name)["relevance"], made(x, np.asarray(targets)), 1e-5)


def test_a_contrast_is_fixed(one_net):
    made, x, found = one_net
    close(found("softmax")["relevance"], made(x, 2, contrast="softmax"), 1e-5)
    got = found("rival")
    assert got["status"].tolist() == [6, 0]  # the target is the class of contrast
    assert np.isnan(got["relevance"][0]).all()
    close(got["relevance"][1:], made(x[1:], 2, contrast=1), 1e-5)


def test_a_bad_sample_is_told_and_its_neighbour_is_not_touched(one_net):
    made, x, found = one_net
    wanted = made(x, np.array([2, 0])).numpy()
    for name, status, bad in (("out", [0, 2], 1), ("low", [2, 0], 0), ("broken", [0, 1], 1)):
        got = found(name)
        assert got["status"].tolist() == status
        assert np.isnan(got["relevance"][bad]).all()
        assert np.isfinite(got["relevance"][1 - bad]).all()
    close(found("broken")["relevance"][:1], wanted[:1], 1e-5)
    assert np.isnan(found("broken")["logits"][1]).all()
    assert np.isfinite(found("out")["logits"]).all()
    assert found("huge")["status"].tolist()[0] in (0, 3)
    assert found("huge")["status"].tolist()[1] == 0


def test_derivatives_are_refused(one_net):
    assert "derivative of relevance" in str(one_net[2]("derivative")["refused"])
