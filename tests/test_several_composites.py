"""`--composite` takes several, and `--gallery` writes a page over them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil

import pytest
from helpers import REPOSITORY
from helpers.pictures import photos, table

from lrp_tf.cli import composite_option, options
from lrp_tf.cli.composite_option import NamedPreset, Written, folders, spread
from lrp_tf.gallery import ledger

TEXT = "first: flat; all: epsilon"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photographs, a model and a picture, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 2)
    photos(tmp_path, 1)
    (tmp_path / "net.keras").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("behind", "composites", "rest"),
    [
        ("epsilon", ["epsilon"], []),
        ("epsilon photos/", ["epsilon"], ["photos/"]),
        ("epsilon net.keras photos", ["epsilon"], ["net.keras", "photos"]),
        ("epsilon gone.keras gone.png", ["epsilon"], ["gone.keras", "gone.png"]),
        ("epsilon epsilon_plus photos photo0.png", ["epsilon", "epsilon_plus"], ["photos", "photo0.png"]),
        ("epsilon mine:gamma=1 mine *.png", ["epsilon", "mine:gamma=1", "mine"], ["*.png"]),
        ("mine.toml other.toml -", ["mine.toml", "other.toml"], ["-"]),
        ("photos epsilon @list.txt", ["photos", "epsilon"], ["@list.txt"]),  # the first one is what it is
        ("epsilon photos epsilon_plus", ["epsilon"], ["photos", "epsilon_plus"]),
        (r"epsilon C:\photos\*.jpg", ["epsilon"], [r"C:\photos\*.jpg"]),
        (r"epsilon_gamma_box:low=[-1,0,1],high=2 epsilon", ["epsilon_gamma_box:low=[-1,0,1],high=2", "epsilon"], []),
    ],
)
def test_what_behind_composite_is_one(here, behind, composites, rest):
    for given in (["--composite", *behind.split()], ["--comp", *behind.split()]):
        found = spread(["explain", *given, "--out", "epsilon", "--", "--composite", "a", "b"])
        assert found[-6:] == ["--out", "epsilon", "--", "--composite", "a", "b"]
        inner = found[1:-6]
        assert (
            inner == [x for i, c in enumerate(composites) for x in ((given[0] if not i else "--composite"), c)] + rest
        )
    first, *others = behind.split()
    assert spread([f"--composite={first}", *others])[0] == f"--composite={first}"
    assert len(spread([f"--composite={first}", *others])) == 1 + 2 * (len(composites) - 1) + len(rest)


def test_texts_with_spaces_and_patterns_are_composites(here):
    text = "conv*: gamma 0.25; all: epsilon"
    assert spread(["--composite", TEXT, text, "photos"]) == ["--composite", TEXT, "--composite", text, "photos"]


@pytest.mark.parametrize(
    "line",
    [
        "explain net.keras photos --composite epsilon --composite epsilon_plus",
        "explain net.keras --composite epsilon epsilon_plus photos",
        "explain --composite epsilon epsilon_plus net.keras photos",
        "explain --composite epsilon epsilon_plus --out x net.keras photos",
    ],
)
def test_every_order_of_the_command_line(here, line):
    chosen = options.parser().parse_args(line.split())
    assert chosen.composites == [NamedPreset("epsilon", {}), NamedPreset("epsilon_plus", {})]
    assert (str(chosen.model), chosen.images) == ("net.keras", ["photos"])


def test_other_commands_take_one(here):
    assert options.parser().parse_args(["summary", "net.keras"]).composite == NamedPreset("epsilon_plus_flat", {})
    assert options.parser().parse_args(["explain", "net.keras", "photos"]).composites is None
    with pytest.raises(SystemExit):
        options.parser().parse_args(["summary", "net.keras", "--composite", "epsilon", "epsilon_plus"])


def test_the_driver_of_vgg_takes_several(here):
    spec = importlib.util.spec_from_file_location("vgg_lrp", REPOSITORY / "vgg" / "lrp.py")
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    chosen = driver.make_parser().parse_args(["--composite", "epsilon", "tutorial:low=0,high=1", "photos", "--gallery"])
    assert [str(one) for one in chosen.composites] == ["epsilon", "tutorial:high=1,low=0"]
    assert (chosen.images, chosen.gallery) == (["photos"], True)


def test_folders_are_named_after_composites():
    long = "; ".join(f"Conv{i}: flat" for i in range(50))
    texts = ["epsilon", "epsilon:epsilon=0.1", TEXT, "a/b/mine.toml", "b/mine.toml", "../..", "", long, "Épsilon: ε"]
    found = folders([composite_option.composite(t) if t and t != "../.." else Written(t) for t in texts])
    assert found[0] == "epsilon"
    assert len(set(map(str.casefold, found))) == len(texts)
    assert all(re.fullmatch(r"[\w-]{1,70}", name, re.ASCII) for name in found)
    assert found[3].startswith("mine-")
    assert found == folders([composite_option.composite(t) if t and t != "../.." else Written(t) for t in texts])


# --- runs --------------------------------------------------------------------------------------


def page_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_several_composites_and_a_page_over_them(lrp, saved, tmp_path):
    photos(tmp_path / "in")
    command = ("explain", saved, "--preprocess", "none", "--gallery", "--target", "topK:2", "--composite")
    code, out, err = lrp(*command, "epsilon", TEXT, "in")
    assert code == 0, err
    assert "Gallery: results" in out
    names = folders([NamedPreset("epsilon", {}), Written(TEXT)])
    assert {path.name for path in (tmp_path / "results").iterdir()} == {*names, "index.html", "composites.json"}
    for name in names:
        assert len(table(tmp_path / "results" / name / ledger.RESULTS)) == 6
        assert not (tmp_path / "results" / name / "index.html").exists()
    page = page_of(tmp_path / "results/index.html")
    assert [one["name"] for one in page["composites"]] == ["epsilon", TEXT]
    sums = [[run[0]["shares"][0] for run in item["runs"]] for item in page["items"]]
    assert all(abs(one - other) > 1e-6 for one, other in sums)
    for item in page["items"]:
        for run in item["runs"]:
            assert (tmp_path / "results" / run[0]["link"]).exists()
    code, _, err = lrp(*command, "epsilon", TEXT, "in")
    assert code == 2
    assert "--resume to finish" in err
    # A composite more, and those of the run before on the page, too.
    code, out, err = lrp(*command, "epsilon", "epsilon_plus", "in", "--resume")
    assert code == 0, err
    assert out.count("3 finished before") == 1
    page = page_of(tmp_path / "results/index.html")
    assert [one["name"] for one in page["composites"]] == ["epsilon", TEXT, "epsilon_plus"]
    code, _, err = lrp(*command, "epsilon_plus", "tutorial:low=0,high=255", "in", "--overwrite")
    assert code == 0, err
    page = page_of(tmp_path / "results/index.html")
    assert [one["name"] for one in page["composites"]] == ["epsilon_plus", "tutorial:high=255,low=0"]


def test_one_composite_stays_as_it_was(lrp, saved, tmp_path):
    photos(tmp_path / "in", 2)
    command = ("explain", saved, "in", "--preprocess", "none", "--composite", "epsilon")
    assert lrp(*command)[0] == 0
    assert not (tmp_path / "results/index.html").exists()
    code, out, _ = lrp(*command, "--gallery", "--resume")  # without tiles nothing is finished for a page
    assert (code, "2 explained" in out, "Gallery: results" in out) == (0, True, True)
    (tmp_path / "results/index.html").unlink()
    code, out, _ = lrp(*command, "--gallery", "--resume")
    assert (code, "2 finished before" in out) == (0, True)
    assert len(page_of(tmp_path / "results/index.html")["items"]) == 2
    code, _, err = lrp(*command, "epsilon_plus", "--resume")
    assert code == 2
    assert "results of a run of one composite" in err
    assert lrp(*command, "epsilon_plus", "--overwrite")[0] == 0
    assert not (tmp_path / "results/composites.json").exists()  # no page was asked for


def test_mistakes_in_several_composites(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    command = ("explain", saved, "in", "--preprocess", "none", "--composite", "epsilon")
    for more, words in (
        (("epsilon",), "names epsilon twice"),
        (("epsilom",), "epsilom"),
        (("all: epsilom",), "epsilom"),
        (("epsilon:1",), "expected NAME or NAME:OPTION=VALUE"),
    ):
        code, _, err = lrp(*command, *more, "--gallery")
        assert code == 2
        assert words in err
    assert not (tmp_path / "results").exists()  # nothing was worked on


def test_a_broken_file_costs_a_line_for_each_composite(lrp, saved, tmp_path):
    photos(tmp_path / "in", 2)
    (tmp_path / "in/photo1.png").write_bytes(b"no picture")
    code, _, _ = lrp("explain", saved, "in", "--preprocess", "none", "--gallery", "--composite", "epsilon", TEXT)
    assert code == 1
    page = (tmp_path / "results/index.html").read_text(encoding="utf-8")
    assert "1 file without a result" in " ".join(page.split())
    assert len(page_of(tmp_path / "results/index.html")["items"]) == 1


# --- refused before any composite runs ---------------------------------------------------------


@pytest.fixture
def compared(lrp, saved, tmp_path):
    """A page of two composites in `results`; returns the command that made it, without composites."""
    photos(tmp_path / "in", 2)
    command = ("explain", saved, "in", "--preprocess", "none", "--gallery", "--composite")
    assert lrp(*command, "epsilon", "epsilon_plus")[0] == 0
    return command


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("more", [("--target", "2"), ("--preprocess", "scale:1/255"), ("--contrast", "mean")])
@pytest.mark.usefixtures("seldom_compiled")
def test_a_page_compares_composites_of_the_same_settings_alone(lrp, compared, tmp_path, more):
    before = contents(tmp_path / "results")
    code, out, err = lrp(*compared, "epsilon_alpha2_beta1", "epsilon_plus_flat", "--resume", *more)
    assert (code, "explained" in out) == (2, False)
    assert "results/epsilon beside this run" in err
    assert f"others for {more[0][2:]}." in err
    assert contents(tmp_path / "results") == before
    assert lrp(*compared, "epsilon_alpha2_beta1", "epsilon_plus_flat", "--resume")[0] == 0
    assert len(page_of(tmp_path / "results/index.html")["composites"]) == 4


def test_a_mistake_of_a_later_composite_is_told_before_the_first_one_runs(lrp, compared, tmp_path):
    before = contents(tmp_path / "results")
    for more, words in (((), "--resume to finish"), (("--resume", "--target", "2"), "other settings: target")):
        code, out, err = lrp(*compared, "epsilon_alpha2_beta1", "epsilon_plus", *more)
        assert (code, "explained" in out) == (2, False)
        assert "results/epsilon_plus " in err
        assert words in err
        assert contents(tmp_path / "results") == before


@pytest.mark.parametrize("page", [True, False])
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.usefixtures("seldom_compiled")
def test_one_composite_does_not_replace_a_page_of_several(lrp, compared, tmp_path, page, resume):
    before = contents(tmp_path / "results")
    command = [word for word in compared if page or word != "--gallery"]
    code, _, err = lrp(*command, "epsilon", *(["--resume"] if resume else []))
    assert code == 2
    assert "holds a page of several composites" in err
    assert contents(tmp_path / "results") == before
    assert lrp(*command, "epsilon", "--overwrite")[0] == 0
    assert len(table(tmp_path / "results/results.csv")) == 2
    assert lrp(*command, "epsilon", "--resume")[0] == 0


def test_a_damaged_list_of_composites(lrp, compared, tmp_path):
    (tmp_path / "results/epsilon").rename(tmp_path / "other")  # results, but elsewhere
    for content in (b'["epsilon", ', b"{}", b"[1]", b"\xff", b'["../other"]', b'[".."]', b'[""]'):
        (tmp_path / "results/composites.json").write_bytes(content)
        before = contents(tmp_path)
        code, out, err = lrp(*compared, "epsilon_alpha2_beta1", "epsilon_plus", "--resume")
        assert (code, "explained" in out) == (2, False)
        assert "composites.json is damaged" in err
        assert contents(tmp_path) == before


def test_composites_that_are_gone_leave_the_page(lrp, compared, tmp_path):
    shutil.rmtree(tmp_path / "results/epsilon/gallery")
    code, _, err = lrp(*compared, "epsilon_alpha2_beta1", "epsilon_plus", "--resume")
    assert code == 0, err
    assert "leaves out results/epsilon:" in err
    names = [one["name"] for one in page_of(tmp_path / "results/index.html")["composites"]]
    assert names == ["epsilon_plus", "epsilon_alpha2_beta1"]


def test_several_composites_take_over_the_folder_of_one(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    command = ("explain", saved, "in", "--preprocess", "none", "--composite")
    assert lrp(*command, "epsilon")[0] == 0
    assert lrp(*command, "epsilon", "epsilon_plus")[0] == 2  # the run of one is not lost without a word
    assert len(table(tmp_path / "results/results.csv")) == 1
    assert lrp(*command, "epsilon", "epsilon_plus", "--gallery", "--overwrite")[0] == 0
    assert not (tmp_path / "results/results.csv").exists()
    assert lrp(*command, "epsilon", "epsilon_plus", "--gallery", "--resume")[0] == 0
