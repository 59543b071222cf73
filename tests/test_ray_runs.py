"""Explanations by processes of Ray: sources, kills, parts of parquet, pipelines. They need the extra "ray"."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.extras import need
from helpers.pictures import classifier, photo, photos, rgb, table
from PIL import Image
from test_docs import blocks, network

import lrp_tf
from lrp_tf import cli
from lrp_tf.files import images
from lrp_tf.ray import parts, sources
from lrp_tf.ray.attempts import TRIES, reason
from lrp_tf.ray.columns import NAMES
from lrp_tf.ray.sources import Columns

pytestmark = [
    pytest.mark.slow,
    # Ray warns of its own settings, and leaves files and sockets to the collector.
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")),
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
    ),
]

# A module that a worker imports: decoders that end the process over one picture each time, and over one the first time.
DEADLY = """
import os, signal, sys, time
from pathlib import Path
from lrp_tf.files import images

_decoded = images._pixels

def deadly(file, max_pixels):
    content = file.read()
    file.seek(0)
    once = Path(os.environ["DEADLY"]) / "once"
    if b"poison" in content or (b"victim" in content and not once.exists()):
        once.touch()
        os.kill(os.getpid(), 9)
    time.sleep(0.05 if b"slow" in content else 0)
    return _decoded(file, max_pixels)

if "default_worker" in sys.argv[0]:  # Ray's own program, and not the driver
    images._pixels = deadly
"""


def marked(mark: bytes, seed: int) -> bytes:
    """A picture with some bytes behind its end, which decoders leave out."""
    content = io.BytesIO()
    Image.fromarray(photo(seed)).save(content, "png")
    return content.getvalue() + mark


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model and the deadly module, which workers find."""
    need("ray", "pyarrow", extra="ray")
    folder = tmp_path_factory.mktemp("ray")
    classifier().save(folder / "m.keras")
    (folder / "deadly.py").write_text(DEADLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(folder), str(REPOSITORY / "tests")]))
        patch.setenv("DEADLY", str(folder))
        patch.syspath_prepend(folder)
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        yield folder


@pytest.fixture(scope="module")
def cluster(home):
    """One cluster for all tests of this process."""
    from lrp_tf.ray.session import session

    with session(None, cpus=4):
        yield


def recipe_of(home, *modules, **more):
    return lrp_tf.Recipe(str(home / "m.keras"), "epsilon_plus", preprocess="none", modules=modules, **more)


def close(one, other):
    """Rows of two runs hold the same numbers."""
    for name in NAMES:
        a, b = one[name], other[name]
        assert a == b or abs(float(a) - float(b)) <= 1e-5 * max(abs(float(one["start"])), 1e-3), (name, a, b)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def sorts(tmp_path, home):
    """The same pictures in files, a tar shard and two parquet files, with damaged ones among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = [marked(b"", i) for i in range(4)]
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "0.png").write_bytes(contents[0])
    (folder / "bad.png").write_bytes(b"no picture")
    write_tar(folder / "shard.tar", {"1.png": contents[1], "1.cls": b"7", "../2.png": contents[2], "x.png": b""})
    (folder / "torn.tar").write_bytes(b"no tar")
    pq.write_table(pa.table({"bytes": contents, "n": [1, 2, 3, 4]}), folder / "rows.parquet", row_group_size=3)
    struct = pa.array([{"bytes": contents[3], "path": "3.jpg"}, {"bytes": None, "path": "none"}])
    (tmp_path / "named").mkdir()
    pq.write_table(pa.table({"image": struct, "id": ["v1.2", "gone"]}), tmp_path / "named" / "hub.parquet")
    return tmp_path


# --- what is found, without a process ----------------------------------------------------------


def test_images_in_files_shards_and_tables(sorts):
    found = sources.find([sorts / "in"])
    relatives = {one.relative: one for one in found}
    assert set(relatives) == {
        *("deep/0.png", "bad.png", "shard/1.png", "shard/2.png", "shard/x.png", "torn.tar"),
        *(f"rows/{i}.row" for i in range(1, 5)),
    }
    assert "damaged" in relatives["torn.tar"].reason
    assert relatives["shard/2.png"].path == f"{sorts}/in/shard.tar/2.png"
    assert relatives["rows/4.row"].path == f"{sorts}/in/rows.parquet:4"
    assert relatives["rows/4.row"].place[2:] == (1, 0, "bytes")  # the first row of the second group


def test_stores_are_listed_as_folders_are(sorts):
    """The local file system through pyarrow, as s3:// would go."""
    here = {(one.relative, one.reason is None) for one in sources.find([sorts / "in"])}
    assert {(one.relative, one.reason is None) for one in sources.find([f"file://{sorts}/in"])} == here
    tars = sources.find([f"file://{sorts}/in/*.tar"])
    assert [one.path for one in tars][:2] == [f"file://{sorts}/in/shard.tar/{name}" for name in ("1.png", "2.png")]
    single = sources.find([f"file://{sorts}/in/gone.png"])
    assert [one.relative for one in single] == ["gone.png"]  # a failure with a reason, later
    for name in (f"file://{sorts}/nowhere/*.png", "nosuch://bucket/x"):
        with pytest.raises(ValueError, match=r"holds no image|cannot be listed"):
            sources.find([name])


def test_names_of_rows_and_columns(sorts):
    path = str(sorts / "named" / "hub.parquet")
    found = sources.find([path], Columns("image", "id"))
    assert [(one.path, one.relative) for one in found] == [
        (f"{path}:v1.2", "hub/v1.2.row"),
        (f"{path}:gone", "hub/gone.row"),
    ]
    for columns, named in ((Columns("id"), "image_column"), (Columns(None, "nr"), "id")):
        with pytest.raises(ValueError, match=f"`{named}`"):
            sources.find([path], columns)


def test_parts_that_were_not_recorded_are_removed(home, tmp_path):
    from lrp_tf.gallery.finished import Finished
    from lrp_tf.gallery.ledger import Item

    def finished(name):
        cells = ["1"] * len(NAMES)
        return Finished(Item(name, name), [(name, name, *cells)], relevance=np.ones((1, 2, 2, 3), np.float32))

    written = [parts.write(tmp_path, [finished(name) for name in names]) for names in (["a", "b"], ["c"], ["d\udcff"])]
    assert parts.write(tmp_path, [Finished(Item("x", "x"), [], "bad")]) is None
    assert parts.settle(tmp_path, {"a", "b", "c"}) == set()  # none has its name yet
    for name in written:
        parts.commit(tmp_path, name)
    (tmp_path / "relevance" / "part-damaged.parquet").write_bytes(b"PAR1")
    assert parts.settle(tmp_path, {"a", "c", parts.text("d\udcff")}) == {"c", "d\\xff"}
    assert len(list((tmp_path / "relevance").iterdir())) == 2


# --- runs --------------------------------------------------------------------------------------


def test_every_source_gives_the_rows_and_pictures_of_the_command(cluster, home, sorts, capfd):
    """Through the command, in two processes."""
    words = ["explain", str(home / "m.keras"), "--preprocess", "none", "--composite", "epsilon_plus", "--out"]
    more = ["--ray", "--workers", "2", "--style", "all", "--target", "topK:2"]
    out, plain = sorts / "out", sorts / "plain"
    named = ["--id", "id", str(sorts / "named" / "hub.parquet"), "--image-column", "image"]
    assert cli.main([*words, str(out), *more, str(sorts / "in"), f"file://{sorts}/in/deep"]) == 1
    said = capfd.readouterr()
    assert "8 explained" in said.out
    assert "ray" not in re.sub(r"\S*/ray\S*", "", said.out + said.err).lower()  # nothing of Ray's own
    assert cli.main([*words, str(sorts / "named-out"), *more, *named]) == 1
    assert [row["result"] for row in table(sorts / "named-out" / "results.csv")] == ["hub/v1.2"] * 2

    (sorts / "files").mkdir()
    for i in range(4):
        (sorts / "files" / f"{i}.png").write_bytes(marked(b"", i))
    assert cli.main([*words, str(plain), *more[3:], str(sorts / "files")]) == 0
    expected = {(row["result"], row["target"]): row for row in table(plain / "results.csv")}
    got = table(out / "results.csv")
    assert len(got) == 16
    for row in got:
        number = {"rows/1": 0, "rows/2": 1, "rows/3": 2, "rows/4": 3}.get(
            row["result"], row["result"].split("/")[-1][:1]
        )
        close(row, expected[str(number), row["target"]])
        for ending in (".png", ".overlay.1.png", ".heatmap.2.png"):
            shown = rgb(out / f"{row['result']}{ending}").astype(int) - rgb(plain / f"{number}{ending}")
            assert np.abs(shown).max() <= 2
    failed = {Path(row["file"]).name: row["reason"] for row in table(out / "failures.csv")}
    assert failed["bad.png"] == "not an image, or in a format that is not supported"
    assert failed["x.png"] == "empty file"
    assert set(failed) == {"bad.png", "x.png", "torn.tar"}


def test_lost_processes_are_replaced_and_poison_is_a_failure(cluster, home, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    marks = {5: b"poison", 8: b"victim"}
    for i in range(12):
        (folder / f"{i:02}.png").write_bytes(marked(marks.get(i, b""), i))
    told = []
    outcome = lrp_tf.ray.run(recipe_of(home, "deadly"), [folder], tmp_path / "out", workers=1, tell=told.append)
    assert (outcome.done, outcome.failed) == (11, 1)
    assert [row["reason"] for row in table(tmp_path / "out" / "failures.csv")] == [reason(TRIES)]
    assert sorted(row["result"] for row in table(tmp_path / "out" / "results.csv")) == [
        f"{i:02}" for i in range(12) if i != 5
    ]
    assert any("process was lost" in line for line in told)
    assert (home / "once").exists()
    plain = recipe_of(home).gallery(tmp_path / "plain")
    plain.run(images.find([folder]))
    expected = {row["result"]: row for row in table(tmp_path / "plain" / "results.csv")}
    for row in table(tmp_path / "out" / "results.csv"):
        close(row, expected[row["result"]])
    assert not list((tmp_path / "out").rglob(".tmp-*"))
    again = lrp_tf.ray.run(recipe_of(home), [folder], tmp_path / "out", workers=1, resume=True)
    assert (again.done, again.skipped) == (1, 11)  # the same folder and settings; a failure gets another attempt


def test_a_killed_driver_loses_nothing_and_resumes(home, tmp_path):
    """kill -9 while parts are being written; the tensors are those of the explainer, each once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = [marked(b"slow", i) for i in range(40)]
    pq.write_table(pa.table({"bytes": contents, "id": [f"i{i}" for i in range(40)]}), tmp_path / "x.parquet")
    out = tmp_path / "out"
    words = ["explain", str(home / "m.keras"), "--preprocess", "none", "--composite", "epsilon_plus", "--out", str(out)]
    words += [str(tmp_path / "x.parquet"), "--id", "id", "--ray", "--workers", "1", "--to", "parquet", "--batch", "4"]
    command = [sys.executable, "-m", "lrp_tf", *words, "--import", "deadly"]
    quiet = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    driver = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not rows_of(out / "results.csv") and time.monotonic() < until:
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = len(rows_of(out / "results.csv"))
    assert 0 < before < 40
    run = subprocess.run([*command, "--resume"], env=quiet, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "finished before" in run.stdout
    assert "\n" not in run.stderr.strip(), run.stderr  # a process that was lost is a line, at most
    found = pq.read_table(out / "relevance")
    names = found["file"].to_pylist()
    assert sorted(names) == sorted(f"{tmp_path}/x.parquet:i{i}" for i in range(40))
    assert sorted(row["file"] for row in table(out / "results.csv")) == sorted(names)
    assert not list(out.rglob(".tmp-*"))
    order = np.argsort([int(name.rpartition(":i")[2]) for name in names])
    R = found["relevance"].combine_chunks().to_numpy_ndarray()[order]
    explainer = recipe_of(home).explainer()
    fit = images.Fit(32, 32)
    x = np.stack([fit.apply(images.decode(content)) for content in contents]).astype("float32")
    said = explainer(x).numpy()
    np.testing.assert_allclose(R, said, atol=1e-5 * np.abs(said).max())
    with pytest.raises(ValueError, match="`resume`"):
        lrp_tf.ray.run(recipe_of(home), [tmp_path / "x.parquet"], out, to="parquet")  # nothing is removed
    assert len(list((out / "relevance").iterdir())) >= 2


def rows_of(path):
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def test_what_a_worker_cannot_do_ends_the_run_with_its_reason(cluster, home, tmp_path):
    import dataclasses

    photos(tmp_path / "in", 2)
    recipe = recipe_of(home)
    job = lrp_tf.ray.run
    broken = dataclasses.replace(recipe, modules=("no_such_module",))
    with pytest.raises(ImportError, match="no_such_module"):
        job(broken, [tmp_path / "in"], tmp_path / "out", workers=1)
    with pytest.raises(ValueError, match="do not fit"):
        job(recipe, [tmp_path / "in"], tmp_path / "out2", workers=1, gpus_per_worker=64)


# --- pipelines ---------------------------------------------------------------------------------


def test_a_stage_of_a_pipeline(cluster, home, tmp_path):
    """Bytes, with a damaged and a poisonous picture among them; two targets; written, and read back."""
    import ray

    contents = [marked(b"", i) for i in range(6)]
    contents[2], contents[4] = b"damaged", marked(b"poison", 4)
    rows = [{"name": f"n{i}", "bytes": content, "target": i} for i, content in enumerate(contents)]
    dataset = ray.data.from_items(rows, override_num_blocks=2)
    recipe = recipe_of(home, "deadly", targets=("topK:2",), classes=tuple("abcdefg"))
    with pytest.raises(ValueError, match="`prefix`"):
        lrp_tf.ray.explain(dataset, recipe, workers=1).materialize()
    explained = lrp_tf.ray.explain(dataset, recipe, workers=1, prefix="lrp_")
    explained.write_parquet(str(tmp_path / "out"))
    got = sorted(
        ray.data.read_parquet(str(tmp_path / "out")).take_all(), key=lambda row: (row["name"], row["lrp_logit"] or 0)
    )
    assert [row["name"] for row in got] == [f"n{i}" for i in (0, 0, 1, 1, 2, 3, 3, 4, 5, 5)]
    reasons = {row["name"]: row["lrp_failed"] for row in got}
    assert reasons.pop("n2") == "not an image, or in a format that is not supported"
    assert reasons.pop("n4") == reason(TRIES)
    assert set(reasons.values()) == {None}
    explainer, fit = recipe_of(home).explainer(), images.Fit(32, 32)
    for row in got:
        if row["lrp_failed"]:
            assert np.isnan(row["lrp_relevance"]).all()
            assert row["lrp_target"] is None or np.isnan(row["lrp_target"])
            continue
        x = fit.apply(images.decode(row["bytes"])).astype("float32")[None]
        said = explainer.explain(x, int(row["lrp_target"]))
        assert row["lrp_target_name"] == "abcdefg"[int(row["lrp_target"])]
        np.testing.assert_allclose(row["lrp_relevance"], said.relevance[0], atol=1e-5 * np.abs(said.relevance).max())
        np.testing.assert_allclose(row["lrp_logit"], said.logits[0, int(row["lrp_target"])], rtol=1e-5)
        assert row["target"] == int(row["name"][1:])


def test_blocks_of_the_page_run(cluster, home, tmp_path, monkeypatch, capsys):
    """docs/ray.md, with arrays and paths as columns, too."""
    import ray

    monkeypatch.chdir(tmp_path)
    network().save("model.keras")
    photos(tmp_path / "photos", 2)
    tensors, *python = blocks("docs/ray.md")
    names: dict = {}
    for block in python:
        here = block.replace('"photos"', f'"{tmp_path}/photos"')  # the cluster began in another folder
        exec(compile(here, "docs/ray.md", "exec"), names)
    said = capsys.readouterr().out
    assert "2 0" in said
    assert said.count("(12, 12, 1) None") == 4
    rows = {"pixels": [np.asarray(Image.open("photos/photo0.png")), np.zeros((4, 4, 2), np.uint8)]}
    arrays = ray.data.from_items([{"image": one} for one in rows["pixels"]])
    paths = ray.data.from_items([{"path": f"{tmp_path}/photos/photo0.png"}, {"path": f"file://{tmp_path}/no.png"}])
    both = [
        lrp_tf.ray.explain(data, names["recipe"], workers=1, relevance=False).take_all() for data in (arrays, paths)
    ]
    expected = table("results/results.csv")
    for rows in both:
        assert [row["failed"] is None for row in rows] == [True, True, False]
        assert [f"{row['logit']:.4g}" for row in rows[:2]] == [f"{float(row['logit']):.4g}" for row in expected[:2]]
        assert "relevance" not in rows[0]
    lrp_tf.ray.run(names["recipe"], ["photos"], "tensors/results", workers=1, to="parquet")
    monkeypatch.chdir("tensors")
    exec(compile(tensors, "docs/ray.md", "exec"), names)
    assert names["R"].shape == (4, 12, 12, 1)
