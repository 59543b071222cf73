"""What explanations cost a server: latency and throughput of `explain` against `serving_default`, on this machine.

    python benchmarks/load.py --model mobilenet --seconds 60
    python benchmarks/load.py --model mnist --requests 10000 --clients 1        # is the memory flat?

A stand-in for TensorFlow Serving (loopback.py) runs in a process of its own and speaks its gRPC; client and server
share the machine. Each request is one sample.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import models
import numpy as np
import tensorflow as tf
from loopback import LARGEST
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import lrp_tf


def exported(name: str, folder: Path) -> tuple[str, np.ndarray]:
    """Name of the input, and a sample."""
    model = models.build(name)
    made = lrp_tf.export(lrp_tf.Explainer(model), folder / "1", print_fn=None)
    return made.signatures["explain"][0][0], models.image(model, 1).numpy()


def request(signature: str, key: str, sample: np.ndarray) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = "served", signature
    made.inputs[key].CopyFrom(tf.make_tensor_proto(sample))
    return made


def load(
    port: int, message: predict_pb2.PredictRequest, clients: int, seconds: float, requests: int | None
) -> list[float]:
    """Latencies in seconds of `clients`, each of which sends one request after the other; an error ends the run."""
    until = time.perf_counter() + seconds
    found: list[list[float]] = [[] for _ in range(clients)]
    errors: list[grpc.RpcError] = []

    def client(latencies: list[float]) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=LARGEST) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while len(latencies) < (requests or np.inf) and (requests or time.perf_counter() < until) and not errors:
                begin = time.perf_counter()
                try:
                    stub.Predict(message, timeout=120)
                except grpc.RpcError as error:
                    errors.append(error)
                latencies.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=client, args=(latencies,)) for latencies in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [latency for latencies in found for latency in latencies]


def memory(process: int) -> float:
    """MiB resident. Linux."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=models.MODELS, default="mobilenet")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, help="requests of each client, instead of --seconds")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--signatures", nargs="+", default=["serving_default", "explain"])
    parser.add_argument("--merge", action="store_true", help="the server merges requests into batches of up to 8")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "served"
        key, sample = exported(options.model, path)
        command = [
            sys.executable,
            str(Path(__file__).with_name("loopback.py")),
            str(path),
            "--port",
            "0",
            "--rest-port",
            "0",
        ]
        command += ["--merge", *options.signatures] if options.merge else []
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = int(server.stdout.readline().split("gRPC on ")[1].split(",")[0])
            print(
                f"{options.model}, batch 1, {os.cpu_count()} cores, TensorFlow {tf.__version__}, "
                f"merged: {options.merge}"
            )
            print("signature        clients  requests     p50 ms     p99 ms  requests/s   memory MiB, begin -> end")
            for signature in options.signatures:
                message = request(signature, key, sample)
                for clients in options.clients:
                    load(port, message, clients, 2, None)  # warm
                    before, begin = memory(server.pid), time.perf_counter()
                    times = np.array(load(port, message, clients, options.seconds, options.requests))
                    rate = len(times) / (time.perf_counter() - begin)
                    middle, late = 1000 * np.quantile(times, [0.5, 0.99])
                    row = f"{signature:16s} {clients:7d} {len(times):9d} {middle:10.1f} {late:10.1f} {rate:11.1f}"
                    print(f"{row}   {before:.0f} -> {memory(server.pid):.0f}", flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
