"""The named presets."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any

from lrp_tf import flows, rules
from lrp_tf.composites.bounds import InputZBox
from lrp_tf.composites.composite import Composite
from lrp_tf.composites.match import Match, dense_like, first, first_convolution, linear_steps
from lrp_tf.core.graph import Graph, Step


def _maxima(graph: Graph) -> list[Step]:
    return [s for s in graph.steps if isinstance(flows.lookup(s), flows.MAXIMA)]


def _convolutions(graph: Graph) -> list[Step]:
    return [s for s in linear_steps(graph) if s.linear.convolution]


def _first_half(graph: Graph) -> list[Step]:
    convolutions = _convolutions(graph)
    return convolutions[: math.ceil(len(convolutions) / 2)]


_FIRST_HALF = Match(_first_half, "first half of convolutions")
_MAXIMA = Match(_maxima, "max pooling")
_CONVOLUTION = Match(_convolutions, "convolutions")


def _preset(convolution: rules.Rule, dense: rules.Rule, ahead: tuple = ()) -> list:
    return [*ahead, (dense_like(), dense), (_CONVOLUTION, convolution), (None, dense)]


def _epsilon(epsilon=1e-6, zero_bias=False):
    dense = rules.Epsilon(epsilon, zero_bias)
    return _preset(dense, dense)


def _epsilon_plus(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return _preset(rules.ZPlus(stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias))


def _epsilon_plus_flat(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    flat = (first_convolution(), rules.Flat(stabilizer))
    return _preset(rules.ZPlus(stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias), (flat,))


def _epsilon_alpha2_beta1(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return _preset(rules.AlphaBeta(2.0, 1.0, stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias))


def _epsilon_alpha2_beta1_flat(epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return [
        (first_convolution(), rules.Flat(stabilizer)),
        *_epsilon_alpha2_beta1(epsilon, stabilizer, zero_bias, when_empty),
    ]


def _epsilon_gamma_box(low, high, gamma=0.25, epsilon=1e-6, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    box = (first(), InputZBox(low, high, stabilizer))
    return _preset(rules.Gamma(gamma, stabilizer, zero_bias, when_empty), rules.Epsilon(epsilon, zero_bias), (box,))


_RELATIVE = rules.Relative(0.25)


def _tutorial(low, high, gamma=0.25, epsilon=_RELATIVE, stabilizer=1e-6, zero_bias=False, when_empty="absorb"):
    return [
        (first(), InputZBox(low, high, stabilizer)),
        (_FIRST_HALF, rules.Gamma(gamma, stabilizer, zero_bias, when_empty)),
        (_CONVOLUTION, rules.Epsilon(epsilon, zero_bias)),
        (None, rules.Zero(stabilizer, zero_bias)),
        (_MAXIMA, flows.MaxAsAverage()),
    ]


PRESETS: dict[str, Callable[..., list]] = {
    "epsilon": _epsilon,
    "epsilon_plus": _epsilon_plus,
    "epsilon_plus_flat": _epsilon_plus_flat,
    "epsilon_alpha2_beta1": _epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": _epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": _epsilon_gamma_box,
    "tutorial": _tutorial,
}


def needs_bounds(name: str) -> bool:
    """Whether the preset takes `low` and `high`, the bounds of the model's input."""
    return "low" in inspect.signature(PRESETS[name]).parameters


def get(identifier: str | Composite | rules.Rule, **options: Any) -> Composite:
    """A composite from a preset's name, a `Composite`, or one `Rule` for every linear step.

    Args:
        identifier: one of `PRESETS`, or an instance.
        **options: of the preset: `epsilon` (of Epsilon), `stabilizer` (of the other rules), `zero_bias`, `when_empty`
            (see `rules.AlphaBeta`), `gamma`; `low` and `high`, the bounds of the model's input as fed, numbers or one
            per channel.

    Raises:
        ValueError: an unknown name, or bounds that are missing.
        TypeError: neither name, composite nor rule, or an option that the preset does not take.
    """
    if isinstance(identifier, str):
        if identifier not in PRESETS:
            near = difflib.get_close_matches(identifier, PRESETS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown composite. Expected one of {list(PRESETS)}. Received: {identifier!r}.{hint}")
        known = inspect.signature(PRESETS[identifier]).parameters
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"Composite {identifier!r} takes the options {', '.join(known)}. Received: {unknown}")
        if missing := {"low", "high"} & set(known) - {k for k, v in options.items() if v is not None}:
            raise ValueError(
                f"Composite {identifier!r} needs {' and '.join(sorted(missing, reverse=True))}, the bounds of the "
                f"model's input as fed: composites.get({identifier!r}, low=0.0, high=1.0) for images in [0, 1]. "
                f"Received: {options}"
            )
        return Composite(PRESETS[identifier](**options), identifier)
    if options:
        raise TypeError(
            f"Options go with a preset's name, as in get('epsilon', epsilon=0.1); an instance has its own. Expected no "
            f"options beside {identifier!r}. Received: {sorted(options)}"
        )
    if isinstance(identifier, Composite):
        return identifier
    if isinstance(identifier, rules.Rule):
        return Composite([(None, identifier)], repr(identifier))
    hint = f" Did you mean {identifier.__name__}()?" if isinstance(identifier, type) else ""
    raise TypeError(f"Expected a composite's name, a Composite or a Rule. Received: {identifier!r}.{hint}")
