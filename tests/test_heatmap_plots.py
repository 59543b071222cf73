"""Relevance of signals and of tables: colours at their places, and what is left out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_tf import heatmap
from lrp_tf.heatmap import signals, tables

TIME = np.linspace(0, 1, 200)


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)


def redness(picture: np.ndarray) -> np.ndarray:
    """Red less blue of each pixel."""
    return picture[..., 0] - picture[..., 2]


def drawn(monkeypatch: pytest.MonkeyPatch, module: object) -> list[Figure]:
    """Collects the figures that a module writes."""
    figures: list[Figure] = []
    monkeypatch.setattr(module, "write_figure", lambda path, figure: figures.append(figure))
    return figures


# --- signals -----------------------------------------------------------------------------------


def test_signal_has_the_colours_of_its_relevance(tmp_path: Path) -> None:
    relevance = np.where(TIME < 0.3, 1.0, np.where(TIME > 0.7, -1.0, 0.0))
    picture = read(heatmap.signal(tmp_path / "s.png", relevance, np.sin(9 * TIME), x=TIME))[:, 71:879]
    third = picture.shape[1] // 3
    left, middle, right = (redness(picture[:, a : a + 200]) for a in (0, third + 30, 2 * third + 50))
    assert (left > 100).sum() > 400
    assert (right < -60).sum() > 400
    assert left.min() > -30
    assert right.max() < 30
    assert np.abs(middle).max() == 0
    # Without relevance the line is white with a grey edge.
    line = picture[20:-60, third + 30 : third + 230, 0]
    assert ((line < 215).sum(axis=0) >= 2).all()


def test_strip_below_is_to_rgb(tmp_path: Path) -> None:
    relevance = np.array([-2.0, -1.0, 0.0, 1.0])
    picture = read(heatmap.signal(tmp_path / "s.png", relevance, np.arange(4.0), gamma=0.5))
    row = picture[12 + 200 - 8]  # inside the strip, at the foot of the panel
    places = 70 + np.array([0.05, 1.0, 2.0, 2.95]) / 3 * 810
    want = heatmap.to_rgb(relevance[None], gamma=0.5)[0].astype(int)
    np.testing.assert_allclose(row[places.astype(int)], want, atol=2)


def test_long_signals_are_grey_where_nothing_is_relevant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white line with edges would be hidden by them; full colour stays as it is."""
    figures = drawn(monkeypatch, signals)
    relevance = np.zeros(signals.DENSE)
    relevance[10] = 1.0
    heatmap.signal("s.png", relevance, np.sin(np.arange(len(relevance))), cmap="bwr")
    axes = figures[0].axes[0]
    found = axes.collections[0].get_colors()
    np.testing.assert_allclose(found[0, :3], 160 / 255)
    np.testing.assert_allclose(found[10, :3], [1, 0, 0])
    assert len(axes.lines) == 1  # that of zero


def test_signal_has_a_panel_for_each_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch, signals)
    values = np.stack([TIME] * 3, axis=-1)
    heatmap.signal("s.png", values, values, names=["$a", "猫", "c"], title="$", colorbar=True)
    axes = figures[0].axes
    assert [a.get_ylabel() for a in axes] == ["$a", "?", "c", "relevance"]
    assert axes[0].collections[0].get_colors().shape == (200, 4)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_short_and_constant_signals(tmp_path: Path, length: int, suffix: str) -> None:
    heatmap.signal(tmp_path / f"s.{suffix}", np.zeros(length), np.full(length, 7.0), title="猫 $")
    heatmap.signal(tmp_path / f"s.{suffix}", np.ones(length), np.zeros(length), x=np.zeros(length))


@pytest.mark.parametrize(
    ("relevance", "values", "more", "message"),
    [
        (np.zeros((2, 5, 1)), np.zeros((2, 5, 1)), {}, r"R\[0\]"),
        (np.zeros(5), np.zeros(4), {}, "both"),
        (np.zeros((5, 17)), np.zeros((5, 17)), {}, r"16.*17.*R\[:, :16\]"),
        (np.full(5, np.nan), np.zeros(5), {}, "finite relevance"),
        (np.zeros(5), np.full(5, np.inf), {}, "finite values"),
        (np.zeros(5), np.zeros(5), {"x": np.zeros(4)}, "x of shape"),
        (np.zeros(5), np.zeros(5), {"names": ["a", "b"]}, "name for each"),
        (np.zeros(5), np.zeros(5), {"scale": -1}, "scale > 0"),
    ],
)
def test_wrong_signals(tmp_path: Path, relevance: object, values: object, more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap.signal(tmp_path / "s.png", relevance, values, **more)
    assert not list(tmp_path.iterdir())


# --- tables ------------------------------------------------------------------------------------


def test_table_sorts_and_sums_up_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch, tables)
    heatmap.table("t.png", [0.5, -3.0, 2.0, 0.25], ["a", "$b", "猫", "d"], values=[1.23456, "x", 3, None], top=2)
    axes: Axes = figures[0].axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["$b = x", "? = 3"]
    assert [t.get_text() for t in axes.texts] == ["−3", "+2"]
    assert "2 more features, sum +0.75" in [t.get_text() for t in figures[0].texts]
    heatmap.table("t.png", [1.0, 2.0], values=[0.123456, 2.0])
    assert [t.get_text() for t in figures[1].axes[0].get_yticklabels()] == ["feature 1 = 2", "feature 0 = 0.1235"]


def test_bars_are_red_for_and_blue_against(tmp_path: Path) -> None:
    picture = read(heatmap.table(tmp_path / "t.png", [1.0, -0.5], title="title $"))
    red, blue = redness(picture) > 80, redness(picture) < -80
    assert red.any(axis=0).sum() == pytest.approx(2 * blue.any(axis=0).sum(), abs=4)
    assert np.nonzero(blue)[1].max() <= np.nonzero(red)[1].min() + 2  # against to the left, for to the right
    assert np.nonzero(red)[0].mean() < np.nonzero(blue)[0].mean()  # the larger above


def test_mean_relevance_of_many_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of [N, F] the mean |R|: signs cancel nothing, and bars are neither red nor blue."""
    relevance = np.array([[1.0, -3.0, 0.0], [-1.0, -1.0, 0.5]])
    picture = read(heatmap.table(tmp_path / "t.png", relevance, ["a", "b", "c"]))
    assert not (np.abs(redness(picture)) > 80).any()
    figures = drawn(monkeypatch, tables)
    heatmap.table("t.png", relevance, ["a", "b", "c"], top=2)
    axes: Axes = figures[0].axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["b", "a"]
    assert [t.get_text() for t in axes.texts] == ["2", "1"]
    assert "1 more features, sum 0.25" in [t.get_text() for t in figures[0].texts]


def test_tables_of_any_numbers_and_names(tmp_path: Path) -> None:
    heatmap.table(tmp_path / "t.png", np.zeros(3))
    heatmap.table(tmp_path / "t.png", [1e-320, -1e300], ["a\nb", "long " * 90])
    assert max(read(tmp_path / "t.png").shape) < 1200


@pytest.mark.parametrize(
    ("relevance", "more", "message"),
    [
        (np.zeros((1, 3, 2)), {}, r"\[N, F\]"),
        (np.zeros((0, 3)), {}, r"\(0, 3\)"),
        (np.zeros((1, 3)), {"values": [1, 2, 3]}, r"R\[0\] and x\[0\]"),
        (np.zeros((1, 3)), {"names": ["a"]}, "3 names"),
        ([np.inf], {}, "finite"),
        ([1.0, 2.0], {"names": ["a"]}, "2 names"),
        ([1.0, 2.0], {"values": [1, 2, 3]}, "2 values"),
        ([1.0], {"top": 0}, "top"),
    ],
)
def test_wrong_tables(tmp_path: Path, relevance: object, more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap.table(tmp_path / "t.png", relevance, **more)
