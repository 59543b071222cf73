"""What the tests of serving share: signatures run by TensorFlow's C API in another process, and pictures as bytes."""

import base64
import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl
from PIL import Image

from helpers import REPOSITORY
from helpers.checking import randomize

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorflow.core.protobuf import saved_model_pb2

LIBRARIES = Path(importlib.util.find_spec("tensorflow").origin).parent


def signatures(path):
    """name -> (input -> tensor, output -> tensor), as the file says."""
    saved = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    names = lambda part: {key: info.name for key, info in part.items()}  # noqa: E731
    found = {key: (names(d.inputs), names(d.outputs)) for key, d in saved.meta_graphs[0].signature_def.items()}
    return {name: value for name, value in found.items() if not name.startswith("__")}


def nodes(path):
    """All operations of the graph, functions included."""
    saved = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def run_without_python(path, requests, folder):
    """Results of [(signature, inputs)], by a process that has only NumPy; {"error": message} where one failed."""
    known = signatures(path)
    runs = []
    for signature, inputs in requests:
        names, outputs = known[signature]
        feeds = {names[key]: _packed(value) for key, value in inputs.items()}
        runs.append({"feeds": feeds, "fetches": list(outputs.values())})
    job = {"libraries": str(LIBRARIES), "path": str(path), "runs": runs, "out": str(folder / "out.json")}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, str(REPOSITORY / "tests/helpers/serving_child.py"), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    named = []
    for (signature, _), result in zip(requests, results, strict=True):
        tensors = {tensor: key for key, tensor in known[signature][1].items()}
        named.append(result if "error" in result else {tensors[key]: _unpacked(v) for key, v in result.items()})
    return named


def _packed(value):
    if isinstance(value, bytes):
        value = [value]
    if isinstance(value, list):
        return {"strings": [base64.b64encode(text).decode() for text in value]}
    value = np.ascontiguousarray(value)
    data = base64.b64encode(value.tobytes()).decode()
    return {"dtype": str(value.dtype), "shape": list(value.shape), "data": data}


def _unpacked(value):
    if "strings" in value:
        return [base64.b64decode(text) for text in value["strings"]]
    return np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])


def png(pixels, kind="PNG", **options):
    """The bytes of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png(side=13_000):
    """A PNG of `side` x `side` black pixels: half a megabyte that would take half a gigabyte."""
    buffer = io.BytesIO()
    with contextlib.closing(Image.new("L", (side, side))) as image:
        image.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


IMAGE = ("explain_image", "explain_image_rest")


def digits():
    stack = [kl.Conv2D(8, 3, activation="relu"), kl.Conv2D(16, 3, activation="relu"), kl.MaxPooling2D(), kl.Flatten()]
    stack += [kl.Dense(32, activation="relu"), kl.Dropout(0.5), kl.Dense(10, activation="softmax")]
    return randomize(keras.Sequential([keras.Input((28, 28, 1), name="digit"), *stack], name="mnist"))


def exact(found, wanted):
    """Bit for bit, NaN equal to NaN."""
    wanted = np.asarray(wanted)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


def call(loaded, signature, **inputs):
    return {
        k: v.numpy() for k, v in loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }
