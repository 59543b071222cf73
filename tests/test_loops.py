"""What compiled passes do with a step that holds a graph: targets, tables, hooks, filters, files, gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import randomize
from keras import layers as kl

import lrp_tf
from lrp_tf import composites, gradients, rules
from lrp_tf.core.loop import body_of
from lrp_tf.engine import passes, targets
from lrp_tf.engine.savings import switched_off

layers = keras.layers
_CLASSES = 3


@pytest.fixture(scope="module")
def model():
    """A masked LSTM ahead of a GRU that starts at the end, with bias everywhere."""
    keras.utils.set_random_seed(1)
    x = keras.Input((6, 3))
    h = layers.LSTM(5, return_sequences=True, name="lstm")(layers.Masking()(x))
    y = layers.Dense(_CLASSES, name="dense")(layers.GRU(4, name="gru", go_backwards=True)(h))
    made = keras.Model(x, y)
    made.set_weights([w + 0.1 * np.random.default_rng(2).normal(size=w.shape) for w in made.get_weights()])
    return made


@pytest.fixture(scope="module")
def x():
    found = np.random.default_rng(3).normal(size=(4, 6, 3)).astype("float32")
    found[:2, 4:] = 0  # masked
    return found


@pytest.fixture(scope="module")
def explainer(model):
    return lrp_tf.Explainer(model, "epsilon")


@pytest.fixture(scope="module")
def relevance(explainer, x):
    return explainer(x, 1).numpy()


def _close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_several_targets_are_those_of_each(explainer, x, relevance):
    every = np.tile([2, 1, 0], (4, 1))
    found = explainer.explain(x, every, layers=["lstm"])
    _close(found.relevance[:, 1], relevance, 1e-6)
    _close(found.layers["lstm"][:, 0], explainer.explain(x, 2, layers=["lstm"]).layers["lstm"], 1e-6)
    assert np.abs(found.conservation.unexplained).max() < 1e-4


@pytest.mark.parametrize("samples", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_several_targets_have_the_books_of_each(explainer, x, samples):
    few, every = x[:samples], np.tile([2, 1, 0], (samples, 1))
    found, accounts = explainer(few, every), explainer.explain(few, every)
    for position, target in enumerate(every[0]):
        _close(found[:, position], explainer(few, int(target)))
        alone = explainer.explain(few, int(target)).conservation
        np.testing.assert_allclose(accounts.conservation.bias[:, position], alone.bias, atol=1e-6)
    with switched_off():
        _close(lrp_tf.Explainer(explainer.model, "epsilon")(few, every), found)


def test_books_close_and_masked_steps_have_exactly_none(explainer, x, relevance):
    found = explainer.explain(x, 1)
    np.testing.assert_array_equal(relevance[:2, 4:], 0)
    assert np.all(relevance[:2, :4] != 0)
    kept = found.conservation
    total = kept.relevance + kept.bias + kept.stabilizer + kept.other
    size = np.abs(found.relevance).sum((1, 2))
    np.testing.assert_allclose((total - kept.start) / size, 0, atol=1e-6)
    assert np.abs(kept.bias).min() > 0.01 * np.abs(kept.start).min()


def test_tables_show_the_steps_of_a_cell_once(explainer, x):
    rows = explainer.report(x, np.tile([0, 2], (4, 1)), print_fn=None)  # two targets
    table = dict(zip(rows.column("layer"), rows.rows, strict=True))
    paths = [row[0] for row in explainer.summary(print_fn=None).rows if row[2]]  # the others are rewrites
    assert len(paths) == len(set(paths))
    cells = [p for p in paths if p.startswith("lstm/lstm_cell/")]
    assert cells
    assert set(cells) <= set(table)
    loop = paths.index("lstm")
    assert paths.index(cells[0]) == loop + 1
    out, into = rows.columns.index("relevance out"), rows.columns.index("relevance in")
    shares = [rows.columns.index(name) for name in ("bias", "stabilizer", "other")]
    assert abs(table["lstm"][out] - table["lstm"][into] - sum(table["lstm"][i] for i in shares)) < 1e-5
    for i in shares:  # what the loop absorbed is what its steps absorbed, but for what ends at its first states
        inner = sum(row[i] for path, row in table.items() if path in cells)
        np.testing.assert_allclose(inner, table["lstm"][i], atol=1e-5)
    total = [explainer.explain(x, t).conservation.relevance.numpy().sum() for t in (0, 2)]
    assert table["total"][into] == pytest.approx(sum(total), abs=1e-5)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(6)
    given = keras.Input((6, 3))
    return keras.Model(given, layers.Dense(_CLASSES)(layers.LSTM(3)(given)))


def test_xla_gives_the_same(small, x):
    every = np.tile([0, 1], (4, 1))
    found, plain = (lrp_tf.Explainer(small, "epsilon", jit_compile=xla).explain(x, every) for xla in (True, False))
    _close(found.relevance, plain.relevance, 1e-4)
    np.testing.assert_allclose(found.conservation.bias, plain.conservation.bias, atol=1e-5)


def test_saved_passes_and_exports_give_the_same(small, x, tmp_path):
    explainer = lrp_tf.Explainer(small, "epsilon")
    relevance = explainer(x, 1).numpy()
    explainer.save(tmp_path / "model.lrp")
    np.testing.assert_array_equal(lrp_tf.Explainer.load(tmp_path / "model.lrp", small)(x, 1), relevance)
    lrp_tf.export(explainer, tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["explain_target"]
    inputs = {next(k for k in served.structured_input_signature[1] if k != "target"): tf.constant(x)}
    _close(served(target=tf.constant([1] * 4), **inputs)["relevance"], relevance, 1e-6)


def test_options_change_no_number(model, x, relevance, explainer):
    for options in ({"recompute": True}, {"fast": "auto"}, {"max_batch": 2}):
        _close(lrp_tf.Explainer(model, "epsilon", **options)(x, 1), relevance, 1e-6)
    positive = np.abs(x)
    _close(lrp_tf.Explainer(model, "epsilon", nonnegative=True)(positive, 1), explainer(positive, 1))


def test_the_filter_drops_relevance_inside_of_loops(model, x):
    sharp = lrp_tf.Explainer(model, "epsilon", relevance_filter=0.05)
    rows = sharp.report(x, 1, print_fn=None)
    dropped = dict(zip(rows.column("layer"), rows.column("filter"), strict=True))
    inside = [value for path, value in dropped.items() if path.startswith("lstm/lstm_cell/")]
    assert max(map(abs, inside)) > 1e-4
    assert dropped["lstm"] == pytest.approx(sum(inside), abs=1e-5)
    assert np.abs(sharp.explain(x, 1).conservation.unexplained).max() < 1e-4


def test_a_hook_runs_at_the_steps_of_a_cell(model, x, explainer):
    clone, seen = explainer.clone, set()
    inner = {step for step, _ in clone.plan.every_step()} - set(clone.graph.steps)

    def none_from_sums(step, relevance):
        seen.add(step)
        return relevance * 0 if step in inner and step.linear is not None else relevance

    chosen = targets.checked(clone.graph, 1, "output", tf.constant(x))
    run = passes.plain(clone, chosen, passes.Request(account=True), none_from_sums)
    found, _ = run(tf.constant(x), *chosen.tensors)
    assert seen & inner
    np.testing.assert_array_equal(found.relevance[0], 0)
    kept = found.shares
    np.testing.assert_allclose(kept.start, kept.bias + kept.stabilizer + kept.filter, atol=1e-5)


def test_gradients_go_through_loops(model, x):
    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        value = model(point)[:, 1]
    expected = tape.gradient(value, point).numpy()
    _close(gradients.Gradient(model)(x, 1), expected)
    guided = lrp_tf.Explainer(model, "guided_backprop")
    _close(guided(x, 1, start="one"), expected)  # there is no ReLU


def test_entries_choose_the_steps_of_a_cell(model, x, relevance):
    chosen = composites.Composite([(composites.named("lstm/.*"), rules.ZPlus()), (None, rules.Epsilon())])
    found = lrp_tf.Explainer(model, chosen)
    rows = found.summary(print_fn=None).rows
    inside = [row[3] for row in rows if row[0] == "lstm/lstm_cell/matmul"]
    assert inside
    assert all("ZPlus" in text for text in inside)
    assert all("ZPlus" not in row[3] for row in rows if row[0].startswith("gru/"))
    assert np.abs(found(x, 1) - relevance).max() > 1e-3


def test_first_layer_rules_do_not_enter_a_body(model):
    found = lrp_tf.Explainer(model, "epsilon_plus_flat").summary(print_fn=None)
    assert not any("Flat" in text for text in found.column("rule"))


def test_time_steps_of_samples_that_are_time_steps(x):
    keras.utils.set_random_seed(4)
    given = keras.Input((2, 6, 3))
    wrapped, inner = layers.TimeDistributed(layers.LSTM(4, name="inner")), layers.Dense(2)
    both = keras.Model(given, inner(layers.Flatten()(wrapped(given))))
    videos = np.stack([x, x[::-1]], axis=1)
    found = lrp_tf.Explainer(both, "epsilon").explain(videos, 1)
    size = np.abs(found.relevance).sum((1, 2, 3))
    np.testing.assert_allclose(found.conservation.unexplained * found.conservation.start / size, 0, atol=1e-6)
    alone = lrp_tf.Explainer(both, "epsilon")(videos[1:2], 1)
    _close(found.relevance[1:2], alone)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_weights_that_are_no_numbers_are_named(index, x):
    keras.utils.set_random_seed(5)
    given = keras.Input((6, 3))
    broken = keras.Model(given, layers.Dense(2)(layers.LSTM(4, name="lstm")(given)))
    values = broken.get_weights()
    values[index].flat[3] = np.nan
    broken.set_weights(values)
    with pytest.raises(ValueError, match=r"Layer 'lstm' \(LSTM\): its weight '.*lstm_cell/.*' holds 1 NaN"):
        lrp_tf.Explainer(broken, "epsilon")(x, 1)


def test_layers_of_a_cell_cannot_be_asked_for(explainer, x):
    with pytest.raises(ValueError, match="'lstm_cell': it runs for each time step of 'lstm'"):
        explainer.explain(x, 1, layers=["lstm_cell"])


def test_the_forward_loop_keeps_the_states_alone(explainer, x):
    """A time step of the forward pass writes its states, and its output where that is stacked; the loop reads none."""
    clone = explainer.clone
    run = tf.function(lambda t: clone.output(clone.forward([t]))).get_concrete_function(tf.TensorSpec([None, 6, 3]))
    loops = [step for step in clone.graph.steps if body_of(step) is not None]
    writes = [
        sum(node.op == "TensorListSetItem" for node in function.node_def)
        for function in run.graph.as_graph_def().library.function
        if "while_body" in function.signature.name
    ]
    expected = [step.op.states + (len(body_of(step).outputs) - step.op.states) * step.op.stacked for step in loops]
    assert sorted(writes) == sorted(expected)


def test_several_targets_of_one_sample_equal_one_target():
    """Even where a state nearly cancels: what is computed again must be what was kept."""
    model = randomize(keras.Sequential([keras.Input((None, 2)), kl.LSTM(4), kl.Dense(3, activation="softmax")]))
    explainer, rng = lrp_tf.Explainer(model, "epsilon"), np.random.default_rng(5)
    for x in rng.normal(size=(30, 1, 5, 2)).astype("float32"):
        for k, both in enumerate(np.asarray(explainer(x, target=[[0, 1]]))[0]):
            alone = np.asarray(explainer(x, target=[k]))[0]
            np.testing.assert_allclose(both, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_several_targets_of_a_layer_that_keeps_its_states():
    """Each sample goes on with its own states, whatever the number of targets, and in a smaller batch too."""
    inputs = keras.Input(batch_shape=(4, 5, 3))
    model = randomize(keras.Model(inputs, kl.Dense(3)(kl.LSTM(4, stateful=True)(inputs))))
    x = np.random.default_rng(2).normal(size=(4, 5, 3)).astype("float32")
    model(x)
    explainer = lrp_tf.Explainer(model, "epsilon")
    for samples in (4, 2, 1):
        found = explainer(x[:samples], np.tile([0, 2], (samples, 1)))
        for k, target in enumerate((0, 2)):
            _close(found[:, k], explainer(x, target)[:samples])


def test_a_state_may_be_a_whole_number():
    """A cell that counts its steps and scales by the count; the count is a state without relevance."""

    @keras.saving.register_keras_serializable("tests")
    class Counting(kl.Layer):
        state_size, output_size = (3, 1), 3

        def get_initial_state(self, batch_size=None):
            return [keras.ops.zeros((batch_size, 3)), keras.ops.zeros((batch_size, 1), "int32")]

        def call(self, x, states):
            h = 0.5 * states[0] + x * keras.ops.cast(states[1] + 1, "float32")
            return h, [h, states[1] + 1]

    model = keras.Sequential([keras.Input((4, 3)), kl.RNN(Counting())])
    x = np.random.default_rng(1).normal(size=(2, 4, 3)).astype("float32")
    found = lrp_tf.Explainer(model, "epsilon")(x, 1)
    weights = 0.5 ** np.arange(3, -1, -1) * np.arange(1, 5)
    expected = np.zeros_like(x)
    expected[..., 1] = x[..., 1] * weights
    _close(found, expected, 1e-4)
