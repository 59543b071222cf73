"""A function of TensorFlow as StableHLO text, small and without what other parsers refuse; or why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lrp_tf.core.xla import wrong_under_xla


class ExportError(ValueError):
    """A function that cannot be written as StableHLO."""


class Module(NamedTuple):
    """StableHLO text, and the values that it takes behind the arguments of the function.

    Attributes:
        text: a module with one function, main.
        values: (name, array) of each variable and of each large constant, in the order of the arguments.
        results: (name, shape, dtype) of each result, in their order.
    """

    text: str
    values: list[tuple[str, np.ndarray]]
    results: list[tuple[str, tuple[int, ...], str]]


# Operations that XLA compiles on no device, or that would give other numbers elsewhere -> why, with the remedy.
_PYTHON = "calls Python. Remedy: keras.ops or TensorFlow instead of tf.numpy_function and tf.py_function"
_TABLE = "looks texts up. Remedy: leave the layer out of the model, and feed it the numbers that the layer gives"
_RANDOM = "draws random numbers, so that two calls differ. Remedy: a layer that draws none in inference mode"
_REFUSED = {
    r"(Eager)?PyFunc(Stateless)?": _PYTHON,
    r"(LookupTable|HashTable|MutableHashTable|MutableDenseHashTable)\w*": _TABLE,
    r"(Random|Stateful|Multinomial|Truncated|Parameterized)\w*(Normal|Uniform|Gamma|Poisson|Shuffle|Int|Binomial)\w*|"
    r"Multinomial|RngSkip|RngReadAndSkip": _RANDOM,
}
# MLIR's types -> NumPy's.
_TYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "i1": "bool"}
_TYPES |= {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {f"ui{n}": f"uint{n}" for n in (8, 16, 32, 64)}
# Inlined and without dead code: a tenth of what XLA writes. Locations name files of this machine.
_PASSES = "strip-debuginfo,inline,cse,symbol-dce"
_TENSOR = r"tensor<((?:\d+x)*)(\w+)>"


def lowered(function: Callable[..., object], specs: Sequence[tf.TensorSpec]) -> Module:
    """The function for arguments of these shapes.

    Args:
        function: of tensors, to a dict of tensors.
        specs: of its arguments; every size is known.

    Raises:
        ExportError: something in it runs nowhere but in TensorFlow, or has no shape that is known beforehand.
    """
    compiled = tf.function(function, input_signature=specs, autograph=False, jit_compile=True)
    traced = compiled.get_concrete_function()
    _refuse(traced)
    try:
        raw = compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo")
        if re.search(r'"mhlo\.\w+"\(|#stablehlo\.bounds', raw):  # the passes cannot read these
            _refuse_text(raw)
        text = tf.mlir.experimental.run_pass_pipeline(raw, _PASSES, show_debug_info=False)
    except ExportError:
        raise
    except (tf.errors.OpError, ValueError) as error:
        raise ExportError(
            f"XLA cannot compile this explanation: {_reason(error)}. Expected operations that XLA knows, on shapes "
            "that are known beforehand. Remedy: another layer, or lrp_tf.export, which needs no XLA"
        ) from error
    text = _portable(_of_fixed_size(text))
    _refuse_text(text)
    values = _captured(traced)
    text, constants = _without_constants(text)
    names = sorted(traced.structured_outputs)
    outputs = [traced.structured_outputs[name] for name in names]
    wanted = [*specs, *(tf.TensorSpec(a.shape, a.dtype) for _, a in values + constants), *outputs]
    head = next(line for line in text.splitlines() if " func.func " in line)
    found = [(_shape(sides), _TYPES.get(kind, kind)) for sides, kind in re.findall(_TENSOR, head)]
    # TensorFlow may not know a size that XLA does.
    if len(found) != len(wanted) or not all(
        spec.shape.is_compatible_with(shape) and spec.dtype.name == kind
        for spec, (shape, kind) in zip(wanted, found, strict=True)
    ):
        raise ExportError(
            f"XLA gave a function of other arguments or results. Expected: {[(s.shape, s.dtype) for s in wanted]}. "
            f"Received: {found}. Please report this model as a bug"
        )
    results = [(name, *result) for name, result in zip(names, found[-len(names) :], strict=True)]
    return Module(text, values + constants, results)


def _refuse(traced: tf.types.experimental.ConcreteFunction) -> None:
    """Refuse what XLA would refuse in its own words, or compile to something else.

    Raises:
        ExportError: Python, tables of texts, random numbers, or an interpolation that XLA gets wrong.
    """
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for node in nodes:
        for pattern, why in _REFUSED.items():
            if re.fullmatch(pattern, node.op):
                raise ExportError(f"The model cannot leave TensorFlow: {node.name} ({node.op}) {why}")
    if wrong := wrong_under_xla(traced):
        raise ExportError(
            f"The model cannot leave TensorFlow: {wrong} interpolates bilinearly, which XLA gets wrong for some sizes. "
            "Remedy: another interpolation, or lrp_tf.export, which needs no XLA"
        )


def _reason(error: Exception) -> str:
    """What an error of TensorFlow's compiler says, without what names this process."""
    text = str(error).strip()
    if lacking := sorted(set(re.findall(r"(\w+) \(No registered", text))):
        places = sorted(set(re.findall(r"\{\{node ([^}]*)\}\}", text)))
        return f"it lacks {', '.join(lacking)} ({', '.join(places[:3])})"
    text = re.sub(r"\s*\[Op:\w+\]|__inference_\S+|\S+\.py:\d+:\d+: (error: )?", "", text.split("\n")[0])
    return re.sub(r"\{\{\w+ (\S+)\}\}", r"\1", text).strip(" .")


def _captured(traced: tf.types.experimental.ConcreteFunction) -> list[tuple[str, np.ndarray]]:
    """What the function reads beside its arguments, in the order in which it takes it."""
    variables = {id(variable.handle): variable for variable in traced.variables}
    found = []
    for tensor in traced.captured_inputs:
        variable = variables.get(id(tensor))
        name = "captured" if variable is None else variable.name.split(":")[0]
        found.append((name, (tensor if variable is None else variable).numpy()))
    return found


def _portable(text: str) -> str:
    """Text without what only some parsers know, whose products and convolutions are those of full precision."""
    text = re.sub(r"^module @\S+ attributes \{.*\} \{$", "module @explain {", text, count=1, flags=re.MULTILINE)
    text = re.sub(r" \{mhlo\.frontend_attributes = \{[^{}]*\}\}", "", text)
    text = re.sub(r"(?:, )?mhlo\.frontend_attributes = \{[^{}]*\}(?:, )?", "", text)
    # By default a TPU would multiply in bfloat16, and a GPU in TF32.
    return text.replace("precision DEFAULT", "precision HIGHEST").replace("[DEFAULT, DEFAULT]", "[HIGHEST, HIGHEST]")


def _refuse_text(text: str) -> None:
    """Refuse what XLA compiles for TensorFlow, but no other program could run.

    Raises:
        ExportError: functions of TensorFlow's own, random numbers, or shapes that are computed.
    """
    shapes = "has a shape that is known only when it runs"
    for pattern, what in (
        (r"custom_call @?\"?([\w.]+)", "calls a function of TensorFlow's own"),
        (r"(stablehlo\.rng\w*)", "draws random numbers"),
        (r"(tensor<[^<>]*\?[^<>]*)", shapes),
        (r"(stablehlo\.(?:[sg]et_dimension_size|real_dynamic_\w+|dynamic_(?!slice|update)\w+))", shapes),
        (r"\"?(mhlo\.\w+)\"?\(", "has an operation that StableHLO lacks"),
    ):
        if match := re.search(pattern, text):
            raise ExportError(
                f"The explanation is not portable: it {what} ({match[1]}). Expected plain StableHLO of fixed shapes. "
                "Remedy: another layer, or lrp_tf.export, which needs no XLA"
            )


def _of_fixed_size(text: str) -> str:
    """Text whose sizes are static where a loop sets a size to what it is."""
    sizes: dict[str, set[str]] = {}  # regions side by side may use a name again
    for name, size in re.findall(r"(%\w+) = stablehlo\.constant dense<(-?\d+)> : tensor<i32>", text):
        sizes.setdefault(name, set()).add(size)

    def plain(match: re.Match) -> str:
        value, size, axis, kind, sides = match.groups()
        static = "?" not in kind and sizes.get(size) == {sides.split("x")[int(axis)]}
        return f"stablehlo.reshape {value} : ({kind}) -> {kind}" if static else match[0]

    kinds = r"\((tensor<([\dx]+)\w+>), tensor<i32>\) -> \4"
    return re.sub(rf"stablehlo\.set_dimension_size (%\w+), (%\w+), dim = (\d+) : {kinds}", plain, text)


def _without_constants(text: str) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """Text whose large constants became arguments: it stays small, and parsers disagree about bits of booleans."""
    found: list[tuple[str, np.ndarray]] = []
    arguments = []

    def argument(match: re.Match) -> str:
        data, kind, sides, element = match.groups()
        name = f"constant{len(found)}"
        found.append((name, _array(bytes.fromhex(data), _shape(sides), _TYPES[element])))
        arguments.append(f", %{name}: {kind}")
        return f"stablehlo.reshape %{name} : ({kind}) -> {kind}"

    text = re.sub(rf'stablehlo\.constant dense<"0x([0-9A-F]*)"> : ({_TENSOR})', argument, text)
    return re.sub(r"(func\.func (?:public )?@main\(.*?)\) ->", rf"\1{''.join(arguments)}) ->", text, count=1), found


def _array(data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = int(np.prod(shape))
    if dtype == "bool" and len(data) < size:
        return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:size].astype(bool).reshape(shape)
    return np.frombuffer(data, tf.as_dtype(dtype).as_numpy_dtype).reshape(shape)


def _shape(sides: str) -> tuple[int, ...]:
    return tuple(int(side) for side in sides.split("x") if side)
