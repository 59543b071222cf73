"""Relevance as colours and as overlays: content, not just existence."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import ListedColormap

from lrp_tf import heatmap

WHITE, RED, BLUE = (255, 255, 255), (128, 0, 0), (0, 0, 76)
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (10, 14, 3), dtype=np.uint8)


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


def test_image_ranges() -> None:
    assert heatmap.image_to_rgb(np.array([[0, 255]], np.uint8)).tolist() == [[[0] * 3, [255] * 3]]
    assert heatmap.image_to_rgb(np.array([[0.0, 0.5, 1.0]])).tolist()[0][1] == [128] * 3
    stretched = heatmap.image_to_rgb(np.array([[-1.0, 0.0, 1.0]]))
    assert stretched[0, 0, 0] == 0
    assert stretched[0, 2, 0] == 255


# --- channels and colours ----------------------------------------------------------------------


def test_reductions_of_channels() -> None:
    relevance = np.array([[[1.0, -3.0, 1.0], [2.0, -1.0, 0.5]]], np.float32)
    for reduce, want in (("sum", [-1.0, 1.5]), ("mean", [-1 / 3, 0.5]), ("absmax", [-3.0, 2.0])):
        got = heatmap.reduce_channels(relevance, reduce)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, [want])
    with pytest.raises(ValueError, match="absmax"):
        heatmap.reduce_channels(relevance, "max")
    with pytest.raises(ValueError, match="shape"):
        heatmap.reduce_channels(np.zeros((3, 0)))


def test_gamma_brings_out_faint_relevance() -> None:
    ramp = np.linspace(0, 1, 9)[None]
    whites = [heatmap.to_rgb(ramp, cmap="bwr", gamma=g)[0, :, 1].astype(int) for g in (0.5, 1.0, 2.0)]
    assert all((np.diff(white) < 0).all() for white in whites[:2])  # redder and redder
    assert (whites[0][1:-1] < whites[1][1:-1]).all()
    assert (whites[1][1:-1] < whites[2][1:-1]).all()
    assert {tuple(white[[0, -1]]) for white in whites} == {(255, 0)}  # the ends stay
    up, down = (heatmap.to_rgb(s * ramp, cmap="bwr", gamma=0.5) for s in (1, -1))
    np.testing.assert_array_equal(up, down[..., ::-1])
    with pytest.raises(ValueError, match="gamma > 0"):
        heatmap.to_rgb(ramp, gamma=0)


def test_asymmetric_spans_the_values() -> None:
    picture = heatmap.to_rgb(np.array([[2.0, 3.0, 4.0]]), cmap="gray", symmetric=False)
    assert picture[0, :, 0].tolist() == [0, 128, 255]
    assert (heatmap.to_rgb(np.full((2, 2), 7.0), symmetric=False) == 255).all()
    with pytest.raises(ValueError, match="symmetric=True"):
        heatmap.to_rgb(np.ones((1, 1)), scale=1.0, symmetric=False)


def test_our_palettes() -> None:
    ramp = np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]])
    want = {"coldnhot": [(0, 255, 255), (0, 0, 255), (0, 0, 0), (255, 0, 0), (255, 255, 0)]}
    for name, colours in want.items():
        assert np.abs(heatmap.to_rgb(ramp, cmap=name)[0].astype(int) - colours).max() <= 1
    dark, bright = (heatmap.to_rgb(ramp, cmap=name).astype(float) for name in ("lrp", "seismic"))
    np.testing.assert_allclose(dark, 0.85 * bright, atol=1)
    assert not {"lrp", "coldnhot"} & set(matplotlib.colormaps)


@pytest.mark.parametrize("name", heatmap.PALETTES)
def test_palettes_exist(name: str) -> None:
    assert heatmap.to_rgb(np.eye(3), cmap=name).shape == (3, 3, 3)


def test_colormap_objects_and_wrong_names() -> None:
    ramp = np.linspace(-1, 1, 7)[None]
    of_object = heatmap.to_rgb(ramp, cmap=matplotlib.colormaps["bwr"])
    np.testing.assert_array_equal(of_object, heatmap.to_rgb(ramp, cmap="bwr"))
    with pytest.raises(ValueError, match=r"'coldnhot'.*any matplotlib.*Did you mean 'seismic'"):
        heatmap.to_rgb(ramp, cmap="seismc")
    with pytest.raises(TypeError, match="Colormap"):
        heatmap.to_rgb(ramp, cmap=3)


def test_inputs_are_not_changed() -> None:
    relevance, image = RNG.normal(size=(4, 4, 3)), RNG.uniform(size=(4, 4, 4))
    kept = relevance.copy(), image.copy()
    heatmap.overlay(image, relevance, gamma=0.5, reduce="absmax")
    flat = relevance[..., 0]
    for made in (heatmap.reduce_channels(flat), heatmap.resize(flat, (4, 4)), heatmap.image_to_rgb(PHOTO)):
        assert not np.shares_memory(made, relevance)
        assert not np.shares_memory(made, PHOTO)
    np.testing.assert_array_equal(kept[0], relevance)
    np.testing.assert_array_equal(kept[1], image)


# --- images ------------------------------------------------------------------------------------


def test_rgba_lies_on_white() -> None:
    pixels = [[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 127]]]
    got = heatmap.image_to_rgb(np.array(pixels, np.uint8))
    assert got.tolist() == [[[255] * 3, [0] * 3, [255, 128, 128]]]
    np.testing.assert_array_equal(heatmap.image_to_rgb(np.array(pixels) / 255.0), got)
    np.testing.assert_array_equal(heatmap.image_to_rgb(np.array(pixels, np.float32)), got)
    with pytest.raises(ValueError, match="first three channels"):
        heatmap.image_to_rgb(np.full((1, 1, 4), -1.0))


def test_wrong_images_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"x\[0\].*moveaxis"):
        heatmap.image_to_rgb(np.zeros((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="finite image"):
        heatmap.image_to_rgb(np.array([[np.nan]]))


def test_resize() -> None:
    np.testing.assert_allclose(heatmap.resize([[0.0, 4.0]], (2, 4)), [[0, 1, 3, 4]] * 2)
    np.testing.assert_allclose(heatmap.resize(np.arange(8.0).reshape(2, 4), (1, 2)), [[2.5, 4.5]])
    np.testing.assert_allclose(heatmap.resize([[1.0, 3.0]], (3, 1)), [[2.0]] * 3)  # shrinks here, grows there
    large = heatmap.resize([[-2.0]], (6000, 8000))
    assert large.shape == (6000, 8000)
    np.testing.assert_allclose(heatmap.resize(large, (1, 1)), -2.0)
    for size in ((0, 3), (2.5, 3), (3,)):
        with pytest.raises(ValueError, match="height, width"):
            heatmap.resize([[1.0]], size)
    with pytest.raises(ValueError, match="reduce_channels"):
        heatmap.resize(np.zeros((2, 2, 3)), (4, 4))


def test_overlay_is_the_grey_photograph_where_relevance_is_zero() -> None:
    relevance = np.zeros((10, 14))
    relevance[2, 3], relevance[7, 9], relevance[5, 5] = 1.0, -1.0, 0.1
    got = heatmap.overlay(PHOTO, relevance, cmap="seismic")
    grey = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)
    empty = relevance == 0
    assert got.shape == PHOTO.shape
    assert (got[empty] == grey[empty][:, None]).all()
    np.testing.assert_allclose(got[2, 3], 0.4 * grey[2, 3] + 0.6 * np.array(RED), atol=1)
    np.testing.assert_allclose(got[7, 9], 0.4 * grey[7, 9] + 0.6 * np.array(BLUE), atol=1)
    np.testing.assert_array_equal(heatmap.overlay(PHOTO, relevance, alpha=0)[..., 0], grey)
    np.testing.assert_array_equal(heatmap.overlay(PHOTO, relevance, alpha=1, cmap="seismic")[2, 3], RED)
    with pytest.raises(ValueError, match="alpha"):
        heatmap.overlay(PHOTO, relevance, alpha=60)


def test_overlay_grows_more_opaque() -> None:
    black = np.zeros((1, 5))
    shown = heatmap.overlay(black, np.linspace(0, 1, 5)[None], cmap=ListedColormap(["white"] * 2))[0, :, 0]
    assert shown[0] == 0
    assert (np.diff(shown.astype(int)) > 0).all()
    stronger = heatmap.overlay(black, np.linspace(0, 1, 5)[None], cmap=ListedColormap(["white"] * 2), gamma=0.5)
    assert (stronger[0, 1:-1, 0] > shown[1:-1]).all()


def test_overlay_takes_the_geometry_of_the_image() -> None:
    got = heatmap.overlay(PHOTO, np.array([[1.0, -1.0]]), alpha=1).astype(int)
    assert got.shape == PHOTO.shape
    assert (got[:, 0, 0] > got[:, 0, 2]).all()
    assert (got[:, -1, 0] < got[:, -1, 2]).all()
