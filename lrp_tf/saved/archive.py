"""The file of a saved explainer: what it must fit to, and its compiled passes."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from lrp_tf import composites
from lrp_tf.atomic import atomic
from lrp_tf.composites import Composite
from lrp_tf.core.graph import Graph, Ref, check_model
from lrp_tf.engine import passes
from lrp_tf.engine.clone import Clone
from lrp_tf.engine.explanation import Conservation
from lrp_tf.engine.passes import Found, Key, Request, Verdict
from lrp_tf.engine.rows import Shares
from lrp_tf.engine.targets import Target
from lrp_tf.saved import functions, identity
from lrp_tf.saved.definition import Library
from lrp_tf.saved.functions import Loaded
from lrp_tf.tracing import sizes
from lrp_tf.tracing.changes import Snapshot

FORMAT = 1
_ABOUT = "explainer.json"
_Held = list[tuple[str, Any]]  # `identity.arrays` of the model
_EACH = "Remedy: build an Explainer in each process"
_ANEW = "Remedy: build an Explainer of this model, and save it anew"


class SaveError(ValueError):
    """An explainer that cannot be saved, or a file that does not fit the model or the versions here."""


class Saved(NamedTuple):
    """What a file holds of an explainer.

    Attributes:
        composite, options: what it was built with; the options are those of `Explainer`.
        unchecked: its first batch is still to be checked, see `Explainer`.
        graph: inputs and output alone, without steps.
        reached: the inputs that relevance reaches.
        divides: whether a step divides the initial relevance, see `Plan.heads`.
        passes: its compiled passes.
        snapshot: notices that the model has changed since.
    """

    composite: Composite
    options: dict[str, Any]
    unchecked: bool
    graph: Graph
    reached: frozenset[Ref]
    divides: bool
    passes: dict[Key, Loaded]
    snapshot: Snapshot


# --- writing -----------------------------------------------------------------------------------


def write(
    path: str | os.PathLike,
    version: str,
    options: dict[str, Any],
    clone: Clone,
    unchecked: bool,
    compiled: dict[Key, Any],
    shapes: dict[Key, list[tuple[int | None, ...]]],
) -> Path:
    """Write a file, which appears whole or not at all.

    Args:
        version: of lrp_tf.
        options: of the explainer, all but model and composite.
        unchecked: its first batch is still to be checked.
        compiled: concrete functions, or `Loaded`. What runs eagerly is left out. If there is none, those of
            `explainer(x)` and of `explainer.explain(x)` are compiled.
        shapes: of what the compiled functions were called with first.

    Raises:
        SaveError: a composite without text, code other than Keras', a pass that reads what is no weight of the model,
            nothing to save.
        RuntimeError: see `functions.optimized`.
        OSError: the file cannot be written.
    """
    model = clone.graph.model
    if not _has_text(clone.composite):
        raise SaveError(
            f"Only a composite that has a text can be saved. Received: {clone.composite.name!r}, which holds functions "
            f"or classes of your own. {_EACH}"
        )
    if passes.uses_xla(options["jit_compile"]):
        raise SaveError(f"Expected an explainer without jit_compile: XLA compiles anew in each process. {_EACH}")
    held = identity.arrays(model)
    same, found = _identity(model, held), _passes(clone, compiled)
    sources = _sources(model, held)
    described = [_described(key, function, sources) for key, function in found.items()]
    libraries = [
        function.functions if isinstance(function, Loaded) else functions.optimized(function, shapes.get(key))
        for key, function in found.items()
    ]
    about = {
        "format": FORMAT,
        "surroundings": identity.of_surroundings(version),
        "identity": same,
        "composite": {"name": clone.composite.name, "text": str(clone.composite)},
        "options": identity.plain(options),
        "unchecked": unchecked,
        "passes": described,
        **_outline(clone),
    }
    text = json.dumps(about, indent=1)

    def draw(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(_ABOUT, text)
            for number, library in enumerate(libraries):
                file.writestr(f"{number}.pb", library.SerializeToString())

    return atomic(path, draw)


def _outline(clone: Clone) -> dict[str, Any]:
    """All that a call needs of the graph but for its passes."""
    graph = clone.graph
    numbers = {ref: number for number, ref in enumerate(graph.inputs)}
    return {
        "inputs": [
            [list(ref.shape), ref.dtype, name] for ref, name in zip(graph.inputs, graph.input_names, strict=True)
        ],
        "sizes": graph.sizes,
        "structure": _encoded(graph.input_structure, numbers),
        "output": [list(graph.outputs[0].shape), graph.outputs[0].dtype, graph.dtype],
        "reached": [number for ref, number in numbers.items() if ref in clone.plan.reached],
        "divides": bool(clone.plan.heads),
    }


def _identity(model: keras.Model, held: _Held) -> identity.Identity:
    try:
        return identity.of_model(model, held)
    except (ValueError, NotImplementedError) as error:  # the latter: a layer without get_config
        raise SaveError(str(error)) from error


def _has_text(composite: Composite) -> bool:
    try:
        return composites.parse(str(composite)) == composite
    except ValueError:
        return False


def _passes(clone: Clone, compiled: dict[Key, Any]) -> dict[Key, Any]:
    """Those to save."""
    if not compiled and not tf.config.functions_run_eagerly():
        if len(clone.graph.outputs[0].shape) > 1:
            raise SaveError(
                "The output has no top class, so that there is no default call to save. Remedy: call the explainer as "
                "you will want it, then save it"
            )
        target, requests = Target("top", "output", None), (Request(), Request(account=True))
        return {Key("top", "output", None, r): passes.compiled(clone, target, r) for r in requests}
    found = {key: function for key, function in compiled.items() if not key.eagerly}
    if not found:
        raise SaveError(
            "There is no compiled pass to save. Expected calls before tf.config.run_functions_eagerly(True). Received: "
            "none"
        )
    return found


def _described(key: Key, function: Any, sources: list[tf.Tensor]) -> dict[str, Any]:
    """A pass but for its functions: which calls it is for, which weights it reads, and the form of what it returns."""
    mode, start, contrast, request, _ = key
    numbers = {id(tensor): number for number, tensor in enumerate(sources)}
    if others := [tensor for tensor in function.captured_inputs if id(tensor) not in numbers]:
        raise SaveError(
            f"{len(others)} tensors that a pass reads belong to no layer of the model, so that no other process could "
            f"find them. Received first: {others[0].dtype.name} of shape {others[0].shape}. {_EACH}"
        )
    if isinstance(function, Loaded):
        form, order = function.form, function.order
    else:
        form, results = function.structured_outputs, {id(t): number for number, t in enumerate(function.outputs)}
        order = [results[id(leaf)] for leaf in tf.nest.flatten(form) if leaf is not None]
    found = form[0]
    return {
        "target": [mode, start, contrast],
        "request": request._asdict() | {"books": request.books.name},
        "sources": [numbers[id(tensor)] for tensor in function.captured_inputs],
        "results": {
            "relevance": len(found.relevance),
            "layers": [[name, len(outputs)] for name, outputs in found.layers.items()],
            "others": [name for name, value in found._asdict().items() if value is not None],
            "order": order,
        },
    }


def _sources(model: keras.Model, held: _Held) -> list[tf.Tensor]:
    """All that a pass may read beside its arguments, in an order that the structure of the model decides."""
    variables = (*model.weights, *identity.states(model))
    return [*(variable.value.handle for variable in variables), *(array for _, array in held)]


def _encoded(structure: Any, numbers: dict[Ref, int]) -> Any:
    """The structure of inputs for JSON, which knows no tuples; `_decoded` reads it."""
    if isinstance(structure, dict):
        return {"dict": {key: _encoded(value, numbers) for key, value in structure.items()}}
    if isinstance(structure, (list, tuple)):
        kind = "tuple" if isinstance(structure, tuple) else "list"
        return {kind: [_encoded(value, numbers) for value in structure]}
    return numbers[structure]


# --- reading -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage waits: the collector would go through a large model again and again while its description is made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def read(path: str | os.PathLike, model: keras.Model, version: str) -> Saved:
    """What `write` wrote, its passes bound to the weights of `model`.

    Raises:
        SaveError: no such file, or one of another model or other versions.
        OSError: the file cannot be read. TypeError: not a Keras 3 model.
    """
    check_model(model)
    about, libraries = _contents(Path(path))
    _compare("What it was saved with", about["surroundings"], identity.of_surroundings(version), path)
    held = identity.arrays(model)
    _compare("The model that it explains", about["identity"], _identity(model, held), path)
    inputs = [Ref(shape, dtype) for shape, dtype, _ in about["inputs"]]
    shape, dtype, computed = about["output"]
    graph = Graph(
        model=model,
        inputs=inputs,
        outputs=[Ref(shape, dtype)],
        input_structure=_decoded(about["structure"], inputs),
        input_names=[name for _, _, name in about["inputs"]],
        output_names=[],
        output_keys=[],
        steps=[],
        dtype=computed,
        sizes={name: tuple(shape) for name, shape in about["sizes"].items()},
    )
    sources = _sources(model, held)
    loaded = {}
    for described, library in zip(about["passes"], libraries, strict=True):
        results, captured = described["results"], [sources[number] for number in described["sources"]]
        loaded[_key(described)] = Loaded(library, _form(results), results["order"], captured)
    return Saved(
        composite=composites.parse(about["composite"]["text"], about["composite"]["name"]),
        options=about["options"] | {"sizes": sizes.kept(about["options"]["sizes"])},
        unchecked=about["unchecked"],
        graph=graph,
        reached=frozenset(inputs[number] for number in about["reached"]),
        divides=about["divides"],
        passes=loaded,
        snapshot=Snapshot(model),
    )


def _contents(path: Path) -> tuple[dict[str, Any], list[Library]]:
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read(_ABOUT))
            if about["format"] != FORMAT:
                raise SaveError(
                    f"{path} is of another format. Expected: {FORMAT}. Received: {about['format']}. {_ANEW}"
                )
            make = type(tf.compat.v1.GraphDef().library).FromString
            return about, [make(file.read(f"{number}.pb")) for number in range(len(about["passes"]))]
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SaveError(f"Expected a file that Explainer.save wrote. Received: {path}, {error}") from error


def _compare(what: str, expected: Any, received: Any, path: str | os.PathLike) -> None:
    found = identity.difference(expected, received)
    if found is not None:
        raise SaveError(f"{what} is not what is here: {found}. File: {path}. {_ANEW}")


def _key(described: dict[str, Any]) -> Key:
    request = dict(described["request"])
    request |= {"layers": tuple(request["layers"]), "books": tf.as_dtype(request["books"])}
    mode, start, contrast = described["target"]
    return Key(mode, start, contrast, Request(**request))


def _form(results: dict[str, Any]) -> tuple[Found, Verdict]:
    """What a pass returns, with 0 in place of each tensor."""
    values: dict[str, Any] = dict.fromkeys(results["others"], 0)
    values["relevance"] = [0] * results["relevance"]
    values["layers"] = {name: [0] * count for name, count in results["layers"]}
    parts = {
        "shares": Shares(*[0] * len(Shares._fields)),
        "conservation": Conservation(*[0] * len(Conservation._fields)),
    }
    return Found(**values | {name: part for name, part in parts.items() if name in values}), Verdict(0, 0, 0)


def _decoded(encoded: Any, inputs: list[Ref]) -> Any:
    if isinstance(encoded, int):
        return inputs[encoded]
    ((kind, parts),) = encoded.items()
    if kind == "dict":
        return {key: _decoded(value, inputs) for key, value in parts.items()}
    return (tuple if kind == "tuple" else list)(_decoded(value, inputs) for value in parts)
