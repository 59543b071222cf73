"""HDF5 files of Keras 2: configurations in the words of Keras 3, weights that are checked before the first is set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from lrp_tf.files.errors import LoadError

_PACKAGES = (keras.layers, keras.initializers, keras.regularizers, keras.constraints)
_MODELS = {"Functional": "Model", "Model": "Model", "Sequential": "Sequential"}
_RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",  # TensorFlow 1.13 to 2.0
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",  # the same once trained
    "LayerNormalizationV2": "LayerNormalization",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
}
_BUILDING = (
    "Remedy: build the network in Keras 3, without this layer or with one of your own, and load the weights alone, or "
    "save it anew from Keras 2 after replacing the layer"
)
# Arguments that Keras 3 no longer has. Left out where they have one of these values; others are refused.
_DROPPED: dict[str, tuple[object, ...]] = {
    "batch_input_shape": (),
    "ragged": (False,),
    "time_major": (False,),
    "fused": (None, True, False),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "renorm": (False,),
    "input_length": (),
    "input_dtype": (),
    "query_shape": (),
    "key_shape": (),
    "value_shape": (),
    "softmax_robust_masking": (False,),
    "rng_type": (),
    "force_generator": (),
    "build_input_shape": (),
}
_ANY = {name for name, values in _DROPPED.items() if not values}
_NAMES = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "mean", "variance", "count",
          "embeddings", "recurrent_kernel", "pointwise_kernel", "alpha"}  # fmt: skip


def is_layered(file: h5py.Group) -> bool:
    """Whether a group holds weights in the layout of Keras 2: a group for each layer, listed in attributes."""
    return "layer_names" in file.attrs or "layer_names0" in file.attrs


def is_keras2(path: Path) -> bool:
    """Whether an HDF5 file holds a whole model that Keras 2 wrote."""
    with h5py.File(path, "r") as file:
        version = _text(file.attrs.get("keras_version", "2"))
        return "model_config" in file.attrs and not version.startswith("3")


def load(path: Path, *, unsafe: bool = False) -> keras.Model:
    """The model of a file of Keras 2, without its optimiser.

        model = keras2.load(Path("cnn.h5"))

    Raises:
        LoadError: a layer that Keras 3 does not have, or computes otherwise; weights that do not fit.
        Exception: a damaged file raises almost any type.
    """
    with h5py.File(path, "r") as file:
        config = json.loads(_text(file.attrs["model_config"]))
        model = keras.saving.deserialize_keras_object(_model(config, unsafe), safe_mode=not unsafe)
        set_weights(model, file["model_weights"])
    return model


def set_weights(model: keras.Model, group: h5py.Group) -> None:
    """Set the weights of `model` from a group that lists them by layer. All are compared before the first is set.

    Raises:
        LoadError: other layers, names or shapes.
    """
    pairs = list(_pairs(model, group))
    for variable, values in pairs:
        variable.assign(np.asarray(values))
    for layer in _all_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with tensors that it makes of its weights


def _all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """A layer, those in it if it is a model, and the one that it wraps."""
    yield layer
    for inner in (*getattr(layer, "layers", ()), getattr(layer, "layer", None)):
        if isinstance(inner, keras.Layer):
            yield from _all_layers(inner)


# --- configurations ----------------------------------------------------------------------------


def _model(config: dict[str, Any], unsafe: bool) -> dict[str, Any]:
    """The configuration of a model, and of models in it, as Keras 3 has it."""
    kind, inner = config["class_name"], config["config"]
    if kind not in _MODELS:
        raise LoadError(
            f"the model is a {kind}, a class of its own, which an .h5 file does not hold. Remedy: build it in "
            "Keras 3 and load the weights alone"
        )
    if isinstance(inner, list):  # a Sequential of Keras before 2.2.3
        inner = {"name": "sequential", "layers": inner}
    kept = {key: inner[key] for key in ("name", "trainable", "input_layers", "output_layers") if key in inner}
    for key in ("input_layers", "output_layers"):
        if len(kept.get(key, ())) == 1:  # one tensor, not a list of one
            kept[key] = kept[key][0]
    layers = [_layer(layer, unsafe) for layer in inner["layers"]]
    if kind == "Sequential":
        layers = _with_input(layers, inner)
    else:
        _renumber(layers, kept)
    found = {
        "module": "keras",
        "class_name": _MODELS[kind],
        "registered_name": None,
        "config": kept | {"layers": layers},
    }
    return found | {key: config[key] for key in ("name", "inbound_nodes") if key in config}


def _layer(entry: dict[str, Any], unsafe: bool) -> dict[str, Any]:
    """The configuration of a layer, checked by making one.

    Raises:
        LoadError: Keras 3 has no such layer, or not with these arguments.
    """
    if entry["class_name"] in _MODELS:
        return _model(entry, unsafe)
    name = entry["config"].get("name", entry.get("name", "?"))
    where = f"layer {name!r} ({entry['class_name']})"
    found = _translated(entry, where)
    if _is_known(found["class_name"]) and not _holds_lambda(found):
        try:
            keras.saving.deserialize_keras_object(json.loads(json.dumps(found)), safe_mode=not unsafe)
        except Exception as error:  # almost any type
            whole = " ".join(str(error).split())
            reason = whole.rpartition("Exception encountered:")[2].strip() or whole
            raise LoadError(f"{where} cannot be read by Keras 3: {reason[:300]}. {_BUILDING}") from error
    elif entry["class_name"] in ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"):
        operation = entry["config"].get("function", "an operation of TensorFlow")
        raise LoadError(f"{where} is a call of TensorFlow ({operation}), which Keras 3 cannot read. {_BUILDING}")
    elif not _is_known(found["class_name"]) and keras.saving.get_registered_object(found["class_name"]) is None:
        raise LoadError(
            f"{where}: Keras 3 has no layer of this class. Remedy: `import` the Python module that defines and "
            f"registers it. If there is none: {_BUILDING.removeprefix('Remedy: ')}",
            "import",
        )
    return found


def _translated(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """An object of Keras 2 and the objects in it."""
    kind = _RENAMED.get(entry["class_name"], entry["class_name"])
    config = {key: _value(value, where) for key, value in entry["config"].items()}
    if isinstance(config.get("dtype"), dict):  # a policy
        config["dtype"] = config["dtype"].get("config", {}).get("name", "float32")
    if kind == "InputLayer":
        config["batch_shape"] = config.pop("batch_input_shape", config.get("batch_shape"))
    elif "batch_input_shape" in config:
        entry = {**entry, "batch_input_shape": config["batch_input_shape"]}
    if _is_known(kind):
        _arguments(kind, config, where)
    package = next((package for package in _PACKAGES if hasattr(package, kind)), None)
    module = None if package is None else package.__name__.replace("keras.api.", "keras.")
    found = {"module": module, "class_name": kind, "registered_name": None if module else kind, "config": config}
    return found | {key: entry[key] for key in ("name", "inbound_nodes", "batch_input_shape") if key in entry}


def _value(value: Any, where: str) -> Any:
    """A value of a configuration: objects in it translated, arrays as numbers."""
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        if value["class_name"] in _MODELS:
            return _model(value, False)
        if value["class_name"] in ("Policy", "PolicyV1"):
            return value["config"]["name"]
        return _translated(value, where)
    if isinstance(value, dict) and value.get("type") == "ndarray":
        return value["value"]
    if isinstance(value, list):
        return [_value(item, where) for item in value]
    if value == "hard_sigmoid":
        raise LoadError(
            f"{where} computes hard_sigmoid, which is clip(0.2 x + 0.5, 0, 1) in Keras 2 and relu6(x + 3) / 6 in Keras "
            f"3: the model would say something else. {_BUILDING}"
        )
    return value


def _arguments(kind: str, config: dict[str, Any], where: str) -> None:
    """Change the arguments of a class of Keras in place.

    Raises:
        LoadError: an argument with a value that Keras 3 cannot express.
    """
    for name in [name for name in _DROPPED if name in config]:
        if name not in _ANY and config[name] not in _DROPPED[name]:
            raise LoadError(f"{where} has {name}={config[name]!r}, which Keras 3 does not have. {_BUILDING}")
        del config[name]
    if kind == "BatchNormalization" and isinstance(config.get("axis"), list):
        if len(config["axis"]) != 1:
            raise LoadError(f"{where} normalises the axes {config['axis']}, which Keras 3 cannot. {_BUILDING}")
        config["axis"] = config["axis"][0]
    if kind == "LeakyReLU" and "alpha" in config:
        config["negative_slope"] = config.pop("alpha")
    if kind == "Lambda":
        _code(config)
    if kind == "GRU":
        config.setdefault("reset_after", False)  # early files do not tell, for want of another
    if kind in ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv2DTranspose",
                "Conv3DTranspose", "Conv1DTranspose"):  # fmt: skip
        if config.pop("groups", 1) != 1:
            raise LoadError(f"{where} has groups, which Keras 3 does not have in this class. {_BUILDING}")
        if "Transpose" not in kind:  # those of its base class, which it does not use
            for name in ("kernel_initializer", "kernel_regularizer", "kernel_constraint"):
                config.pop(name, None)
    if kind.startswith("SpatialDropout"):
        for name in ("trainable", "noise_shape"):
            config.pop(name, None)
    if hasattr(keras.initializers, kind) and not hasattr(keras.layers, kind):
        config.pop("dtype", None)  # TensorFlow 1


def _code(config: dict[str, Any]) -> None:
    """Change the arguments of a Lambda in place: its code in the form of Keras 3, which runs it if it is told to."""
    for name in ("function", "output_shape"):
        if config.pop(f"{name}_type", None) == "lambda":
            parts = dict(zip(("code", "defaults", "closure"), config[name], strict=True))
            config[name] = {"class_name": "__lambda__", "config": parts}
    for name in ("module", "output_shape_module"):
        config.pop(name, None)


def _with_input(layers: list[dict[str, Any]], inner: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of a Sequential behind an InputLayer, whose shape older files give in the first layer."""
    if not layers or layers[0]["class_name"] in ("InputLayer", *_MODELS.values()):
        return layers
    shape = layers[0].get("batch_input_shape", inner.get("build_input_shape"))
    if shape is None:
        raise LoadError(
            "the file does not tell the shape of the input: the model was saved before it was built. Remedy: build it "
            "in Keras 3 and load the weights alone"
        )
    kind = "int32" if layers[0]["class_name"] == "Embedding" else "float32"
    config = {"batch_shape": shape, "dtype": kind, "name": f"{layers[0]['config'].get('name', 'first')}_input"}
    return [{"module": "keras.layers", "class_name": "InputLayer", "registered_name": None, "config": config}, *layers]


def _renumber(layers: list[dict[str, Any]], kept: dict[str, Any]) -> None:
    """Change the numbers of calls of models in a model in place: Keras 2 counts their own graph as the first."""
    models = {layer["name"]: layer["class_name"] for layer in layers if layer["module"] == "keras"}

    def moved(value: Any, names: set[str]) -> Any:
        if isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and value[0] in names:
            return [value[0], value[1] - 1, value[2], *(moved(more, names) for more in value[3:])]
        if isinstance(value, list):
            return [moved(item, names) for item in value]
        return {key: moved(item, names) for key, item in value.items()} if isinstance(value, dict) else value

    for layer in layers:
        nodes = moved(layer["inbound_nodes"], set(models))
        layer["inbound_nodes"] = [_call(node, {layer["name"] for layer in layers}) for node in nodes]
    # Of outputs, Keras 3 itself subtracts one where the model is a functional one.
    sequential = {name for name, kind in models.items() if kind == "Sequential"}
    for key in ("input_layers", "output_layers"):
        kept[key] = moved(kept[key], sequential)


def _call(node: list[Any], names: set[str]) -> Any:
    """A call of a layer. With tensors among its named arguments in the form of Keras 3, which else sees lists there."""

    def tensors(value: Any) -> Any:
        if isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and value[0] in names:
            config = {"shape": [], "dtype": "float32", "keras_history": value[:3]}
            return {"class_name": "__keras_tensor__", "config": config}
        return [tensors(item) for item in value] if isinstance(value, list) else value

    named = node[0][3] if node and len(node[0]) == 4 else {}
    found = {key: tensors(value) for key, value in named.items()}
    if found == named:
        return node
    inputs = tensors(node)
    return {"args": inputs if len(inputs) == 1 else [inputs], "kwargs": found}


def _is_known(kind: str) -> bool:
    return any(hasattr(package, kind) for package in _PACKAGES)


def _holds_lambda(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("class_name") == "Lambda" or any(map(_holds_lambda, value.values()))
    return isinstance(value, list) and any(map(_holds_lambda, value))


# --- weights -----------------------------------------------------------------------------------


def _pairs(model: keras.Model, group: h5py.Group) -> Iterator[tuple[keras.Variable, h5py.Dataset]]:
    """Variables with their values, layer by layer: by name where the file has the same names, else in its order.

    A model of Keras 3 may have its layers in another order than the file, while other names are those of a twin.

    Raises:
        LoadError: other layers, names or shapes.
    """
    layers = [layer for layer in model.layers if layer.weights]
    names = [name for name in _listed(group, "layer_names") if _listed(group[name], "weight_names")]
    if len(layers) != len(names):
        first = next((i for i, (a, b) in enumerate(zip(layers, names, strict=False)) if a.name != b), None)
        raise LoadError(
            f"expected the weights of {len(layers)} layers: {_some([layer.name for layer in layers])}. Received those "
            f"of {len(names)}: {_some(names)}"
            + ("" if first is None else f"; the first other name is {names[first]!r}")
        )
    if set(names) == {layer.name for layer in layers}:
        names = [layer.name for layer in layers]
    for layer, name in zip(layers, names, strict=True):
        weights = layer.trainable_weights + layer.non_trainable_weights  # the order in which Keras 2 wrote them
        yield from _weights(layer, weights, group[name], _listed(group[name], "weight_names"))


def _weights(
    layer: keras.Layer, weights: list[keras.Variable], group: h5py.Group, names: list[str]
) -> Iterator[tuple[keras.Variable, h5py.Dataset]]:
    """The variables of one layer with their values, see `_pairs`."""
    where = f"layer {layer.name!r} ({type(layer).__name__})"
    if len(weights) != len(names):
        raise LoadError(f"{where}: expected {len(weights)} weights. Received: {_some(names)}")
    paths = [_end(weight.path, 2) for weight in weights]
    saved = [_end(name, 2) for name in names]
    if paths != saved and sorted(paths) == sorted(saved):
        raise LoadError(
            f"{where}: its weights have another order in the file, {_some(saved)}, than in the model, {_some(paths)}, "
            "since other layers in it were frozen. Remedy: the same values of `trainable` as in the model that was "
            "saved"
        )
    for i, (weight, name) in enumerate(zip(weights, names, strict=True)):
        ends = _end(weight.path, 1), _end(name, 1)
        if ends[0] != ends[1] and set(ends) <= _NAMES:
            raise LoadError(
                f"{where}: expected {paths[i]} as its weight {i}. Received: {saved[i]}. Remedy: the same layers in the "
                "same order, and for a model in a model the same values of `trainable` as in the model that was saved"
            )
        if tuple(weight.shape) != group[name].shape:
            raise LoadError(
                f"{where}: expected {ends[0]} of shape {tuple(weight.shape)}. Received: {name} of {group[name].shape}"
            )
        yield weight, group[name]


def _end(path: str, parts: int) -> str:
    """The last parts of the name of a weight, without TensorFlow's number of the output."""
    # DepthwiseConv2D calls it a kernel in Keras 3, and SeparableConv2D does not.
    return "/".join(path.partition(":")[0].split("/")[-parts:]).replace("depthwise_kernel", "kernel")


def _listed(group: h5py.Group, name: str) -> list[str]:
    """Names in an attribute, which is in several parts where there are many."""
    if name in group.attrs:
        return [_text(item) for item in group.attrs[name]]
    parts: list[str] = []
    while f"{name}{(i := len(parts))}" in group.attrs:
        parts.append(f"{name}{i}")
    return [_text(item) for part in parts for item in group.attrs[part]]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" … ({len(names)})" if len(names) > 8 else "") or "none"
