"""Scans: NIfTI files, runs over volumes, `lrp-tf explain` of them."""

import gzip
import os
import subprocess
import sys

import keras
import nibabel
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.checking import randomize, refused
from helpers.pictures import photos, rgb, table
from keras import layers as kl

import lrp_tf
from lrp_tf.arrays import ArrayGallery, files, nifti
from lrp_tf.arrays.files import ArrayError
from lrp_tf.arrays.sample import Space
from lrp_tf.arrays.tiles import volume_tiles
from lrp_tf.files.errors import ExtraError, LoadError
from lrp_tf.files.loading import get_preprocessing
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.volumes import Slicing

RNG = np.random.default_rng(12)
SHAPE = (8, 12, 10)
AFFINE = np.array(
    [[0, 0, -2.0, 9], [0, 2.0, 0, 1], [5.0, 0, 0, 2], [0, 0, 0, 1]]
)  # slices stacked upwards, right first


def volumes():
    stack = [keras.Input((*SHAPE, 1)), kl.Conv3D(2, 3, activation="relu"), kl.GlobalMaxPooling3D(), kl.Dense(3)]
    return randomize(keras.Sequential(stack, name="volumes"))


def red(picture):
    """(rows, columns) of dark red, the colour of the largest relevance."""
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return np.nonzero((r > 100) & (g < 40) & (b < 40))


# --- files -------------------------------------------------------------------------------------


def scan(path, voxels=None, affine=AFFINE, slope=None):
    voxels = RNG.normal(size=SHAPE).astype("float32") if voxels is None else voxels
    image = nibabel.Nifti1Image(voxels, affine)
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return voxels


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
def test_a_scan_is_read_as_it_is_stored(tmp_path, name):
    """No axis is turned; numbers are scaled by slope and intercept."""
    scan(tmp_path / "made.nii", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype("int16"), slope=(0.5, -3))
    data = (tmp_path / "made.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    found = files.read(tmp_path / name)
    assert found.values.dtype == np.float32
    stored = np.asarray(nibabel.load(tmp_path / "made.nii").dataobj)
    np.testing.assert_allclose(found.values, stored, rtol=1e-6)
    assert found.values[0, 0, 1] - found.values[0, 0, 0] == pytest.approx(0.5)
    np.testing.assert_array_equal(found.space.affine, AFFINE)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("c8", "complex64"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "colours")],
)
def test_voxels_that_are_no_real_numbers_are_refused(tmp_path, kind, words):
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), kind), AFFINE), tmp_path / "x.nii")
    with refused(ArrayError, "real numbers", words):
        files.read(tmp_path / "x.nii")


@pytest.mark.parametrize("kind", ["nifti2", "big"])
def test_headers_of_other_kinds(tmp_path, kind, capfd):
    """Relevance is written with the codes and units of the scan; nibabel's remarks stay off the terminal."""
    voxels = RNG.normal(size=SHAPE).astype("float32")
    header = nibabel.Nifti2Header() if kind == "nifti2" else nibabel.Nifti1Header(endianness=">")
    image = (nibabel.Nifti2Image if kind == "nifti2" else nibabel.Nifti1Image)(voxels, AFFINE, header)
    image.set_sform(AFFINE, 4)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "x.nii")
    capfd.readouterr()
    found = files.read(tmp_path / "x.nii")
    np.testing.assert_array_equal(found.values, voxels)
    nifti.write(tmp_path / "r.nii.gz", found.values, found.space)
    written = nibabel.load(tmp_path / "r.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), voxels)
    assert int(written.header["sform_code"]) == 4
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert capfd.readouterr() == ("", "")


def damage(path, kind):
    scan(path.with_name("whole.nii"))
    data = bytearray(path.with_name("whole.nii").read_bytes())
    path.with_name("whole.nii").unlink()
    if kind == "huge":
        data[42:48] = (30000).to_bytes(2, "little") * 3
    elif kind == "datatype":
        data[70:72] = (9999).to_bytes(2, "little")
    elif kind == "flat":
        data[280:328] = bytes(48)  # the rows of the affine
    elif kind == "nan":
        data[-4:] = np.float32(np.nan).tobytes()
    if path.suffix == ".gz":
        data = gzip.compress(bytes(data))
    path.write_bytes(data[: len(data) // 2] if kind == "cut" else b"" if kind == "empty" else bytes(data))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut", ["no NIfTI file"]),
        ("empty", ["no NIfTI file"]),
        ("huge", ["one sample", "30000"]),
        ("datatype", ["no NIfTI file"]),
        ("nan", ["1 NaN or Inf"]),
        ("flat", ["does not span"]),
    ],
)
def test_damaged_scans_say_why(tmp_path, suffix, kind, words, capfd):
    damage(tmp_path / f"x{suffix}", kind)
    with refused(ArrayError, *words) as caught:
        files.read(tmp_path / f"x{suffix}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_nibabel_the_extra_is_named(tmp_path, monkeypatch):
    scan(tmp_path / "x.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with refused(ExtraError, "nibabel", "lrp_tf[volumes]"):
        files.read(tmp_path / "x.nii")
    told = []
    run = gallery(tmp_path / "out").run([(str(tmp_path / "x.nii"), "x.nii")], tell=told.append)
    assert run.failed == 1
    assert "lrp_tf[volumes]" in told[0]


def test_a_missing_scan_says_so(tmp_path):
    with refused(ArrayError, "No such file"):
        files.read(tmp_path / "none.nii.gz")


def test_relevance_is_written_over_the_scan(tmp_path):
    scan(tmp_path / "scan.nii", affine=AFFINE)
    space = files.read(tmp_path / "scan.nii").space
    relevance = RNG.normal(size=SHAPE)
    nifti.write(tmp_path / "r.nii.gz", relevance, space)
    found = nibabel.load(tmp_path / "r.nii.gz")
    np.testing.assert_allclose(found.affine, AFFINE)
    np.testing.assert_allclose(found.get_fdata(), relevance, rtol=1e-6)
    assert found.get_data_dtype() == np.float32
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# --- runs --------------------------------------------------------------------------------------


def gallery(out, model=None, **options):
    explainer = lrp_tf.Explainer(model or volumes(), "epsilon")
    return ArrayGallery(explainer, get_preprocessing("none"), out, **options)


def test_scans_make_a_run_one_of_volumes(tmp_path):
    """Results lie where the scans lie, and replace none of them."""
    model = volumes()
    scans = {name: scan(tmp_path / name) for name in ("a.nii.gz", "b.nii")}
    np.save(tmp_path / "c.npy", scans["b.nii"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    names = [(str(tmp_path / name), name) for name in before]
    job = gallery(tmp_path, model, targets=("topK:2",), save_relevance=True)
    assert job.run(names).done == 3
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    assert job.run(names, resume=True).skipped == 3
    explainer = lrp_tf.Explainer(model, "epsilon")
    bases = {row["file"].rpartition(os.sep)[2]: row["result"] for row in table(tmp_path / "results.csv")}
    for name, values in scans.items():
        expected = np.asarray(explainer(values[None, ..., None], target="topK:2"))[0]
        np.testing.assert_allclose(np.load(tmp_path / f"{bases[name]}.npy"), expected, atol=1e-5)
        for k in range(2):
            found = nibabel.load(tmp_path / f"{bases[name]}.{k + 1}.relevance.nii.gz")
            np.testing.assert_allclose(found.get_fdata(), expected[k, ..., 0], atol=1e-5)
            np.testing.assert_allclose(found.affine, AFFINE)
            assert (tmp_path / f"{bases[name]}.{k + 1}.png").exists()


def test_a_model_without_an_axis_of_channels(tmp_path):
    stack = [keras.Input(SHAPE), kl.Reshape((*SHAPE, 1)), kl.Conv3D(2, 3, activation="relu")]
    model = randomize(keras.Sequential([*stack, kl.GlobalMaxPooling3D(), kl.Dense(3)]))
    scan(tmp_path / "a.nii.gz")
    job = gallery(tmp_path / "out", model, save_relevance=True)
    assert job.run([(str(tmp_path / "a.nii.gz"), "a.nii.gz")]).done == 1
    found = nibabel.load(tmp_path / "out" / "a.relevance.nii.gz").get_fdata()
    np.testing.assert_array_equal(found.astype("float32"), np.load(tmp_path / "out" / "a.npy"))


def test_slices_on_the_page_name_the_patients_sides(tmp_path):
    """The scan and its relevance are the same for all composites, and begin where relevance is."""
    array = files.Array(RNG.normal(size=SHAPE), space=Space(AFFINE))
    relevance = np.zeros(SHAPE)
    relevance[6, 10, 1] = 1.0  # at the patient's right, in front
    found = volume_tiles([relevance, -relevance], array, Look(), Slicing(), None)
    assert found.slices[6] == "L · axial 6 of 8 · R"
    assert found.first == 6
    rows, columns = np.nonzero(found.maps[0][6][..., 3])
    assert (rows.item(), columns.item()) == (1, 8)
    assert all(not pictures[i][..., 3].any() for pictures in found.maps for i in range(8) if i != 6)
    assert found.below[6].shape == (12, 10, 3)


def test_volumes_need_a_model_of_volumes(tmp_path):
    model = randomize(keras.Sequential([keras.Input((8, 2)), kl.LSTM(2), kl.Dense(2)]))
    with refused(LoadError, "[D, H, W]", "(8, 2)"):
        gallery(tmp_path, model, slicing=Slicing()).run([("a.npy", "a.npy")])


# --- the command -------------------------------------------------------------------------------


def test_the_command_explains_scans(lrp, tmp_path):
    volumes().save("volumes.keras")
    (tmp_path / "in").mkdir()
    scan("in/a.nii.gz")
    scan("in/four.nii.gz", RNG.normal(size=(*SHAPE, 5)).astype("float32"))
    damage(tmp_path / "in" / "cut.nii.gz", "cut")
    damage(tmp_path / "in" / "nan.nii", "nan")
    more = ("--composite", "epsilon", "--style", "all", "--smooth", "1", "--save-relevance", "--scale", "run")
    code, out, err = lrp("explain", "volumes.keras", "in", *more)
    assert code == 1, err
    assert "4 array(s)" in out
    assert "1 explained" in out
    reasons = {row["file"]: row["reason"] for row in table(tmp_path / "results" / "failures.csv")}
    assert set(reasons) == {"in/cut.nii.gz", "in/four.nii.gz", "in/nan.nii"}
    assert "(8, 12, 10, 5), a NIfTI file of 5 volumes" in reasons["in/four.nii.gz"]
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"a.png", "a.overlay.png", "a.heatmap.png", "a.npy", "a.relevance.nii.gz"} <= made
    assert lrp("report", "volumes.keras", "in/a.nii.gz", "--composite", "epsilon")[0] == 0
    assert lrp("check", "volumes.keras", "in/a.nii.gz", "--composite", "epsilon")[0] == 0
    code, _, err = lrp("report", "volumes.keras", "in/cut.nii.gz", "--composite", "epsilon")
    assert code == 2
    assert "no NIfTI file" in err


def test_an_axis_makes_volumes_of_arrays(lrp, tmp_path):
    volumes().save("volumes.keras")
    np.save("a.npy", RNG.normal(size=SHAPE))
    sizes = {}
    for name, options in {
        "video": [],
        "mid": ["--axis", "mid"],
        "montage": ["--axis", "0", "--slices", "2"],
        "thick": ["--axis", "mid", "--spacing", "9,1,1"],
    }.items():
        code, _, err = lrp("explain", "volumes.keras", "a.npy", "--out", name, "--composite", "epsilon", *options)
        assert code == 0, err
        sizes[name] = rgb(tmp_path / name / "a.png").shape
    assert len(set(sizes.values())) == 4
    assert lrp("explain", "volumes.keras", "a.npy", "--out", "mid", "--resume", "--axis", "0")[0] == 2
    for options, words in (
        (["--slices", "3"], "--slices is an option of volumes"),
        (["--spacing", "1,1,1"], "--spacing is an option of volumes"),
        (["--axis", "mid", "--slices", "3"], "--slices is for a montage"),
        (["--style", "overlay"], "--style is an option of photographs and volumes"),
        (["--axis", "mid", "--size", "8x8"], "--size is an option of photographs"),
        (["--max-pixels", "9"], "--max-pixels is an option of photographs"),
        (["--axis", "3"], "expected mid, peak, 0, 1 or 2"),
        (["--axis", "0", "--slices", "0"], "at least 1"),
        (["--axis", "0", "--spacing", "1,2"], "three positive numbers"),
    ):
        code, _, err = lrp("explain", "volumes.keras", "a.npy", *options)
        assert code == 2
        assert words in err


@pytest.mark.parametrize("options", [("--axis", "0"), ("--slices", "3"), ("--spacing", "1,1,1")])
def test_photographs_refuse_options_of_volumes(lrp, saved, tmp_path, options):
    photos(tmp_path / "in", 1)
    code, _, err = lrp("explain", saved, "in", "--preprocess", "none", *options)
    assert code == 2
    assert f"{options[0]} is an option of volumes" in err


@pytest.mark.slow
def test_a_scan_as_users_run_it(tmp_path):
    """As a process of its own; the relevance lies where the evidence was planted."""
    model = volumes()
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    model.layers[0].set_weights([np.ones((3, 3, 3, 1, 2)), np.zeros(2)])
    model.layers[-1].set_weights([np.ones((2, 3)) * [[0, 1, 0]], np.zeros(3)])
    model.save(tmp_path / "volumes.keras")
    voxels = np.zeros(SHAPE, "float32")
    voxels[4:7, 1:4, 6:9] = 1
    scan(tmp_path / "scan.nii.gz", voxels)
    command = [sys.executable, "-m", "lrp_tf", "explain", "volumes.keras", "scan.nii.gz", "--save-relevance"]
    done = subprocess.run(
        [*command, "--composite", "epsilon", "--axis", "peak"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    relevance = nibabel.load(tmp_path / "results" / "scan.relevance.nii.gz")
    np.testing.assert_allclose(relevance.affine, AFFINE)
    assert ((relevance.get_fdata() > 1e-3) == (voxels > 0)).all()
    assert len(red(rgb(tmp_path / "results" / "scan.png"))[0]) > 100
