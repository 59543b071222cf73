"""The half of gpu.py that needs jax: checks what the export computed, and measures."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

# torch shares the device, in a process of its own.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import gpu_net
import jax
import jax.numpy as jnp
import jax_net
import numpy as np
import timing
from gpu_net import Net

Row = dict[str, Any]
# In jax's words, for its own functions; the text of ours says it of each product.
_PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
_PACKAGES = ("jax", "jaxlib", "torch", "zennit", "captum")


def run(folder: Path, manifest: dict[str, Any], options: Any) -> dict[str, Any]:
    """All rows that `options`, the arguments of gpu.py, ask for; each is printed as soon as it is measured.

    Raises:
        ValueError: jax's own net is not the exported one.
    """
    device = jax.devices()[0]
    versions = {name: metadata.version(name) if util.find_spec(name) else "absent" for name in _PACKAGES}
    about = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{device.device_kind} ({device.platform}); {about}; lrp_tf {manifest['lrp_tf']}")
    found: list[Row] = []
    precisions = [p for p in options.precision if p != "tf32" or device.platform == "gpu"]
    if len(precisions) < len(options.precision):
        print(f"tf32 is left out: {device.platform} has no TF32")
    for name in options.model:
        net = Net(folder, manifest, name)
        for batch in options.batch:
            for precision in precisions:
                found += _rows(net, batch, precision, options.only, options.runs)
        found += _torch(folder, name, precisions, options, found)
    return {"device": device.device_kind, "platform": device.platform, "versions": versions, "rows": found}


def _rows(net: Net, batch: int, precision: str, only: Sequence[str] | None, runs: int) -> list[Row]:
    """The rows of jax for one net, batch and precision."""
    print(gpu_net.title(net.name, batch, precision), flush=True)
    if precision == "bfloat16":
        for name, reason in net.left_out.items():
            print(f"{name:44s}left out: {reason}")
    weights = {path: jnp.asarray(value) for path, value in net.weights.items()}
    x = jnp.asarray(net.images(batch))
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(functools.partial(jax_net.forward, net.nodes))(weights, x)
    target = jnp.asarray(net.targets(np.asarray(logits)))
    known = {"x": x, "target": target, **weights}
    with jax.default_matmul_precision(_PRECISION[precision]):
        unit = _unit(net, weights, x, target, precision)
        rows = [_measured(net, "gradient", "jax.grad", precision, unit, unit, batch, runs)]
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        for (name, its_dtype, its_batch), about in net.functions.items():
            if its_batch != batch or its_dtype != dtype or (only and name not in (*only, "forward", "gradient")):
                continue
            try:
                arguments = [known[argument] for argument in about["arguments"]]
                text, exact = net.text(about), precision == "float32"
                call = functools.partial(jax_net.load(text, arguments, about["output"], exact), *arguments)
                rows.append(_measured(net, name, name, precision, unit, call, batch, runs))
            except Exception as error:  # of XLA or of the device, its memory for instance: one row fails, and is told
                rows.append(gpu_net.failure(name, error))
                print(gpu_net.line(rows[-1]), flush=True)
    place = {"net": net.name, "batch": batch, "precision": precision, "library": "jax"}
    return [place | row for row in rows]


def _unit(
    net: Net, weights: dict[str, jax.Array], x: jax.Array, target: jax.Array, precision: str
) -> Callable[[], jax.Array]:
    """jax's own gradient of the net written in jax; in bfloat16 the whole net is cast.

    Raises:
        ValueError: in float32, it is not the gradient that the export computed.
    """
    if precision == "bfloat16":
        weights = {path: value.astype(jnp.bfloat16) for path, value in weights.items()}
        x = x.astype(jnp.bfloat16)
    unit = functools.partial(jax_net.gradient(net.nodes), weights, x, target)
    row = net.agreement("gradient", np.asarray(unit().astype(jnp.float32)))
    if precision == "float32" and not gpu_net.agrees(row, precision):
        raise ValueError(f"jax's gradient of {net.name} is not TensorFlow's: {row}")
    return unit


def _measured(
    net: Net,
    reference: str,
    name: str,
    precision: str,
    unit: Callable[[], jax.Array],
    call: Callable[[], jax.Array],
    batch: int,
    runs: int,
) -> Row:
    key = "logits" if reference == "forward" else reference
    row = {"name": name, **net.agreement(key, np.asarray(call().astype(jnp.float32)))}
    if name == "jax.grad" or gpu_net.agrees(row, precision):
        row |= timing.ratio(*timing.in_turn(unit, call, runs, wait=jax.block_until_ready))
        row["images_s"] = 1000 * batch / row["ms"]
    print(gpu_net.line(row), flush=True)
    return row


def _torch(folder: Path, name: str, precisions: Sequence[str], options: Any, ours: Sequence[Row]) -> list[Row]:
    """The rows of torch for one net, in a process of its own; none, if torch is absent."""
    if not util.find_spec("torch"):
        print("torch, and with it zennit and captum: absent. Remedy: pip install torch==2.13.0 zennit captum")
        return []
    times = {(row["batch"], row["precision"], row["name"]): row["ms"] for row in ours if "ms" in row}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.json"
        request = {"net": name, "batches": options.batch, "precisions": precisions, "only": options.only}
        request |= {"runs": options.runs, "file": str(file)}
        script = Path(__file__).with_name("gpu_torch.py")
        done = subprocess.run([sys.executable, str(script), str(folder), json.dumps(request)], check=False)
        if done.returncode:
            print(f"The torch process ended with {done.returncode}; its rows are missing.")
        rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    for row in rows:
        our_ms = times.get((row["batch"], row["precision"], row["preset"]))
        if our_ms and "ms" in row:
            row["times_ours"] = row["ms"] / our_ms
            print(
                f"{row['net']}, batch {row['batch']}, {row['precision']}, {row['name']}: {row['times_ours']:.2f} x ours"
            )
    return rows
