"""N processes explain one list: merged they are what one run would have left, whatever was killed in between."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.pictures import photo, photos, table
from PIL import Image

import lrp_tf
from lrp_tf.files import images
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import Gallery, ledger, merge, merging, shards
from lrp_tf.gallery.shards import Shard
from lrp_tf.heatmap.look import Look

LOOK = Look(("heatmap",))


@pytest.fixture(scope="module")
def base(saved: Path) -> Gallery:
    """What all shards are of: one explainer, which compiles once."""
    return lrp_tf.Recipe(str(saved), preprocess="none", look=LOOK, layers=("conv2d",), targets=("topK:2",)).gallery("-")


@pytest.fixture
def gallery(base: Gallery) -> Callable[..., Gallery]:
    """A gallery into a folder, with other attributes."""
    return lambda out, **more: dataclasses.replace(base, out=out, **more)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Six pictures, of which two have one name and one cannot be read."""
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("a", 0), ("b", 1)):
        Path("in", folder).mkdir(parents=True)
        Image.fromarray(photo(seed, 20, 24)).save(f"in/{folder}/same.png")
    for seed in range(3):
        Image.fromarray(photo(seed, 20, 24)).save(f"in/a/{seed}.png")
    Path("in/b/broken.png").write_bytes(b"no picture")
    return [(path, os.path.basename(path)) for path, _ in images.find(["in"])]


def contents(out: str) -> dict[str, bytes | list]:
    """All files below a folder; of tables the rows, those of failures in one order."""
    found: dict[str, bytes | list] = {}
    for path in sorted(Path(out).rglob("*")):
        if path.is_file():
            found[str(path.relative_to(out))] = table(path) if path.suffix == ".csv" else path.read_bytes()
    found["failures.csv"].sort(key=lambda row: row["file"])
    return found


def same(out: str, wanted: str) -> None:
    found, expected = contents(out), contents(wanted)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        if not name.endswith(".csv"):
            assert found[name] == content, name
            continue
        assert [(row["file"], row.get("result")) for row in found[name]] == [
            (row["file"], row.get("result")) for row in content
        ]
        for row, other in zip(found[name], content, strict=True):
            for column in ("logit", "sum_of_relevance", "largest_relevance", "sum"):
                if column in other:
                    np.testing.assert_allclose(float(row[column]), float(other[column]), rtol=1e-5, atol=1e-5)
            assert row.get("target") == other.get("target")


@pytest.fixture
def whole(gallery, files) -> str:
    """The folder of one run over all."""
    assert gallery("one", page=True).run(files).done == 5
    return "one"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_merged_shards_are_one_run(gallery, files, whole, count):
    Path("out").mkdir()
    Path("out", f".tmp-{'0' * 16}.png").touch()  # of a shard that runs
    order = list(reversed(range(count)))
    done = [gallery("out", page=True).run(files, shard=(index, count)).done for index in order]
    assert sum(done) == 5
    assert Path("out", f".tmp-{'0' * 16}.png").exists()
    assert not Path("out/index.html").exists()
    merged = merge(["out"])
    assert (merged.shards, merged.done, merged.failed, merged.missing, merged.pages) == (count, 5, 1, 0, 1)
    same("out", whole)
    assert merge(["out"]) == merged._replace(shards=0, pages=0)
    more = gallery("out", page=True)
    Image.fromarray(photo(7, 20, 24)).save("in/b/new.png")
    outcome = more.run([*files, ("in/b/new.png", "new.png")], resume=True)
    assert (outcome.skipped, outcome.done, outcome.failed) == (5, 1, 1)


def test_shards_of_several_folders_are_merged_into_another(gallery, files, whole):
    for index in range(3):
        gallery(f"out{index % 2}", page=True).run(files, shard=(index, 3))
    with pytest.raises(LoadError, match="Expected `out`"):
        merge(["out0", "out1"])
    with pytest.raises(LoadError, match=r"without 1/3 \(not begun\)"):
        merge(["out0"], "merged")
    told: list[str] = []
    part = merge(["out0"], "merged", partial=True, tell=told.append)
    assert (part.done + part.failed, part.missing) == (4, 2)
    assert told == ["left out: 1/3 (not begun)"]
    for _ in range(2):
        assert merge(["out0", "out1", "out1/"], "merged").done == 5
    assert Path("merged/0.heatmap.1.png").samefile("out0/0.heatmap.1.png")
    os.unlink("merged/merged.json")
    same("merged", whole)
    with pytest.raises(LoadError, match="holds results of another run"):
        merge(["out0", "out1"], "merged")
    assert gallery("merged", page=True).run(files, resume=True).skipped == 5


def test_a_shard_that_was_cut_off_goes_on(gallery, files, whole):
    """Wherever its table ends: no file is lost, and none is there twice."""
    job = gallery("out", page=True)
    for index in range(2):
        job.run(files, shard=(index, 2))
    folder = Shard(0, 2).folder(Path("out"))
    content = (folder / ledger.RESULTS).read_bytes()
    shutil.copytree("out", "before")
    for end in (len(content) - 1, len(content) // 2, content.index(b"\n") + 1, 3):
        shutil.rmtree("out")
        shutil.copytree("before", "out")
        (folder / ledger.RESULTS).write_bytes(content[:end])
        with pytest.raises(LoadError, match=r"Received: without 0/2 \(\d of 3 files left\)"):
            merge(["out"])
        job.run(files, shard=(0, 2), resume=True)
        merge(["out"])
        same("out", whole)


@pytest.mark.parametrize("where", ["write_page", "discard", "touch"])
def test_a_merge_that_was_killed_is_repeated(gallery, files, whole, where, monkeypatch):
    for index in range(3):
        gallery("out", page=True).run(files, shard=(index, 3))

    def killed(*given):
        if where == "discard":
            shutil.rmtree(Shard(1, 3).folder(Path("out")))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        target = {"write_page": merging, "discard": ledger, "touch": Path}[where]
        patch.setattr(target, where, killed)
        with pytest.raises(KeyboardInterrupt):
            merge(["out"])
    if where == "discard":  # the shards are no shards any more
        with pytest.raises(LoadError, match="shards that were merged"):
            gallery("out", page=True).run(files, shard=(1, 3))
    assert merge(["out"]).done == 5
    same("out", whole)


# --- what is refused ---------------------------------------------------------------------------


@pytest.fixture
def two(gallery, files):
    """The first of two shards, in `out`; runs the second one with other attributes."""
    gallery("out").run(files, shard=(0, 2))

    def run(out="out", index=1, count=2, listed=files, resume=False, overwrite=False, **more):
        job = gallery(out, **more)
        return job.run(listed, shard=(index, count), resume=resume, overwrite=overwrite)

    return run


def test_shards_of_different_runs_are_refused(two, base, files):
    two(settings={**base.settings, "preprocess": "scale:1/255"})
    with pytest.raises(LoadError, match="other settings: preprocess"):
        merge(["out"])
    two(overwrite=True, listed=files[:-1])
    with pytest.raises(LoadError, match="other lists of files"):
        merge(["out"])
    with pytest.raises(LoadError, match=r"shard 1/2 .* had another list of files"):
        two(resume=True)
    two(overwrite=True, tiles=True)
    with pytest.raises(LoadError, match="other kinds of pages"):
        merge(["out"])
    two(overwrite=True)
    two(out="again")
    with pytest.raises(LoadError, match="Shard 1/2 is there twice"):
        merge(["out", "again"], "merged")
    with ledger.only_run(Shard(1, 2).folder(Path("out"))), pytest.raises(LoadError, match="Another run is writing"):
        merge(["out"])
    assert merge(["out"]).done == 5
    with pytest.raises(LoadError, match="results of a whole run"):
        two()
    two(overwrite=True)
    with pytest.raises(LoadError, match=r"without 0/2 \(not begun\)"):
        merge(["out"])


def test_a_folder_of_shards_takes_nothing_else(two, gallery, files):
    with pytest.raises(LoadError, match="holds shards of 2"):
        two(count=3)
    with pytest.raises(LoadError, match="holds the results of an earlier run"):
        two(index=0)
    for resume in (False, True):
        with pytest.raises(LoadError, match="holds 1 shards of a run"):
            gallery("out").run(files, resume=resume)
    two(count=3, overwrite=True)
    assert ledger.shard_names(Path("out")) == [(1, 3)]
    assert gallery("out").run(files, overwrite=True).done == 5
    assert not Path("out/shards").exists()
    with pytest.raises(LoadError, match="without any"):
        merge(["in"])


def test_what_a_shard_cannot_know_is_refused(two, gallery, files):
    with pytest.raises(LoadError, match=r"`scale` run .* Expected a number"):
        two(look=Look(("heatmap",), scale="run"))
    for wrong in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(LoadError, match="counted from 0"):
            gallery("other").run(files, shard=wrong)
    assert not Path("other").exists()


def test_a_table_of_foreign_rows_is_damaged(two):
    two()
    folder = Shard(1, 2).folder(Path("out"))
    shutil.copy(Shard(0, 2).folder(Path("out")) / ledger.RESULTS, folder / ledger.RESULTS)
    with pytest.raises(LoadError, match="which is not on the list of its shard"):
        merge(["out"])
    (folder / ledger.SHARD).write_text("{}")
    with pytest.raises(LoadError, match="is damaged"):
        merge(["out"])


def test_names_do_not_depend_on_the_shard(files):
    items = ledger.items_of(Path("out"), files, [".png"])
    parts = [Shard(index, 3).part(items) for index in range(3)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert len({item.base for item in items}) == len(items) == 6
    assert shards.digest_of(items) != shards.digest_of(items[::-1])


# --- the command -------------------------------------------------------------------------------


def test_the_command_makes_and_merges_shards(lrp, saved, tmp_path):
    photos(tmp_path / "in", 3)
    plain = ("--preprocess", "none", "--style", "heatmap", "--gallery", "in")  # behind the options
    for text, reason in (
        ("2/2", "counted from 0. Received: 2/2; the last of 2 is 1/2"),
        ("0/0", "counted from 0"),
        ("1", "expected i/N"),
    ):
        code, _, err = lrp("explain", saved, *plain, "--shard", text)
        assert (code, reason in err) == (2, True)
    code, _, err = lrp("explain", saved, *plain, "--shard", "0/2", "--composite", "epsilon", "epsilon_plus")
    assert (code, "--shard is for one composite" in err) == (2, True)
    code, _, err = lrp("explain", saved, *plain, "--shard", "0/2", "--scale", "run")
    assert (code, "--scale run" in err, "one --shard" in err) == (2, True, True)
    # The results lie among the pictures: those of other shards are none of the list.
    for index in range(2):
        code, out, _ = lrp("explain", saved, *plain, "--out", "in/results", "--shard", f"{index}/2")
        assert (code, f"shard {index}/2 of 3 image(s)" in out, "lrp-tf merge in" in out) == (0, True, True)
        if not index:
            code, _, err = lrp("merge", "in/results")
            assert (code, "without 1/2 (not begun)" in err, "--partial" in err) == (2, True, True)
    code, out, _ = lrp("merge", "in/results")
    assert (code, "2 shards merged: 3 explained, 0 failed" in out, "index.html" in out) == (0, True, True)
    assert [row["file"] for row in table("in/results/results.csv")] == [f"in/photo{i}.png" for i in range(3)]
    code, out, _ = lrp("explain", saved, *plain, "--out", "in/results", "--resume")
    assert (code, "0 explained" in out, "3 finished before" in out) == (0, True, True)


@pytest.mark.slow
def test_killed_shards_that_go_on_lose_nothing(saved, tmp_path):
    photos(tmp_path / "in", 60)
    (tmp_path / "in/photo7.png").write_bytes(b"")
    plain = [sys.executable, "-m", "lrp_tf", "explain", saved, "in", "--preprocess", "none", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "-1"}

    def start(*more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*map(str, plain), *more],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("--out", "one", "--batch", "2").wait() == 1
    for attempt in range(2):
        running = [start("--out", "out", "--batch", "2", "--shard", f"{i}/3", "--resume") for i in range(3)]
        results = tmp_path / "out/shards/1-of-3/results.csv"
        before = len(results.read_bytes()) if results.exists() else 0
        while not results.exists() or len(results.read_bytes()) <= before + 500:  # at work
            time.sleep(0.01)
        time.sleep(0.05 * attempt)
        for process in running:
            process.send_signal(signal.SIGKILL)
        for process in running:
            process.wait()
    last = [start("--out", "out", "--batch", "2", "--shard", f"{i}/3", "--resume") for i in range(3)]
    assert sorted(process.wait() for process in last) == [0, 0, 1]  # one of them has the file that cannot be read
    os.chdir(tmp_path)
    merge(["out"])
    same("out", "one")
