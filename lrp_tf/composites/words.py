"""The words of a composite's text, and entries written in them; `reader` reads what this file writes."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeGuard

import keras
import numpy as np

from lrp_tf import flows, rules
from lrp_tf.composites.bounds import InputZBox
from lrp_tf.composites.convolutional import (
    convolutions,
    dense_like,
    first_convolution,
    first_half_of_convolutions,
    first_quarter_of_convolutions,
)
from lrp_tf.composites.kinds import contractions, max_pooling, products, quotients
from lrp_tf.composites.match import Match, Predicate, activation, at, first, first_n, last, named, of_type, span

EVERY = "all"
PHRASES: dict[str, Callable[[], Match]] = {
    "first": first,
    "last": last,
    "first convolution": first_convolution,
    "convolutions": convolutions,
    "first half of convolutions": first_half_of_convolutions,
    "first quarter of convolutions": first_quarter_of_convolutions,
    "dense": dense_like,
    "max pooling": max_pooling,
    "products": products,
    "quotients": quotients,
    "contractions": contractions,
}


def _public_rules() -> dict[str, type[rules.Rule]]:
    """The rules by the name of their class in small letters; `box` has the bounds of the model's input."""
    found = [getattr(rules, name) for name in rules.__all__]
    own = [c for c in found if isinstance(c, type) and issubclass(c, rules.Rule) and c is not rules.Rule]
    return {**{c.__name__.lower(): c for c in own}, "box": InputZBox}


RULES = _public_rules()


def _public_flows() -> dict[str, type[flows.Flow]]:
    """The flows that need no function to be made, by the name of their class."""
    found = {name: getattr(flows, name) for name in flows.__all__}
    bases = ("Flow", "Centered", "InputScaling")
    return {n: c for n, c in found.items() if isinstance(c, type) and issubclass(c, flows.Flow) and n not in bases}


FLOWS = _public_flows()

# What the value of an option may be, in words.
KINDS = {
    "number": "a number",
    "stabilizer": "a number or relative NUMBER",
    "flag": "true or false",
    "word": "a word",
    "bound": "a number or a list of numbers, as [-1, 0, 1]",
    "places": "a list of whole numbers, as [0]",
}


class Option(NamedTuple):
    """An option of a rule or flow. positional: its value may be given without its name."""

    name: str
    kind: str
    default: object
    positional: bool

    def fits(self, value: object) -> bool:
        """Whether a value that was read is of the option's kind."""
        if isinstance(value, list):
            numbers = bool(value) and all(map(is_number, value))
            whole = numbers and all(isinstance(v, int) for v in value)
            return whole if self.kind == "places" else numbers and self.kind == "bound"
        if isinstance(value, rules.Relative):
            return self.kind == "stabilizer"
        if is_number(value):
            return self.kind in ("number", "stabilizer", "bound")
        return (self.kind == "flag" and isinstance(value, bool)) or (self.kind == "word" and isinstance(value, str))


def options_of(cls: Callable[..., object]) -> dict[str, Option]:
    """The options of a rule or flow, in the order of its parameters."""
    fields = {field.name: field for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        always = name in fields and bool(fields[name].metadata.get("always"))
        found[name] = Option(name, _kind(name, parameter.default), parameter.default, always)
    return found


# The stabilizer of a composite's flows, which is written as if it were an option of one.
FLOW_EPSILON = Option("flow_epsilon", "stabilizer", None, False)


def _kind(name: str, default: object) -> str:
    if name in ("epsilon", "stabilizer"):
        return "stabilizer"
    if name in ("low", "high"):
        return "bound"
    if isinstance(default, bool):
        return "flag"
    if isinstance(default, str):
        return "word"
    return "number" if is_number(default) else "places"


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def layer_class(name: str) -> type | None:
    """The class of keras.layers with this name, or the one registered with Keras as "package>name"; or None."""
    found = getattr(keras.layers, name, None)
    if not isinstance(found, type):
        found = keras.saving.get_registered_object(name)
    return found if isinstance(found, type) and issubclass(found, keras.Layer) else None


# --- writing -----------------------------------------------------------------------------------


def written(match: Match | Predicate | None, handler: rules.Rule | flows.Flow) -> str:
    """An entry as text. A part that has no words is shown in <>, which `parse` refuses."""
    left, right = matcher_text(match), handler_text(handler)
    if left is None:
        left = f"<{match!r}>" if isinstance(match, Match) else f"<{getattr(match, '__name__', match)}>"
    return f"{left}: {f'<{handler!r}>' if right is None else right}"


def matcher_text(match: Match | Predicate | None) -> str | None:
    """A match as text, or None if it has no words."""
    if match is None:
        return EVERY
    if not isinstance(match, Match) or match.recipe is None:
        return None
    make, arguments = match.recipe
    for phrase, function in PHRASES.items():
        if make is function:
            return phrase
    if make in (at, first_n):
        return f"{'at' if make is at else 'first'} {arguments[0]}"
    if make is named:
        return f"named {quoted(arguments[0])}"
    if make is activation:
        return f"activation {arguments[0]}"
    if make is span:
        ends = [_end_text(end) for end in arguments]
        return None if None in ends else f"span {'..'.join(map(str, ends))}"
    classes = [_class_text(cls) for cls in arguments] if make is of_type else [None]
    return None if None in classes else ", ".join(map(str, classes))


def _end_text(end: int | str | Match) -> str | None:
    if isinstance(end, Match):
        text = matcher_text(end)
        if text is None or end.recipe is None:
            return None
        # A string would be taken for a name, and the dots of another span for those of this one.
        return f"({text})" if text.startswith('"') or end.recipe[0] is span else text
    return quoted(end) if isinstance(end, str) else str(end)


def _class_text(cls: type) -> str | None:
    if getattr(keras.layers, cls.__name__, None) is cls:
        return cls.__name__
    name = keras.saving.get_registered_name(cls)
    return quoted(name) if ">" in name and keras.saving.get_registered_object(name) is cls else None


def handler_text(handler: rules.Rule | flows.Flow) -> str | None:
    """A rule or flow as text, or None if it has no words."""
    cls = type(handler)
    words = {known: word for word, known in (*RULES.items(), *FLOWS.items())}
    if cls not in words:
        return None
    parts = list(_option_texts(handler))
    return None if None in parts else " ".join([words[cls], *map(str, parts)])


def _option_texts(handler: rules.Rule | flows.Flow) -> Iterator[str | None]:
    for option in options_of(type(handler)).values():
        value = getattr(handler, option.name, None)
        if not option.positional and type(value) is type(option.default) and value == option.default:
            continue
        text = value_text(option.kind, value)
        plain = option.positional and option.kind != "bound"
        yield text if text is None or plain else f"{option.name}={text}"


def value_text(kind: str, value: object) -> str | None:
    """The value of an option of this kind as text, or None if it cannot be written."""
    if kind == "stabilizer" and isinstance(value, rules.Relative):
        factor = _number_text(value.fraction)
        return None if factor is None else f"relative {factor}"
    if kind in ("number", "stabilizer"):
        return _number_text(value)
    if kind == "flag":
        return str(value).lower() if isinstance(value, bool) else None
    if kind == "word":
        return _word_text(value) if isinstance(value, str) else None
    several = isinstance(value, (list, tuple)) or len(getattr(value, "shape", ())) > 0
    return _list_text(value) if kind == "places" or several else _number_text(value)


def _word_text(value: str) -> str:
    plain = re.fullmatch(r"[^\W\d]\w*", value) and value not in ("true", "false", "relative")
    return value if plain else quoted(value)


def _number_text(value: object) -> str | None:
    """A number, exactly, without the .0 of a whole one."""
    if isinstance(value, np.generic) or (hasattr(value, "numpy") and hasattr(value, "shape")):
        value = np.asarray(value).item()
    if not is_number(value) or not math.isfinite(value):
        return None
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _list_text(values: object) -> str | None:
    """A list of numbers; None for anything else, an array of several axes too."""
    listed = list(values) if isinstance(values, (list, tuple)) else np.asarray(values).tolist()
    if not listed or not all(is_number(v) and math.isfinite(v) for v in listed):
        return None
    return f"[{', '.join(repr(v if isinstance(v, int) else float(v)) for v in listed)}]"


def quoted(text: str) -> str:
    """`text` in quotes. A quote in it is doubled; nothing else changes."""
    return '"' + text.replace('"', '""') + '"'
