"""From what a user names, a composite, a class, a preprocessing, to what the library takes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from lrp_tf import composites, rules
from lrp_tf.composite_names import NamedPreset, RelativeFactor, Written
from lrp_tf.core.graph import Graph
from lrp_tf.engine import contrast as contrasts
from lrp_tf.engine import targets
from lrp_tf.engine.contrast import KINDS
from lrp_tf.explainer import Explainer
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import begins_with_scaling, form_of
from lrp_tf.files.loading import Classes, Preprocessing

Named = NamedPreset | Written


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register layers or presets; those of the current folder are found, too."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not search the current folder
    for module in names:
        importlib.import_module(module)


def output_of(text: int | str | None) -> int | str | None:
    """The name or index of an output."""
    return int(text) if isinstance(text, str) and text.lstrip("-").isdigit() else text


# --- composites --------------------------------------------------------------------------------


def written_composite(one: Named, zero_bias: bool = False) -> composites.Composite | None:
    """The composite of a text or a file; None for the name of a preset.

    Raises:
        LoadError: `zero_bias`, which is an option of presets. ValueError: the text cannot be read.
    """
    if not isinstance(one, Written):
        return None
    if zero_bias:
        raise LoadError(
            "`zero_bias` is an option of presets. Expected one of them beside it. Received: `composite` "
            f"{one.text}. Remedy: zero_bias=true behind its rules, as in 'all: epsilon zero_bias=true'",
            ("zero_bias", "composite"),
        )
    return composites.load(one.text) if one.is_file else composites.parse(one.text, name=one.text)


def needs_bounds(one: Named, given: Iterable[str] = ()) -> bool:
    """Whether a preset takes bounds of the input that neither its own options nor those `given` hold."""
    if isinstance(one, Written):
        return False
    return (
        one.name in composites.PRESETS
        and composites.needs_bounds(one.name)
        and not {"low", "high"} <= {*one.options, *given}
    )


def bounds_of(
    model: keras.Model, preprocessing: Preprocessing, output: int | str | None, size: tuple[int, int] | None
) -> dict[str, np.ndarray]:
    """low and high of z^B rules: the values that pixels of 0 and 255 become."""
    form = form_of(Explainer(model, "epsilon", output=output), size)
    low, high = preprocessing.bounds(form.channels)
    return {"low": low, "high": high}


def relative_factors(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a preset with the stabilisers that `relative(0.25)` in a text means."""
    return {key: rules.Relative(value) if isinstance(value, RelativeFactor) else value for key, value in given.items()}


def explainer_of(
    model: keras.Model, one: Named, bounds: Mapping[str, object], *, zero_bias: bool = False, **options: Any
) -> Explainer:
    """The explainer of a composite that is named.

    Args:
        bounds: low and high of z^B; what the name says goes ahead of them.
        options: of the Explainer.

    Raises:
        LoadError: see `written_composite`; `zero_bias` beside a preset with zero_bias=false.
    """
    if (composite := written_composite(one, zero_bias)) is not None:
        return Explainer(model, composite, **options)
    assert isinstance(one, NamedPreset)
    if zero_bias and one.options.get("zero_bias", True) is not True:
        raise LoadError(
            f"`zero_bias` and `composite` {one} contradict one another. Expected one of them",
            ("zero_bias", "composite"),
        )
    more = {"zero_bias": True} if zero_bias else {}
    return Explainer(model, one.name, **{**options, **bounds, **relative_factors(one.options), **more})


# --- classes -----------------------------------------------------------------------------------


def targets_of(wanted: Sequence[str | int], graph: Graph, classes: Classes) -> list[str | int]:
    """Targets with classes as numbers: "top1" and "topK:3" stay, names and numbers in texts become numbers.

    Raises:
        LoadError: an unknown class, not as many names as classes. ValueError: see `targets.ranked`.
    """
    count = targets.class_count(graph)
    classes.check(count)
    count = count or np.iinfo(np.int32).max
    tops = lambda text: text.lower().startswith("topk:") or text.lower() == "top1"  # noqa: E731
    found = [one if isinstance(one, str) and tops(one) else classes.index(str(one), count) for one in wanted]
    targets.ranked(found, graph)
    return found


def contrast_of(
    text: str | int | None, graph: Graph, classes: Classes, chosen: Sequence[str | int] = ()
) -> str | int | None:
    """What targets are set against, with a class as a number.

    Raises:
        LoadError: an unknown class, or one that is a target itself. ValueError: the model has a single output unit.
    """
    if text is None:
        return None
    count = targets.class_count(graph) or np.iinfo(np.int32).max
    contrast = text if text in KINDS else classes.index(str(text), count)
    contrasts.checked(graph, contrast, np.zeros(1))
    if contrast in chosen:
        raise LoadError(
            f"`contrast` {text} is a target itself. Expected another class than `target` {contrast}",
            ("contrast", "target"),
        )
    return contrast


def preprocessing_of(text: str | None, model: keras.Model, output: int | str | None, name: object) -> Preprocessing:
    """The preprocessing that is named, or "none" for a model that scales its input itself.

    Args:
        name: of the model, in the message.

    Raises:
        LoadError: neither; lrp_tf does not guess.
    """
    if text is not None:
        return loading.get_preprocessing(text)
    if begins_with_scaling(Explainer(model, "epsilon", output=output).graph):
        return loading.get_preprocessing("none")
    raise LoadError(
        f"`preprocess` is missing, and {name} does not scale its input itself: a model that is fed other "
        f"numbers than in training is confidently wrong. {loading.choices()}",
        "preprocess",
    )
