"""`lrp-tf evaluate` and `lrp-tf grid`, from files to tables and pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.pictures import photos, rgb, table
from PIL import Image
from skimage import data

import lrp_tf
from lrp_tf.cli import comparing, options
from lrp_tf.cli.composite_option import NamedPreset, Written
from lrp_tf.evaluate import baselines
from lrp_tf.files import images

# A user's own metric, which kills the process at its fourth batch if the environment says so.
OWN = """
import os
from lrp_tf import evaluate
calls = []
@evaluate.metric("complexity", better="higher", paper="none")
def largest(case):
    calls.append(len(case))
    if len(calls) == int(os.environ.get("KILLED_AT", 0)):
        os.kill(os.getpid(), 9)
    noise = [g.normal() for g in case.generators("largest")]
    return abs(case.positions).max((1, 2)) * noise
"""


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Photographs of scikit-image, in a folder."""
    folder = tmp_path / "real"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return folder


def test_composites_are_judged_from_files_to_tables(lrp: Callable, saved: Path, real: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    boxes = {"chelsea.png": [[120, 20, 350, 280]], "coffee.png": [[0, 0, 600, 400]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    code, out, err = lrp(
        *("evaluate", saved, "--preprocess", "scale:1/255", real, "--composites", "epsilon,epsilon_plus"),
        *("--metrics", "sparseness,pointing_game", "--methods", "centre,SmoothGrad:n=2", "--boxes", "boxes.json"),
        *("--contrast", "none", "--contrast", "softmax", "--batch", 2, "broken.png"),
    )
    assert code == 1, err
    assert "failed: 'broken.png': not an image" in err
    assert "sparseness (higher is better), 3 samples" in out
    methods = ["epsilon", "epsilon_plus", "SmoothGrad:n=2"]
    methods = ["centre", *methods, *(f"{name} contrast softmax" for name in methods)]
    summary = {(row["metric"], row["method"]): row for row in table("evaluation/summary.csv")}
    assert set(summary) == {(metric, method) for metric in ("sparseness", "pointing_game") for method in methods}
    assert {row["n"] for (metric, _), row in summary.items() if metric == "sparseness"} == {"3"}
    centre = summary["pointing_game", "centre"]
    assert (centre["n"], centre["mean"]) == ("2", "1.0")  # two pictures have boxes, and both hold the middle
    assert table("evaluation/failures.csv")[0]["sample"] == "broken.png"
    values = {row["sample"]: float(row["value"]) for row in table("evaluation/samples.csv") if row["method"] == "centre"
              and row["metric"] == "sparseness"}  # fmt: skip
    assert [Path(name).stem for name in values] == ["astronaut", "chelsea", "coffee"]
    assert len(set(values.values())) == 1  # the centre is the same in all
    picture = rgb("evaluation/bars.png")
    assert (np.abs(picture.astype(int) - (0x1F, 0x4E, 0x79)).max(2) < 3).sum() > 500  # a bar of the best


def test_numbers_are_those_of_python(lrp: Callable, saved: Path, real: Path) -> None:
    from lrp_tf import evaluate
    from lrp_tf.files import loading

    arguments = ("--composites", "epsilon", "--metrics", "srg:region=8,fill=mean", "--resize", "crop", "--target", 3)
    assert lrp("evaluate", saved, real, *arguments, "--preprocess", "none")[0] == 0
    x = np.stack([images.Fit(32, 32, "crop").apply(images.read(path)) for path in sorted(real.iterdir())])
    explainer = lrp_tf.Explainer(loading.load_model(saved), "epsilon")
    metric = evaluate.get("srg", region=8, fill="mean")
    found = evaluate.compare({"epsilon": explainer}, x.astype("float32"), 3, metrics=[metric])
    values = [float(row["value"]) for row in table("evaluation/samples.csv")]
    np.testing.assert_allclose(values, found.of("epsilon", "srg"), rtol=1e-4, atol=1e-7)
    assert {row["target"] for row in table("evaluation/samples.csv")} == {"3"}


def test_a_killed_evaluation_ends_with_the_same_numbers(lrp: Callable, saved: Path, real: Path, tmp_path: Path) -> None:
    (tmp_path / "own_metric_of_test.py").write_text(OWN, encoding="utf-8")
    photos(real, 2)
    arguments = ["evaluate", str(saved), "real", "--import", "own_metric_of_test", "--metrics", "largest,sparseness"]
    arguments += ["--preprocess", "scale:1/255", "--composites", "epsilon", "--methods", "random", "--batch", "2"]
    environment = os.environ | {"KILLED_AT": "4", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "lrp_tf", *arguments, "--out", "kept"]
    killed = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert len(list((tmp_path / "kept/record").glob("batch-*"))) == 2
    code, _, err = lrp(*arguments, "--out", "kept")
    assert code == 2
    assert "holds an evaluation. Remedy: --resume" in err
    assert lrp(*arguments, "--out", "kept", "--resume")[0] == 0
    assert lrp(*arguments, "--out", "whole")[0] == 0
    for name in ("samples.csv", "summary.csv", "table.md"):
        assert (tmp_path / "kept" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for changes, word in [
        (["--seed", "1"], "seed"),
        (["--target", "2"], "target"),
        (["--relevance-filter", "0.5"], "methods"),
        (["--contrast", "mean"], "methods"),
        (["--metrics", "aopc"], "metrics"),
        (["--resize", "crop"], "samples of batch 0 differ"),
    ]:
        code, _, err = lrp(*arguments, "--out", "kept", "--resume", *changes)
        assert (code, word in err) == (2, True), (changes, err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "nothing"], "--metrics nothing: unknown metric. Expected one of"),
        (["--metrics", "srg:wrong=1"], "--metrics srg:wrong=1: metric srg takes"),
        (["--metrics", "srg:steps=5000"], "metric 'srg:steps=5000' fails for every explainer and sample: ValueError"),
        (["--metrics", "pointing_game"], "cannot have metric 'pointing_game'"),
        (["--methods", "Magic"], "--methods expects some of "),
        (["--methods", "ExpectedGradients"], "random. Received: ExpectedGradients"),
        (["--composites", "epsilon,epsilon"], "--composites names epsilon twice"),
        (["--composites", "magic"], "magic"),
        (["--target", "topK:2"], "--target expects top1 or one class"),
        (["--target", "9"], "class 9 is out of range"),
        (["--reference", "nobody"], "--reference expects one of ['epsilon']"),
        (["--boxes", "none.json"], "--boxes none.json: expected JSON"),
        (["--boxes", "others.json"], "no boxes for any of the images"),
        (["--boxes", "outside.json"], "--boxes: in/photo0.png: boxes[0] expects 0 <= x0"),
        (["--contrast", "nothing"], "nothing"),
    ],
)
def test_wrong_options_are_told(lrp: Callable, saved: Path, tmp_path: Path, arguments: list, words: str) -> None:
    photos(tmp_path / "in", 1)
    (tmp_path / "others.json").write_text('{"dog.png": [[0, 0, 1, 1]]}', encoding="utf-8")
    (tmp_path / "outside.json").write_text('[{"file": "photo0.png", "boxes": [[0, 0, 100, 1]]}]', encoding="utf-8")
    start = ["evaluate", saved, "in", "--preprocess", "none", "--composites", "epsilon", "--metrics", "sparseness"]
    code, _, err = lrp(*(start[:5] if "--composites" in arguments else start[:-2]), *arguments, "in")
    assert code == 2, err
    assert words in err


def test_nothing_readable_is_no_error_of_use(lrp: Callable, saved: Path) -> None:
    code, _, err = lrp("evaluate", saved, "none.png", "--preprocess", "none", "--composites", "epsilon")
    assert code == 1
    assert "failed: 'none.png': no such file\nNo image could be read." in err


def test_metrics_are_listed(lrp: Callable) -> None:
    code, out, _ = lrp("evaluate", "any.keras", "--metrics", "list")
    assert code == 0
    assert "pointing_game: localisation, better: higher, needs masks" in out


# --- grid ----------------------------------------------------------------------------------------


def test_a_grid_has_composites_in_rows_and_classes_in_columns(lrp: Callable, saved: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", 1)
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"), encoding="utf-8")
    (tmp_path / "broken.png").touch()
    arguments = ("--preprocess", "scale:1/255", "--composites", "epsilon", "--composites", "all: zplus", "--dpi", 50)
    start = ("grid", "--classes", "names.txt", "--size", "32x32", saved, *arguments)
    code, out, err = lrp(*start, "--target", "topK:2", "broken.png", "in")  # argparse takes all three for targets
    assert code == 1, err
    assert "failed: 'broken.png': empty file" in err
    assert "1 drawn, 1 failed. Results in grids" in out
    picture = rgb("grids/photo0.png").astype(int)
    frames = (picture == 178).all(2)  # of the pictures
    tiles = [np.flatnonzero(np.diff((frames.sum(axis=axis) > 20).astype(int)) == 1) for axis in (1, 0)]
    assert (len(tiles[0]), len(tiles[1])) == (4, 6)  # an upper and a lower line, a left and a right one
    down, across = (np.asarray(tile) + 1 for tile in tiles)
    cells = [[picture[down[r] + 2 : down[r + 1] - 1, across[c] + 2 : across[c + 1] - 1] for c in (0, 2, 4)]
             for r in (0, 2)]  # fmt: skip
    np.testing.assert_array_equal(cells[0][0], cells[1][0])  # the photograph
    for c in (1, 2):
        assert cells[0][c].std() > 5
        assert not np.array_equal(cells[0][c], cells[1][c])
    assert not np.array_equal(cells[0][1], cells[0][2])
    blue = [(cell[..., 2] > cell[..., 0] + 60).sum() for cell in (cells[0][1], cells[1][1])]
    assert blue[0] > blue[1]  # z+ has no relevance against a class whose logit is positive, or few


def test_grid_refuses_the_scale_of_a_run(lrp: Callable, saved: Path) -> None:
    code, _, err = lrp("grid", saved, "a.png", "--preprocess", "none", "--scale", "run")
    assert code == 2
    assert "--scale run is an option of explain" in err


# --- options -------------------------------------------------------------------------------------


def test_images_may_stand_before_between_and_behind_options() -> None:
    parser = options.parser(comparing.COMMANDS)
    for command in ("explain", "evaluate", "grid"):
        found = parser.parse_args([command, "m.keras", "a", "--preprocess", "none", "b", "--size", "2x2", "c"])
        assert found.images == ["a", "b", "c"]
        assert parser.parse_args([command, "--preprocess", "none", "m.keras", "--size", "2x2", "-"]).images == ["-"]
        with pytest.raises(SystemExit):
            parser.parse_args([command, "m.keras", "a", "--unknown", "b"])


def test_lists_are_separated_by_commas() -> None:
    assert comparing.composite_list("epsilon, tutorial:low=-1,high=[1,2,3],epsilon_plus") == [
        NamedPreset("epsilon", {}),
        NamedPreset("tutorial", {"low": -1, "high": [1, 2, 3]}),
        NamedPreset("epsilon_plus", {}),
    ]
    for text in ("first: flat; Conv2D, Dense: epsilon", "Conv2D, Dense: epsilon", "b.toml"):
        assert comparing.composite_list(text) == [Written(text)]
    assert comparing.named_list("srg:fill=mean,steps=[1, 2],x=true,sparseness,a:b=0.5") == [
        NamedPreset("srg", {"fill": "mean", "steps": [1, 2], "x": True}),
        NamedPreset("sparseness", {}),
        NamedPreset("a", {"b": 0.5}),
    ]
    assert comparing.BASELINES == baselines.NAMES
