"""Relevance as pictures: content, not just existence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lrp_tf import heatmap

WHITE, RED, BLUE = (255, 255, 255), (128, 0, 0), (0, 0, 76)


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_symmetric_around_zero() -> None:
    picture = heatmap.to_rgb(np.array([[-2.0, 0.0, 1.0, 2.0]]))
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 4, 3)
    assert tuple(picture[0, 1]) == WHITE
    assert tuple(picture[0, 3]) == RED
    assert tuple(picture[0, 0]) == BLUE
    assert picture[0, 2, 0] > picture[0, 2, 2]  # half-way up is red
    # A map and its negative have the same paleness.
    up, down = heatmap.to_rgb(np.array([[1.0, 0.5]])), heatmap.to_rgb(np.array([[-1.0, -0.5]]))
    assert up[0, 1, 1] == pytest.approx(down[0, 1, 1], abs=2)


def test_zero_map_is_white() -> None:
    assert (heatmap.to_rgb(np.zeros((4, 5, 3))) == 255).all()


def test_channels_are_summed() -> None:
    relevance = np.zeros((1, 2, 3))
    relevance[0, 0] = [1.0, -1.0, 0.0]
    relevance[0, 1] = [1.0, 1.0, 1.0]
    assert tuple(heatmap.to_rgb(relevance)[0, 0]) == WHITE
    assert tuple(heatmap.to_rgb(relevance)[0, 1]) == RED


def test_given_scale_clips() -> None:
    picture = heatmap.to_rgb(np.array([[1.0, 10.0, 0.0]]), scale=1.0)
    assert tuple(picture[0, 0]) == tuple(picture[0, 1]) == RED
    pale = heatmap.to_rgb(np.array([[1.0]]), scale=100.0)
    assert pale.min() > 240


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        heatmap.to_rgb(np.array([[value]]))


def test_batch_axis_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"R\[0\]"):
        heatmap.to_rgb(np.zeros((2, 4, 4, 1)))


def test_save_bare(tmp_path: Path) -> None:
    relevance = np.array([[0.0, 1.0], [-1.0, 0.0]])
    path = heatmap.save(tmp_path / "bare.png", relevance)
    np.testing.assert_array_equal(read(path), heatmap.to_rgb(relevance))
    assert [p.name for p in tmp_path.iterdir()] == ["bare.png"]


def test_save_beside_image(tmp_path: Path) -> None:
    image, relevance = np.zeros((10, 10, 1)), np.zeros((10, 10, 1))
    image[:, 5:] = 1.0
    relevance[:5] = 2.0
    path = heatmap.save(tmp_path / "both.png", relevance, image=image, title="two\nlines")
    picture = read(path)
    height, width = picture.shape[:2]
    assert width > 1.5 * height
    middle = height - 105  # the tiles are 200 pixels high and end near the bottom
    row = picture[middle]
    assert (row[: width // 4 - 10].mean(), row[width // 4 + 10 : width // 2 - 20].mean()) == (
        pytest.approx(0, abs=30),
        pytest.approx(255, abs=5),
    )
    column = picture[:, width * 3 // 4]
    assert (column == RED).all(axis=1).sum() == pytest.approx(100, abs=6)  # the upper half of the heatmap
    assert (picture[:30] < 100).any()  # the title


def test_grid_holds_every_picture(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    tiles = [np.full((4, 4, 3), c, np.uint8) for c in colours]
    path = heatmap.grid(
        tmp_path / "g.png", [tiles[:3], [*tiles[3:], None]], titles=["a", ["b", "c"]], labels=list("12345")
    )
    picture = read(path).reshape(-1, 3)
    areas = [(picture == c).all(axis=1).sum() for c in colours]
    assert min(areas) > 190 * 190
    with pytest.raises(ValueError, match="at least one"):
        heatmap.grid(tmp_path / "h.png", [])


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = heatmap.save(tmp_path / "a.png", np.ones((2, 2)))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="image"):
        heatmap.save(path, np.ones((2, 2)), image=np.zeros((2, 2, 7)))
    with pytest.raises(ValueError, match="suffix"):
        heatmap.save(tmp_path / "noname", np.ones((2, 2)))
    with pytest.raises(Exception, match=r"(?i)format|extension|writer"):
        heatmap.save(tmp_path / "a.nosuch", np.ones((2, 2)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_image_ranges() -> None:
    assert heatmap.image_to_rgb(np.array([[0, 255]], np.uint8)).tolist() == [[[0] * 3, [255] * 3]]
    assert heatmap.image_to_rgb(np.array([[0.0, 0.5, 1.0]])).tolist()[0][1] == [128] * 3
    stretched = heatmap.image_to_rgb(np.array([[-1.0, 0.0, 1.0]]))
    assert stretched[0, 0, 0] == 0
    assert stretched[0, 2, 0] == 255
