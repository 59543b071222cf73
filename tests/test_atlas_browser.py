"""Atlases on a gallery's page in a browser: opened, other classes, the key, lost files, phone, names, dark."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import browsing, expect, pixels, settle
from helpers.colours import GREEN, RED, colour_of, coloured, make_net, squares

from lrp_tf import cli

pytestmark = pytest.mark.slow
HOW = ["--preprocess", "scale:1/255"]
NAMES = ["<script>document.title='run'</script> red", "green <img src=x onerror=\"document.title='run'\">"]
ATLAS, PICTURE = ".card:nth-child(1) .atlas", ".card:nth-child(1) .atlas img"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four photographs, two classes each, whose names are no markup, with atlases under two composites."""
    home = tmp_path_factory.mktemp("atlases")
    make_net().save(home / "net.keras")
    pictures = squares(home / "pictures", 4)
    (home / "names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    words = ["reference", home / "net.keras", pictures, *HOW, "--layers", "colours", "--out", home / "r.h5"]
    assert cli.main([str(word) for word in words]) == 0
    words = ["explain", home / "net.keras", pictures, *HOW, "--gallery", "--atlas", home / "r.h5", "--atlas-top", 1]
    words += ["--composite", "epsilon", "epsilon_plus", "--classes", home / "names.txt", "--target", "topK:2"]
    assert cli.main([str(word) for word in [*words, "--out", home / "out"]]) == 0
    return home / "out"


@pytest.fixture
def page(folder: Path) -> Iterator:
    with browsing() as b:
        opened(b.page, folder)
        yield b.page
        assert b.page.title() != "run"
        assert b.errors == []
        assert b.elsewhere == []


def opened(page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector(".card .map img[src]")


def loaded(page) -> None:
    """Wait until the atlas of the first card is there."""
    page.wait_for_function(
        "place => (image => image.complete && image.naturalWidth)(document.querySelector(place))", arg=PICTURE
    )
    settle(page)


def photograph(page) -> int:
    """The colour of the first photograph."""
    return colour_of(page.locator(".card").first.get_attribute("aria-label"))


def test_an_atlas_is_read_once_it_is_opened(page):
    assert page.locator(PICTURE).get_attribute("src") is None
    expect(page.locator(f"{ATLAS} summary")).to_have_text(f"Atlas: channels of colours for {NAMES[photograph(page)]}")
    page.locator(f"{ATLAS} summary").click()
    loaded(page)
    expect(page.locator(".card").first).to_have_class(re.compile(r"\blarge\b"))  # a small card is too narrow for it
    found = pixels(page, PICTURE)
    colour = photograph(page)
    assert coloured(found, colour) > 1000 > 10 * coloured(found, 1 - colour)
    page.locator(f"{ATLAS} summary").click()
    expect(page.locator(PICTURE)).not_to_be_visible()
    expect(page.locator(".card").first).not_to_have_class(re.compile(r"\blarge\b"))


def test_another_class_and_another_composite_have_their_own(page):
    page.locator(f"{ATLAS} summary").click()
    loaded(page)
    addresses = [page.locator(PICTURE).get_attribute("src")]
    page.locator(".card:nth-child(1) button.row").nth(1).click()
    expect(page.locator(PICTURE)).not_to_have_attribute("src", addresses[0])
    loaded(page)
    other = NAMES[1 - photograph(page)]
    expect(page.locator(f"{ATLAS} summary")).to_have_text(f"Atlas: channels of colours for {other}")
    expect(page.locator(PICTURE)).to_have_attribute("alt", f"Atlas: channels of colours for {other}")
    addresses.append(page.locator(PICTURE).get_attribute("src"))
    page.get_by_label("epsilon_plus").check(force=True)
    expect(page.locator(PICTURE)).not_to_have_attribute("src", addresses[1])
    loaded(page)
    addresses.append(page.locator(PICTURE).get_attribute("src"))
    assert len(set(addresses)) == 3
    assert page.locator(f"{ATLAS} a").get_attribute("href") == addresses[2]


def test_the_key_opens_and_closes(page):
    page.locator(".card").first.focus()
    page.keyboard.press("a")
    loaded(page)
    assert page.locator(ATLAS).evaluate("atlas => atlas.open")
    assert page.locator(".atlas[open]").count() == 1
    page.keyboard.press("a")
    expect(page.locator(PICTURE)).not_to_be_visible()
    assert page.locator(".atlas[open]").count() == 0


def test_a_lost_file_is_told_and_the_others_are_shown(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    with browsing() as b:
        opened(b.page, tmp_path / "out")
        b.page.locator(f"{ATLAS} summary").click()
        loaded(b.page)
        address = b.page.evaluate("place => document.querySelector(place).src", PICTURE)
        b.page.locator(f"{ATLAS} summary").click()
        found = next(path for path in (tmp_path / "out").rglob("*.atlas*.png") if path.as_uri() == address)
        found.unlink()
        opened(b.page, tmp_path / "out")
        b.page.reload()
        b.page.wait_for_selector(".card .map img[src]")
        b.page.locator(f"{ATLAS} summary").click()
        expect(b.page.locator(f"{ATLAS} .lost")).to_be_visible()
        expect(b.page.locator(PICTURE)).not_to_be_visible()
        b.page.locator(".card:nth-child(1) button.row").nth(1).click()
        loaded(b.page)
        expect(b.page.locator(f"{ATLAS} .lost")).not_to_be_visible()
        expect(b.page.locator(PICTURE)).to_be_visible()
        assert all("ERR_FILE_NOT_FOUND" in error for error in b.errors)
        assert b.page.title() != "run"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_to_the_side(folder, scheme):
    how = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2, "color_scheme": scheme}
    with browsing(390, 844, **how) as b:
        opened(b.page, folder)
        b.page.locator(f"{ATLAS} summary").tap()
        loaded(b.page)
        assert b.page.evaluate("document.documentElement.scrollWidth") <= 390
        box = b.page.locator(PICTURE).bounding_box()
        assert 250 < box["width"] <= 390
        found = pixels(b.page, PICTURE)
        assert coloured(found, photograph(b.page)) > 1000
        assert found[14:20, 14:20].min() > 240  # an atlas is drawn for a white ground, in the dark, too
        assert b.errors == b.elsewhere == []
        assert b.page.title() != "run"


def test_both_colours_are_there(page):
    """The tests above look at one photograph; no page shows the same atlas for all."""
    assert {colour_of(name) for name in page.locator(".card").evaluate_all("all => all.map(c => c.ariaLabel)")} == {
        RED,
        GREEN,
    }
    page.evaluate("document.querySelectorAll('.card .atlas').forEach(atlas => atlas.open = true)")
    expect(page.locator(".card .atlas img[src]")).to_have_count(4)
    assert len(np.unique(page.locator(".card .atlas img").evaluate_all("all => all.map(i => i.src)"))) == 4
