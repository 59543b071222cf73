"""`lrp-tf explain` over lists of images: pictures, tables, odd names and shapes, failures, resuming."""

import os
import signal
import subprocess
import sys
import time

import cv2
import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.broken import BROKEN
from helpers.pictures import photo, photos, rgb, table
from PIL import Image

import lrp_tf
from lrp_tf.cli import commands
from lrp_tf.files import images, loading
from lrp_tf.gallery import run

# --- what comes out ----------------------------------------------------------------------------


def test_explain_makes_what_the_explainer_gives(lrp, saved, tmp_path):
    photos(tmp_path / "in")
    code, out, _ = lrp("explain", saved, "in", "--preprocess", "scale:1/255", "--style", "all", "--save-relevance")
    assert code == 0, out
    assert "Fed to the model: 0" in out
    assert out.count("photo") == 3
    rows = table("results/results.csv")
    assert [row["file"] for row in rows] == [f"in/photo{i}.png" for i in range(3)]
    assert table("results/failures.csv") == []
    model = keras.models.load_model(saved)
    x = np.stack([cv2.resize(photo(i), (32, 32), interpolation=cv2.INTER_AREA) for i in range(3)]) / np.float32(255)
    expected = lrp_tf.Explainer(model).explain(x)
    for i, row in enumerate(rows):
        relevance = np.load(f"results/{row['result']}.npy")
        np.testing.assert_allclose(relevance, expected.relevance[i], atol=1e-6)
        assert int(row["target"]) == int(row["top1"]) == expected.target[i]
        np.testing.assert_allclose(float(row["top1_probability"]), np.max(expected.output[i]), rtol=1e-4)
        np.testing.assert_allclose(float(row["sum_of_relevance"]), relevance.sum(), rtol=1e-4, atol=1e-6)
        shares = sum(float(row[name]) for name in ("sum_of_relevance", "bias", "stabilizer", "other"))
        np.testing.assert_allclose(float(row["logit"]), shares, rtol=1e-3)
        assert rgb(f"results/photo{i}.overlay.png").shape == (48, 64, 3)
        heat = rgb(f"results/photo{i}.heatmap.png").astype(int)
        assert heat.shape == (48, 64, 3)
        where = np.unravel_index(np.argmax(np.abs(relevance.sum(-1))), (32, 32))
        strongest = heat[where[0] * 48 // 32, where[1] * 64 // 32]
        assert abs(strongest[0] - strongest[2]) > 60  # red or blue
        wide = rgb(f"results/photo{i}.png")
        assert wide.shape[1] > 1.5 * wide.shape[0]


def test_several_targets_share_a_line_each_and_a_sheet(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    (tmp_path / "names.txt").write_text(
        "\n".join(["a dog", "cat", "$x_1$", "cow", "猫", "fox", "cat"]), encoding="utf-8"
    )
    options = ("--preprocess", "none", "--classes", "names.txt", "--save-relevance", "--style", "all")
    code, _, err = lrp("explain", saved, "in/photo0.png", *options, "--target", "topK:2", "A_dog", "4")
    assert code == 0, err
    rows = table("results/results.csv")
    assert [row["target"] for row in rows] == [rows[0]["top1"], rows[0]["top2"], "0", "4"]
    assert rows[2]["target_name"] == "a dog"
    assert rows[3]["target_name"] == "猫"
    assert np.load("results/photo0.npy").shape == (4, 32, 32, 3)
    assert {p.name for p in (tmp_path / "results").glob("*.overlay.*")} == {
        f"photo0.overlay.{i}.png" for i in range(1, 5)
    }
    assert rgb("results/photo0.png").shape[1] > 1200  # the photograph and four maps
    for text, word in (("cat", "several"), ("dgo", "Similar names"), ("7", "0 to 6"), ("-1", "0 to 6")):
        code, _, err = lrp("explain", saved, "in", *options, f"--target={text}")
        assert code == 2
        assert word in err


def test_the_file_behind_targets_is_taken_for_an_image(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    assert lrp("explain", saved, "--preprocess", "none", "--target", "topK:2", "in/photo0.png")[0] == 0
    code, _, err = lrp("explain", saved, "--preprocess", "none", "--target", "top1")
    assert code == 2
    assert "expected IMAGE" in err


def test_names_of_results_never_collide(lrp, saved, tmp_path):
    for name in ("a/cat.png", "b/cat.png", "b/cat.jpg", "b/CAT.bmp", "b/cat.overlay.png", "b/deep/cat.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo()).save(tmp_path / "in" / name)
    code, _, _ = lrp("explain", saved, "in/a/cat.png", "in/b", "in/b/cat.png", "--preprocess", "none", "--style", "all")
    assert code == 0
    rows = table("results/results.csv")
    assert len({row["result"].casefold() for row in rows}) == len(rows) == 6  # the file that is named twice comes once
    assert len(list((tmp_path / "results").rglob("*.png"))) == 18
    assert (tmp_path / "results/deep/cat.png").exists()


ODD = [
    "a <b>&\"c'.png",
    "two\nlines ü猫.png",
    " leading and trailing .png",
    "-dash.png",
    "100%_$x$.png",
    "n" * 240 + ".png",
]


@pytest.mark.parametrize("name", [*ODD, os.fsdecode(b"latin\xe9.png")], ids=ascii)
@pytest.mark.usefixtures("seldom_compiled")
def test_odd_file_names(lrp, saved, tmp_path, name):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo()).save(tmp_path / "in" / "x.png")
    os.rename(tmp_path / "in" / "x.png", tmp_path / "in" / name)
    code, _, err = lrp("explain", saved, "in", "--preprocess", "none", "--style", "all")
    assert code == 0, err
    (row,) = table("results/results.csv")
    assert row["file"] == f"in/{name}"
    for style in ("", ".overlay", ".heatmap"):
        assert rgb(os.path.join("results", f"{row['result']}{style}.png")).std() > 0
    assert lrp("explain", saved, "in", "--preprocess", "none", "--style", "all", "--resume")[1].count(
        "1 finished before"
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 2), (30, 200)])
@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.usefixtures("seldom_compiled")
def test_shapes(lrp, saved, tmp_path, height, width, how):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo(0, height, width)).save(tmp_path / "in" / "x.png")
    code, _, err = lrp("explain", saved, "in", "--preprocess", "none", "--style", "all", "--resize", how)
    assert code == 0, err
    assert rgb("results/x.overlay.png").shape == (height, width, 3)
    assert rgb("results/x.heatmap.png").shape == (height, width, 3)
    assert min(rgb("results/x.png").shape[:2]) > 30


def test_photographs_that_the_camera_turned_are_upright(lrp, saved, tmp_path):
    upright = photo(0, 80, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(upright).save(tmp_path / "straight.png")
    assert lrp("explain", saved, "turned.jpg", "straight.png", "--preprocess", "none", "--style", "all")[0] == 0
    for style in ("overlay", "heatmap"):
        turned, straight = (rgb(f"results/{name}.{style}.png").astype(int) for name in ("turned", "straight"))
        assert turned.shape == straight.shape == (80, 40, 3)
        assert np.corrcoef(turned.ravel(), straight.ravel())[0, 1] > 0.8


# --- failures, resuming ------------------------------------------------------------------------


def with_broken(tmp_path):
    photos(tmp_path / "in", 4)
    for name, (content, _) in BROKEN.items():
        (tmp_path / "in" / name).write_bytes(content)


def test_broken_files_cost_a_line_each(lrp, saved, tmp_path):
    with_broken(tmp_path)
    code, out, err = lrp("explain", saved, "in", "in/nowhere.jpg", "--preprocess", "none", "--batch", "2")
    assert code == commands.SOME_FAILED
    failures = {row["file"]: row["reason"] for row in table("results/failures.csv")}
    assert set(failures) == {f"in/{name}" for name in BROKEN} | {"in/nowhere.jpg"}
    assert all(failures.values())
    assert failures["in/empty.jpg"] == "empty file"
    assert len(table("results/results.csv")) == 4
    assert "4 explained" in out
    assert f"{len(BROKEN) + 1} failed" in out
    assert err.count("failed: ") == len(BROKEN) + 1


def test_what_is_not_read_is_named(lrp, saved, tmp_path, monkeypatch):
    """Hidden ones on standard error, pictures of another format among the failures; nothing without a word."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    photos(tmp_path / "in", 2)
    photos(tmp_path / "in" / ".thumbnails", 1)
    (tmp_path / "in" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "in" / "scan.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40))
    code, out, err = lrp("explain", saved, "in", "--preprocess", "none")
    assert code == commands.SOME_FAILED
    assert "2 explained" in out
    assert "skipped: 'in/.thumbnails': a hidden folder" in err
    failures = {row["file"]: row["reason"] for row in table("results/failures.csv")}
    assert set(failures) == {"in/phone.HEIC", "in/scan.jp2"}
    assert "lrp_tf[heif]" in failures["in/phone.HEIC"]
    assert "JPEG 2000" in failures["in/scan.jp2"]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_list_without_images_is_wrong_use_as_an_empty_folder_is(lrp, saved, tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    (tmp_path / "empty").mkdir()
    for name in ("@list.txt", "empty"):
        code, _, err = lrp("explain", saved, name, "--preprocess", "none")
        assert code == 2
        assert "no image" in err


def test_only_broken_files(lrp, saved, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert lrp("explain", saved, "a.png", "--preprocess", "none")[0] == commands.SOME_FAILED
    assert table("results/results.csv") == []


def test_resume_skips_what_is_finished_and_mends_a_torn_table(lrp, saved, tmp_path):
    with_broken(tmp_path)
    command = ("explain", saved, "in", "--preprocess", "none", "--batch", "2")
    lrp(*command)
    whole = (tmp_path / "results/results.csv").read_bytes()
    pictures = {path: path.read_bytes() for path in (tmp_path / "results").glob("*.png")}
    (tmp_path / "results/results.csv").write_bytes(whole[:-40])  # as a kill leaves it
    (tmp_path / "results/photo1.png").unlink()
    (tmp_path / "results/.tmp-0123456789abcdef.png").write_bytes(b"half")
    code, out, _ = lrp(*command, "--resume")
    assert code == commands.SOME_FAILED
    assert "2 explained" in out
    assert "2 finished before" in out
    assert sorted((tmp_path / "results/results.csv").read_bytes().splitlines()) == sorted(whole.splitlines())
    assert {path: path.read_bytes() for path in (tmp_path / "results").glob("*.png")} == pictures
    assert not list((tmp_path / "results").glob(".tmp-*"))
    for option, value in (("composite", "epsilon"), ("fast", "auto")):
        code, _, err = lrp(*command, "--resume", f"--{option}", value)
        assert code == 2
        assert f"other settings: {option}" in err


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_set(saved, tmp_path):
    photos(tmp_path / "in", 60)
    command = [
        sys.executable,
        "-c",
        "from lrp_tf import cli; raise SystemExit(cli.main())",
        "explain",
        str(saved),
        "in",
    ]
    command += ["--preprocess", "none", "--batch", "4", "--style", "all"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path, "env": environment}
    results = tmp_path / "results" / "results.csv"
    with subprocess.Popen(command, **quiet) as process:
        while process.poll() is None and (not results.exists() or len(results.read_bytes().splitlines()) < 12):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = len(results.read_bytes().splitlines())
    assert 12 <= before < 60
    assert subprocess.run([*command, "--resume"], check=False, **quiet).returncode == 0
    rows = table(results)
    assert sorted(row["file"] for row in rows) == sorted(f"in/photo{i}.png" for i in range(60))
    names = {path.name for path in (tmp_path / "results").iterdir()} - {"results.csv", "failures.csv", "settings.json"}
    assert names == {f"photo{i}{s}.png" for i in range(60) for s in ("", ".overlay", ".heatmap")}
    assert all(rgb(tmp_path / "results" / name).size for name in names)


# --- from Python -------------------------------------------------------------------------------


def test_gallery_from_python(saved, tmp_path):
    """What the commands do is a few lines of Python, too."""
    explainer = lrp_tf.Explainer(keras.models.load_model(saved))
    job = run.Gallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", batch=2)
    outcome = job.run(images.find([photos(tmp_path / "in")]))
    assert outcome[:3] == (3, 0, 0)
    assert outcome.high > 200
