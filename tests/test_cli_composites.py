"""--composite: the name of a preset, the text of a composite, or a .toml file."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.pictures import photo, photos

import lrp_tf
from lrp_tf import composites
from lrp_tf.cli import composite_option as parse
from lrp_tf.files import images

TEXT = "first: box -2 300; Dense: gamma 0.5; all: epsilon"
TOML = """
[[entry]]
match = "first"
rule = "box"
low = -2
high = 300
[[entry]]
match = "Dense"
rule = "gamma 0.5"
[[entry]]
match = "all"
rule = "epsilon"
"""
PRESET = """
from lrp_tf import composites, rules

@composites.register("of_mine")
def of_mine(gamma):
    return [(None, rules.Gamma(gamma))]

@composites.register("boxed")
def boxed(low, high):
    return [(composites.first(), composites.InputZBox(low, high)), (None, rules.Zero())]
"""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A module `presets_of_mine` in the folder of the command, whose presets are forgotten afterwards."""
    (tmp_path / "presets_of_mine.py").write_text(PRESET, encoding="utf-8")
    monkeypatch.setattr(composites.presets, "PRESETS", dict(composites.PRESETS))
    monkeypatch.setattr(composites, "PRESETS", composites.presets.PRESETS)
    monkeypatch.delitem(sys.modules, "presets_of_mine", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("epsilon", parse.NamedPreset("epsilon", {})),
        ("mine:gamma=1", parse.NamedPreset("mine", {"gamma": 1})),
        ("mine:", parse.NamedPreset("mine", {})),
        ("first: flat", parse.Written("first: flat")),
        ("first:flat", parse.Written("first:flat")),
        ("all: gamma gamma=1", parse.Written("all: gamma gamma=1")),
        ('named "a:b=1": flat', parse.Written('named "a:b=1": flat')),
        ("folder/mine.toml", parse.Written("folder/mine.toml")),
        (r"C:\mine.toml", parse.Written(r"C:\mine.toml")),
    ],
)
def test_name_text_and_file_are_told_apart(text, found) -> None:
    assert parse.composite(text) == found
    assert getattr(found, "is_file", False) == text.endswith(".toml")


def test_help_says_what_composite_takes(lrp) -> None:
    for command in ("explain", "summary", "report", "check", "export"):
        code, out, _ = lrp(command, "--help")
        assert code == 0
        assert "NAME[:OPTION=VALUE,...]|TEXT|FILE.toml" in out
        assert '"first: flat; Conv2D: gamma 0.25; Dense: epsilon"' in " ".join(out.split())


def test_every_command_takes_text_and_file(lrp, saved, tmp_path) -> None:
    photos(tmp_path / "in", 1)
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    x = images.Fit(32, 32, "squash").apply(photo(0))[None].astype("float32")
    expected = lrp_tf.Explainer(keras.models.load_model(saved), composites.parse(TEXT))(x)[0]
    for text, title in ((TEXT, TEXT), ("mine.toml", "mine")):
        code, out, err = lrp("summary", saved, "--composite", text)
        assert code == 0, err
        assert "ZBox(-2, 300)" in out
        assert "Gamma(0.5)" in out
        assert f"composite {title}, computed" in out
        arguments = ("--preprocess", "none", "--composite", text)
        code, out, err = lrp("report", saved, "in/photo0.png", *arguments)
        assert code == 0, err
        assert "ZBox(-2, 300)" in out
        code, out, err = lrp("check", saved, "in/photo0.png", *arguments)
        assert f"composite {title}" in out
        code, out, err = lrp("explain", saved, "in", *arguments, "--save-relevance", "--out", title[:4])
        assert code == 0, err
        assert f"composite {title}, 1 image(s)" in out
        np.testing.assert_allclose(np.load(f"{title[:4]}/photo0.npy"), expected, atol=1e-5 * np.abs(expected).max())
        settings = json.loads((tmp_path / title[:4] / "settings.json").read_text())
        assert composites.parse(settings["composite"]) == composites.parse(TEXT)  # of a file, what it held
        code, out, err = lrp("export", saved, f"served/{len(title)}", *arguments, "--no-warmup")
        assert code == 0, err
        assert "ZBox(-2, 300)" in (tmp_path / f"served/{len(title)}/assets.extra/lrp_tf.json").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frist: flat", "Composite text, entry 1 ('frist: flat'): expected a matcher"),
        ("all: gama", "Did you mean 'gamma'?"),
        ("nowhere.toml", "nowhere.toml"),
        ("odd.toml", "Composite file odd.toml: expected TOML. Received: "),
        ("named 'zz': flat; all: zero", "named('zz') -> Flat() of composite"),
    ],
)
def test_mistakes_take_one_line(lrp, saved, tmp_path, text, message) -> None:
    (tmp_path / "odd.toml").write_text("[[", encoding="utf-8")
    code, out, err = lrp("summary", saved, "--composite", text)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("lrp-tf: error: ")
    assert err.count("\n") == 1


def test_mistakes_of_a_text_come_before_the_model(lrp) -> None:
    code, _, err = lrp("summary", "nowhere.keras", "--composite", "all: gama")
    assert code == 2
    assert "Did you mean 'gamma'?" in err


def test_zero_bias_is_an_option_of_presets(lrp, saved) -> None:
    code, _, err = lrp("summary", saved, "--composite", "all: epsilon", "--zero-bias")
    assert code == 2
    assert "Received: --composite all: epsilon. Remedy: zero_bias=true behind its rules" in err
    assert "zero_bias=True" in lrp("summary", saved, "--composite", "all: epsilon zero_bias=true")[1]


def test_presets_are_listed_as_text(lrp) -> None:
    code, out, _ = lrp("composites")
    assert code == 0
    lines = out.splitlines()
    begin = lines.index("epsilon_plus_flat") + 1
    entries = [line.strip() for line in lines[begin : lines.index("epsilon_alpha2_beta1")]]
    assert entries[0] == "first convolution: flat"
    assert composites.parse("\n".join(entries)) == composites.get("epsilon_plus_flat")


def test_presets_of_the_user(lrp, saved, registry) -> None:
    code, out, err = lrp("composites", "--import", "presets_of_mine")
    assert code == 0, err
    assert "of_mine\n    Composite 'of_mine' needs the options gamma" in out
    assert "boxed\n    first: box low=0 high=1\n    all: zero\n" in out
    code, out, err = lrp("summary", saved, "--import", "presets_of_mine", "--composite", "of_mine:gamma=0.75")
    assert code == 0, err
    assert "Gamma(0.75)" in out
    code, out, err = lrp("summary", saved, "--import", "presets_of_mine", "--composite", "boxed")  # bounds are supplied
    assert code == 0, err
    assert "ZBox(0, 1)" in out
    code, _, err = lrp("summary", saved, "--import", "presets_of_mine", "--composite", "of_mine")
    assert code == 2
    assert "needs the options gamma" in err


def test_the_driver_of_vgg_offers_the_same() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "vgg/lrp.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "NAME[:OPTION=VALUE,...]|TEXT|FILE.toml" in done.stdout


def test_the_driver_of_mnist_takes_text_and_file(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "mnist"))
    import lrp as driver

    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    assert driver.make_composite(TEXT) == driver.make_composite(str(tmp_path / "mine.toml")) == composites.parse(TEXT)
    assert driver.make_composite("tutorial") == composites.get("tutorial", low=0.0, high=1.0)
    with pytest.raises(ValueError, match="Did you mean 'first'"):
        driver.make_composite("frist: flat")
    assert "NAME|TEXT|FILE.toml" in driver.make_parser().format_help()
