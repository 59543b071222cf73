"""The methods that a benchmark judges: built once for a model, whose weights may change afterwards."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from lrp_tf import composites, gradients
from lrp_tf.composites import Composite
from lrp_tf.evaluate import baselines
from lrp_tf.evaluate.benchmark import tokens
from lrp_tf.evaluate.benchmark.tuned import NAME as TUNED
from lrp_tf.evaluate.benchmark.tuned import Tuned
from lrp_tf.evaluate.fingerprints import described
from lrp_tf.evaluate.protocol import Array, Explain
from lrp_tf.explainer import Explainer
from lrp_tf.rules import Rule

# A name, with options perhaps; a composite or rule; what makes an explainer of a model.
Wanted: TypeAlias = "str | Named | Tuned | Composite | Rule | Callable[[keras.Model], Explain]"

CONTRASTS = ("none", "softmax")
BASELINES = ("absolute", "sobel", "laplace", "random")
GRADIENTS: dict[str, dict[str, Any]] = {
    "Gradient": {},
    "InputTimesGradient": {},
    "SmoothGrad": {"n": 25, "noise": 0.1},
    "IntegratedGradients": {"n": 16},
    "Occlusion": {"window": 1},
    "GradCAM": {},
}
OTHERS = ("guided_backprop", "deconvnet")  # gradients that are composites


def names() -> list[str]:
    """All methods: presets, gradients, and baselines that know no model."""
    return [*composites.PRESETS, *OTHERS, *GRADIENTS, *BASELINES]


def takes_tokens(model: keras.Model) -> bool:
    """Whether a model's input are ids."""
    return not keras.backend.is_float_dtype(model.inputs[0].dtype)


@dataclasses.dataclass(frozen=True)
class Methods:
    """The methods of one model.

    Attributes:
        explain: name -> explain(x, target), for those that have maps of their own.
        same: name -> another method, whose rules it has on each step of this model, hence its maps.
        refused: name -> why it does not apply to this model.
    """

    explain: dict[str, Explain]
    same: dict[str, str]
    refused: dict[str, str]

    @classmethod
    def of(
        cls,
        model: keras.Model,
        wanted: Mapping[str, Wanted],
        *,
        contrast: Sequence[str] = ("none",),
        low: float = -1.0,
        high: float = 1.0,
        seed: int = 0,
    ) -> Methods:
        """Build all methods; those that share their rules with an earlier one are not built.

        Args:
            wanted: name -> method, see `listed`.
            contrast: of `CONTRASTS`.
            low, high: bounds of the input, for presets that need them. seed: of random numbers.
        """
        found = cls({}, {}, {})
        known: dict[tuple[str, ...], str] = {}
        for name, one in wanted.items():
            if isinstance(one, Tuned):  # chosen for each net, see `tuned`
                continue
            try:
                explain = _built(model, one, low, high, seed)
            except (TypeError, ValueError, NotImplementedError) as error:
                found.refused.update(dict.fromkeys(_under(name, one, contrast), " ".join(str(error).split())))
                continue
            rules = _rules(explain) if isinstance(explain, Explainer) else None
            if rules is not None and rules in known:
                found.same.update(zip(_under(name, one, contrast), _under(known[rules], one, contrast), strict=True))
                continue
            if rules is not None:
                known[rules] = name
            if isinstance(explain, Explainer) and takes_tokens(model):
                explain = tokens.of_explainer(explain)
            for full, how in _under(name, one, contrast).items():
                found.explain[full] = explain if how == "none" else _against(explain, how)
        return found


def _against(explain: Callable[..., Array], contrast: str) -> Explain:
    return functools.partial(explain, contrast=contrast)


def contrasted(wanted: Mapping[str, Wanted], contrast: Sequence[str]) -> list[str]:
    """The names of all methods under each contrast."""
    return [full for name, one in wanted.items() for full in _under(name, one, contrast)]


def _under(name: str, one: Wanted, contrast: Sequence[str]) -> dict[str, str]:
    """Name -> contrast; baselines know no classes, hence none."""
    named = one.name if isinstance(one, Named) else one
    if isinstance(named, str) and named in baselines.NAMES:
        return {name: "none"}
    return {name if how == "none" else f"{name} contrast {how}": how for how in contrast}


def listed(methods: Sequence[str] | Mapping[str, Wanted] | None) -> dict[str, Wanted]:
    """Methods under their names; None: all of `names`. "tuned" is another one.

    Raises:
        ValueError: an unknown name, none at all, one that comes twice. TypeError: neither a name nor a method.
    """
    if methods is None:
        methods = names()
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, Mapping):
        if len(set(methods)) < len(methods):
            raise ValueError(f"methods expects each name once. Received: {list(methods)}")
        methods = {name: name for name in methods}
    if not methods:
        raise ValueError("methods expects at least one. Received: none")
    every = [*names(), "gradient", TUNED]
    methods = {name: Tuned() if one == TUNED else one for name, one in methods.items()}
    for name, one in methods.items():
        if isinstance(one, str) and one not in every and one not in composites.PRESETS and one not in baselines.NAMES:
            raise ValueError(f"methods expects some of {every}. Received: {one!r}")
        if not isinstance(one, (str, Named, Tuned, Composite, Rule)) and not callable(one):
            raise TypeError(f"methods[{name!r}] expects a name, a composite or a function. Received: {one!r}")
    return dict(methods)


@dataclasses.dataclass(frozen=True)
class Named:
    """A preset, gradient or baseline with options of the caller's; the bounds of the input come from the problem."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, model: keras.Model, low: float, high: float, seed: int) -> Explain:
        """The method of a model; of one that takes tokens see `tokens`."""
        options, ids = dict(self.options), takes_tokens(model)
        if self.name in baselines.NAMES:
            if options:
                raise TypeError(f"the baseline {self.name!r} takes no options. Received: {sorted(options)}")
            return tokens.baseline(self.name, seed) if ids else baselines.get(self.name, seed=seed)
        if self.name in GRADIENTS:
            kind = getattr(gradients, self.name)
            options = {**GRADIENTS[self.name], **options}
            if "seed" in inspect.signature(kind).parameters:
                options.setdefault("seed", seed)
            return tokens.gradient(model, self.name, options) if ids else kind(model, **options)
        if ids and self.name in (*OTHERS, "gradient"):
            raise ValueError(f"{self.name} is a gradient, which ids of tokens do not have. Remedy: Gradient")
        if self.name in composites.PRESETS and composites.needs_bounds(self.name):
            options = {"low": low, "high": high, **options}
        return Explainer(model, self.name, **options)


def _built(
    model: keras.Model,
    one: str | Named | Composite | Rule | Callable[[keras.Model], Explain],
    low: float,
    high: float,
    seed: int,
) -> Explain:
    if isinstance(one, str):
        one = Named(one)
    if isinstance(one, Named):
        return one.of(model, low, high, seed)
    if isinstance(one, (Composite, Rule)):
        return Explainer(model, one)
    return one(model)


def _rules(explainer: Explainer) -> tuple[str, ...]:
    """What the composite chose for each step of the model."""
    return tuple(described(handler) for _, handler in explainer.clone.plan.every_step())
