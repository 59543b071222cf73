"""The settings that are tried: parameters for each part of a net, as a grid in words, and the composites they make."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from lrp_tf import composites, flows, rules
from lrp_tf.composites import Composite
from lrp_tf.composites.bounds import InputZBox
from lrp_tf.evaluate.tuning.parts import PARTS, Parts
from lrp_tf.rules.boxes import Bound

Value: TypeAlias = float | bool | str | rules.Relative
Grid: TypeAlias = Mapping[str, object] | Sequence[str] | str

PARAMETERS = ("rule", "gamma", "epsilon", "zero_bias", "pooling")
RULES = ("flat", "wsquare", "jointwsquare", "box", "epsilon", "zplus", "alphabeta", "gamma")
POOLINGS = ("max", "average")
_USUAL = "0,0.01:1:log4"  # gamma of a half, if nobody says what varies
_BASE: dict[str, Value] = {"gamma": 0.25, "epsilon": 1e-6, "zero_bias": False}
_READS = {
    "gamma": ("gamma",),
    "epsilon": ("epsilon",),
    "zero_bias": ("epsilon", "zplus", "alphabeta", "gamma", "jointwsquare"),
}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One parameter that varies.

    Attributes:
        name: as the user wrote it, "gamma" or "gamma.lower". parameter, part: its two halves; "" is every part.
        values: in the order that was given, none twice.
        bounds: of a range, with whether it is logarithmic; None: there was none.
    """

    name: str
    parameter: str
    part: str
    values: tuple[Value, ...]
    bounds: tuple[float, float, bool] | None = None

    @property
    def numeric(self) -> bool:
        """Whether its values lie on an axis of numbers."""
        return all(isinstance(value, float) for value in self.values)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A composite that is tried.

    Attributes:
        name: its settings as text, or the name of a preset.
        settings: name of an axis -> value; empty for a preset.
    """

    name: str
    composite: Composite
    settings: Mapping[str, Value]


class Space:
    """Everything that may be tried on one net.

    Args:
        grid: axes as texts, "gamma.lower=0,0.01:1:log7 epsilon=1e-6,0.1", or as name -> values; None: gamma in the
            lower and the upper half; epsilon where there are no halves.
        parts: of the net.
        low, high: bounds of the model's input, for the rule "box".

    Raises:
        ValueError: not a grid, see `axes_of`; an axis that changes nothing; the rule "box" without bounds.
        TypeError: values that are neither text nor numbers.
    """

    def __init__(self, grid: Grid | None, parts: Parts, low: Bound = None, high: Bound = None) -> None:
        self.axes = axes_of(_usual_grid(parts) if grid is None else grid)
        self.parts, self._low, self._high = parts, low, high
        for axis in self.axes:
            if axis.part and not parts.count(axis.part):
                raise ValueError(
                    f"grid: {axis.name} has no effect, since this model has no steps in its part {axis.part!r}. "
                    f"Expected parts of it: {', '.join(part for part in PARTS if parts.count(part))}"
                )
            if axis.parameter == "pooling" and not parts.pools:
                raise ValueError(
                    "grid: pooling has no effect, since this model has no max pooling. Remedy: leave it out"
                )
            if axis.parameter == "rule" and "box" in axis.values and (low is None or high is None):
                raise ValueError(f"grid: {axis.name}=box needs the bounds of the model's input. Remedy: low=, high=")

    def candidates(self) -> list[Candidate]:
        """One for each point of the grid, in its order; of several that make the same composite, the first.

        Raises:
            ValueError: an axis changes no composite.
        """
        points = list(itertools.product(*(axis.values for axis in self.axes)))
        made = [self.candidate(dict(zip((a.name for a in self.axes), point, strict=True))) for point in points]
        texts = {point: str(candidate.composite) for point, candidate in zip(points, made, strict=True)}
        for number, axis in enumerate(self.axes):
            rest: dict[tuple, set[str]] = {}
            for point, text in texts.items():
                rest.setdefault((*point[:number], *point[number + 1 :]), set()).add(text)
            if len(axis.values) > 1 and all(len(found) == 1 for found in rest.values()):
                raise ValueError(
                    f"grid: {axis.name} has no effect: no rule of that part reads it. Expected, as in "
                    f"rule.{axis.part or 'lower'}={_READS.get(axis.parameter, RULES)[0]}, a rule that does"
                )
        known: dict[str, Candidate] = {}
        for candidate in made:
            known.setdefault(str(candidate.composite), candidate)
        return list(known.values())

    def candidate(self, settings: Mapping[str, Value]) -> Candidate:
        """The composite of these settings, name of an axis -> value; what they leave open has its default."""
        chosen = {part: self._rule(part, settings) for part in PARTS}
        name = " ".join(f"{key}={written(value)}" for key, value in settings.items())
        entries = self.parts.entries(chosen)
        if settings.get("pooling") == "average":
            entries = [(composites.max_pooling(), flows.MaxAsAverage()), *entries]
        return Candidate(name, Composite(entries, name or "base"), dict(settings))

    def _rule(self, part: str, settings: Mapping[str, Value]) -> rules.Rule:
        def value(parameter: str, default: Value) -> Value:
            return settings.get(f"{parameter}.{part}", settings.get(parameter, default))

        kind = str(value("rule", self.parts.usual_rule(part)))
        epsilon, zero_bias = value("epsilon", _BASE["epsilon"]), bool(value("zero_bias", False))
        if kind == "epsilon":
            assert not isinstance(epsilon, (str, bool))
            return rules.Epsilon(epsilon, zero_bias)
        if kind == "gamma":
            gamma = value("gamma", _BASE["gamma"])
            assert isinstance(gamma, float)
            return rules.Gamma(gamma, zero_bias=zero_bias)
        if kind == "box":
            return InputZBox(self._low, self._high)
        if kind in ("zplus", "alphabeta"):
            return (rules.ZPlus if kind == "zplus" else rules.AlphaBeta)(zero_bias=zero_bias)
        if kind == "jointwsquare":
            return rules.JointWSquare(zero_bias=zero_bias)
        return rules.Flat() if kind == "flat" else rules.WSquare()

    def coarse_to_fine(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The same candidates, ordered so that any number of the first ones are spread over the grid."""
        places = np.array([
            [a.values.index(c.settings[a.name]) / max(len(a.values) - 1, 1) for a in self.axes] for c in candidates
        ])  # fmt: skip
        left = list(range(len(candidates)))
        order: list[int] = []
        distance = np.abs(places - 0.5).sum(axis=1)
        while left:
            # The middle first, then whatever lies farthest from all before it.
            pick = min(left, key=lambda i: (round(distance[i], 9) if not order else -round(distance[i], 9), i))
            own = np.abs(places - places[pick]).sum(axis=1)
            distance = own if not order else np.minimum(distance, own)
            order.append(pick)
            left.remove(pick)
        return [candidates[i] for i in order]


def _usual_grid(parts: Parts) -> Grid:
    """Gamma of both halves; of a net that has none, epsilon."""
    halves = [part for part in ("lower", "upper") if parts.count(part)]
    return {f"gamma.{part}": _USUAL for part in halves} or {"epsilon": "1e-6,0.001:1:log4"}


def axes_of(grid: Grid) -> list[Axis]:
    """The axes of a grid.

    Raises:
        ValueError: an unknown parameter, part, rule or word; values out of range; a name that comes twice.
        TypeError: values that are neither text nor numbers.
    """
    if isinstance(grid, str):
        grid = grid.split()
    pairs: list[tuple[str, object]] = []
    if isinstance(grid, Mapping):
        pairs = list(grid.items())
    else:
        for text in grid:
            name, equals, values = str(text).partition("=")
            if not equals or not values:
                raise ValueError(
                    f"grid expects NAME=VALUE,VALUE,... as in gamma.lower=0,0.01:1:log7. Received: {text!r}"
                )
            pairs.append((name.strip(), values))
    found = [_axis(name, values) for name, values in pairs]
    names = [axis.name for axis in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"grid names {twice[0]!r} twice. Expected each once, with all of its values")
    for axis in found:
        if not axis.part and any(other.parameter == axis.parameter and other.part for other in found):
            raise ValueError(
                f"grid has {axis.name} for every part and for one of them. Expected one of both. Received: {names}"
            )
    if not found:
        raise ValueError("grid expects one parameter at least, as gamma=0,0.01:1:log7. Received: none")
    return found


def _axis(name: str, given: object) -> Axis:
    parameter, dot, part = name.partition(".")
    if parameter == "pooling" and dot:
        raise ValueError(f"grid expects pooling for the whole net. Received: {name!r}. Remedy: pooling=max,average")
    for word, known in ((parameter, PARAMETERS), (part, PARTS if dot else ("",))):
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"grid expects {' or '.join(PARAMETERS)}, for one part with .{' or .'.join(PARTS)} behind it. "
                f"Received: {name!r}.{hint}"
            )
    listed: list[object] = list(given.split(",")) if isinstance(given, str) else _listed(given)
    values: list[Value] = []
    bounds = None
    for item in listed:
        ranged = _range(name, item) if isinstance(item, str) and ":" in item else None
        if ranged is not None:
            bounds = ranged[1]
        values += ranged[0] if ranged is not None else [_value(name, parameter, item)]
    for value in values:
        _check(name, parameter, value)
    return Axis(name, parameter, part, tuple(dict.fromkeys(values)), bounds)


def _listed(given: object) -> list[object]:
    if isinstance(given, (bool, int, float, rules.Relative)):
        return [given]
    if isinstance(given, (list, tuple, np.ndarray)) and len(given):
        return list(given)
    raise TypeError(f"grid expects a list of values for each parameter, or its text. Received: {given!r}")


def _range(name: str, text: str) -> tuple[list[Value], tuple[float, float, bool]]:
    """BEGIN:END:logN or BEGIN:END:linN, both ends included."""
    match = re.fullmatch(r"\s*([^:]+):([^:]+):(log|lin)(\d+)\s*", text)
    try:
        low, high = (float(match[1]), float(match[2])) if match else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    count = int(match[4]) if match else 0
    log = bool(match and match[3] == "log")
    if not (math.isfinite(low) and math.isfinite(high) and low < high and count >= 2 and (low > 0 or not log)):
        raise ValueError(
            f"grid: {name} expects a range as BEGIN:END:logN or BEGIN:END:linN, with BEGIN < END, N of 2 or more, and "
            f"log above 0. Received: {text!r}"
        )
    spaced = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
    return [float(f"{value:.4g}") for value in spaced], (low, high, log)


def _value(name: str, parameter: str, item: object) -> Value:
    if isinstance(item, rules.Relative):
        return item
    text = str(item).strip().lower()
    if parameter in ("rule", "pooling"):
        return text
    if parameter == "zero_bias":
        if text not in ("true", "false"):
            raise ValueError(f"grid: {name} expects true or false. Received: {item!r}")
        return text == "true"
    relative = re.fullmatch(r"relative[ (]?\s*([^)]+)\)?", text)
    try:
        return rules.Relative(float(relative[1])) if relative else float(text)
    except ValueError as error:
        raise ValueError(
            f"grid: {name} expects numbers{', relative(0.25)' if parameter == 'epsilon' else ''} or ranges as "
            f"0.01:1:log7. Received: {item!r}"
        ) from error


def _check(name: str, parameter: str, value: Value) -> None:
    if parameter in ("rule", "pooling"):
        known = RULES if parameter == "rule" else POOLINGS
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"grid: {name} expects some of {', '.join(known)}. Received: {value!r}.{hint}")
    elif isinstance(value, rules.Relative):
        if parameter != "epsilon":
            raise ValueError(f"grid: {name} expects numbers. Received: {value!r}")
    elif isinstance(value, float) and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"grid: {name} expects numbers of 0 and above. Received: {value!r}")


def written(value: Value) -> str:
    """A value as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, rules.Relative):
        return f"relative({value.fraction:g})"
    return value if isinstance(value, str) else f"{value:g}"


def presets_without_bounds() -> list[Candidate]:
    """The presets for nets that are no transformers and that need no bounds of the input."""
    names = [n for n in composites.PRESETS if not composites.needs_bounds(n) and n not in composites.FOR_TRANSFORMERS]
    return [Candidate(name, composites.get(name), {}) for name in names]
