"""What gpu.py measures in jax: StableHLO text as a function, and the nodes of twin.py written in jax."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import mlir
from jax.extend.mlir.dialects import stablehlo

# What the text says of a convolution, and of a product of matrices.
_DEFAULTS = (("precision DEFAULT", "precision HIGHEST"), ("[DEFAULT, DEFAULT]", "[HIGHEST, HIGHEST]"))


def load(text: str, arguments: Sequence[jax.Array], shape: Sequence[int], exact: bool) -> Callable[..., jax.Array]:
    """The compiled function of a module with one result.

    Args:
        arguments: of the shapes and dtypes that it will be called with.
        shape: of its float32 result.
        exact: every product in full float32, without TF32.
    """
    if exact:
        for default, highest in _DEFAULTS:
            text = text.replace(default, highest)
    # jax exports a function of the same signature, and calls ours in its stead: this way all of it is public.
    blank = jax.jit(lambda *arguments: jnp.zeros(shape, jnp.float32), keep_unused=True)
    exported = jax.export.export(blank)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments))
    module = mlir.serialize_portable_artifact(text, stablehlo.get_current_version())
    return jax.jit(dataclasses.replace(exported, mlir_module_serialized=module).call)


def products(text: str) -> int:
    """Convolutions and products of matrices."""
    return len(re.findall(r"stablehlo\.(?:convolution\(|dot|dot_general) ?", text))


def forward(nodes: list[dict[str, Any]], weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Logits [B, classes] of x [B, height, width, channels], in the dtype of both."""
    values = {"input": x}
    for node in nodes:
        own = {name: weights[path] for name, path in node["weights"].items()}
        value = _apply(node, own, *(values[name] for name in node["inputs"]))
        if node["relu"]:
            value = jnp.clip(value, 0, node["options"].get("max_value"))
        values[node["name"]] = value
    return value


def _apply(node: dict[str, Any], own: Mapping[str, jax.Array], x: jax.Array, *more: jax.Array) -> jax.Array:
    options = node["options"]
    match node["kind"]:
        case "conv" | "depthwise":
            kernel, groups = own["kernel"], 1
            if node["kind"] == "depthwise":
                kernel, groups = kernel.reshape(*kernel.shape[:2], 1, -1), x.shape[-1]
            geometry = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
            z = lax.conv_general_dilated(x, kernel, options["stride"], options["padding"], **geometry)
            z = z + own.get("bias", jnp.zeros([], z.dtype))
            if "mean" not in own:
                return z
            scale = own["gamma"] * lax.rsqrt(own["variance"] + options["epsilon"])
            return (z - own["mean"]) * scale + own["beta"]
        case "dense":
            return x @ own["kernel"].reshape(own["kernel"].shape[-2:]) + own["bias"]
        case "maxpool":
            window, strides = ((1, *options[name], 1) for name in ("size", "stride"))
            return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, ((0, 0), *options["padding"], (0, 0)))
        case "average":
            return x.mean((1, 2))
        case "flatten":
            return x.reshape(len(x), -1)
        case "add":
            return x + more[0]
    raise ValueError(f"Unknown kind of node. Received: {node}")


def gradient(
    nodes: list[dict[str, Any]],
) -> Callable[[Mapping[str, jax.Array], jax.Array, jax.Array], jax.Array]:
    """Function of weights, images and targets [B]: jax's own gradient of the targets' logits with respect to images."""

    def scores(x: jax.Array, weights: Mapping[str, jax.Array], target: jax.Array) -> jax.Array:
        return jnp.take_along_axis(forward(nodes, weights, x), target[:, None], axis=1).sum()

    return jax.jit(lambda weights, x, target: jax.grad(scores)(x, weights, target))
