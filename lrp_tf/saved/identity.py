"""What must be the same where a pass is loaded as where it was saved: versions, and the model but for its weights."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.core import linear
from lrp_tf.flows import base as flows
from lrp_tf.tracing import decompositions
from lrp_tf.tracing.symbolic import sublayers

# In the settings of a layer: what decides nothing about the values that it computes at inference.
_IDLE = ("trainable", "build_config", "compile_config", "seed", "built", "autocast")
_IDLE_ENDS = ("_initializer", "_regularizer", "_constraint")
_FUNCTIONS_OF_MODELS = ("train_function", "test_function", "predict_function", "loss")
_SETTINGS = (bool, int, float, str, tuple)
Identity = dict[str, Any]


def of_model(model: keras.Model, held: list[tuple[str, Any]]) -> Identity:
    """Structure and settings of the model, names, shapes and dtypes of its weights, and arrays that its layers hold.

    Args:
        held: its `arrays`.

    Raises:
        ValueError: layers or functions that are not Keras' own: what they compute cannot be compared.
    """
    layers = sublayers(model, itself=True)
    operations = {id(o): o for layer in layers for o in (layer, *getattr(layer, "operations", ()))}.values()
    if own := sorted({text for operation in operations for text in _own_code(operation)}):
        raise ValueError(
            "Only explainers of models that consist of layers of Keras can be saved and loaded: whether other code is "
            f"still the same cannot be told. Received: {', '.join(own[:5])}. Remedy: build an Explainer in each process"
        )
    config = plain(model.get_config())
    config.pop("name", None)  # Keras numbers the models of a process
    return {
        "class": type(model).__name__,
        "model": config,
        "weights": [[w.name, list(w.shape), w.dtype] for w in (*model.weights, *states(model))],
        "policies": [[layer.name, layer.dtype_policy.name] for layer in layers],
        "settings": [_settings(operation) for operation in operations if not isinstance(operation, keras.Layer)],
        "arrays": [{"name": name, "content": _digest(array)} for name, array in held],
    }


def arrays(model: keras.Model) -> list[tuple[str, Any]]:
    """Arrays and tensors that layers hold, as (layer.attribute, array): a graph may hold or capture them."""
    return [found for layer in sublayers(model, itself=True) for found in _arrays(vars(layer), layer.name)]


def states(model: keras.Model) -> list[keras.Variable]:
    """What stateful recurrent layers keep from one call to the next, which Keras does not count among the weights."""
    recurrent = (layer for layer in sublayers(model, itself=True) if isinstance(layer, keras.layers.RNN))
    return [state for layer in recurrent if layer.stateful for state in keras.tree.flatten(layer.states)]


def _settings(operation: keras.Operation) -> Identity:
    """What an operation of keras.ops was made with, as far as it is numbers and words."""
    settings = {
        name: value for name, value in vars(operation).items() if name[0] != "_" and isinstance(value, _SETTINGS)
    }
    return {"name": operation.name, "class": type(operation).__name__, **plain(settings)}


def _own_code(operation: keras.Operation) -> Iterator[str]:
    if not _of_keras(type(operation)):
        yield f"{operation.name!r} ({type(operation).__module__}.{type(operation).__name__})"
        return
    if not isinstance(operation, keras.Layer) and next(iter(inspect.signature(operation.call).parameters), "") == "f":
        yield f"the function of {operation.name!r} ({type(operation).__name__})"
    for name, value in vars(operation).items():
        functions = (types.FunctionType, types.BuiltinFunctionType)
        idle = name[0] == "_" or name.endswith(_IDLE_ENDS) or name in _FUNCTIONS_OF_MODELS
        if callable(value) and not idle and not _of_keras(value if isinstance(value, functions) else type(value)):
            yield f"{operation.name!r}.{name} ({getattr(value, '__name__', type(value).__name__)})"


def _of_keras(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "keras"


def plain(value: Any) -> Any:
    """A configuration in what JSON knows."""
    if isinstance(value, dict):
        return {
            str(key): plain(item)
            for key, item in value.items()
            if key not in _IDLE and not str(key).endswith(_IDLE_ENDS)
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, tf.Tensor)):
        return _digest(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return f"{type(value).__module__}.{type(value).__name__}"


def _digest(array: Any) -> str:
    array = np.asarray(array)
    data = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return f"{array.dtype}{list(array.shape)} {hashlib.sha256(data).hexdigest()[:16]}"


def _arrays(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _arrays(item, f"{name}.{key}")
    elif type(value) in (list, tuple):
        for number, item in enumerate(value):
            yield from _arrays(item, f"{name}.{number}")
    elif isinstance(value, (np.ndarray, tf.__internal__.EagerTensor)):
        yield name, value


# --- versions, machine, registries -------------------------------------------------------------


def of_surroundings(version: str) -> Identity:
    """Versions, and what else decides how TensorFlow optimises a graph and how lrp_tf reads a model.

    Args:
        version: of lrp_tf.
    """
    return {
        "lrp_tf": f"{version}, source {_source()}",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "devices": sorted({device.device_type for device in tf.config.list_logical_devices()}),
        "machine": platform.machine(),
        "vector instructions": _instructions(),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "entries for layers of Keras": _entries(),
    }


def _source() -> str:
    """A digest of the code of lrp_tf, which may change under one version while somebody works on it."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _instructions() -> list[str]:
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return [platform.processor()]
    return sorted({word for word in words if word.startswith(("avx", "amx", "fma", "sve"))})


def _entries() -> str:
    """A digest of what is registered for layers and operations of Keras, by lrp_tf or by a user."""
    found = [f"{_name(kind)} {tensors} {flow!r}" for (kind, tensors), flow in flows.registered() if _concerns(kind)]
    found += [f"{_name(kind)} {_functions(vars(entry))}" for kind, entry in linear.registered() if _concerns(kind)]
    found += [
        f"{_name(kind)} {_functions({'': call})}" for kind, call in decompositions.registered() if _concerns(kind)
    ]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16]


def _concerns(kind: type | str) -> bool:
    return isinstance(kind, str) or _of_keras(kind)


def _name(kind: type | str) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _functions(fields: dict[str, Any]) -> str:
    return json.dumps({name: _code(value) if callable(value) else repr(value) for name, value in fields.items()})


def _code(function: Callable) -> str:
    code = getattr(function, "__code__", None)
    where = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
    return where if code is None else f"{where} {hashlib.sha256(code.co_code).hexdigest()[:16]} {code.co_names}"


# --- comparison --------------------------------------------------------------------------------


def difference(expected: Any, received: Any, where: str = "") -> str | None:
    """Where two identities differ first, and how; None: nowhere."""
    if expected == received:  # at once for the whole of a large model
        return None
    if isinstance(expected, dict) and isinstance(received, dict):
        for key in [*expected, *(key for key in received if key not in expected)]:
            inner = difference(expected.get(key), received.get(key), f"{where}, {key}" if where else key)
            if inner is not None:
                return inner
        return None
    if isinstance(expected, list) and isinstance(received, list) and len(expected) == len(received):
        for number, (one, other) in enumerate(zip(expected, received, strict=True)):
            name = one.get("name", number) if isinstance(one, dict) else number
            if (inner := difference(one, other, f"{where}, {name}")) is not None:
                return inner
        return None
    return f"{where}. Expected: {_short(expected)}. Received: {_short(received)}"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(repr(value)) > 200:
        return f"{len(value)} entries"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
