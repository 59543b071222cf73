"""What `lrp_tf.export` writes: the Explainer's results bit for bit, in a process without Python's TensorFlow."""

import json
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.checking import randomize
from helpers.pictures import photo
from helpers.served import IMAGE, call, digits, exact, huge_png, nodes, png, run_without_python, signatures
from keras import layers as kl

import lrp_tf
from lrp_tf import heatmap
from lrp_tf.files import loading
from lrp_tf.serving import saved_model


def application(name, size, **options):
    build = getattr(keras.applications, name)
    return randomize(build(weights=None, input_shape=(size, size, 3), classes=20, **options))


def resnet():
    """A small ResNet: both kinds of blocks, normalised."""
    inputs = keras.Input((32, 32, 3), name="photo")
    x = kl.MaxPooling2D(3, 2, "same")(kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(8, 7, 2, "same")(inputs))))
    for filters, stride in ((8, 1), (16, 2)):
        short = x if stride == 1 else kl.BatchNormalization()(kl.Conv2D(filters, 1, stride)(x))
        y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(filters, 3, stride, "same")(x)))
        x = kl.ReLU()(kl.Add()([kl.BatchNormalization()(kl.Conv2D(filters, 3, 1, "same")(y)), short]))
    outputs = kl.Dense(10, activation="softmax")(kl.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, outputs, name="resnet"))


MODELS = {
    "mnist": (digits, "scale:1/255"),
    "resnet": (resnet, "scale:1/255"),
    "mobilenet": (lambda: application("MobileNet", 64, alpha=0.25), "mobilenet"),
    "vgg16": (lambda: application("VGG16", 224), "vgg16"),
    "resnet50": (lambda: application("ResNet50", 224), "resnet50"),
    "mobilenet224": (lambda: application("MobileNet", 224), "mobilenet"),
}
SLOW = ("vgg16", "resnet50", "mobilenet224", "mobilenet", "resnet")


def same(found, explanation):
    """The tensors of a signature are those of the Explainer."""
    exact(found["relevance"], explanation.relevance)
    exact(found["outputs"], explanation.output)
    exact(found["logits"], explanation.logits)
    exact(found["target"], explanation.target)
    books = np.stack(explanation.conservation.of_six(), axis=-1)
    assert found["conservation"].dtype == found["relevance"].dtype  # float32, for LiteRT; the Explainer's are float64
    size = np.abs(explanation.relevance.numpy()).reshape(*books.shape[:-1], -1).sum(-1, keepdims=True)
    assert (np.abs(found["conservation"] - books) <= 1e-6 * (size + np.abs(books).max(-1, keepdims=True))).all()
    assert set(found["status"]) == {b"ok"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MODELS])
def test_without_python_every_signature_is_bit_equal(name, tmp_path):
    build, preprocess = MODELS[name]
    model = build()
    explainer = lrp_tf.Explainer(model)
    path = tmp_path / "served" / "1"
    # MobileNet takes longest to trace; the slow tests have the whole of it.
    ranked = {"top_k": 2} if name != "mobilenet" else {}
    exported = lrp_tf.export(explainer, path, preprocess=preprocess, print_fn=None, **ranked)
    assert exported.left_out == {}
    named = {"serving_default", "explain", "explain_target", "explain_contrast", *IMAGE}
    named |= {"explain_top_k"} if ranked else set()
    assert set(exported.signatures) == named
    height, width, channels = model.input_shape[1:]
    x = np.random.default_rng(1).uniform(size=(5, height, width, channels)).astype("float32")
    targets = np.array([3, 0, 7, 3, 9], np.int32)
    pixels = photo(2, height, width)
    (key,) = signatures(path)["serving_default"][0]
    requests = []
    for batch in (x[:1], x):
        requests += [("serving_default", {key: batch}), ("explain", {key: batch})]
        requests += [("explain_target", {key: batch, "target": targets[: len(batch)]})]
        requests += [("explain_top_k", {key: batch})] if ranked else []
    requests += [("explain_image", {"image_bytes": png(pixels)}), ("explain_image_rest", {"image_bytes": png(pixels)})]
    found = run_without_python(path, requests, tmp_path)
    # Predictions are, to the last bit, those of the model's own export.
    model.export(str(tmp_path / "keras"), verbose=False)
    plain = [("serving_default", {key: part}) for part in (x[:1], x)]
    before = run_without_python(tmp_path / "keras", plain, tmp_path)
    each = 4 if ranked else 3
    for batch, part, own in ((x[:1], found[:each], before[0]), (x, found[each : 2 * each], before[1])):
        exact(part[0]["output_0"], own["output_0"])
        np.testing.assert_allclose(own["output_0"], model(batch, training=False), rtol=1e-5, atol=1e-7)
        same(part[1], explainer.explain(batch))
        same(part[2], explainer.explain(batch, targets[: len(batch)]))
        if ranked:
            same(part[3], explainer.explain(batch, "topK:2"))

    whole = pixels if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    fed = loading.get_preprocessing(preprocess)(whole[None])
    wanted, (image, rest) = explainer.explain(fed), found[2 * each :]
    exact(image["relevance"], wanted.relevance)
    assert rest["heatmap_bytes"] == image["heatmap_png"]
    picture = tf.io.decode_png(image["heatmap_png"][0]).numpy()
    np.testing.assert_array_equal(picture, heatmap.to_rgb(wanted.relevance[0]))
    best = np.argsort(-wanted.logits[0].numpy(), kind="stable")[:5]
    assert image["classes"].tolist() == rest["classes"].tolist() == [best.tolist()]
    exact(image["scores"][0], wanted.output.numpy()[0][best])


# --- one model, many requests ------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(explainer, folder of versions, the exported)."""
    keras.utils.set_random_seed(0)
    explainer = lrp_tf.Explainer(digits())
    path = tmp_path_factory.mktemp("models") / "mnist" / "3"
    names = tuple(f"digit {i}" for i in range(10))
    return explainer, path.parent, lrp_tf.export(explainer, path, preprocess="scale:1/255", classes=names)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[2].path))


def batch(size=5, seed=3):
    return np.random.default_rng(seed).uniform(size=(size, 28, 28, 1)).astype("float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_samples_have_a_status_and_leave_their_neighbours_alone(exported, loaded, bad):
    x = batch()
    wanted = exported[0].explain(x)
    x[2, 5, 5, 0] = bad
    found = call(loaded, "explain", digit=x)
    assert found["status"].tolist() == [b"ok", b"ok", b"NaN or Inf in the input", b"ok", b"ok"]
    others = [0, 1, 3, 4]
    exact(found["relevance"][others], wanted.relevance.numpy()[others])
    exact(found["logits"][others], wanted.logits.numpy()[others])
    exact(found["conservation"][others], call(loaded, "explain", digit=batch())["conservation"][others])
    assert np.isnan(found["relevance"][2]).all()
    assert np.isnan(found["outputs"][2]).all()
    assert found["target"][2] == -1


def test_values_that_overflow_have_a_status(exported, loaded):
    x = batch()
    wanted = exported[0].explain(x).relevance.numpy()
    x[1] = 3e38
    found = call(loaded, "explain", digit=x)
    assert found["status"].tolist() == [b"ok", b"NaN or Inf in the relevance", *[b"ok"] * 3]
    assert np.isnan(found["relevance"][1]).all()
    exact(found["relevance"][[0, 2, 3, 4]], wanted[[0, 2, 3, 4]])


def test_targets_out_of_range_have_a_status(exported, loaded):
    x, targets = batch(), np.array([1, 10, 2, -1, 9], np.int32)
    found = call(loaded, "explain_target", digit=x, target=targets)
    wrong = b"target out of range"
    assert found["status"].tolist() == [b"ok", wrong, b"ok", wrong, b"ok"]
    good = [0, 2, 4]
    exact(found["relevance"][good], exported[0].explain(x, np.clip(targets, 0, 9)).relevance.numpy()[good])
    assert np.isnan(found["relevance"][[1, 3]]).all()
    assert np.isfinite(found["outputs"]).all()  # the prediction is right all the same


def test_an_empty_batch_is_an_error_of_that_request(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty batch"):
        call(loaded, "explain", digit=batch(0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty batch"):
        call(loaded, "explain_target", digit=batch(0), target=np.zeros(0, np.int32))


def test_pictures_that_are_none_are_errors_of_their_own(exported, tmp_path):
    """All in the process without Python, one after the other; the last shows that the session goes on."""
    whole = png(photo(1, 40, 50), "JPEG", quality=90)
    cut = [whole[: len(whole) // 2], png(photo(1, 40, 50))[:60]]
    files = [b"", b"GIF89a" + b"0" * 40, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", *cut, huge_png()]
    requests = [("explain_image", {"image_bytes": file}) for file in files]
    requests += [("explain_image", {"image_bytes": [whole, whole]}), ("explain_image", {"image_bytes": whole})]
    *failed, last = run_without_python(exported[2].path, requests, tmp_path)
    assert ["error" in result for result in failed] == [True] * len(failed)
    assert "JPEG or PNG" in failed[0]["error"]
    assert "JPEG or PNG" in failed[1]["error"]
    assert "at most 50000000 pixels" in failed[6]["error"]
    assert failed[6]["kilobytes"] < 100_000  # decoded it would take 500,000 and more
    assert "one picture per request" in failed[7]["error"]
    assert last["status"] == [b"ok"]
    assert last["names"][0] == b"digit %d" % last["classes"][0, 0]


def test_the_graph_is_plain_and_weights_are_stored_once(exported):
    explainer, _, written = exported
    operations = {node.op for node in nodes(written.path)}
    assert not [op for op in operations if "PyFunc" in op or op.startswith("Xla")]
    assert not any(node.attr["_gradient_op_type"].s for node in nodes(written.path))
    weights = sum(w.numpy().nbytes for w in explainer.model.weights)
    stored = sum(file.stat().st_size for file in (written.path / "variables").iterdir())
    assert weights <= stored < weights + 20_000
    assert (written.path / "saved_model.pb").stat().st_size < 1_000_000


def test_warm_up_has_a_request_for_each_signature(exported, loaded):
    from tensorflow_serving.apis import prediction_log_pb2

    file = exported[2].path / "assets.extra" / "tf_serving_warmup_requests"
    logs = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.signature_name for request in requests} == set(exported[2].signatures)
    assert {request.model_spec.name for request in requests} == {"mnist"}
    for request in requests:
        inputs = {key: tf.constant(tf.make_ndarray(proto)) for key, proto in request.inputs.items()}
        found = loaded.signatures[request.model_spec.signature_name](**inputs)
        assert found["status"].numpy().tolist() == [b"ok"] if "status" in found else found["output_0"].shape == (1, 10)


def test_what_lies_beside_the_graph(exported):
    about = json.loads((exported[2].path / "assets.extra" / "lrp_tf.json").read_text(encoding="utf-8"))
    assert about["lrp_tf"] == lrp_tf.__version__
    assert about["composite"] == "epsilon_plus_flat"
    assert about["labels"][7] == "digit 7"
    assert [row["rule"] for row in about["rules"]][:1] == ["Flat()"]
    assert about["status"] == list(saved_model.STATUS)
    assert about["signatures"]["explain_target"]["inputs"] == ["digit", "target"]
    assert about["preprocess"] == "scale:1/255"
    assert list(exported[1].iterdir()) == [exported[2].path]  # no temporary folder


@pytest.mark.slow
def test_saved_model_cli(exported, tmp_path):
    code = "from tensorflow.python.tools.saved_model_cli import main; main()"
    x, path = batch(2), str(exported[2].path)
    np.save(tmp_path / "x.npy", x)
    run = ["--tag_set", "serve", "--signature_def", "explain", "--inputs", f"digit={tmp_path / 'x.npy'}"]
    commands = [["show", "--dir", path, "--all"], ["run", "--dir", path, *run, "--outdir", str(tmp_path)]]
    started = [
        subprocess.Popen([sys.executable, "-c", code, *c], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    (shown, _), (_, error) = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], error
    assert all(f"signature_def['{name}']" in shown for name in exported[2].signatures)
    exact(np.load(tmp_path / "relevance.npy"), exported[0].explain(x).relevance)
