"""What `--ray` and `lrp_tf.ray` do before a process is started: arguments, counts of attempts, blocks, refusals."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.pictures import classifier, photos

import lrp_tf
from lrp_tf import cli
from lrp_tf.cli import farm as options_of_ray
from lrp_tf.cli import given
from lrp_tf.cli.messages import message_of
from lrp_tf.cli.ray_options import HERE, apart
from lrp_tf.files import images
from lrp_tf.files.errors import ExtraError, LoadError
from lrp_tf.heatmap.look import Look
from lrp_tf.ray import attempts, farm
from lrp_tf.ray import explain as explain_dataset
from lrp_tf.ray.attempts import TRIES, Attempts, guarded
from lrp_tf.ray.columns import NAMES, NOTHING
from lrp_tf.ray.explain import column_of, refuse_names
from lrp_tf.ray.farm import Pool, block_size, fitting
from lrp_tf.ray.places import Reader, is_remote
from lrp_tf.ray.run import RayGallery
from lrp_tf.ray.sources import Columns, Found, expand, inside

# --- the command line --------------------------------------------------------------------------


def parsed(*words):
    return cli._parser().parse_args(["explain", "m.keras", *words])


@pytest.mark.parametrize(
    ("words", "address", "names"),
    [
        (["photos", "--ray"], HERE, ["photos"]),
        (["--ray", "photos"], HERE, ["photos"]),
        (["--ray", "auto", "photos"], "auto", ["photos"]),
        (["photos", "--ray", "head-0:6379"], "head-0:6379", ["photos"]),
        (["--ray=10.0.0.1:6379", "photos"], "10.0.0.1:6379", ["photos"]),
        (["--ray", "s3://bucket/photos", "more"], HERE, ["s3://bucket/photos", "more"]),
        (["--ray", "./auto"], HERE, ["./auto"]),
        (["--ray", "--workers", "2", "photos"], HERE, ["photos"]),
        (["photos"], None, ["photos"]),
    ],
)
def test_what_follows_ray_is_an_image_unless_it_is_an_address(words, address, names):
    options = parsed(*words)
    assert (options.ray, options.images) == (address, names)


def test_names_behind_a_target_are_images_in_stores_too():
    options = parsed("--ray", "--target", "topK:2", "s3://bucket/a", "s3://bucket/b")
    assert given.image_names(options) == ["s3://bucket/a", "s3://bucket/b"]
    assert options.target == ["topK:2"]


def test_the_model_may_follow_ray():
    options = cli._parser().parse_args(["explain", "--ray", "m.keras", "photos"])
    assert (options.ray, str(options.model), options.images) == (HERE, "m.keras", ["photos"])
    assert apart(["--raymond", "x"]) == ["--raymond", "x"]


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "0"],
        ["--gpus-per-worker", "-1"],
        ["--gpus-per-worker", "1.5"],
        ["--gpus-per-worker", "nan"],
        ["--ray=nowhere"],
        ["--to", "xml"],
    ],
)
def test_wrong_values_end_in_the_parser(words, capsys):
    with pytest.raises(SystemExit):
        parsed("photos", *words)
    assert words[0].partition("=")[0] in capsys.readouterr().err


def test_a_page_needs_pictures(tmp_path):
    """The message names the option that asks for a page."""
    classifier().save(tmp_path / "m.keras")
    recipe = lrp_tf.Recipe(str(tmp_path / "m.keras"), "epsilon", preprocess="none")
    with pytest.raises(LoadError, match="writes no pictures") as caught:
        RayGallery.of(recipe.gallery(tmp_path / "out", page=True), recipe, [], pool=Pool(), to="csv")
    assert "Expected it without --gallery" in message_of(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--workers", "2"], "--workers"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker"),
        (["--to", "csv"], "--to"),
        (["--image-column", "x"], "--image-column"),
    ],
)
def test_options_of_ray_need_ray(words, named):
    with pytest.raises(LoadError, match=f"{named} is an option of --ray"):
        options_of_ray.is_wanted(parsed("photos", *words))
    assert options_of_ray.is_wanted(parsed("photos", "--ray", *words))


def test_ray_and_shards_exclude_one_another():
    with pytest.raises(LoadError, match="--ray and --shard both"):
        options_of_ray.is_wanted(parsed("photos", "--ray", "--shard", "0/2"))


def test_arrays_are_explained_without_ray():
    with pytest.raises(LoadError, match="--ray explains photographs"):
        options_of_ray.refuse(parsed("a.npy", "--ray"))
    options_of_ray.refuse(parsed("a.npy"))


def test_options_become_a_pool():
    pool = options_of_ray.pool_of(parsed("x", "--ray", "auto", "--workers", "3", "--gpus-per-worker", "0.5"))
    assert pool == Pool(3, 0.5, 1, "auto")
    assert options_of_ray.pool_of(parsed("x", "--ray", "--threads", "2")) == Pool(None, 0.0, 2, None)


# --- without Ray -------------------------------------------------------------------------------


@pytest.fixture
def without_ray(monkeypatch):
    for name in ("ray", "ray.data", "pyarrow", "pyarrow.fs", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)


def test_the_extra_is_named_where_it_is_missing(without_ray, tmp_path):
    recipe = lrp_tf.Recipe("m.keras")
    with pytest.raises(ExtraError, match=r'pip install "lrp_tf\[ray\]"'):
        explain_dataset(SimpleNamespace(), recipe)
    with pytest.raises(ExtraError, match=r"lrp_tf\[ray\]"):
        farm.ready()
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ExtraError, match=r"lrp_tf\[ray\]"):
        list(expand([(str(tmp_path / "a.parquet"), "a.parquet")], Columns()))


def test_images_need_neither_ray_nor_pyarrow(without_ray, tmp_path):
    photos(tmp_path, 2)
    found = list(expand(images.find([str(tmp_path)]), Columns()))
    assert [one.relative for one in found] == ["photo0.png", "photo1.png"]
    reader = Reader()
    reader.places = {one.path: one.place for one in found}
    for one in found:
        np.testing.assert_array_equal(reader(one.path, 10**6), images.read(one.path))


# --- attempts ----------------------------------------------------------------------------------


class Dies(Exception):
    """In the place of a process that is killed."""


def lived(poison, count=8, lives=20, batch=4):
    """Explain items in one life after another; each ends over a poisonous item. Returns (found, lives)."""
    counts = Attempts()

    def explain(items):
        for start in range(0, len(items), batch):  # a batch ends as a whole
            if poison & set(items[start : start + batch]):
                raise Dies
            yield from ((i, f"done {items[i]}") for i in range(start, min(start + batch, len(items))))

    for life in range(lives):
        found = {}
        try:
            for index, what in guarded(
                range(count), [str(i) for i in range(count)], counts, explain, lambda i, why: why
            ):
                assert index not in found
                found[index] = what
            return found, life + 1
        except Dies:
            continue
    raise AssertionError("for ever")


def test_nothing_dies_and_nothing_is_counted():
    assert lived(set()) == ({i: f"done {i}" for i in range(8)}, 1)


@pytest.mark.parametrize("poison", [{0}, {5}, {7}, {2, 3}, set(range(8))])
def test_poison_is_given_up_and_all_others_are_done(poison):
    found, lives = lived(poison, lives=60)
    assert {i for i, what in found.items() if what == attempts.reason(TRIES)} == poison
    assert {i for i, what in found.items() if what == f"done {i}"} == set(range(8)) - poison
    assert lives <= 1 + TRIES * len(poison)


def test_a_death_from_outside_makes_nobody_guilty():
    """Two kills while an innocent image is at work, then it is done: the next time it counts from the beginning."""
    counts = Attempts()
    assert counts.begin(["a", "b"]) == [0, 0]
    assert counts.begin(["a", "b"]) == [1, 1]
    assert [counts.alone("a"), counts.alone("a")] == [1, 2]
    counts.end(["a", "b"])
    assert counts.begin(["a", "b"]) == [0, 0]
    assert counts.begun == {"a": 1, "b": 1}


# --- blocks and pools --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "workers", "batch", "image_bytes", "size"),
    [
        (1, 4, 8, 0, 8),
        (200, 2, 8, 0, 16),
        (10_000, 2, 8, 0, 64),  # at most eight batches are done again
        (10_000, 2, 8, 12_288, 512),
        (10_000, 2, 8, 16_000_000, 4),  # 64 MB of relevance
        (10, 2, 8, 10**9, 1),
    ],
)
def test_size_of_a_block(count, workers, batch, image_bytes, size):
    assert block_size(count, workers, batch, image_bytes) == size


def cluster(cpus, gpus=0.0):
    return SimpleNamespace(cluster_resources=lambda: {"CPU": float(cpus), **({"GPU": gpus} if gpus else {})})


def test_a_pool_fits_its_cluster(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert fitting(cluster(9), Pool()) == 8  # one more is for Ray
    assert fitting(cluster(9), Pool(threads=4)) == 2
    assert fitting(cluster(64), Pool(address="auto", threads=4)) == 16
    assert fitting(cluster(64, 2.0), Pool(address="auto", gpus=0.25)) == 8
    assert fitting(cluster(64, 3.0), Pool(address="auto", gpus=2.0)) == 1
    assert fitting(cluster(9, 1.0), Pool(gpus=0.1)) == 9
    assert fitting(cluster(4), Pool(workers=3)) == 3
    assert Pool(workers=20).session() == (None, 21)
    assert Pool(workers=2, threads=2, address="auto").session() == ("auto", 9)


@pytest.mark.parametrize(
    ("pool", "resources"),
    [(Pool(workers=3), (2,)), (Pool(gpus=1.0), (8,)), (Pool(threads=4), (2,)), (Pool(workers=3, gpus=0.5), (8, 1.0))],
)
def test_a_pool_that_does_not_fit_is_refused(pool, resources):
    with pytest.raises(LoadError, match="do not fit"):
        fitting(cluster(*resources), pool)


@pytest.mark.parametrize("pool", [Pool(workers=0), Pool(threads=0), Pool(gpus=-0.5), Pool(gpus=1.5)])
def test_numbers_that_cannot_be(pool):
    with pytest.raises(ValueError, match="Expected"):
        pool.checked()


# --- galleries ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.keras"
    classifier().save(path)
    return lrp_tf.Recipe(str(path), "epsilon", preprocess="none")


def spread(recipe, out, to="pictures", **more):
    return RayGallery.of(recipe.gallery(out, **more), recipe, [], pool=Pool(), to=to)


def test_what_contradicts_itself_is_refused(recipe, tmp_path):
    with pytest.raises(LoadError, match="Expected `to` as one of"):
        spread(recipe, tmp_path, "xml")
    with pytest.raises(LoadError, match="Expected it without `page`"):
        spread(recipe, tmp_path, "csv", page=True)
    with pytest.raises(LoadError, match="Expected it without `save_relevance`"):
        spread(dataclasses.replace(recipe, save_relevance=True), tmp_path, "parquet")
    with pytest.raises(LoadError, match="`scale` run"):
        spread(dataclasses.replace(recipe, look=Look(scale="run")), tmp_path)
    with pytest.raises(LoadError, match="Ray and `shard`"):
        spread(recipe, tmp_path).run([], shard=(0, 2))


def test_settings_say_what_a_run_writes(recipe, tmp_path):
    """A run that wrote tables alone cannot be resumed by one that writes pictures; one without --ray can."""
    plain = recipe.gallery(tmp_path)
    assert spread(recipe, tmp_path).settings == {**plain.settings, "to": None}
    assert spread(recipe, tmp_path, "csv").settings["to"] == "csv"


def test_files_without_an_image_are_failures_and_no_process_is_started(recipe, tmp_path):
    bad = Found("x.tar.gz", "x.tar.gz", reason="a compressed tar")
    job = RayGallery.of(recipe.gallery(tmp_path / "out"), recipe, [bad], pool=Pool())
    told = []
    outcome = job.run([(bad.path, bad.relative)], tell=told.append)
    assert (outcome.done, outcome.failed) == (0, 1)
    assert told == ["'x.tar.gz': a compressed tar"]


def test_tables_alone_leave_no_pictures(recipe, tmp_path):
    gallery = recipe.gallery(tmp_path / "out", pictures=False)
    outcome = gallery.run(images.find([str(photos(tmp_path / "photos", 2))]))
    assert outcome.done == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "failures.csv",
        "results.csv",
        "settings.json",
    ]


# --- names, places, columns --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("../../etc/x.png", "etc/x.png"),
        ("/abs.png", "abs.png"),
        ("..\\x.png", "x.png"),
        ("..", "_"),
    ],
)
def test_names_from_shards_stay_inside(name, kept):
    assert inside(name) == kept


def test_uris():
    assert is_remote("s3://bucket/x")
    assert is_remote("file:///x")
    assert not is_remote("C:/x")
    assert not is_remote("photos/a://b")


def test_compressed_tars_are_refused_with_the_reason():
    (found,) = expand([("x.tgz", "x.tgz")], Columns())
    assert "compressed tar" in found.reason


def schema(**kinds):
    fields = {name: SimpleNamespace(type=kind) for name, kind in kinds.items()}
    return SimpleNamespace(names=list(kinds), field=fields.__getitem__)


TENSOR = "extension<ray.data.arrow_tensor_v2<ArrowTensorTypeV2>>"


@pytest.mark.parametrize(
    ("kinds", "wanted", "column"),
    [
        ({"bytes": "binary", "path": "string"}, None, "bytes"),
        ({"blob": "binary", "n": "int64"}, None, "blob"),
        ({"a": "binary", "jpg": "binary"}, None, "jpg"),
        ({"image": "struct<bytes: binary, path: string>", "label": "int64"}, None, "image"),
        ({"image": TENSOR, "path": "string"}, None, "image"),
        ({"path": "string", "name": "string"}, None, "path"),
        ({"path": "string", "name": "string"}, "name", "name"),
    ],
)
def test_the_column_of_images(kinds, wanted, column):
    assert column_of(schema(**kinds), wanted) == column


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ({"a": "binary", "b": "binary"}, None),
        ({"n": "int64"}, None),
        ({"text": "string"}, None),
        ({"a": "binary"}, "b"),
    ],
)
def test_a_column_that_is_not_clear_is_refused(kinds, wanted):
    with pytest.raises(LoadError, match="column"):
        column_of(schema(**kinds), wanted)


def test_names_that_a_dataset_has_already():
    refuse_names(["bytes"], "", True)
    refuse_names(["relevance"], "", False)
    refuse_names(["target"], "lrp_", True)
    with pytest.raises(LoadError, match=r"adds: target\. Remedy: `prefix`"):
        refuse_names(["target"], "", False)
    assert len(NAMES) == len(NOTHING)


def test_pictures_from_bytes(tmp_path):
    path = photos(tmp_path, 1) / "photo0.png"
    np.testing.assert_array_equal(images.decode(path.read_bytes()), images.read(path))
    for content, reason in ((b"", "empty file"), (b"no image", "not an image"), (path.read_bytes()[:200], "truncated")):
        with pytest.raises(images.ImageError, match=reason):
            images.decode(content)
    with pytest.raises(images.ImageError, match="too large"):
        images.decode(path.read_bytes(), max_pixels=100)
