"""A stand-in for TensorFlow Serving on this machine: gRPC and REST, requests merged into batches.

It speaks the server's own protocol (tensorflow-serving-api) and runs the signatures of a SavedModel; it is for tests
and for the load test, not for use.

    python benchmarks/loopback.py served --port 8500 --rest-port 8501
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import queue
import threading
import time
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

LARGEST = [("grpc.max_send_message_length", 1 << 28), ("grpc.max_receive_message_length", 1 << 28)]
WORKERS = 16


class Model:
    """The newest version in a folder, after its warm-up requests.

    Args:
        merged: signatures whose requests are merged along the first axis.
        largest: samples in a merged batch.
        wait: seconds that a batch waits to be filled.
    """

    def __init__(self, folder: Path, merged: Iterable[str] = (), largest: int = 8, wait: float = 0.002) -> None:
        self.path = max((p for p in Path(folder).iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        self.name = Path(folder).name
        self.loaded = tf.saved_model.load(str(self.path))  # kept, since signatures do not keep the variables alive
        self.signatures = dict(self.loaded.signatures)
        self.merges: list[int] = []  # requests in each batch
        self.queues = {name: _Merger(self, name, largest, wait) for name in merged}
        self.warm = self._warm_up()

    def _warm_up(self) -> int:
        count = 0
        file = self.path / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.data.TFRecordDataset(str(file)) if file.exists() else ():
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            request = log.predict_log.request
            self.run(request.model_spec.signature_name, _tensors(request.inputs))
            count += 1
        return count

    def predict(self, name: str, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Raises ValueError for what the signature does not have, tf.errors.OpError for what fails in the graph."""
        if name not in self.signatures:
            raise ValueError(f"Serving signature name: {name!r} not found. Known: {sorted(self.signatures)}")
        expected = self.signatures[name].structured_input_signature[1]
        if set(inputs) != set(expected):
            raise ValueError(f"Expected the inputs {sorted(expected)}. Received: {sorted(inputs)}")
        for key, tensor in inputs.items():
            if tensor.dtype != expected[key].dtype:
                raise ValueError(f"{key}: expected {expected[key].dtype.name}. Received: {tensor.dtype.name}")
        return self.queues[name].submit(inputs) if name in self.queues else self.run(name, inputs)

    def run(self, name: str, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.signatures[name](**inputs)

    def close(self) -> None:
        for merger in self.queues.values():
            merger.close()


class _Merger:
    """Merges the waiting requests of a signature whose shapes agree except for the first axis."""

    def __init__(self, model: Model, name: str, largest: int, wait: float) -> None:
        self.model, self.name, self.largest, self.wait = model, name, largest, wait
        self.waiting: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def submit(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if len({tuple(t.shape)[:1] for t in inputs.values()}) != 1 or not all(t.shape.rank for t in inputs.values()):
            raise ValueError("Batching session Run() input tensors must have equal 0th-dimension size")
        done: Future = Future()
        self.waiting.put((inputs, done))
        return done.result()

    def close(self) -> None:
        self.waiting.put(None)
        self.thread.join()

    def _work(self) -> None:
        while (first := self.waiting.get()) is not None:
            group, count, until = [first], len(next(iter(first[0].values()))), time.monotonic() + self.wait
            last = False
            while count < self.largest and not last:
                try:
                    other = self.waiting.get(timeout=max(until - time.monotonic(), 0))
                except queue.Empty:
                    break
                if other is None:
                    last = True
                else:
                    group.append(other)
                    count += len(next(iter(other[0].values())))
            shapes: dict[tuple, list] = {}
            for inputs, done in group:
                shapes.setdefault(tuple(tuple(t.shape)[1:] for t in inputs.values()), []).append((inputs, done))
            for alike in shapes.values():
                self._run(alike)
            if last:
                return

    def _run(self, group: list) -> None:
        self.model.merges.append(len(group))
        try:
            merged = {key: tf.concat([inputs[key] for inputs, _ in group], 0) for key in group[0][0]}
            found = self.model.run(self.name, merged)
            sizes = [len(next(iter(inputs.values()))) for inputs, _ in group]
            parts = {key: tf.split(tensor, sizes) for key, tensor in found.items()}
            for index, (_, done) in enumerate(group):
                done.set_result({key: part[index] for key, part in parts.items()})
        except Exception as error:  # a merged batch fails as a whole, as in the server
            for _, done in group:
                done.set_exception(error)


def _tensors(inputs: Any) -> dict[str, tf.Tensor]:
    return {key: tf.constant(tf.make_ndarray(proto)) for key, proto in inputs.items()}


# --- gRPC --------------------------------------------------------------------------------------


class _Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: Model) -> None:
        self.model = model

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.model_spec.name != self.model.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}")
        try:
            name = request.model_spec.signature_name or "serving_default"
            found = self.model.predict(name, _tensors(request.inputs))
        except Exception as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:500])
        response = predict_pb2.PredictResponse()
        for key in request.output_filter or found:
            response.outputs[key].CopyFrom(tf.make_tensor_proto(found[key].numpy()))
        return response


def serve(model: Model, port: int = 0) -> tuple[grpc.Server, int]:
    """A running gRPC server and its port."""
    server = grpc.server(futures.ThreadPoolExecutor(WORKERS), options=LARGEST)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Service(model), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


# --- REST --------------------------------------------------------------------------------------


def serve_rest(model: Model, port: int = 0) -> tuple[ThreadingHTTPServer, int]:
    """A running server of POST /v1/models/NAME:predict, and its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                if self.path != f"/v1/models/{model.name}:predict":
                    raise ValueError(f"Malformed request: POST {self.path}")
                code, answer = 200, _answer(model, json.loads(body))
            except Exception as error:
                code, answer = 400, {"error": str(error)[:500]}
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]


def _answer(model: Model, request: dict) -> dict:
    """Rows ("instances" -> "predictions") or columns ("inputs" -> "outputs")."""
    name = request.get("signature_name", "serving_default")
    expected = model.signatures[name].structured_input_signature[1]
    if "instances" in request:
        rows = request["instances"]
        named = isinstance(rows[0], dict) and set(rows[0]) != {"b64"}
        columns = {key: [row[key] if named else row for row in rows] for key in (rows[0] if named else expected)}
    else:
        columns = request["inputs"]
        columns = columns if isinstance(columns, dict) and set(columns) != {"b64"} else {next(iter(expected)): columns}
    inputs = {key: tf.constant(_decoded(value), expected[key].dtype) for key, value in columns.items()}
    found = {key: _encoded(key, tensor.numpy()) for key, tensor in model.predict(name, inputs).items()}
    if "inputs" in request:
        return {"outputs": found if len(found) > 1 else next(iter(found.values()))}
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    return {"predictions": rows if len(found) > 1 else next(iter(found.values()))}


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [_decoded(v) for v in value] if isinstance(value, list) else value


def _encoded(name: str, array: np.ndarray) -> Any:
    """Binary strings if the name of the output ends in _bytes, as in the server; otherwise text."""
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(text).decode()} for text in array.tolist()]
    return [_text(value) for value in array.tolist()]


def _text(value: Any) -> Any:
    return [_text(v) for v in value] if isinstance(value, list) else value.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="with the version folders in it")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--merge", nargs="*", default=[], metavar="SIGNATURE", help="merge requests of these")
    options = parser.parse_args()
    model = Model(options.folder, options.merge)
    server, port = serve(model, options.port)
    _, rest = serve_rest(model, options.rest_port)
    print(f"{model.name}, version {model.path.name}: gRPC on {port}, REST on {rest}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
