"""`lrp-tf explain --gallery` of tables: a page with the bars of the first rows."""

import json
import re

import numpy as np
import pytest
from helpers.browser import browsing, pixels
from helpers.pictures import rgb, table
from helpers.tables import patients, values, written

from lrp_tf.gallery import tiles


def page_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture
def here(lrp, tmp_path):
    patients().save("model.keras")
    (tmp_path / "classes.txt").write_text("well\nsick <b>\n")
    return lrp


COMMON = ("explain", "model.keras", "p.csv", "--classes", "classes.txt", "--gallery", "--rows", "2")


def test_a_page_of_rows(here, tmp_path):
    """Both classes under two composites; rows without a picture are not on it."""
    written(tmp_path / "p.csv", values(3), ahead=["who", *"abc"])
    code, out, err = here(*COMMON, "--target", "topK:2", "--composite", "epsilon", "epsilon:epsilon=0.5")
    assert code == 0, err
    assert "Gallery: results/index.html" in out
    page = page_of(tmp_path / "results/index.html")
    assert [item["name"] for item in page["items"]] == ["p.csv:a", "p.csv:b"]
    assert [composite["name"] for composite in page["composites"]] == ["epsilon", "epsilon:epsilon=0.5"]
    for item in page["items"]:
        assert len(item["runs"]) == 2
        for targets in item["runs"]:
            assert sorted(target["class"] for target in targets) == [0, 1]
            assert all((tmp_path / "results" / target["link"]).exists() for target in targets)
    text = (tmp_path / "results/index.html").read_text(encoding="utf-8")
    assert "sick <b>" not in text
    assert "<title>2 rows seen by patients</title>" in text


def test_tiles_have_the_colours_of_their_rows_and_are_made_again(here, tmp_path):
    written(tmp_path / "p.csv", [[0, 1, 0], [0, -1, 0], [0, 2, 0], [0, 1, 1]])
    code, _, err = here(*COMMON, "--target", "1", "--composite", "epsilon")
    assert code == 0, err
    out = tmp_path / "results"
    for key, red in (("p.csv:1", True), ("p.csv:2", False)):
        picture = rgb(out / tiles.kept(out, key).maps[0][0]).astype(int)
        redder = (picture[..., 0] - picture[..., 2] > 80).sum() > (picture[..., 2] - picture[..., 0] > 80).sum()
        assert redder == red
        assert picture.shape[1] < 500  # legible on a card
    assert tiles.kept(out, "p.csv:4") is None
    (out / tiles.kept(out, "p.csv:2").maps[0][0]).unlink()
    code, text, err = here(*COMMON, "--target", "1", "--composite", "epsilon", "--resume")
    assert code == 0, err
    assert "1 explained" in text
    assert "3 finished before" in text
    assert tiles.kept(out, "p.csv:2") is not None
    assert len(table(out / "results.csv")) == 4
    assert len(page_of(out / "index.html")["items"]) == 2


@pytest.mark.slow
def test_a_click_on_another_class_changes_the_bars(here, tmp_path):
    written(tmp_path / "p.csv", [[0, 1, 0], [0, 2, 0]])
    assert here(*COMMON, "--target", "0", "1", "--composite", "epsilon")[0] == 0

    def redness(page):
        shown = pixels(page, ".card")[:170]
        return ((shown[..., 0] - shown[..., 2]) > 80).sum() - ((shown[..., 2] - shown[..., 0]) > 80).sum()

    with browsing() as b:
        b.page.goto((tmp_path / "results/index.html").as_uri())
        first = redness(b.page)
        b.page.get_by_role("button", name=re.compile("sick" if first < 0 else "well")).first.click()
        assert np.sign(redness(b.page)) == -np.sign(first) != 0
        assert b.errors == []
        assert b.elsewhere == []
