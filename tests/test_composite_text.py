"""A composite as text: what `str` writes, `parse` reads."""

from __future__ import annotations

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import lrp_tf
from lrp_tf import composites, flows, rules
from lrp_tf.composites import activation, at, first, first_n, last, named, of_type, parse, span, words

kl = keras.layers


@keras.saving.register_keras_serializable("text_test")
class Registered(kl.Layer):
    pass


class Unregistered(kl.Layer):
    pass


class OwnRule(rules.Epsilon):
    pass


(MOVED,) = words.options_of(flows.Move)


def again(composite: composites.Composite) -> composites.Composite:
    return parse(str(composite))


def entry(match=None, rule=None) -> composites.Composite:
    return composites.Composite([(match, rules.Flat() if rule is None else rule)])


# --- there and back ----------------------------------------------------------------------------


def test_the_text_of_the_issue() -> None:
    composite = parse("first: flat; Conv2D: gamma 0.25; Dense: epsilon", "mine")
    entries = [(first(), rules.Flat()), (of_type(kl.Conv2D), rules.Gamma(0.25)), (of_type(kl.Dense), rules.Epsilon())]
    assert repr(composite) == repr(composites.Composite(entries, "mine"))
    assert composite == composites.Composite(entries)
    assert str(composite) == "first: flat; Conv2D: gamma 0.25; Dense: epsilon 1e-06"


@pytest.mark.parametrize("name", composites.PRESETS)
def test_every_preset(name: str) -> None:
    options = {"low": [-1, 0.5, 0], "high": 1.5} if composites.needs_bounds(name) else {}
    composite = composites.get(name, **options, zero_bias=True)
    assert repr(again(composite).entries) == repr(composite.entries)
    assert again(composite) == composite
    assert "<" not in str(composite)


OTHER = {
    "epsilon": [0, 0.1, 1 / 3, rules.Relative(0.25), rules.Relative(1)],
    "stabilizer": [0, 1e-9, 3, rules.Relative(1 / 7)],
    "low": [-1, [-1, -2.5, 0.0], 1e-3],
    "high": [2, [1, 2.5, 3e5], 7.25],
    "zero_bias": [True],
    "when_empty": ["magnitude", "uniform"],
    "gamma": [0, 0.1, 12345678.9],
}


def every_rule() -> list[rules.Rule]:
    """Each rule with each of its arguments at each of the values above."""
    found: list[rules.Rule] = [rules.AlphaBeta(1.5, 0.5), rules.AlphaBeta(1, 0, 1e-9, True, "uniform")]
    for cls in words.RULES.values():
        needed = {"low": 0, "high": 1e9} if "low" in words.options_of(cls) else {}
        found.append(cls(**needed))
        for field in words.options_of(cls).values():
            found += [cls(**needed | {field.name: v}) for v in OTHER.get(field.name, []) if cls is not rules.AlphaBeta]
    found += [rules.AlphaBeta(stabilizer=s, when_empty=w) for s in OTHER["stabilizer"] for w in OTHER["when_empty"]]
    return found


@pytest.mark.parametrize("rule", every_rule(), ids=repr)
def test_every_rule_with_every_argument(rule: rules.Rule) -> None:
    found = again(entry(rule=rule)).entries[0][1]
    assert type(found) is type(rule)
    assert repr(found) == repr(rule)
    for field in dataclasses.fields(rule):
        assert getattr(found, field.name) == getattr(rule, field.name)


def test_every_public_rule_has_a_word() -> None:
    public = {getattr(rules, name) for name in rules.__all__}
    known = {cls for cls in public if isinstance(cls, type) and issubclass(cls, rules.Rule)} - {rules.Rule}
    assert known <= set(words.RULES.values())


PATTERNS = [
    "block5_.*",
    "a:b;c",
    'say "x"',
    "it's",
    "\"'\"'",
    r"\d+\"\\",
    "a\nb",
    "",
    " ",
    "..",
    "=[1]",
    "first",
    "<lambda>",
    "über.*",
    '""',
    "#",
]


@pytest.mark.parametrize(
    "match",
    [
        None,
        *(make() for make in words.PHRASES.values()),
        at(3),
        at(-1),
        first_n(2),
        activation("relu"),
        activation("swish"),
        of_type(kl.Conv2D),
        of_type(kl.Conv2D, kl.Dense, Registered),
        of_type(kl.Layer),
        *(named(pattern) for pattern in PATTERNS),
        span(2, 5),
        span(-3, -1),
        span("a..b", 'c"'),
        *(span(pattern, 3) for pattern in PATTERNS),
        span(first(), last()),
        span(first_n(3), at(5)),
        span(named("x:y"), of_type(kl.Conv2D, kl.Dense)),
        span(of_type(Registered), activation("gelu")),
        span(composites.first_convolution(), span(span(1, 2), 3)),
    ],
    ids=repr,
)
def test_every_matcher(match) -> None:
    composite = entry(match)
    assert repr(again(composite).entries) == repr(composite.entries)
    assert again(composite) == composite
    assert str(again(composite)) == str(composite)


@pytest.mark.parametrize("name", words.FLOWS)
def test_every_flow(name: str) -> None:
    composite = entry(composites.max_pooling(), words.FLOWS[name]())
    assert str(composite) == f"max pooling: {name}"
    assert type(again(composite).entries[0][1]) is words.FLOWS[name]


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (flows.PassThrough(transparent=True), "PassThrough transparent=true"),
        (flows.Share("hull"), "Share bounds=hull"),
        (flows.Move((0, 1)), f"Move {MOVED}=[0, 1]"),
        (flows.GlobalWinnerTakesAll(smallest=True), "GlobalWinnerTakesAll smallest=true"),
    ],
    ids=repr,
)
def test_options_of_flows(flow, text) -> None:
    assert str(entry(rule=flow)) == f"all: {text}"
    assert vars(again(entry(rule=flow)).entries[0][1]) == vars(flow)


def test_flows_that_need_a_function_have_no_words() -> None:
    public = {name for name in flows.__all__ if isinstance(getattr(flows, name), type)}
    public = {name for name in public if issubclass(getattr(flows, name), flows.Flow)}
    assert public - set(words.FLOWS) == {"Flow", "Centered", "InputScaling"}


def test_an_array_of_one_axis_is_written_as_a_list() -> None:
    for low in (np.array([-1.0, 0.1], "float32"), (-1.0, 0.1), tf.constant([-1.0, 0.1])):
        composite = entry(rule=composites.InputZBox(low, np.float32(2)))
        found = again(composite).entries[0][1]
        np.testing.assert_array_equal(found.low, np.asarray(low))
        assert (found.high, again(composite)) == (2, composite)


def test_the_relevance_of_a_parsed_composite() -> None:
    model = keras.Sequential([
        keras.Input((6, 6, 2)),
        kl.Conv2D(3, 3, activation="relu", name="a"),
        kl.MaxPooling2D(),
        kl.Flatten(),
        kl.Dense(3, name="b"),
    ])  # fmt: skip
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 2)).astype("float32")
    composite = composites.get("tutorial", low=0.0, high=[1.0, 2.0])
    expected = lrp_tf.Explainer(model, composite)(x)
    np.testing.assert_array_equal(lrp_tf.Explainer(model, again(composite))(x), expected)
    assert np.abs(expected).max() > 0


# --- what people write -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("box 0 1", "box low=0 high=1"),
        ("box low=[0,1 , 2] high = 3", "box high=3 low=[0, 1, 2]"),
        ("alphabeta 2 1", "alphabeta"),
        ("alphabeta alpha=1 beta=0", "alphabeta 1 0"),
        ("gamma +.25 stabilizer=1E-9 zero_bias=true", "gamma 0.25 stabilizer=1e-9 zero_bias=true"),
        ("epsilon relative 0.25", "epsilon epsilon=relative(0.25)"),
        ("zplus when_empty='magnitude'", "zplus when_empty=magnitude"),
    ],
)
def test_ways_to_write_a_rule(text: str, same: str) -> None:
    assert parse(f"all:{text}") == parse(f"all : {same} ;")


def test_lines_and_semicolons_separate_entries() -> None:
    text = """
        first 3: flat
        named 'it''s: "a"; b': box low=[0,
                                        1] high=2;

        all: epsilon
    """
    composite = parse(text)
    assert [repr(match) for match, _ in composite.entries] == ["first_n(3)", repr(named('it\'s: "a"; b')), "None"]
    assert composite.entries[1][1].low == [0, 1]


# --- what cannot be written --------------------------------------------------------------------


def is_head(step) -> bool:
    return step.name == "head"


@pytest.mark.parametrize(
    ("composite", "shown"),
    [
        (entry(is_head), "<is_head>: flat"),
        (entry(lambda step: True), "<<lambda>>: flat"),
        (entry(composites.Match(lambda graph: [], "last()")), "<last()>: flat"),
        (entry(span(composites.Match(lambda graph: [], "mine"), 2)), "<span(mine, 2)>: flat"),
        (entry(of_type(Unregistered)), "<of_type(Unregistered)>: flat"),
        (entry(rule=rules.ZBox(np.zeros((2, 2)), 1.0)), "all: <ZBox(<array (2, 2)>, 1)>"),
        (entry(rule=OwnRule()), "all: <OwnRule(1e-06)>"),
        (composites.Composite([(None, rules.Flat())], canonizers=[is_head]), "all: flat; <canonizers: is_head>"),
    ],
    ids=str,
)
def test_what_has_no_words_is_shown_and_refused(composite, shown) -> None:
    assert str(composite) == shown
    with pytest.raises(ValueError, match=r"a part in <> has no words.*Received: '<.*Remedy: build the Composite"):
        again(composite)


def test_equality() -> None:
    assert entry(is_head) == entry(is_head)
    assert entry(is_head) != entry(lambda step: step.name == "head")
    assert entry(rule=rules.ZBox(np.zeros(2), 1.0)) != entry(rule=rules.ZBox(np.zeros(3), 1.0))  # their repr says less
    assert entry(first()) != entry(last())
    assert entry() != composites.Composite([])
    assert entry() != composites.Composite(entry().entries, canonizers=[is_head])
    assert entry() != "all: flat"
    assert len({entry(), entry(), entry(first())}) == 2


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frist: flat", r"entry 1 \('frist: flat'\): expected a matcher.* Received: 'frist'\. Did you mean 'first'\?"),
        ("all: flat; Conv2d: flat", r"entry 2 \('Conv2d: flat'\).*Received: 'Conv2d'\. Did you mean 'Conv2D'\?"),
        ("all: gama 0.5", r"expected a rule \(alphabeta, epsilon.*Received: 'gama'\. Did you mean 'gamma'\?"),
        ("all: maxasaverage", r"Did you mean 'MaxAsAverage'\?"),
        ("all: Gamma", r"Received: 'Gamma'\. Did you mean 'gamma'\?"),
        ("first conv: flat", r"expected ':' between .*Received: 'conv'\. Did you mean 'first convolution'\?"),
        ("max poling: flat", r"Did you mean 'max pooling'\?"),
        ("all flat", r"expected ':' between matcher and rule\. Received: 'flat'"),
        ("all:", r"expected a rule .*Received: the end of the entry"),
        (": flat", r"expected a matcher.*Received: ':'"),
        ("epsilon: flat", r"epsilon is a preset: composites\.get\('epsilon'\)"),
        ("all: gamma gama=1", r"an option of gamma: gamma, stabilizer.* Received: 'gama'\. Did you mean 'gamma'\?"),
        ("all: gamma 1 2", r"expected name=value with one of gamma, stabilizer, .*Received: '2'"),
        ("all: gamma 1 gamma=2", r"expected gamma once"),
        ("all: gamma stabilizer=1 stabilizer=1", r"expected stabilizer once"),
        ("all: alphabeta beta=1 2", r"expected name=value"),
        ("all: gamma x", r"expected a number for gamma\. Received: 'x'"),
        ("all: gamma relative 1", r"expected a number for gamma\. Received: 'relative'"),
        ("all: gamma [1]", r"expected a number for gamma\. Received: '\['"),
        ("all: gamma zero_bias=1", r"expected true or false for zero_bias\. Received: '1'"),
        ("all: gamma zero_bias=", r"expected true or false for zero_bias\. Received: the end"),
        ("all: gamma -1", r"entry 1 \('all: gamma -1'\): Gamma expects gamma >= 0"),
        ("all: alphabeta 3 1", r"alpha - beta = 1"),
        ("all: zplus when_empty=never", r"when_empty expects one of"),
        ("all: zplus when_empty=1", r"expected a word for when_empty\. Received: '1'"),
        ("all: epsilon relative", r"expected a number behind relative.*the end"),
        ("all: epsilon relative(1", r"expected '\)'"),
        ("all: epsilon relative -1", r"Relative expects a fraction >= 0"),
        ("all: epsilon : flat", r"expected a number or relative NUMBER for epsilon\. Received: ':'"),
        ("all: box", r"ZBox expects low and high"),
        ("all: box 1 0", r"low lies above high"),
        ("all: box [] 0", r"expected a number in the list.*Received: '\]'"),
        ("all: box [1 2] 0", r"expected ',' or '\]' in the list\. Received: '2'"),
        ("all: box [1, [2]] 0", r"expected a number in the list.*Received: '\['"),
        (f"all: Move {MOVED}=[0.5]", r"expected a list of whole numbers, as \[0\] for \w+\."),
        ("all: Identity 1", r"expected nothing behind Identity\. Received: '1'"),
        ("all: Identity a=1", r"an option of Identity: it has none"),
        ("all: flat flat", r"Received: 'flat'"),
        ("at first: flat", r"expected a whole number behind at\. Received: 'first'"),
        ("at 1.5: flat", r"expected a whole number behind at\. Received: '1.5'"),
        ("first 0: flat", r"first_n expects a number of linear steps, at least 1"),
        ("span 1: flat", r"expected '\.\.' between the ends of a span.*Received: ':'"),
        ("span 1..all: flat", r"expected an index, a name in quotes or a matcher of some steps.*Received: 'all'"),
        ("span (1..2: flat", r"Received: '1'"),
        ("named block: flat", r"expected a regular expression in quotes.*Received: 'block'"),
        ("named '(': flat", r"entry 1 .*named expects a regular expression"),
        ('named "a: flat', r"a second \" that closes the quotation\. Received: '\"a: flat'"),
        ("activation rellu: flat", r"activation expects a name of keras\.activations.*Did you mean 'relu'\?"),
        ("'conv1': flat", r'or named "\.\.\." for a layer'),
        ("'x>Missing': flat", r"registered with Keras"),
        ("Conv2D,: flat", r"Received: ':'"),
        ("all: flat!", r"expected words, numbers, .*Received: '!'"),
        ("", r"expected at least one entry.*Received: ''"),
        (" ; \n", r"expected at least one entry"),
    ],
)
def test_mistakes_name_the_piece_and_the_nearest_word(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse(text)
    assert str(raised.value).startswith("Composite text")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", [None, 3, ["first: flat"], b"first: flat"])
def test_text_is_a_string(text) -> None:
    with pytest.raises(TypeError, match=re.escape(f"Received: {text!r}")):
        parse(text)


def test_no_text_ends_in_another_error() -> None:
    """Whatever the characters, `parse` gives a composite or a ValueError."""
    spoken = "first all last dense at half of span named Conv2D flat gamma box relative low MaxAsAverage true é"
    pieces = [*spoken.split(), "1", "..", "-.5", '"a"', "'", ":", ";", "=", "[", "]", "(", ")", ",", "\n", "<"]
    generator = np.random.default_rng(0)
    read = 0
    for _ in range(3000):
        left, right = (" ".join(generator.choice(pieces, generator.integers(1, 4))) for _ in range(2))
        text = f"{left if generator.random() < 0.3 else 'all'} : {right}"
        try:
            composite = parse(text)
        except ValueError as error:
            assert str(error).startswith("Composite text")  # noqa: PT017
        else:
            read += 1
            assert again(composite) == composite
    assert read > 10
