"""Plots of perturbation show what was measured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from lrp_tf import evaluate
from lrp_tf.evaluate import plots

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(-1, 1, size=(4, 12, 12, 3)).astype(np.float32)
R = RANDOM.normal(size=X.shape).astype(np.float32)


def predict(x: np.ndarray) -> np.ndarray:
    return np.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], axis=1)


FOUND = evaluate.perturb(predict, X, R, 0, order=["morf", "lerf"], steps=4, fill="mean", link="softmax")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures in the order in which they are written."""
    figures: list[Figure] = []
    write = plots.write_figure
    monkeypatch.setattr(plots, "write_figure", lambda path, figure: (figures.append(figure), write(path, figure))[1])
    return figures


def test_curves_are_means_with_their_error_or_medians_with_quartiles(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.curves(tmp_path / "a.png", FOUND, title="a title")
    plots.curves(tmp_path / "b.svg", {"mine": FOUND["morf"]}, band="quartiles", of="scores")
    (first,), (second,) = (figure.axes for figure in drawn)
    np.testing.assert_allclose(first.lines[0].get_ydata(), FOUND["morf"].probabilities.mean(0))
    np.testing.assert_allclose(first.lines[1].get_xdata(), FOUND["lerf"].fraction)
    error = FOUND["morf"].probabilities.std(0, ddof=1) / 2
    heights = first.collections[1].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(heights.max(), (FOUND["morf"].probabilities.mean(0) + error).max())
    assert f"{FOUND.srg().mean():.3f}" in first.get_legend().get_texts()[0].get_text()
    np.testing.assert_allclose(second.lines[0].get_ydata(), np.median(FOUND["morf"].scores, axis=0))
    assert second.get_legend().get_texts()[0].get_text() == "mine"
    assert second.get_ylabel() == "score of the target"
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_flips_per_step(tmp_path: Path, drawn: list[Figure]) -> None:
    curve = evaluate.perturb(predict, X, R, 0, schedule="squares", fill=0.0)
    plots.flips(tmp_path / "a.png", curve)
    heights = [bar.get_height() for bar in drawn[0].axes[0].patches]
    assert heights == [*range(1, 25, 2), 0]


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_strip_goes_from_whole_to_flipped(tmp_path: Path, axis: int) -> None:
    x, relevance = (np.moveaxis(values, -1, axis) for values in (X, R))
    steps = evaluate.perturb_steps(x, relevance, fill=0.0, steps=6, channel_axis=axis)
    made = cv2.imread(str(plots.strip(tmp_path / "a.png", steps, sample=2, pictures=3, channel_axis=axis)))
    height, width = made.shape[:2]
    assert width > 2.5 * height / 1.3
    tiles = np.array_split(made[:, :, ::-1].astype(float), 3, axis=1)
    colours = [len(np.unique(tile.reshape(-1, 3), axis=0)) for tile in tiles]
    assert colours[0] > 144 > colours[2]
    grey = (0 - X[2].min()) / np.ptp(X[2]) * 255
    np.testing.assert_allclose(tiles[2][height // 3, tiles[2].shape[1] // 2], grey, atol=1)


def test_the_panel_shows_picture_map_flipped_picture_and_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    steps = evaluate.perturb_steps(X, R, fill=0.0, steps=4)
    plots.panel(tmp_path / "a.png", steps, R, FOUND, sample=1, share=0.5, image=lambda sample: (sample + 1) / 2)
    picture, relevance, flipped, curve = drawn[0].axes
    pixels = [axes.images[0].get_array() for axes in (picture, relevance, flipped)]
    np.testing.assert_array_equal(pixels[0], np.rint((X[1] + 1) / 2 * 255))
    changed = (pixels[2] != pixels[0]).any(-1)
    assert 0.45 < changed.mean() <= 0.5
    assert flipped.get_title() == "50% of the regions flipped"
    np.testing.assert_allclose(curve.lines[-1].get_ydata(), FOUND["lerf"].probabilities[1])


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    read = evaluate.perturb_steps(X, R, steps=2)
    with pytest.raises(ValueError, match=r"sample expects 0 to 3. Received: 4"):
        plots.strip(path, read, sample=4)
    with pytest.raises(ValueError, match="no steps"):
        plots.strip(path, list(read)[:0])
    with pytest.raises(ValueError, match="pictures expects at least 2"):
        plots.strip(path, evaluate.perturb_steps(X, R), pictures=1)
    series = X.reshape(4, 144, 3)
    with pytest.raises(ValueError, match="expected pictures"):
        plots.strip(path, evaluate.perturb_steps(series, series, steps=2))
    with pytest.raises(ValueError, match="band expects"):
        plots.curves(path, FOUND, band="wide")
    scored = evaluate.Curve("morf", FOUND["morf"].scores, None, FOUND["morf"].flips, FOUND["morf"].regions)
    with pytest.raises(ValueError, match=r"curves of one kind.*Remedy: of=\"scores\""):
        plots.curves(path, {"a": FOUND["morf"], "b": scored})
    with pytest.raises(ValueError, match="expected a curve"):
        plots.curves(path, {})
    assert not path.exists()
