"""What helps people to read heatmaps: smoothing, quantiles, magnitudes, palettes for overlays, resolution, bars."""

from __future__ import annotations

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import lrp_tf
from lrp_tf import heatmap
from lrp_tf.serving import saved_model

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
MAP = RNG.normal(size=(15, 25, 3))
WHITE, RED = (255, 255, 255), (128, 0, 0)
STYLES = ["side-by-side", "overlay", "heatmap"]


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


# --- smoothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 3), (28, 28), (224, 200)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 50.0, 1e9])
def test_smoothing_keeps_the_sum_up_to_the_border(shape: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng(1).normal(size=shape)
    values[0, 0] = values[-1, -1] = 1e3  # what an open border would lose
    got = heatmap.smooth(values, sigma)
    assert got.shape == shape
    np.testing.assert_allclose(got.sum(), values.sum(), rtol=1e-12)
    assert np.abs(got).max() <= np.abs(values).max() * (1 + 1e-12)


def test_smoothing_is_a_gaussian() -> None:
    point = np.zeros((41, 41))
    point[20, 20] = 1.0
    got = heatmap.smooth(point, 2.0)
    y, x = np.indices(point.shape) - 20
    want = np.exp(-(x**2 + y**2) / 8.0)
    np.testing.assert_allclose(got, want / want.sum(), atol=2e-6)
    kept = point.copy()
    np.testing.assert_array_equal(heatmap.smooth(point, 0), kept)
    np.testing.assert_array_equal(point, kept)
    np.testing.assert_allclose(heatmap.smooth(MAP[..., 0], 1e9), MAP[..., 0].mean(), atol=1e-4)


def test_auto_removes_the_lattice_of_a_stride() -> None:
    lattice = np.ones((64, 64))
    lattice[::2] *= 2.0
    lattice[:, ::2] *= 2.0
    for drawn in ({"smooth": "auto", "stride": 2}, {"smooth": 1}):
        flat = heatmap.to_rgb(lattice, cmap="gray", scale=4.0, **drawn)[4:-4, 4:-4, 0].astype(int)
        assert np.ptp(flat) <= 2
    assert np.ptp(heatmap.to_rgb(lattice, cmap="gray", scale=4.0)[..., 0].astype(int)) > 60


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("show", ["signed", "abs"])
def test_every_style_draws_the_smoothed_map(tmp_path: Path, style: str, show: str) -> None:
    """In the geometry of the relevance, after |R| and channels: as if the map had been given that way."""
    entries = np.abs(MAP) if show == "abs" else MAP
    ready = heatmap.smooth(heatmap.reduce_channels(entries), 1.5)
    drawn = {"image": PHOTO, "style": style, "show": show, "scale": "95%"}
    got = read(heatmap.save(tmp_path / "a.png", MAP, smooth=1.5, **drawn))
    want = read(heatmap.save(tmp_path / "b.png", ready, **drawn))
    np.testing.assert_array_equal(got, want)
    assert (got != read(heatmap.save(tmp_path / "c.png", MAP, **drawn))).any()


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"smooth": -1}, "0 or more.*-1"),
        ({"smooth": float("nan")}, "0 or more"),
        ({"smooth": float("inf")}, "0 or more"),
        ({"smooth": True}, "0 or more"),
        ({"smooth": "much"}, "'much'"),
        ({"smooth": "auto"}, "Remedy: stride=.*first_stride"),
        ({"smooth": "auto", "stride": 0}, "at least 1"),
        ({"show": "magnitude"}, 'show="signed" or "abs"'),
        ({"show": "abs", "cmap": "seismic"}, "begins at zero.*seismic.*magnitude"),
        ({"show": "abs", "cmap": "RdBu_r"}, "begins at zero"),
        ({"scale": "0%"}, "quantile"),
        ({"scale": "101%"}, "quantile"),
        ({"scale": "99"}, "quantile"),
        ({"scale": "nan%"}, "quantile"),
        ({"scale": -1.0}, "scale > 0"),
        ({"scale": "99%", "symmetric": False}, "symmetric=True"),
    ],
)
def test_mistakes(drawn: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap.to_rgb(MAP, **drawn)
    with pytest.raises(ValueError, match=message):
        heatmap.overlay(PHOTO, MAP, **drawn)


# --- scales ------------------------------------------------------------------------------------


def test_quantiles_of_what_is_not_zero() -> None:
    values = np.zeros((10, 100))
    values[0] = np.arange(1, 101) * np.where(np.arange(100) % 2, -1, 1)
    named = heatmap.to_rgb(values, scale="50%")
    np.testing.assert_array_equal(named, heatmap.to_rgb(values, scale=50.5))
    np.testing.assert_array_equal(heatmap.to_rgb(values, scale="100%"), heatmap.to_rgb(values))
    np.testing.assert_array_equal(heatmap.to_rgb(values, scale=" 99.5 %"), heatmap.to_rgb(values, scale=99.505))
    assert (heatmap.to_rgb(np.zeros((3, 3)), scale="99%") == 255).all()


def test_signals_take_quantiles(tmp_path: Path) -> None:
    line = np.arange(1.0, 101.0)
    named = read(heatmap.signal(tmp_path / "a.png", line, line, scale="50%", colorbar=True))
    np.testing.assert_array_equal(
        named, read(heatmap.signal(tmp_path / "b.png", line, line, scale=50.5, colorbar=True))
    )


def test_an_exported_model_refuses_quantiles(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no quantiles.*99%"):
        saved_model.export(lrp_tf.Explainer(keras.models.load_model(saved)), tmp_path / "1", scale="99%")


# --- magnitudes --------------------------------------------------------------------------------


def test_magnitudes_do_not_cancel() -> None:
    relevance = np.zeros((1, 3, 2))
    relevance[0, 1] = [3.0, -3.0]
    relevance[0, 2] = [-3.0, 0.0]
    assert (heatmap.to_rgb(relevance)[0, 1] == 255).all()
    shown = heatmap.to_rgb(relevance, show="abs")[0].astype(int)
    assert tuple(shown[0]) == WHITE
    assert shown[1].sum() < shown[2].sum() < 3 * 255  # twice as much is darker
    np.testing.assert_array_equal(shown, heatmap.to_rgb(-relevance, show="abs")[0])
    # Signs of neighbours do not cancel under the Gaussian either.
    checks = np.indices((16, 16)).sum(0) % 2 * 2.0 - 1.0
    assert heatmap.to_rgb(checks, smooth=3, scale=1.0).min() > 240
    assert np.ptp(heatmap.to_rgb(checks, smooth=3, scale=1.0, show="abs").reshape(-1, 3), axis=0).max() == 0
    texts = [t.get_text() for t in heatmap.figure(MAP, show="abs", scale=2.5, colorbar=True).axes[-1].get_yticklabels()]
    assert texts == ["0", "2.5"]


# --- overlays ----------------------------------------------------------------------------------


def differences(cmap: str | None, strength: float, show: str = "signed") -> np.ndarray:
    """CIELAB distance between photograph and overlay, for each grey."""
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    over = heatmap.overlay(grey, np.full((1, 256), strength), scale=1.0, cmap=cmap, show=show)
    lab = [cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) for picture in (grey, over)]
    return np.linalg.norm(lab[0] - lab[1], axis=-1)[0]


def test_overlays_stand_out_on_dark_and_on_light() -> None:
    for strength, least in ((1.0, 55), (-1.0, 55), (0.5, 27), (-0.5, 27), (0.2, 10), (-0.2, 10)):
        assert differences(None, strength).min() > least
        assert differences(None, abs(strength), "abs").min() > least
    # What is faint does not lie on the photograph as a haze.
    assert max(differences(None, sign * 0.02).max() for sign in (1, -1)) < 7
    # The two signs differ from one another as much.
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    up, down = (heatmap.overlay(grey, np.full((1, 256), sign)).astype(int) for sign in (1.0, -1.0))
    assert (up[..., 0] - up[..., 2]).min() > 100
    assert (down[..., 2] - down[..., 0]).min() > 100
    assert differences("seismic", -1.0).min() < 35  # why it is not the default


def test_the_bar_of_an_overlay_has_its_colours() -> None:
    bar = heatmap.figure(MAP, PHOTO, style="overlay", colorbar=True, scale=2.0, alpha=0.4).axes[-1]
    column = np.asarray(bar.images[0].get_array())[:, 0].astype(int)
    want = heatmap.overlay(np.full((1, 1), 128 / 255), np.full((1, 1), 2.0), scale=2.0, alpha=0.4)[0, 0]
    np.testing.assert_allclose(column[0], want, atol=1)
    np.testing.assert_allclose(column[128], 128, atol=12)


# --- resolution and bars -----------------------------------------------------------------------


def test_dpi_draws_finer_and_leaves_pixels_alone(tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (260, 300, 3), dtype=np.uint8)
    coarse, fine = (
        read(heatmap.save(tmp_path / "a.png", MAP, image=image, title="t", colorbar=True, dpi=dpi))
        for dpi in (100, 300)
    )
    assert fine.shape[:2] == tuple(3 * side for side in coarse.shape[:2])
    smaller = cv2.resize(fine, coarse.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(smaller - coarse).mean() < 3
    for style in ("overlay", "heatmap"):
        bare = [read(heatmap.save(tmp_path / "a.png", MAP, image=image, style=style, dpi=d)) for d in (100, 300)]
        np.testing.assert_array_equal(*bare)
    for wrong in (0, 9, 1e9, float("nan"), "fine", True):
        with pytest.raises(ValueError, match="dpi from 10 to 1200"):
            heatmap.save(tmp_path / "a.png", MAP, dpi=wrong)


def test_a_fine_picture_shows_the_pixels_of_a_large_photograph(tmp_path: Path) -> None:
    """900 pixels in a tile of 2 inches: at 450 dpi every one is there."""
    image = RNG.integers(0, 256, (90, 900, 3), dtype=np.uint8)
    picture = read(heatmap.grid(tmp_path / "g.png", [[image]], dpi=450))
    assert any(
        (picture[y, :][:, None] == image[45, 5:-5]).all(-1).any(0).mean() > 0.99 for y in range(picture.shape[0])
    )


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
@pytest.mark.parametrize("show", ["signed", "abs"])
def test_every_style_in_every_format(tmp_path: Path, suffix: str, show: str) -> None:
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    for style in STYLES:
        drawn = {"style": style, "show": show, "smooth": 0.7, "scale": "99%", "colorbar": True, "dpi": 150}
        path = heatmap.save(tmp_path / f"a.{suffix}", MAP, image=PHOTO, **drawn)
        assert path.read_bytes().startswith(magic)


def test_bars_below_the_pictures_of_a_grid(tmp_path: Path) -> None:
    tile = heatmap.to_rgb(MAP)
    bars = [None, heatmap.Bar((-2.0, 2.0), "seismic", 1.0), heatmap.Bar((0.0, 1e-5), "magnitude", 1.0)]
    plain = read(heatmap.grid(tmp_path / "a.png", [[tile] * 3]))
    barred = read(heatmap.grid(tmp_path / "b.png", [[tile] * 3], bars=bars))
    assert barred.shape == (plain.shape[0] + 32, *plain.shape[1:])
    strip = barred[-38:].astype(int)
    third = strip.shape[1] // 3
    assert (strip[:, :third] == 255).all()
    bar = strip[:, third : 2 * third]
    row = bar[np.argmax((bar[..., 2] - bar[..., 0] > 60).sum(1))]
    assert row[20, 2] > row[20, 0] + 60  # blue to the left, red to the right
    assert row[-30, 0] > row[-30, 2] + 60
