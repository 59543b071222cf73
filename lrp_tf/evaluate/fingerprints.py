"""What explainers, classifiers, metrics and models are, in words that are the same in every process."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType

import keras
import numpy as np

from lrp_tf.evaluate.metric import Metric
from lrp_tf.evaluate.samples import digest
from lrp_tf.explainer import Explainer
from lrp_tf.rules import Rule

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def described(value: object) -> str:
    """What an explainer, a classifier, a metric or an option is.

    An `Explainer`, or a method of `lrp_tf.gradients`, is its options, its composite and its rules; an array its
    content; a model its weights and settings; a function its code, with what that names: constants, arrays, models and
    explainers around it, and functions of its own module. Any other object is its `repr`, the code of its class, and
    its public attributes that are numbers, words or arrays. Of installed packages functions and classes are their
    names.
    """
    if isinstance(value, Explainer):
        build = value.__reduce__()[1][0]  # as it is pickled: the class with its options
        # What the composite chose tells matches of the user's apart, which are written by name.
        rules = [described(rule) for _, rule in value.clone.plan.every_step() if isinstance(rule, Rule)]
        return f"{described(build)} {_without_addresses(str(value.composite))} {_hashed(*rules)}"
    if isinstance(value, Metric):
        options = {name: described(option) for name, option in sorted(value.options.items())}
        return f"{value.name} {described(value.function)} {options}"
    if isinstance(inner := getattr(value, "explainer", None), Explainer):
        return f"{described(value.__reduce__()[1][0])} of {described(inner)}"
    if isinstance(value, functools.partial):
        words = [described(value.func), *map(described, value.args)]
        words += [f"{name}={described(option)}" for name, option in sorted(value.keywords.items())]
        return f"partial({', '.join(words)})"
    if isinstance(value, keras.Model):
        return f"model {model_digest(value)}"
    if isinstance(value, FunctionType):
        return _function(value)
    if isinstance(value, MethodType):
        return f"{described(value.__self__)}.{_function(value.__func__)}"
    return f"array {digest(value)}" if _is_array(value) else _object(value)


def _object(value: object) -> str:
    """Something else by its `repr`, its class and its public attributes."""
    words = _without_addresses(repr(value))
    if isinstance(value, (type, *_PLAIN)) or not hasattr(value, "__dict__"):
        return words
    own = {name: entry for name, entry in sorted(vars(value).items()) if name[0] != "_"}
    kept = {name: described(entry) for name, entry in own.items() if isinstance(entry, _PLAIN) or _is_array(entry)}
    methods = [
        _function(entry)
        for kind in type(value).__mro__
        if not _installed(kind.__module__)
        for entry in vars(kind).values()
        if isinstance(entry, FunctionType)
    ]
    return f"{words} {kept or ''} {_hashed(*methods) if methods else ''}".strip()


def _is_array(value: object) -> bool:
    if isinstance(value, type) or not hasattr(value, "__array__"):
        return False
    try:
        array = np.asarray(value)
    except Exception:  # symbolic tensors raise errors of their own kinds
        return False
    return array.ndim > 0 and not array.dtype.hasobject


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _hashed(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


# --- functions -----------------------------------------------------------------------------------


def _installed(module: str | None) -> bool:
    """Whether a module comes with Python, with an installed package or with lrp_tf: its version stands for it."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names or top == "lrp_tf":
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _function(function: Callable) -> str:
    """A function by its name and, unless it comes with a package, by its code and what that names."""
    inner = inspect.unwrap(function)
    if _installed(inner.__module__) or not isinstance(function, FunctionType):
        return f"{inner.__module__}.{inner.__qualname__}"
    around = getattr(inner, "__globals__", {})
    return f"function {function.__qualname__} {_hashed(*_content(function, around, set()))}"


def _content(function: FunctionType, around: Mapping[str, object], seen: set[int]) -> Iterator[str]:
    """The code of a function, its defaults, what it encloses, and what its code names in the module `around`."""
    if id(function) in seen or _installed(inspect.unwrap(function).__module__):
        yield function.__qualname__
        return
    seen.add(id(function))
    names = set[str]()
    yield from _code(function.__code__, names)
    defaults = (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items()))
    found: dict[str, object] = {"defaults": defaults}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[f"enclosed {name}"] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    if function.__globals__ is around:
        found |= {name: around[name] for name in sorted(names) if name in around}
    for name, value in found.items():
        yield name
        yield from _around(value, around, seen)


def _around(value: object, around: Mapping[str, object], seen: set[int]) -> Iterator[str]:
    """What a function finds around it; of things that may change meanwhile, such as lists, the type alone."""
    if isinstance(value, FunctionType):
        yield from _content(value, around, seen)
    elif isinstance(value, tuple):
        for entry in value:
            yield from _around(entry, around, seen)
    elif isinstance(value, (keras.Model, functools.partial, *_PLAIN)) or _is_array(value):
        yield described(value)
    elif isinstance(inner := getattr(value, "explainer", value), Explainer):
        yield f"{described(value)} of {described(inner.model)}"
    else:
        yield type(value).__qualname__


def _code(code: CodeType, names: set[str]) -> Iterator[str]:
    """Instructions and constants, of inner functions too; `names` collects what they name."""
    names.update(code.co_names)
    yield code.co_code.hex()
    yield " ".join(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, names)
        else:  # the order of a set's words changes with every process
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


# --- models --------------------------------------------------------------------------------------


def model_digest(model: keras.Model) -> str:
    """Identifies a model by its weights, and by the classes and settings of its layers."""
    found = hashlib.sha256(type(model).__name__.encode())
    for variable in model.weights:  # not `variables`: the state of Dropout changes with every process
        value = np.ascontiguousarray(np.asarray(keras.ops.convert_to_numpy(variable)))
        found.update(f"{value.dtype}{value.shape}".encode())
        found.update(value.tobytes())
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.update(model_digest(layer).encode())
        else:
            found.update(json.dumps([type(layer).__name__, _settings(layer)]).encode())
    return found.hexdigest()[:16]


_OUTSIDE = ("name", "trainable", "seed")


def _settings(layer: keras.Layer) -> dict[str, str]:
    """The settings of a layer that change what it computes; not its name, which Keras counts up in every process."""
    try:
        config = layer.get_config()
    except Exception:  # whatever the user's code raises, such as that it has none
        return {}
    plain = (bool, int, float, str, list, tuple)
    return {
        name: repr(value)
        for name, value in sorted(config.items())
        if isinstance(value, plain) and name not in _OUTSIDE and not name.endswith("_initializer")
    }
