"""Explainers of any library under a name, with the model that they explain where they tell it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from lrp_tf.evaluate import baselines
from lrp_tf.evaluate.case import Rebuild
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Explain, Predict
from lrp_tf.evaluate.samples import digest
from lrp_tf.explainer import Explainer


@dataclasses.dataclass(frozen=True)
class Method:
    """An explainer under its name. `model` and `rebuild`: of a `Case`, None if they are not known."""

    name: str
    explain: Explain
    model: keras.Model | None
    rebuild: Rebuild | None


def methods_of(
    explainers: Mapping[str, Explain | str], model: keras.Model | None, channel_axis: int | None, seed: int
) -> list[Method]:
    """The explainers that `compare` was given, checked; those that tell no model get that of the others.

    Raises:
        TypeError: no dict of callables and names. ValueError: an empty one, an unknown name.
    """
    if not isinstance(explainers, Mapping):
        raise TypeError(f"compare expects a dict of name: explain(x, target). Received: {type(explainers).__name__}")
    if not explainers:
        raise ValueError("compare expects at least one explainer. Received: an empty dict")
    found = []
    for name, given in explainers.items():
        explain = baselines.get(given, channel_axis=channel_axis, seed=seed) if isinstance(given, str) else given
        if not callable(explain):
            raise TypeError(f"explainer {name!r} must be callable as explain(x, target). Received: {explain!r}")
        found.append(Method(str(name), explain, model_of(explain), rebuild_of(explain)))
    if model is None:
        model = next((method.model for method in found if method.model is not None), None)
    return [m if m.model is not None else dataclasses.replace(m, model=model) for m in found]


def model_of(explain: Explain) -> keras.Model | None:
    """The model that an explainer, or a `functools.partial` of one, tells as its `model`."""
    if isinstance(explain, functools.partial):
        return model_of(explain.func)
    model = getattr(explain, "model", None)
    return model if isinstance(model, keras.Model) else None


def rebuild_of(explain: Explain) -> Rebuild | None:
    """The method `with_model` of an explainer, or of the one that a `functools.partial` calls."""
    if isinstance(explain, functools.partial):
        inner = rebuild_of(explain.func)
        if inner is None:
            return None
        return lambda model: functools.partial(inner(model), *explain.args, **explain.keywords)
    return getattr(explain, "with_model", None)


def predictor(
    predict: Predict | None, model: keras.Model | None, methods: Sequence[Method], batch_size: int
) -> Predict:
    """The classifier: as given, or of the model, or of the model that all explainers explain.

    Raises:
        ValueError: none of them; explainers of several models.
    """
    if predict is not None:
        return predict
    if model is not None:
        return Predictor(model, batch_size=batch_size)
    told = next((m for m in methods if _explainer(m.explain) is not None), methods[0])
    if told.model is None:
        raise ValueError("compare needs the classifier, since no explainer tells its model. Remedy: predict= or model=")
    if others := [m.name for m in methods if m.model is not told.model]:
        raise ValueError(
            f"compare expects explainers of one model. Received: another one in {others}. Remedy: predict= or model="
        )
    # Of an Explainer the clone is used, and the output that it was told.
    return Predictor(_explainer(told.explain) or told.model, batch_size=batch_size)


def _explainer(explain: object) -> Explainer | None:
    """The lrp_tf explainer that an explainer is, or works with."""
    if isinstance(explain, functools.partial):
        return _explainer(explain.func)
    inner = getattr(explain, "explainer", explain)
    return inner if isinstance(inner, Explainer) else None


# --- what a resumed run must share ---------------------------------------------------------------


def described(explain: object) -> str:
    """What an explainer or classifier is, in words that are the same in every process.

    An `Explainer`, or a method of `lrp_tf.gradients`, is its options and its composite; a function its name; any other
    object its `repr` and its public attributes that are numbers, words or flags.
    """
    if isinstance(explain, Explainer):
        build = explain.__reduce__()[1][0]  # as it is pickled: the class with its options
        return f"{described(build)} {_without_addresses(str(explain.composite))}"
    if isinstance(inner := getattr(explain, "explainer", None), Explainer):
        build = explain.__reduce__()[1][0]
        return f"{described(build)} of {described(inner)}"
    if isinstance(explain, functools.partial):
        words = [described(explain.func), *map(_written, explain.args)]
        words += [f"{name}={_written(value)}" for name, value in sorted(explain.keywords.items())]
        return f"partial({', '.join(words)})"
    if isinstance(explain, type) or not hasattr(explain, "__dict__") or hasattr(explain, "__qualname__"):
        return _without_addresses(repr(explain))
    plain = {k: v for k, v in sorted(vars(explain).items()) if isinstance(v, (bool, int, float, str)) and k[0] != "_"}
    return _without_addresses(f"{explain!r} {plain or ''}".strip())


def _written(value: object) -> str:
    """An option; of an array its content, of which `repr` shows a part."""
    array = hasattr(value, "__array__") and np.ndim(value) > 0
    return f"array {digest(value)}" if array else _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def model_digest(model: keras.Model) -> str:
    """Identifies a model by its weights and the classes of its layers."""
    found = hashlib.sha256(type(model).__name__.encode())
    for variable in model.weights:  # not `variables`: the state of Dropout changes with every process
        value = np.ascontiguousarray(np.asarray(keras.ops.convert_to_numpy(variable)))
        found.update(f"{value.dtype}{value.shape}".encode())
        found.update(value.tobytes())
    found.update(json.dumps([type(layer).__name__ for layer in model.layers]).encode())
    return found.hexdigest()[:16]
