"""Beeswarms: a dot for each sample and feature, at its relevance, in the colour of its value."""

from __future__ import annotations

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from lrp_tf import heatmap

beeswarm = importlib.import_module("lrp_tf.heatmap.beeswarm")  # heatmap.beeswarm is the function
RNG = np.random.default_rng(3)


def drawn(monkeypatch: pytest.MonkeyPatch, *arguments: object, **more: object) -> Figure:
    """The figure that is written."""
    figures: list[Figure] = []
    monkeypatch.setattr(beeswarm, "write_figure", lambda path, figure: figures.append(figure))
    heatmap.beeswarm("b.png", *arguments, **more)
    return figures[0]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_high_values_that_speak_for_the_target_are_red_on_the_right(tmp_path: Path) -> None:
    values = RNG.normal(size=(200, 3))
    relevance = values * [0.1, 2.0, -0.5]  # the second feature is planted, the third speaks against
    path = heatmap.beeswarm(tmp_path / "b.png", relevance, values, ["small", "planted", "against"], title="a title")
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    picture = picture[:, : -beeswarm.BAR]
    red = (picture[..., 0] > 200) & (picture[..., 2] < 130)
    blue = (picture[..., 2] > 200) & (picture[..., 0] < 80)
    top, bottom = np.nonzero((red | blue).any(axis=1))[0][[0, -1]]
    edges = np.linspace(top, bottom + 1, 4).astype(int)
    spread = []
    for row, sign in enumerate((1, -1, 1)):  # planted, against, small
        here = slice(edges[row], edges[row + 1])
        right, left = np.nonzero(red[here])[1].mean(), np.nonzero(blue[here])[1].mean()
        assert sign * (right - left) > 5, row
        spread.append(np.ptp(np.nonzero((red | blue)[here])[1]))
    assert spread[0] > 2 * spread[1] > 4 * spread[2]


def test_features_are_sorted_and_the_rest_is_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    relevance = np.array([[1.0, -4.0, 0.0, 0.5], [1.0, 4.0, 0.25, -0.5]])
    figure = drawn(monkeypatch, relevance, np.ones((2, 4)), ["a", "$b", "c", "d"], "one\ntwo", 2)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["$b", "a"]
    assert "2 more features, sum of their mean |R| 0.625" in texts(figure)
    assert "one\ntwo" in texts(figure)
    places = [dots.get_offsets()[:, 0].tolist() for dots in axes.collections]
    assert places == [[-4, 4], [1, 1]]
    assert next(t.get_text() for t in drawn(monkeypatch, relevance, relevance).axes[0].get_yticklabels()) == "feature 1"


@pytest.mark.parametrize("scale", [1e-320, 1e-12, 1.0, 3e307])
def test_relevance_of_any_size_is_drawn_alike(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    shares = np.array([[-0.5, 0.25], [1.0, 0.25]])
    axes = drawn(monkeypatch, shares * scale, np.array([[1e308, 0], [-1e308, 0]])).axes[0]
    first = axes.collections[0].get_offsets()[:, 0]
    assert first[0] / first[1] == pytest.approx(-0.5, rel=1e-2)
    assert axes.get_xlim()[0] < 0 < axes.get_xlim()[1]
    np.testing.assert_array_equal(axes.collections[0].get_array(), [1, 0])
    np.testing.assert_array_equal(axes.collections[1].get_array(), [0.5, 0.5])  # all alike: neither high nor low


def test_colours_end_at_the_outer_twentieths(monkeypatch: pytest.MonkeyPatch) -> None:
    """One huge value leaves the others their colours; a rare value has the colour of an end all the same."""
    values = np.zeros((101, 2))
    values[:, 0] = np.arange(101)
    values[-1] = 1e9
    figure = drawn(monkeypatch, np.tile([2.0, 1.0], (101, 1)), values)
    shades, rare = (np.asarray(dots.get_array()) for dots in figure.axes[0].collections)
    assert shades[:6].tolist() == [0] * 6
    assert shades[[50, 95, 100]] == pytest.approx([0.5, 1, 1], abs=1e-3)
    assert rare[-1] == 1
    assert (rare[:-1] == 0).all()


@pytest.mark.parametrize("diameter", [2.0, 5.0])
@pytest.mark.parametrize("x", [RNG.uniform(0, 400, 60), np.full(5, 3.0), np.repeat([0.0, 1.0], 3), np.zeros(1)])
def test_no_dot_covers_another(x: np.ndarray, diameter: float) -> None:
    y = beeswarm.placed(x, diameter, 36.0)
    assert np.abs(y).max() + diameter / 2 <= 18
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(x))
    assert distance.min() >= diameter - 1e-9
    assert (y == 0).any()
    np.testing.assert_array_equal(y, beeswarm.placed(x, diameter, 36.0))


def test_full_rows_show_density() -> None:
    assert beeswarm.placed(np.zeros(8), 5.0, 36.0) is None
    x = np.concatenate([np.full(400, 1.0), np.full(100, 50.0), [99.0]])
    y = beeswarm.packed(x, 4.0, 36.0)
    assert np.ptp(y[:400]) == pytest.approx(32, rel=0.01)
    assert np.ptp(y[400:500]) == pytest.approx(8, rel=0.05)
    assert y[500] == 0


@pytest.mark.parametrize(("count", "told"), [(50, ""), (beeswarm.DRAWN + 1, "5000 of 5001 samples are drawn")])
def test_pictures_of_many_samples_do_not_grow(monkeypatch: pytest.MonkeyPatch, count: int, told: str) -> None:
    relevance = RNG.normal(size=(count, 2)) * [1, 0]
    figure = drawn(monkeypatch, relevance, relevance)
    assert told in texts(figure)
    dots = figure.axes[0].collections[1].get_offsets()
    assert len(dots) == min(count, beeswarm.DRAWN)
    assert np.abs(dots[:, 1] - 1).max() < 0.5  # within its row, though all have the same relevance
    assert bool(figure.axes[0].collections[0].get_rasterized()) == (count > 50)


def test_the_same_arrays_give_the_same_picture_in_every_format(tmp_path: Path) -> None:
    relevance = RNG.normal(size=(30, 4))
    first, second = (heatmap.beeswarm(tmp_path / f"{i}.png", relevance, relevance).read_bytes() for i in (1, 2))
    assert first == second
    for suffix in ("svg", "pdf", "webp"):
        assert heatmap.beeswarm(tmp_path / f"b.{suffix}", relevance, relevance).stat().st_size > 1000
    heatmap.beeswarm(tmp_path / "zero.png", np.zeros((1, 1)), np.zeros((1, 1)), ["long name " * 30])


@pytest.mark.parametrize(
    ("relevance", "values", "more", "message"),
    [
        (np.zeros(3), np.zeros(3), {}, r"\[N, F\].*\(3,\)"),
        (np.zeros((2, 3)), np.zeros((2, 2)), {}, r"\(2, 3\) and \(2, 2\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}, r"\(0, 3\)"),
        (np.full((1, 1), np.nan), np.zeros((1, 1)), {}, "finite relevance"),
        (np.zeros((1, 1)), np.full((1, 1), np.inf), {}, "finite values"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"names": ["a"]}, "2 names"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"top": 0}, "top"),
    ],
)
def test_wrong_beeswarms(tmp_path: Path, relevance: object, values: object, more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap.beeswarm(tmp_path / "b.png", relevance, values, **more)
    assert not list(tmp_path.iterdir())
