"""Reads the text of a composite: tokens, and a reader of one entry; `text.parse` has the grammar."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, NoReturn, TypeVar, cast

import keras

from lrp_tf import flows, rules
from lrp_tf.composites.composite import Entry
from lrp_tf.composites.match import End, Match, activation, at, first_n, named, of_type, span
from lrp_tf.composites.presets import PRESETS, Stabilizer
from lrp_tf.composites.words import EVERY, FLOW_EPSILON, FLOWS, KINDS, PHRASES, RULES, Option, layer_class, options_of

Kind = Callable[..., rules.Rule | flows.Flow]  # their classes
_T = TypeVar("_T")
_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
    | (?P<end>[;\r\n])
    | (?P<string>"(?:[^"]|"")*" | '(?:[^']|'')*')
    | (?P<number>[+-]?(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d]\w*)
    | (?P<mark>\.\.|[:=,()\[\]])""",
    re.VERBOSE,
)
_WITH_ARGUMENT = ("at", "first", "span", "named", "activation")
_MATCHERS = [EVERY, *PHRASES, *(word for word in _WITH_ARGUMENT if word not in PHRASES)]
_LAYERS = [name for name in dir(keras.layers) if name[0].isupper() and layer_class(name) is not None]
_SHOWN = 80  # characters of a text that a message repeats


class Token(NamedTuple):
    kind: str  # "end", "string", "number", "word" or "mark"
    text: str
    start: int
    end: int


def tokens_of(text: str, where: str) -> list[Token]:
    """The tokens of a text.

    Raises:
        ValueError: a character that begins none.
    """
    found, position = [], 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            _refuse_character(text[position:], where)
        if token.lastgroup != "space":
            found.append(Token(str(token.lastgroup), token.group(), position, token.end()))
        position = token.end()
    return found


def _refuse_character(rest: str, where: str) -> NoReturn:
    if rest[0] in "\"'":
        refuse(where, f"a second {rest[0]} that closes the quotation", short(rest))
    if rest[0] == "<":
        raise ValueError(
            f"{where}: a part in <> has no words: it is a function, an array of several axes, or a rule or flow of "
            f"your own. Received: {short(rest)}. Remedy: build the Composite in Python, or composites.register it."
        )
    refuse(where, "words, numbers, strings in quotes, and the signs : ; = , .. ( ) [ ]", short(rest))


def split(tokens: Iterable[Token]) -> list[list[Token]]:
    """The tokens of each entry; line breaks inside of brackets end none."""
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("[", "(")) - (token.text in ("]", ")"))
        if token.kind != "end":
            pieces[-1].append(token)
        elif token.text == ";" or depth <= 0:
            pieces.append([])
            depth = 0
    return [piece for piece in pieces if piece]


class Reader:
    """Reads the tokens of one entry, of a matcher or of a handler.

    Args:
        tokens: without those of kind "end".
        text: what they were, from the first to the last.
        where: the beginning of a message.
    """

    def __init__(self, tokens: list[Token], text: str, where: str) -> None:
        self.tokens, self.text, self.where = tokens, text, where
        self.position = 0

    @classmethod
    def of(cls, text: str, where: str) -> Reader:
        """A reader of a string in TOML."""
        where = f"{where} ({short(text)})"
        return cls([token for token in tokens_of(text, where) if token.kind != "end"], text, where)

    def setting(self) -> Stabilizer | None:
        """The value of `flow_epsilon = value`; None if the tokens are no setting."""
        option = FLOW_EPSILON
        if [token.text for token in self.tokens[:2]] != [option.name, "="]:
            return None
        self.position += 2
        value = self.value(option)
        self.finish()
        return cast(Stabilizer, value)

    def entry(self) -> Entry:
        match = self.matcher()
        if not self.took(":"):
            self.refuse("':' between matcher and rule", PHRASES, ahead=True)
        handler = self.handler()
        self.finish()
        return match, handler

    # --- matchers

    def matcher(self) -> Match | None:
        token = self.peek()
        if token is None or token.kind not in ("word", "string"):
            self.refuse(f"a matcher: {listed(_MATCHERS)}, or a class of keras.layers")
        if token.text == EVERY:
            self.position += 1
            return None
        if (phrase := self.phrase()) is not None:
            return PHRASES[phrase]()
        if token.kind == "word" and token.text in _WITH_ARGUMENT:
            self.position += 1
            return self.with_argument(token.text)
        return self.made(of_type, *self.classes())

    def phrase(self) -> str | None:
        """The longest phrase that the tokens begin with."""
        for phrase in sorted(PHRASES, key=len, reverse=True):
            words = phrase.split()
            ahead = self.tokens[self.position : self.position + len(words) + 1]
            counts = phrase == "first" and len(ahead) > 1 and ahead[1].kind == "number"  # first 3
            if [token.text for token in ahead[: len(words)]] == words and not counts:
                self.position += len(words)
                return phrase
        return None

    def with_argument(self, word: str) -> Match:
        if word == "span":
            begin = self.end_of_span()
            if not self.took(".."):
                self.refuse("'..' between the ends of a span, as span 2..5")
            return self.made(span, begin, self.end_of_span())
        if word in ("at", "first"):
            return self.made(at if word == "at" else first_n, self.integer(word))
        if word == "named":
            return self.made(named, self.take(("string",), 'a regular expression in quotes, as named "block5_.*"'))
        return self.made(activation, self.take(("word", "string"), "the name of an activation, as activation relu"))

    def end_of_span(self) -> End:
        token = self.peek()
        if token is not None and token.kind == "number":
            return self.integer("span")
        if token is not None and token.kind == "string":
            return self.take(("string",), "")
        bracket = self.took("(")
        match = self.matcher()
        if bracket and not self.took(")"):
            self.refuse("')'")
        if match is None:
            self.position -= 1
            self.refuse("an index, a name in quotes or a matcher of some steps as the end of a span")
        return match

    def classes(self) -> list[type]:
        found: list[type] = []
        while not found or self.took(","):
            token = self.peek()
            cls = None if token is None or token.kind not in ("word", "string") else layer_class(_content(token))
            if token is None or cls is None:
                expected = f"a matcher ({listed(_MATCHERS)}) or a class of keras.layers"
                if token is not None and token.kind == "string":
                    expected = 'the name "package>Class" of a class registered with Keras, or named "..." for a layer'
                elif token is not None and token.text in PRESETS:
                    expected += f"; {token.text} is a preset: composites.get({token.text!r})"
                self.refuse(expected, [*_MATCHERS, *_LAYERS], ahead=True)
            found.append(cls)
            self.position += 1
        return found

    # --- rules and flows

    def handler(self) -> rules.Rule | flows.Flow:
        make, values = self.call()
        return self.made(make, **passed(values))

    def call(self) -> tuple[Kind, dict[str, object]]:
        """The class of a rule or flow, and the options that are given."""
        known: dict[str, Kind] = {**RULES, **FLOWS}
        token = self.peek()
        if token is None or token.kind != "word" or token.text not in known:
            self.refuse(f"a rule ({listed(RULES)}) or the class of a flow", known)
        self.position += 1
        cls = known[token.text]
        options = options_of(cls)
        values: dict[str, object] = {}
        free = [option for option in options.values() if option.positional]
        by_name = False
        while self.peek() is not None:
            option = self.option(token.text, options)
            by_name = by_name or option is not None
            if option is None and (by_name or not free):
                self.refuse(f"name=value with one of {listed(options)}" if options else f"nothing behind {token.text}")
            option = option or free[0]
            if option.name in values:
                self.refuse(f"{option.name} once")
            free = [other for other in free if other is not option]
            values[option.name] = self.value(option)
        return cls, values

    def option(self, word: str, options: dict[str, Option]) -> Option | None:
        """The option that the next tokens, `name=`, name; None if they are others."""
        token, *rest = self.tokens[self.position : self.position + 2]
        if not rest or rest[0].text != "=":
            return None
        if token.text not in options:
            self.refuse(f"an option of {word}: {listed(options) or 'it has none'}", options)
        self.position += 2
        return options[token.text]

    def value(self, option: Option) -> object:
        begin = self.position
        value = self.any_value(option)
        if not option.fits(value):
            self.position = begin
            self.refuse(f"{KINDS[option.kind]} for {option.name}")
        return value

    def any_value(self, option: Option) -> object:
        token = self.peek()
        if token is None:
            self.refuse(f"{KINDS[option.kind]} for {option.name}")
        if token.text == "[":
            return self.numbers()
        self.position += 1
        if token.kind == "number":
            return _number(token.text)
        if token.text == "relative":
            bracket = self.took("(")
            factor = self.take(("number",), "a number behind relative, as relative 0.25")
            if bracket and not self.took(")"):
                self.refuse("')'")
            return self.made(rules.Relative, _number(factor))
        if token.text in ("true", "false"):
            return token.text == "true"
        if token.kind not in ("word", "string"):
            self.position -= 1
            self.refuse(f"{KINDS[option.kind]} for {option.name}")
        return _content(token)

    def numbers(self) -> list[float]:
        found: list[float] = []
        while not found or self.took(","):
            self.position += not found
            found.append(_number(self.take(("number",), "a number in the list, as [-1, 0, 1]")))
        if not self.took("]"):
            self.refuse("',' or ']' in the list")
        return found

    # --- tokens

    def peek(self) -> Token | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def took(self, mark: str) -> bool:
        """Whether this sign is next; if so, it is read."""
        token = self.peek()
        found = token is not None and token.kind == "mark" and token.text == mark
        self.position += found
        return found

    def take(self, kinds: Collection[str], expected: str) -> str:
        token = self.peek()
        if token is None or token.kind not in kinds:
            self.refuse(expected)
        self.position += 1
        return _content(token)

    def integer(self, word: str) -> int:
        token = self.peek()
        if token is None or not re.fullmatch(r"[+-]?\d+", token.text):
            self.refuse(f"a whole number behind {word}")
        self.position += 1
        return int(token.text)

    def finish(self) -> None:
        if self.peek() is not None:
            self.refuse("the end of the entry, or ';'")

    def made(self, make: Callable[..., _T], *arguments: object, **options: object) -> _T:
        return made(self.where, make, *arguments, **options)

    def refuse(self, expected: str, near: Iterable[str] = (), ahead: bool = False) -> NoReturn:
        """Raise ValueError; the hint is the nearest of `near` to the next word, with `ahead` to all up to the colon."""
        token = self.peek()
        shown = "the end of the entry" if token is None else repr(token.text)
        words = [self.text.split(":")[0].strip()] if ahead else []
        refuse(self.where, expected, shown, [*words, "" if token is None else token.text], near)


def made(where: str, make: Callable[..., _T], *arguments: object, **options: object) -> _T:
    """What `make` returns. If it refuses its arguments, the message names the entry."""
    try:
        return make(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def passed(values: dict[str, object]) -> dict[str, object]:
    """Options as rules and flows take them: positions are a tuple, bounds a list."""
    return {name: tuple(v) if isinstance(v, list) and name not in ("low", "high") else v for name, v in values.items()}


def _content(token: Token) -> str:
    """A token's text, without quotes."""
    if token.kind != "string":
        return token.text
    quote = token.text[0]
    return token.text[1:-1].replace(2 * quote, quote)


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def refuse(where: str, expected: str, received: str, words: Iterable[str] = (), near: Iterable[str] = ()) -> NoReturn:
    """Raise ValueError: what was expected, what came, and which of `near` is closest to one of `words`."""
    known = {word.lower(): word for word in near}
    close = [known[found] for word in words for found in difflib.get_close_matches(word.lower(), known, n=1)]
    hint = f" Did you mean {close[0]!r}?" if close and close[0] not in words else ""
    raise ValueError(f"{where}: expected {expected}. Received: {received}.{hint}")
