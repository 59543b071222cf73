"""Volumes: `heatmap.save` and `figure` draw slices of them; `lrp-tf explain` of scans is in test_scans.py."""

import importlib.util
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.checking import refused
from helpers.pictures import rgb

from lrp_tf import heatmap
from lrp_tf.heatmap.orientation import views_of
from lrp_tf.heatmap.smoothing import smooth, smooth_volume
from lrp_tf.heatmap.volumes import window

RNG = np.random.default_rng(11)
SHAPE = (8, 12, 10)
AFFINE = np.array(
    [[0, 0, -2.0, 9], [0, 2.0, 0, 1], [5.0, 0, 0, 2], [0, 0, 0, 1]]
)  # slices stacked upwards, right first


def blob(depth=6, row=2, column=7):
    """Relevance of one voxel."""
    relevance = np.zeros(SHAPE)
    relevance[depth, row, column] = 1.0
    return relevance


def red(picture):
    """(rows, columns) of dark red, the colour of the largest relevance."""
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return np.nonzero((r > 100) & (g < 40) & (b < 40))


def frames(drawing):
    """The pictures of a figure: label -> its pixels."""
    return {axes.get_xlabel(): np.asarray(axes.images[0].get_array()) for axes in drawing.axes if axes.images}


# --- pictures ----------------------------------------------------------------------------------


def test_slices_lie_above_their_relevance(tmp_path):
    heatmap.save(tmp_path / "peak.png", blob()[..., None], image=RNG.normal(size=SHAPE), axis="peak")
    picture = rgb(tmp_path / "peak.png")
    rows, columns = red(picture)
    height, width = picture.shape[:2]
    assert rows.min() > height / 2
    thirds = [columns[(columns >= width * k / 3) & (columns < width * (k + 1) / 3)] for k in range(3)]
    assert all(len(third) for third in thirds)  # each of the three slices goes through the voxel
    assert rows[columns < width / 3].mean() < rows[columns >= width / 3].min()  # row 2 of 12; slice 6 of 8


def test_slices_through_the_middle_are_the_default(tmp_path):
    """Relevance elsewhere is not in them, and that in the middle is."""
    for name, relevance in (("off", blob()), ("mid", blob(4, 6, 5))):
        heatmap.save(tmp_path / f"{name}.png", relevance[..., None])
    assert not len(red(rgb(tmp_path / "off.png"))[0])
    assert len(red(rgb(tmp_path / "mid.png"))[0])
    same = heatmap.figure(blob(4, 6, 5), axis="mid")
    labels = [axes.get_xlabel() for axes in same.axes]
    assert labels == ["axis 0, slice 4", "axis 1, slice 6", "axis 2, slice 5"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_montage_shows_each_slice_under_its_number(axis):
    relevance = RNG.normal(size=SHAPE)
    found = frames(heatmap.figure(relevance, axis=axis, slices=100))
    assert list(found) == [f"slice {i}" for i in range(SHAPE[axis])]
    some = frames(heatmap.figure(relevance, axis=axis, slices=4, scale=1.0))
    expected = [int((k + 0.5) * SHAPE[axis] / 4) for k in range(4)]
    assert list(some) == [f"slice {i}" for i in expected]
    for i in expected:
        drawn = heatmap.to_rgb(np.take(relevance, i, axis=axis), scale=1.0)
        corners = np.ix_([0, -1], [0, -1])
        np.testing.assert_array_equal(some[f"slice {i}"][corners], drawn[corners])


def test_all_slices_have_one_scale():
    relevance = np.zeros(SHAPE)
    relevance[1], relevance[5] = 0.5, 1.0
    found = frames(heatmap.figure(relevance, axis=0, slices=8))
    np.testing.assert_array_equal(found["slice 1"][0, 0], heatmap.to_rgb([[0.5]], scale=1.0)[0, 0])
    np.testing.assert_array_equal(found["slice 5"][0, 0], heatmap.to_rgb([[1.0]])[0, 0])


def test_spacing_sets_the_proportions():
    relevance = np.ones((4, 8, 16))
    for spacing, shapes in (
        ((1, 1, 1), [(8, 16), (4, 16), (4, 8)]),
        ((4, 1, 1), [(8, 16), (16, 16), (16, 8)]),
        ((2, 2, 0.5), [(16, 8), (8, 8), (8, 16)]),
    ):
        found = list(frames(heatmap.figure(relevance, axis="mid", spacing=spacing)).values())
        sizes = [picture.shape[:2] for picture in found]
        unit = max(max(size) for size in sizes) / max(max(shape) for shape in shapes)  # one scale for all three
        np.testing.assert_allclose(sizes, np.array(shapes) * unit, atol=1)


def test_an_affine_lays_slices_as_radiologists_name_them():
    """The voxel of relevance lies at the patient's right, in front, high up."""
    relevance = blob(depth=6, row=10, column=1)  # up, in front (y grows), x = 9 - 2: right
    drawing = heatmap.figure(relevance, axis="peak", affine=AFFINE, style="heatmap")
    found = frames(drawing)
    assert list(found) == [
        "L   axial, axis 0, slice 6   R",
        "L   coronal, axis 1, slice 10   R",
        "P   sagittal, axis 2, slice 1   A",
    ]
    for picture in found.values():
        rows, columns = red(picture)
        assert rows.mean() < 0.4 * picture.shape[0]
        assert columns.mean() > 0.6 * picture.shape[1]
    axial, coronal, _ = found.values()
    assert coronal.shape[0] / axial.shape[0] == pytest.approx(8 * 5 / (12 * 2), abs=0.05)


@pytest.mark.parametrize("flips", range(8))
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_views_agree_with_nibabel_in_every_orientation(order, flips):
    """What is drawn of any stored orientation is what is drawn of the canonical one."""
    signs = [1 if flips >> k & 1 else -1 for k in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, world in enumerate(order):
        affine[world, axis] = signs[axis] * (1.5 + axis)
    affine[0, 1] += 0.05  # oblique
    voxels = RNG.normal(size=(3, 4, 5))
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine)).get_fdata()
    views = views_of(affine)
    for axis, world in enumerate(order):
        name, across = (("sagittal", canonical), ("coronal", canonical), ("axial", canonical))[world]
        assert views[axis].name == name
        number = 1
        there = number if signs[axis] > 0 else voxels.shape[axis] - 1 - number
        plane = np.take(across, there, axis=world)  # the two other axes of the world, in their order
        expected = plane.T[::-1]  # the first to the right, the second up
        np.testing.assert_array_equal(views[axis].applied(np.take(voxels, number, axis=axis)), expected)


@pytest.mark.parametrize("style", ["side-by-side", "overlay", "heatmap"])
@pytest.mark.parametrize("axis", ["mid", "peak", 1])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_all_options_in_combination(tmp_path, style, axis, suffix):
    options = {"scale": "99%", "cmap": "Reds", "gamma": 0.5, "show": "abs", "smooth": "auto", "stride": 2, "dpi": 60}
    options |= {"alpha": 0.9, "colorbar": True, "title": "a\ntitle", "spacing": (2, 1, 1), "affine": AFFINE}
    options |= {"slices": 3} if axis == 1 else {}
    relevance, image = RNG.normal(size=(*SHAPE, 2)), RNG.integers(0, 255, (*SHAPE, 3), "uint8")
    path = heatmap.save(tmp_path / f"x{suffix}", relevance, image=image, style=style, axis=axis, **options)
    assert path.stat().st_size > 2000
    assert len(heatmap.figure(relevance, image, style=style, axis=axis, **options).axes) == (
        3 * (2 if style == "side-by-side" else 1) + 1
    )


def test_an_overlay_keeps_the_scan_grey_where_nothing_is_relevant():
    image = np.linspace(-1000, 1000, np.prod(SHAPE)).reshape(SHAPE)
    found = frames(heatmap.figure(blob(), image, axis="peak", style="overlay"))["axis 0, slice 6"]
    r, g, b = np.moveaxis(found.astype(int), -1, 0)
    coloured = (r - b) > 30
    assert 0 < coloured.mean() < 0.05
    assert (r == g)[~coloured].all()
    assert found[~coloured].max() > 200


def test_a_few_bright_voxels_do_not_darken_the_scan():
    voxels = RNG.normal(100, 10, (20, 20, 20))
    voxels[0, 0, 0] = 1e5
    low, high = window(voxels)
    assert 60 < low < 100 < high < 150
    empty = np.zeros((20, 20, 20))
    empty[0, 0, 0] = 3.0  # less than the percentiles leave out
    assert window(empty) == (0.0, 3.0)


def test_smoothing_acts_along_all_axes_and_keeps_the_sum():
    relevance = blob(4, 6, 5)
    found = smooth_volume(relevance, 1.0)
    assert found.sum() == pytest.approx(1)
    assert found[3, 6, 5] == pytest.approx(found[4, 7, 5]) == pytest.approx(found[4, 6, 6])
    assert found[3, 6, 5] / found[4, 6, 5] == pytest.approx(np.exp(-0.5), rel=1e-3)
    np.testing.assert_allclose(smooth_volume(np.repeat(relevance[4:5], 5, 0), 1.3)[2], smooth(relevance[4], 1.3))
    np.testing.assert_array_equal(smooth_volume(relevance, 0), relevance)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 4), {"axis": 0}, ["[D, H, W]", "(4, 4)"]),
        ((1, 4, 4, 3), {}, ["R[0]", "(1, 4, 4, 3)"]),
        ((2, 2, 4, 4, 3), {"axis": 0}, ["R[0]"]),
        ((4, 4, 3), {"spacing": (1, 1, 1)}, ["spacing", 'axis="mid"']),
        ((4, 4, 3), {"slices": 3}, ["slices"]),
        ((4, 4, 4), {"axis": 3}, ["axis=3"]),
        ((4, 4, 4), {"axis": True}, ["axis=True"]),
        ((4, 4, 4), {"axis": "middle"}, ["'middle'"]),
        ((4, 4, 4), {"axis": "mid", "slices": 3}, ["montage", "axis=0"]),
        ((4, 4, 4), {"axis": 0, "slices": 0}, ["slices=0"]),
        ((4, 4, 4), {"axis": 0, "spacing": (1, 1)}, ["three positive numbers"]),
        ((4, 4, 4), {"axis": 0, "spacing": (1, 1, 0)}, ["three positive numbers"]),
        ((4, 4, 4), {"axis": 0, "affine": np.eye(3)}, ["[4, 4]"]),
        ((4, 4, 4), {"axis": 0, "affine": np.zeros((4, 4))}, ["do not span"]),
        ((4, 4, 4), {"axis": 0, "image": np.zeros((4, 4, 5))}, ["(4, 4, 4)", "(4, 4, 5)"]),
        ((4, 4, 4), {"axis": 0, "image": np.full((4, 4, 4), np.nan)}, ["finite image"]),
        ((4, 4, 4), {"axis": 0, "style": "overlay"}, ["image"]),
        ((4, 4, 4), {"axis": 0, "style": "overlay", "image": np.zeros((4, 4, 4)), "alpha": 2}, ["alpha"]),
        ((4, 4, 4), {"axis": 0, "smooth": "auto"}, ["stride"]),
        ((4, 4, 4), {"axis": 0, "dpi": 1}, ["dpi"]),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path, shape, options, words):
    with refused(ValueError, *words):
        heatmap.save(tmp_path / "x.png", np.ones(shape), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_three_axes_stays_a_picture(tmp_path):
    relevance = RNG.normal(size=(9, 7, 3))
    heatmap.save(tmp_path / "x.png", relevance)
    np.testing.assert_array_equal(rgb(tmp_path / "x.png"), heatmap.to_rgb(relevance))


def test_a_notebook_shows_what_save_writes(tmp_path, monkeypatch):
    shown = []
    display = SimpleNamespace(display=shown.append, Image=lambda data: data)
    monkeypatch.setattr("lrp_tf.heatmap.figures._notebook", lambda: display)
    options = {"axis": "peak", "spacing": (2, 1, 1), "style": "overlay", "title": "t"}
    image = RNG.normal(size=SHAPE)
    heatmap.show(blob(), image, **options)
    heatmap.save(tmp_path / "x.png", blob(), image=image, **options)
    assert shown == [(tmp_path / "x.png").read_bytes()]


def test_phantoms_have_their_lesion_where_their_class_says():
    spec = importlib.util.spec_from_file_location("phantom", REPOSITORY / "benchmarks/phantom.py")
    phantom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(phantom)
    for seed in range(4):
        voxels, left, lesion = phantom.phantom(seed)
        place = phantom.AFFINE @ [*np.argwhere(lesion).mean(axis=0), 1]
        assert (place[0] < 0) == bool(left)
        assert voxels[lesion].mean() > voxels.mean() + 0.3
