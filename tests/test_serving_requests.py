"""Requests as TensorFlow Serving takes them: gRPC and REST on this machine, merged into batches; malformed ones."""

import base64
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from helpers.pictures import photo
from helpers.served import digits, exact, huge_png, png

import lrp_tf

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import grpc
import loopback
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(explainer, loaded model, gRPC stub, REST address); requests to explain and explain_target are merged."""
    keras.utils.set_random_seed(0)
    explainer = lrp_tf.Explainer(digits())
    folder = tmp_path_factory.mktemp("models") / "mnist"
    lrp_tf.export(explainer, folder / "1", preprocess="scale:1/255")
    model = loopback.Model(folder, merged=("explain", "explain_target"), wait=0.2)
    running, port = loopback.serve(model)
    rest, rest_port = loopback.serve_rest(model)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=loopback.LARGEST) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield explainer, model, stub, f"http://127.0.0.1:{rest_port}/v1/models/mnist:predict", port
    rest.shutdown()
    rest.server_close()
    running.stop(None).wait()
    model.close()


def ask(stub, signature, **inputs):
    """Outputs of a PredictRequest, or the grpc.RpcError."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "mnist", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    try:
        response = stub.Predict(request, timeout=60)
    except grpc.RpcError as error:
        return error
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def together(calls):
    """Results of calls that wait for each other at the start, so that the server merges them."""
    gate, found = threading.Barrier(len(calls)), [None] * len(calls)

    def run(index, call):
        gate.wait()
        found[index] = call()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def batch(size=1, seed=3):
    return np.random.default_rng(seed).uniform(size=(size, 28, 28, 1)).astype("float32")


def test_warm_up_ran(server):
    assert server[1].warm == 8  # four signatures of tensors, two of pictures with a file of either kind


def test_a_request_comes_back(server):
    explainer, _, stub, *_ = server
    x = batch(2)
    found, wanted = ask(stub, "explain", digit=x), explainer.explain(x)
    exact(found["relevance"], wanted.relevance)
    exact(found["target"], wanted.target)
    assert ask(stub, "", digit=x)["output_0"].shape == (2, 10)


def test_merged_requests_get_their_own_samples_and_no_neighbour_suffers(server):
    """One sample holds NaN, one target is wrong, one request has another shape, another dtype, and one is empty."""
    explainer, model, stub, *_ = server
    before = len(model.merges)
    xs = [batch(size, seed) for seed, size in enumerate((1, 2, 1, 1))]
    broken = xs[2].copy()
    broken[0, 3, 3, 0] = np.nan
    targets = [np.full(len(x), 4, np.int32) for x in xs]
    targets[3][0] = 10
    calls = [
        lambda: ask(stub, "explain_target", digit=xs[0], target=targets[0]),
        lambda: ask(stub, "explain_target", digit=xs[1], target=targets[1]),
        lambda: ask(stub, "explain_target", digit=broken, target=targets[2]),
        lambda: ask(stub, "explain_target", digit=xs[3], target=targets[3]),
        lambda: ask(stub, "explain_target", digit=batch()[:, :20], target=targets[0]),
        lambda: ask(stub, "explain_target", digit=batch().astype("float64"), target=targets[0]),
        lambda: ask(stub, "explain_target", digit=batch(2), target=targets[0]),
    ]
    one, two, broken, wrong, shape, dtype, uneven = together(calls)
    assert max(model.merges[before:]) > 1
    wanted = explainer.explain(np.concatenate([xs[0], xs[1]]), 4).relevance.numpy()
    for found, part in ((one, wanted[:1]), (two, wanted[1:])):
        assert set(found["status"].tolist()) == {b"ok"}
        np.testing.assert_allclose(found["relevance"], part, rtol=0, atol=1e-5 * np.abs(part).max())
    assert broken["status"].tolist() == [b"NaN or Inf in the input"]
    assert wrong["status"].tolist() == [b"target out of range"]
    assert np.isnan(broken["relevance"]).all()
    assert np.isnan(wrong["relevance"]).all()
    for error in (shape, dtype, uneven):
        assert isinstance(error, grpc.RpcError)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_malformed_requests_are_errors_of_their_own(server):
    stub = server[2]
    whole = png(photo(1, 40, 50), "JPEG")
    wrong = [
        ("explain", {"digit": batch(0)}),
        ("explain", {"digit": batch()[0]}),
        ("explain", {"other": batch()}),
        ("explain_target", {"digit": batch()}),
        ("nothing", {"digit": batch()}),
        ("explain_image", {"image_bytes": [whole[:200]]}),
        ("explain_image", {"image_bytes": [huge_png()]}),
        ("explain_image", {"image_bytes": batch()}),
    ]
    for signature, inputs in wrong:
        error = ask(stub, signature, **inputs)
        assert isinstance(error, grpc.RpcError), (signature, inputs)
        assert error.details()
        assert ask(stub, "explain", digit=batch())["status"].tolist() == [b"ok"]


def post(address, content):
    request = urllib.request.Request(address, json.dumps(content).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return json.loads(error.read())


def test_pictures_over_rest(server):
    explainer, _, _, address, _ = server
    pixels = photo(2, 28, 28)
    encoded = base64.b64encode(png(pixels)).decode()
    content = {"signature_name": "explain_image_rest", "instances": [{"image_bytes": {"b64": encoded}}]}
    (row,) = post(address, content)["predictions"]
    picture = tf.io.decode_png(base64.b64decode(row["heatmap_bytes"]["b64"])).numpy()
    assert picture.shape == (28, 28, 3)
    assert row["status"] == "ok"
    fed = tf.image.rgb_to_grayscale(pixels[None]).numpy() / np.float32(255)
    assert row["classes"][0] == int(explainer.explain(fed).target[0])
    content["instances"] = [{"image_bytes": {"b64": base64.b64encode(b"nothing").decode()}}]
    assert "JPEG or PNG" in post(address, content)["error"]


def test_the_client_of_the_page(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(png(photo(1, 300, 400), "JPEG"))
    page = (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "localhost:8500" in block]
    block = block.replace("localhost:8500", f"127.0.0.1:{server[4]}").replace('"served"', '"mnist"')
    exec(compile(block, "docs/serving.md", "exec"), {})
    assert tf.io.decode_png((tmp_path / "why.png").read_bytes()).shape == (28, 28, 3)


def test_the_command_of_the_readme(server, tmp_path):
    """curl, as the README has it, against the server on this machine."""
    if shutil.which("curl") is None or shutil.which("base64") is None:
        pytest.skip("needs curl and base64")
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = text.split("## Serving")[1].split("\n## ")[0]
    lines = [line[4:] for line in block.splitlines() if line.startswith("    ")]
    command = "\n".join(lines[next(i for i, line in enumerate(lines) if "base64 -w0" in line) :])
    assert "curl" in command
    command = command.replace("http://localhost:8501/v1/models/served:predict", server[3])
    (tmp_path / "cat.jpg").write_bytes(png(photo(1, 300, 400), "JPEG"))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    picture = tf.io.decode_png((tmp_path / "why.png").read_bytes()).numpy()
    assert picture.shape == (28, 28, 3)
    assert picture.std() > 0
