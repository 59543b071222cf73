"""Explainers of any library under a name, with the model that they explain where they tell it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import keras

from lrp_tf.evaluate import baselines
from lrp_tf.evaluate.case import Rebuild
from lrp_tf.evaluate.predictors import Predictor
from lrp_tf.evaluate.protocol import Explain, Predict
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
        TypeError: no dict of callables and names. ValueError: an empty one, an unknown name, a name that comes twice.
    """
    if not isinstance(explainers, Mapping):
        raise TypeError(f"compare expects a dict of name: explain(x, target). Received: {type(explainers).__name__}")
    if not explainers:
        raise ValueError("compare expects at least one explainer. Received: an empty dict")
    found: list[Method] = []
    for name, given in explainers.items():
        explain = baselines.get(given, channel_axis=channel_axis, seed=seed) if isinstance(given, str) else given
        if not callable(explain):
            raise TypeError(f"explainer {name!r} must be callable as explain(x, target). Received: {explain!r}")
        if str(name) in [method.name for method in found]:
            raise ValueError(f"explainers need names that differ. Received: {name!r} twice")
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
    told = next((m for m in methods if explainer_of(m.explain) is not None), methods[0])
    if told.model is None:
        raise ValueError("compare needs the classifier, since no explainer tells its model. Remedy: predict= or model=")
    if others := [m.name for m in methods if m.model is not told.model]:
        raise ValueError(
            f"compare expects explainers of one model. Received: another one in {others}. Remedy: predict= or model="
        )
    # Of an Explainer the clone is used, and the output that it was told.
    return Predictor(explainer_of(told.explain) or told.model, batch_size=batch_size)


def explainer_of(explain: object) -> Explainer | None:
    """The lrp_tf explainer that an explainer, or a `functools.partial` of one, is or works with."""
    if isinstance(explain, functools.partial):
        return explainer_of(explain.func)
    inner = getattr(explain, "explainer", explain)
    return inner if isinstance(inner, Explainer) else None
