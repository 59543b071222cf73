"""Composites in TOML and in files."""

from __future__ import annotations

import keras
import pytest

from lrp_tf import composites, flows, rules
from lrp_tf.composites import load, parse, words

kl = keras.layers
TOML = """
name = "mine"

[[entry]]
match = "first"
rule = "box"
low = [-1.0, 0.5]
high = 2

[[entry]]
match = 'named "block5_.*"'
rule = "gamma 0.5"
zero_bias = true
when_empty = "magnitude"

[[entry]]
match = "max pooling"
rule = "MaxAsAverage"

[[entry]]
match = "Conv2D, Dense"
rule = "epsilon"
epsilon = "relative 0.25"

[[entry]]
match = "all"
rule = "epsilon 1e-6"
"""
TEXT = """first: box low=[-1.0, 0.5] high=2; named "block5_.*": gamma 0.5 zero_bias=true when_empty=magnitude
max pooling: MaxAsAverage; Conv2D, Dense: epsilon relative 0.25; all: epsilon 1e-6"""


def test_toml_says_what_text_says() -> None:
    assert parse(TOML) == parse(TEXT)
    assert repr(parse(TOML).entries) == repr(parse(TEXT).entries)
    assert (parse(TOML).name, parse(TOML, "other").name, parse(TEXT).name) == ("mine", "other", "composite")


def test_files(tmp_path) -> None:
    (tmp_path / "a.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "b.toml").write_text(TOML.replace('name = "mine"', ""), encoding="utf-8")
    (tmp_path / "c.txt").write_text(TEXT, encoding="utf-8")
    found = [load(tmp_path / "a.toml"), load(str(tmp_path / "b.toml")), load(tmp_path / "c.txt")]
    assert [composite.name for composite in found] == ["mine", "b", "c"]
    assert all(composite == parse(TEXT) for composite in found)
    assert load(tmp_path / "a.toml", "other").name == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[entry]]\nmatch = first", r"expected TOML\. Received: "),
        ('[[entry]]\nmatch = "first"', r'entry 1: expected rule = "\.\.\." in each \[\[entry\]\]'),
        ('[[entry]]\nrule = "flat"', r'entry 1: expected match = "\.\.\." in each'),
        ('[[entry]]\nmatch = 3\nrule = "flat"', r'expected match = "\.\.\." .*Received: 3'),
        ('[[entry]]\nmatch = "frist"\nrule = "flat"', r"entry 1 \('frist'\): .*Did you mean 'first'\?"),
        ('[[entry]]\nmatch = "first: flat"\nrule = "flat"', r"expected the end of the entry.*Received: ':'"),
        ('[[entry]]\nmatch = "all"\nrule = "gama"', r"entry 1 \('gama'\): .*Did you mean 'gamma'\?"),
        ('[[entry]]\nmatch = "all"\nrule = "gamma"\ngama = 1', r"options of gamma: gamma, .*Did you mean 'gamma'\?"),
        ('[[entry]]\nmatch = "all"\nrule = "gamma 1"\ngamma = 1', r"expected each option once\. Received: 'gamma'"),
        ('[[entry]]\nmatch = "all"\nrule = "gamma"\ngamma = "x"', r"expected gamma to be a number\. Received: 'x'"),
        ('[[entry]]\nmatch = "all"\nrule = "gamma"\ngamma = true', r"expected gamma to be a number\. Received: True"),
        ('[[entry]]\nmatch = "all"\nrule = "gamma"\ngamma = -1', r"entry 1: Gamma expects gamma >= 0"),
        ('[[entry]]\nmatch = "all"\nrule = "zplus"\nstabilizer = "x"', r"number or relative NUMBER.*Received: 'x'"),
        ('[[entry]]\nmatch = "all"\nrule = "zplus"\nstabilizer = "1 2"', r"expected the end .*Received: '2'"),
        ('[[entry]]\nmatch = "all"\nrule = "box"\nlow = [[1]]\nhigh = 2', r"expected low to be a number or a list"),
        ('nam = "x"\n[[entry]]\nmatch = "all"\nrule = "flat"', r"expected the keys .*'nam'\. Did you mean 'name'\?"),
        ('name = 3\n[[entry]]\nmatch = "all"\nrule = "flat"', r"expected name to be a string\. Received: 3"),
        ("entry = 3\n[[entry]]", r"expected TOML"),
        ("[[entrie]]\nmatch = 3", r"Received: 'entrie'\. Did you mean 'entry'\?"),
    ],
)
def test_mistakes_in_toml(text: str, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse(text)
    assert str(raised.value).startswith("Composite text")
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        load(tmp_path / "x.toml")
    assert str(raised.value).startswith(f"Composite file {tmp_path / 'x.toml'}")
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.toml")
    for content, message in ((b"", "expected tables"), (b"\xff\xfe", "expected text in UTF-8"), (b"all: flat", "TOML")):
        (tmp_path / "odd.toml").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "odd.toml")


def test_options_are_those_of_the_rule() -> None:
    composite = parse('[[entry]]\nmatch = "all"\nrule = "alphabeta"\nalpha = 1\nbeta = 0\nstabilizer = 1e-9')
    assert composite == composites.Composite([(None, rules.AlphaBeta(1, 0, 1e-9))])
    (moved,) = words.options_of(flows.Move)
    composite = parse(f'[[entry]]\nmatch = "Flatten"\nrule = "Move"\n{moved} = [0]')
    assert vars(composite.entries[0][1]) == {moved: (0,)}
