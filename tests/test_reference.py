"""Reference samples: what is kept is what a slow ranking keeps, however a run is cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import lrp_tf
from lrp_tf import compiling
from lrp_tf.concepts import Reference, build_reference, building

pytestmark = pytest.mark.usefixtures("mode")
LAYERS = ("conv", "dense")
N = 3


@pytest.fixture(scope="module")
def explainer() -> lrp_tf.Explainer:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((6, 5, 2)),
        kl.Conv2D(3, 3, activation="relu", name="conv"),
        kl.Flatten(),
        kl.Dense(4, name="dense"),
        kl.Dense(3, activation="softmax", name="probabilities"),
    ])  # fmt: skip
    return lrp_tf.Explainer(model, "epsilon")


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """23 samples of two of three classes; some are the same as others, in other batches, so that scores are tied."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 6, 5, 2)).astype("float32"), rng.integers(0, 2, 23)
    for copy, original in ((9, 2), (17, 2), (20, 11)):
        x[copy], y[copy] = x[original], y[original]
    return x, y


@pytest.fixture
def build(explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path) -> Callable[..., Reference]:
    def run(name: str, dataset: object = data, layers: object = LAYERS, **options: object) -> Reference:
        return build_reference(explainer, dataset, layers, path=tmp_path / name, **{"n": N, "batch": 4, **options})

    return run


def slow(explainer: lrp_tf.Explainer, data: tuple, layer: str, by: str, pooling: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, C] and flat positions [N, C] of all samples, by `explain` and by the model itself."""
    x, y = data
    if by == "relevance":
        values = explainer.explain(x, y, layers=[layer]).layers[layer].numpy()
    else:
        values = keras.Model(explainer.model.inputs[0], explainer.model.get_layer(layer).output)(x).numpy()
    values = np.moveaxis(values.reshape(len(x), -1, values.shape[-1]), 1, 2)
    pool = {"sum": lambda v: v.sum(-1), "max": lambda v: v.max(-1), "positive": lambda v: np.maximum(v, 0).sum(-1)}
    return pool[pooling](values), values.argmax(axis=-1)


@pytest.mark.parametrize("pooling", ["sum", "max", "positive"])
def test_what_a_slow_ranking_keeps(explainer: lrp_tf.Explainer, data: tuple, build: Callable, pooling: str) -> None:
    reference = build("r.h5", pooling=pooling)
    for layer, by in itertools.product(LAYERS, ("relevance", "activation")):
        scores, places = slow(explainer, data, layer, by, pooling)
        for channel, label in itertools.product(range(scores.shape[1]), (None, 0, 1)):
            found = reference.samples(layer, channel, by=by, label=label)
            mine = np.arange(len(scores)) if label is None else np.flatnonzero(data[1] == label)
            # Rounding: copies have the same score, and so have the dead maps of a ReLU.
            order = sorted(mine, key=lambda i: (-np.float32(round(float(scores[i, channel]), 5)), i))[:N]
            assert found.ids.tolist() == order
            np.testing.assert_allclose(found.scores, scores[order, channel], rtol=1e-4, atol=1e-6)
            assert found.labels.tolist() == data[1][order].tolist()
            shape = (4, 3) if layer == "conv" else ()
            flat = np.ravel_multi_index(tuple(found.positions.T), shape) if shape else np.zeros(len(order))
            assert flat.tolist() == places[order, channel].tolist()


def test_the_planted_net(tmp_path: Path) -> None:
    """Channel 0 is bright and unused; channel 1 is used where it lies in the first column alone."""
    model = keras.Sequential([
        keras.Input((3, 4, 2)),
        kl.Conv2D(2, 1, activation="relu", name="both"),
        kl.Flatten(),
        kl.Dense(2, name="scores"),
    ])  # fmt: skip
    dense = np.zeros((3, 4, 2, 2), "float32")
    dense[:, 0, 1, 1] = 1  # class 1 counts channel 1 in the first column
    model.set_weights([np.eye(2, dtype="float32")[None, None], np.zeros(2), dense.reshape(24, 2), np.zeros(2)])
    x = np.zeros((4, 3, 4, 2), "float32")
    x[0, 1, 2, 0] = 9  # nothing but the unused channel
    x[1, 2, 3, 1] = 7  # the used channel, where it is not used
    x[2, 1, 0, 1] = 2  # and where it is
    x[3, 0, 0, 1] = x[3, 0, 1, 1] = 1
    explainer = lrp_tf.Explainer(model, "epsilon")
    reference = build_reference(explainer, (x, [1, 1, 1, 1]), "both", path=tmp_path / "planted.h5", n=2)
    active, relevant = (
        {channel: reference.samples("both", channel, by=by) for channel in (0, 1)} for by in ("activation", "relevance")
    )
    assert active[0].ids[0] == 0
    assert active[0].scores[0] == 9
    assert active[0].positions[0].tolist() == [1, 2]
    assert not relevant[0].scores.any()
    assert active[1].ids.tolist() == [1, 2]
    assert relevant[1].ids.tolist() == [2, 3]
    np.testing.assert_allclose(relevant[1].scores, [2, 1], rtol=1e-5)
    assert relevant[1].positions.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("shards", [2, 9])  # of six batches: of nine shards three have none
def test_shards_merge_to_one_run(build: Callable, tmp_path: Path, shards: int) -> None:
    whole = build("whole.h5")
    parts = [build(f"{i}.h5", shard=(i, shards)).path for i in range(shards)]
    merged = Reference.merge(parts[::-1], tmp_path / "merged.h5")
    assert merged.path.read_bytes() == whole.path.read_bytes()
    assert merged.classes == whole.classes
    tied = whole.samples("conv", 0)
    assert len(tied) == N


def stopping(x: np.ndarray, y: np.ndarray, after: int) -> object:
    """Batches, until the machine stops."""
    for first in range(0, len(x), 4):
        if first >= after * 4:
            raise KeyboardInterrupt
        yield x[first : first + 4], y[first : first + 4]


def test_a_run_that_was_stopped(build: Callable, data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build("whole.h5")
    with pytest.raises(KeyboardInterrupt):
        build("cut.h5", stopping(*data, after=3), seconds=0.0)
    assert sorted(p.name for p in tmp_path.glob("cut*")) == ["cut.h5.part"]
    with pytest.raises(ValueError, match=r"interrupted after 3 batch\(es\). Remedy: build_reference"):
        Reference.load(tmp_path / "cut.h5.part")
    with pytest.raises(ValueError, match="unfinished"):
        Reference.merge([tmp_path / "cut.h5.part"], tmp_path / "merged.h5")
    seen = []
    make = building.measuring

    def counting(*arguments: object) -> Callable:
        measure = make(*arguments)
        return lambda *tensors: seen.append(len(tensors[0])) or measure(*tensors)

    monkeypatch.setattr(building, "measuring", counting)
    resumed = build("cut.h5", seconds=0.0)
    assert seen == [4, 4, 3]  # of 23 samples 12 were known
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert not list(tmp_path.glob("cut.h5.part"))
    again = build("cut.h5")  # nothing is left to do
    assert len(seen) == 3
    assert again.classes == whole.classes


def test_what_does_not_fit_an_earlier_run(build: Callable, data: tuple, explainer: lrp_tf.Explainer) -> None:
    build("r.h5")
    with pytest.raises(ValueError, match=r"other settings. They differ in n: 3, now 2; pooling: \"sum\", now \"max\""):
        build("r.h5", n=2, pooling="max")
    with pytest.raises(ValueError, match=r"batch 0 differ .*Remedy: the same data in the same order"):
        build("r.h5", (data[0][::-1], data[1]))
    with pytest.raises(ValueError, match="batch 0 differ"):
        build("r.h5", (data[0], 1 - data[1]))
    with pytest.raises(ValueError, match="shard"):
        build("r.h5", shard=(0, 2))
    weights = explainer.model.get_weights()
    explainer.model.set_weights([2 * w for w in weights])
    with pytest.raises(ValueError, match="differ in weights"):
        build("r.h5")
    explainer.model.set_weights(weights)
    assert build("r.h5", n=2, resume=False).settings["n"] == 2


def test_a_finished_file_checks_its_own_batches_and_their_number(build: Callable, data: tuple, tmp_path: Path) -> None:
    x, y = data
    build("shard.h5", shard=(1, 2))
    build("whole.h5", (x[:16], y[:16]))
    written = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="batch 1 differ from"):
        build("shard.h5", (x * 0.5, y), shard=(1, 2))
    changed = np.where(np.arange(23)[:, None, None, None] >= 20, 0.0, x)
    with pytest.raises(ValueError, match="batch 5 differ from"):
        build("shard.h5", (changed, y), shard=(1, 2))
    for count, batches in ((23, 6), (15, 4), (12, 3)):
        with pytest.raises(ValueError, match=f"batch 3 differ from|samples differ from .*Expected 4 .*: {batches}"):
            build("whole.h5", (x[:count], y[:count]))
    assert build("shard.h5", shard=(1, 2)).classes
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_a_run_that_is_resumed_with_fewer_data(build: Callable, data: tuple, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build("cut.h5", stopping(*data, after=3), seconds=0.0)
    with pytest.raises(ValueError, match=r"samples differ from .*Expected at least 3 batches. Received: 2. Remedy"):
        build("cut.h5", tuple(values[:8] for values in data))
    assert [path.name for path in tmp_path.iterdir()] == ["cut.h5.part"]
    (tmp_path / "cut.h5.part").write_bytes((tmp_path / "cut.h5.part").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut.h5.part'.* Remedy: resume=False"):
        build("cut.h5")
    assert build("cut.h5", resume=False).classes


def test_ways_to_give_a_data_set(build: Callable, data: tuple) -> None:
    x, y = (values[:6] for values in data)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    expected = build("arrays.h5", (x, y)).path.read_bytes()
    sliced = tf.data.Dataset.from_tensor_slices((x, y))
    one_hot = np.eye(3)[y]
    for number, dataset in enumerate(
        [sliced, sliced.batch(4), batches, iter(batches), list(zip(x, y, strict=True)), (x, y[:, None]), (x, one_hot)]
    ):
        assert build(f"{number}.h5", dataset).path.read_bytes() == expected, number
    predicted = build("predicted.h5", x, target=None)
    assert sum(predicted.classes.values()) == 6
    assert build("stream.h5", [b for b, _ in batches], target=None).classes == predicted.classes


def test_the_predicted_class(explainer: lrp_tf.Explainer, data: tuple, build: Callable) -> None:
    x, _ = data
    top = explainer.model(x).numpy().argmax(axis=1)
    reference = build("predicted.h5", data, target=None)
    assert reference.classes == dict(zip(*(v.tolist() for v in np.unique(top, return_counts=True)), strict=True))
    one = build("one.h5", data, target=None, start="one", layers=["probabilities"])
    for label in one.classes:  # a class has what starts there, and others nothing
        scores = [one.samples("probabilities", channel, label=label).scores[0] for channel in range(3)]
        np.testing.assert_allclose(scores, np.eye(3)[label], atol=1e-5)


def test_bad_samples_cost_a_line_each(build: Callable, data: tuple) -> None:
    x, y = data[0].copy(), data[1].copy()
    good = build("good.h5", (np.delete(x, [5, 7], 0), np.delete(y, [5, 7])))
    x[5, 2, 3, 0], y[7] = np.nan, 3
    bad = build("bad.h5", (x, y))
    assert bad.failures == ((5, "NaN or Inf in the input"), (7, "label 3: no class of 0 to 2"))
    assert bad.classes == good.classes
    for channel in range(3):
        kept, wanted = (r.samples("conv", channel) for r in (bad, good))
        moved = [i + (i >= 5) + (i >= 6) for i in wanted.ids]
        np.testing.assert_allclose(kept.scores, wanted.scores, rtol=1e-4)
        assert kept.ids.tolist() == moved
    with pytest.raises(ValueError, match=r"No sample could be used. .*sample 0: NaN or Inf in the input"):
        build("none.h5", (np.full_like(x, np.inf), y))
    assert not bad.path.with_name("none.h5").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "conv9"}, r"no layer has this name"),
        ({"layers": []}, r"layers expects at least one"),
        ({"n": 0}, r"n expects a number of samples, at least 1. Received: 0"),
        ({"target": "top"}, r'target expects "label"'),
        ({"pooling": "mean"}, r"pooling expects one of sum, max, positive. Received: 'mean'"),
        ({"start": "two"}, r'start expects "output" or "one"'),
        ({"shard": (2, 2)}, r"shard expects \(i, n\) with 0 <= i < n. Received: \(2, 2\)"),
        ({"batch": 0}, r"batch expects a number of samples"),
        ({"dataset": np.zeros((4, 6, 5, 2))}, r'target="label" needs labels. .*Remedy: target=None'),
        ({"dataset": (np.zeros((4, 6, 5, 2)), [1, 2])}, r"arrays of lengths \[2, 4\]"),
        ({"dataset": []}, r"The data set holds no samples"),
        (
            {"dataset": [np.zeros((4, 6, 5, 2)), [0] * 4]},
            r"a list of \[4, 6, 5, 2\] and 4 numbers. Remedy: a tuple",
        ),
        ({"dataset": (np.zeros((4, 5, 6, 2)), [0] * 4)}, r"wrong shape"),
        ({"dataset": [(np.zeros((2, 6, 5, 2)), np.zeros((2, 2)))]}, r"Expected a class for each sample"),
    ],
)
def test_what_is_refused(build: Callable, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build("refused.h5", **options)
    assert not list(tmp_path.iterdir())


def test_layers_and_places_that_do_not_fit(build: Callable, explainer: lrp_tf.Explainer, tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((4,)), kl.Dense(1, name="one"), kl.Reshape((), name="bare"), kl.Reshape((1,))]
    )
    bare = lrp_tf.Explainer(model, "epsilon")
    with pytest.raises(ValueError, match=r"'bare' has no channels"):
        build_reference(bare, (np.ones((2, 4)), [0, 1]), "bare", path=tmp_path / "bare.h5")
    with pytest.raises(FileNotFoundError, match="folder that exists"):
        build("nowhere/r.h5")
    for resume in (True, False):
        with pytest.raises(IsADirectoryError, match=r"path expects a file to write. .*a folder. Remedy"):
            build("", resume=resume)
    with pytest.raises(TypeError, match=r"arrays \(x, labels\), or an iterable of batches. Received: int"):
        build("number.h5", 3)
    images = keras.Sequential([keras.Input((4, 4, 1)), kl.Conv2D(2, 1)])
    with pytest.raises(ValueError, match="Expected a model whose output is classes"):
        build_reference(lrp_tf.Explainer(images, "epsilon"), np.ones((1, 4, 4, 1)), "conv2d", path=tmp_path / "r.h5")


def test_what_a_reference_is_asked_for(build: Callable) -> None:
    reference = build("r.h5")
    assert reference.layers == {"conv": 3, "dense": 4}
    for arguments, message in [
        (("conv2", 0), r"has no layer 'conv2'. Expected one of \['conv', 'dense'\]"),
        (("conv", 3), r"channels 0 to 2. Received: channel=3"),
        (("conv", True), "Received: channel=True"),
        (("conv", 0, "size"), 'by expects "relevance" or "activation"'),
        (("conv", 0, "relevance", 2), r"no sample of class 2. Expected one of 0, 1. Received: label=2"),
    ]:
        with pytest.raises(ValueError, match=message):
            reference.samples(*arguments)
    assert reference.box("conv", (3, 0)) == (slice(3, 6), slice(0, 3), slice(0, 2))
    assert reference.box("dense", ()) == (slice(0, 6), slice(0, 5), slice(0, 2))
    with pytest.raises(ValueError, match=r"Expected a position in \(4, 3\). Received: \(4, 0\)"):
        reference.box("conv", (4, 0))


def test_shards_of_one_model_under_other_names(explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path) -> None:
    model = explainer.model
    other = keras.Sequential.from_config(model.get_config() | {"name": "counted_up"})
    other.set_weights(model.get_weights())
    assert other.name != model.name
    both = (explainer, lrp_tf.Explainer(other, "epsilon"))
    parts = [
        build_reference(one, data, "conv", path=tmp_path / f"{i}.h5", shard=(i, 2)).path for i, one in enumerate(both)
    ]
    merged = Reference.merge(parts, tmp_path / "merged.h5")
    assert sum(merged.classes.values()) == len(data[0])
    for one in both:
        merged.check_explainer(one, "conv")


@pytest.mark.parametrize("missing", ["layers", "batches/digest", "failures", "layers/1/activation/place", "settings"])
def test_a_damaged_file(build: Callable, missing: str) -> None:
    path = build("r.h5").path
    with h5py.File(path, "a") as file:
        del (file.attrs if missing == "settings" else file)[missing]
    with pytest.raises(ValueError, match=r"Expected a file that build_reference wrote. .*r.h5', a damaged one"):
        Reference.load(path)
    with pytest.raises(ValueError, match=r"a damaged one.* Remedy: resume=False, which replaces this file"):
        build("r.h5")


def test_files_that_are_no_whole_reference(build: Callable, tmp_path: Path) -> None:
    parts = [build(f"{i}.h5", shard=(i, 3)).path for i in range(3)]
    other = build("other.h5", shard=(0, 3), n=2).path
    merged = tmp_path / "merged.h5"
    for paths, message in [
        ([], "Received: none"),
        (parts[:2], r"2 of 3; 2 of 6 batches are missing, the first is batch 2"),
        ([*parts, parts[1]], r"batch 1 twice, for '.*1.h5' again"),
        ([*parts[1:], other], "which differ in n"),
    ]:
        with pytest.raises(ValueError, match=message):
            Reference.merge(paths, merged)
    assert not merged.exists()
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="Expected a file that build_reference wrote"):
        Reference.load(tmp_path / "text.h5")
    with pytest.raises(FileNotFoundError, match="no file"):
        Reference.load(tmp_path / "none.h5")


def test_several_inputs(tmp_path: Path) -> None:
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    h = kl.Dense(4, activation="relu", name="h")(kl.Concatenate()(list(inputs.values())))
    explainer = lrp_tf.Explainer(keras.Model(inputs, kl.Dense(2)(h)), "epsilon")
    rng = np.random.default_rng(0)
    x, y = {"a": rng.normal(size=(7, 3)), "b": rng.normal(size=(7, 2))}, rng.integers(0, 2, 7)
    reference = build_reference(explainer, (x, y), "h", path=tmp_path / "two.h5", batch=3)
    expected = explainer.explain(x, y, layers=["h"]).layers["h"].numpy()[:, 1].max()
    np.testing.assert_allclose(reference.samples("h", 1).scores[0], expected, rtol=1e-5)
    assert not reference.has_fields("h")
    with pytest.raises(ValueError, match="needs a model with one input"):
        reference.box("h", ())


def test_what_every_call_of_an_explainer_refuses(
    explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    positive = lrp_tf.Explainer(explainer.model, "epsilon", nonnegative=True)
    with pytest.raises(ValueError, match="values below zero, though nonnegative=True"):
        build_reference(positive, data, "conv", path=tmp_path / "r.h5")
    wrong = lrp_tf.Explainer(explainer.model, "epsilon", check=True)
    judged = []

    def check(clone: object, inputs: list, logits: tf.Tensor, name: str) -> None:
        judged.append((np.asarray(inputs[0]), np.asarray(logits)))

    monkeypatch.setattr(compiling.checks, "check", check)
    monkeypatch.setattr(compiling.checks, "raise_unless_sound", lambda found: None)
    x = data[0].copy()
    x[0, 0, 0, 0] = np.nan
    build_reference(wrong, (x, data[1]), "conv", path=tmp_path / "r.h5", batch=4)
    (inputs, logits), *others = judged
    assert not others  # once, on finite samples
    np.testing.assert_array_equal(inputs, x[1:4])
    np.testing.assert_allclose(logits, explainer.explain(x[1:4]).logits, rtol=1e-5)
