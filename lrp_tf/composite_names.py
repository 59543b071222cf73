"""What names a composite: a preset with options, a text, the path of a .toml file. Needs no TensorFlow."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

# The modules that define these names need TensorFlow; a test compares both.
PRESETS = (
    *("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat"),
    *("epsilon_gamma_box", "epsilon_gamma_wsquare", "tutorial", "attn_lrp", "cp_lrp"),
)
FOR_TRANSFORMERS = ("attn_lrp", "cp_lrp")
WHEN_EMPTY = ("absorb", "magnitude", "uniform")


class NamedPreset(NamedTuple):
    """A preset's name and its options; `str()` writes them as on the command line, in one order."""

    name: str
    options: dict[str, object]

    def __str__(self) -> str:
        listed = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.name}:{listed}" if listed else self.name


class Written(NamedTuple):
    """A composite that is given by its text, or by the path of a .toml file."""

    text: str

    @property
    def is_file(self) -> bool:
        return self.text.endswith(".toml")


def composite(text: str) -> NamedPreset | Written:
    """A preset's name with options, the text of a composite, or the path of a .toml file.

    The first colon is followed by OPTION=VALUE if a preset is named, and by a rule in a text. Text and file are read
    later, since that needs TensorFlow.
    """
    name, colon, rest = text.partition(":")
    if text.endswith(".toml"):
        return Written(text)
    options = re.fullmatch(r"\s*[\w-]+\s*", name) and re.match(r"\s*($|\w+\s*=)", rest)
    if not colon or name.strip() in PRESETS or options:
        return preset(text)
    return Written(text)


def preset(text: str) -> NamedPreset:
    """NAME or NAME:OPTION=VALUE,...: values are numbers, true, false, words, lists as [-1,0,1], or relative(0.25)."""
    name, _, rest = text.partition(":")
    try:
        call = ast.parse(f"preset({rest})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(text)
        options = {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg is not None}
        if len(options) < len(call.keywords):  # **options, or one of them twice
            raise ValueError(text)
        return NamedPreset(name, options)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            "expected NAME or NAME:OPTION=VALUE,OPTION=VALUE, as in epsilon_gamma_box:gamma=0.5,low=-1,high=1; values "
            f"are numbers, true, false, lists such as [-1,0,1], relative(0.25), or one of {', '.join(WHEN_EMPTY)}. "
            f"Received: {text!r}"
        ) from error


class RelativeFactor(float):
    """The factor of a stabiliser that is relative, `rules.Relative`."""

    def __repr__(self) -> str:
        return f"relative({float(self)!r})"

    __str__ = __repr__


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id.lower() in ("true", "false"):
        return node.id.lower() == "true"
    if isinstance(node, ast.Name) and node.id in WHEN_EMPTY:
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.lower() == "relative":
        (factor,) = node.args
        return RelativeFactor(ast.literal_eval(factor))
    value = ast.literal_eval(node)
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, (bool, int, float)) for number in numbers):
        raise ValueError(value)
    return value


def name_of(one: NamedPreset | Written) -> str:
    """A composite as the command line has it."""
    return one.text if isinstance(one, Written) else str(one)
