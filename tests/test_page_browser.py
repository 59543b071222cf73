"""The page of a gallery in a browser: slider, classes, composites, keys, sorting, filters, phone, dark."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import keras
import numpy as np
import pytest
from helpers import browser
from helpers.browser import browsing, expect
from helpers.checking import randomize
from helpers.pictures import classifier, photos
from keras import layers as kl

import lrp_tf
from lrp_tf import arrays, gallery
from lrp_tf.files import images, loading
from lrp_tf.heatmap.volumes import Slicing

pytestmark = pytest.mark.slow
SCRIPT = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
FRAME = ".card:nth-child(1) .frame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs under two composites and three classes, on a page; one file is broken."""
    folder = tmp_path_factory.mktemp("gallery")
    photos(folder / "in", 6)
    (folder / "in/photo5.png").rename(folder / "in" / f"{SCRIPT.replace('/', '')} a.png")
    (folder / "in/broken.png").write_bytes(b"")
    files, classes = list(images.find([folder / "in"])), loading.Classes((SCRIPT, *"abcdef"))
    for name in ("epsilon", "epsilon_plus_flat"):
        job = gallery.Gallery(
            lrp_tf.Explainer(classifier(), name), loading.get_preprocessing("scale:1/255"), folder / name, classes
        )
        job = job.__class__(**{**vars(job), "tiles": True, "targets": ("topK:3",)})
        assert job.run(files).done == 6
    gallery.write_page(folder, [folder / "epsilon", folder / "epsilon_plus_flat"])
    return folder


@pytest.fixture
def page(folder):
    with browsing() as b:
        b.page.goto((folder / "index.html").as_uri())
        b.page.wait_for_selector(".card .map img[src]")
        yield b.page
        assert b.page.title() != "run"
        assert b.errors == []
        assert b.elsewhere == []


def pixels(page, place=FRAME):
    """What is seen at that place, int [h, w, 3]."""
    return browser.pixels(page, place)


def differs(one, other):
    """The share of pixels that are not the same, of two screenshots."""
    assert one.shape == other.shape
    return float((np.abs(one - other).max(-1) > 12).mean())


def slide(page, value, slider="#opacity"):
    page.locator(slider).first.evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def names(page):
    return page.locator(".card").evaluate_all("cards => cards.map(card => card.getAttribute('aria-label'))")


def colours(picture):
    """How many pixels are clearly red or blue."""
    return int((np.abs(picture[..., 0] - picture[..., 2]) > 40).sum())


def test_the_slider_lays_the_heatmap_over_the_photograph(page):
    slide(page, 0)
    bare = pixels(page)
    assert colours(bare) == 0  # in grey
    slide(page, 50)
    half = pixels(page)
    slide(page, 100)
    full = pixels(page)
    assert colours(full) > colours(half) > 50
    assert differs(bare, full) > differs(bare, half) > 0.05
    np.testing.assert_allclose(half, (bare + full) / 2, atol=3)


def test_side_by_side(page):
    over = pixels(page)
    page.get_by_label("Side by side").check(force=True)
    side = pixels(page)
    left, right = side[:, : side.shape[1] // 2 - 2], side[:, side.shape[1] // 2 + 2 :]
    assert side.shape[1] > 1.5 * side.shape[0]
    assert colours(left) > 500  # the photograph, in its own colours
    assert (right.min(-1) > 240).mean() > 0.02  # no relevance is white
    assert page.locator("#opacity").is_disabled()
    page.keyboard.press("v")
    assert differs(over, pixels(page)) < 0.01


def test_a_click_on_another_class_shows_its_map(page):
    before, words = pixels(page), page.locator(".went").first.text_content()
    assert re.search(r"ΣR \S+ of \S+", words)
    expect(page.locator(".card:nth-child(1) .row")).to_have_count(5)
    explained = page.locator(".card:nth-child(1) button.row")
    expect(explained).to_have_count(3)
    expect(explained.nth(0)).to_have_attribute("aria-pressed", "true")
    explained.nth(1).click()
    for row, pressed in enumerate(("false", "true", "false")):
        expect(explained.nth(row)).to_have_attribute("aria-pressed", pressed)
    assert differs(before, pixels(page)) > 0.02
    expect(page.locator(".went").first).not_to_have_text(words)
    expect(page.locator(".card:nth-child(2) button.row").nth(0)).to_have_attribute("aria-pressed", "true")
    explained.nth(0).click()
    assert differs(before, pixels(page)) < 0.005


def test_another_composite(page, folder):
    before = pixels(page)
    page.get_by_label("epsilon_plus_flat").check(force=True)
    other = pixels(page)
    assert differs(before, other) > 0.05
    link = page.locator(".card:nth-child(1) a.name").get_attribute("href")
    assert link.startswith("epsilon_plus_flat/")
    assert (folder / unquote(link)).exists()
    page.locator(".card:nth-child(1) button.row").nth(2).click()
    third = pixels(page)
    page.keyboard.press("c")
    page.keyboard.press("c")
    assert differs(third, pixels(page)) < 0.005  # the class that was chosen stays


def test_keys_walk_from_picture_to_picture(page):
    here = lambda: page.evaluate("document.activeElement.getAttribute('aria-label')")  # noqa: E731
    order = names(page)
    page.keyboard.press("ArrowRight")
    assert here() == order[0]
    page.keyboard.press("ArrowRight")
    assert here() == order[1]
    across = page.evaluate("getComputedStyle(document.getElementById('cards')).gridTemplateColumns.split(' ').length")
    page.keyboard.press("ArrowDown")
    assert here() == order[min(1 + across, 5)]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert here() == order[0]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    before = pixels(page)
    page.keyboard.press("2")
    expect(page.locator(".card:nth-child(1) button.row").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("1")
    page.keyboard.press("-")
    expect(page.locator("#percent")).to_have_text("80 %")
    assert differs(before, pixels(page)) > 0
    page.keyboard.press("Enter")
    expect(page.locator(FRAME)).to_have_attribute("aria-expanded", "true")
    assert page.locator(".card:nth-child(1)").bounding_box()["width"] > 1000
    page.keyboard.press("End")
    assert here() == order[-1]
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("photo3")
    assert names(page) == ["photo3.png"]
    page.keyboard.press("Escape")
    assert here() == "photo3.png"


def test_sorting_and_filters(page):
    listed = names(page)
    items = page.evaluate("JSON.parse(document.getElementById('data').textContent).items")
    by = {item["name"]: item for item in items}
    page.locator("#sort").select_option("confidence")
    assert names(page) == sorted(listed, key=lambda name: -by[name]["top"][0]["p"])
    page.locator("#direction").click()
    assert names(page) == sorted(listed, key=lambda name: by[name]["top"][0]["p"])
    page.locator("#direction").click()
    page.locator("#sort").select_option("absorbed")
    absorbed = {name: by[name]["runs"][0][0]["absorbed"] for name in listed}
    assert names(page) == sorted(listed, key=lambda name: -absorbed[name])
    page.locator("#sort").select_option("name")
    assert sorted(names(page)) == sorted(listed)
    assert names(page)[-5:] == [f"photo{i}.png" for i in range(5)]
    page.locator("#text").fill("PHOTO2")
    assert names(page) == ["photo2.png"]
    expect(page.locator("#count")).to_have_text("1 of 6 shown")
    page.locator("#text").fill("nothing")
    expect(page.locator("#none")).to_be_visible()
    page.locator("#text").fill("")
    some = items[0]["runs"][0][2]["class"]
    page.locator("#class").select_option(str(some))
    has = [i["name"] for i in items if some in {t["class"] for t in i["runs"][0]}]
    assert sorted(names(page)) == sorted(has)
    named = {t["class"]: t["name"] for t in items[0]["runs"][0]}
    expect(page.locator(".card:nth-child(1) button[aria-pressed=true] .class")).to_have_text(named[some])
    expect(page.locator("details.failures summary")).to_have_text("1 file without a result")
    page.locator("details.failures summary").click()
    expect(page.locator("details.failures td").first).to_be_visible()
    expect(page.locator("details.failures td").first).to_contain_text("broken.png")


def test_names_do_not_run(page):
    assert any(name.startswith("<script>") for name in names(page))
    browser.settle(page)
    assert SCRIPT in page.locator(".row .class").all_text_contents()
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize("view", ["overlay", "side"])
def test_a_phone_needs_no_scrolling_to_the_side(folder, view):
    with browsing(390, 844, has_touch=True, is_mobile=True, device_scale_factor=2) as b:
        b.page.goto(f"{(folder / 'index.html').as_uri()}#style={view}&opacity=40&run=1")
        b.page.wait_for_selector(".card .map img[src]")
        browser.settle(b.page)
        assert b.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert b.page.locator("input[value=overlay]").is_checked() == (view == "overlay")
        assert b.page.get_by_label("epsilon_plus_flat").is_checked()  # as the page that led here had it
        before = pixels(b.page)
        b.page.locator(".card:nth-child(1) button.row").nth(1).tap()
        assert differs(before, pixels(b.page)) > 0.01
        right = "Math.max(...[...document.querySelectorAll('body *')].map(e => e.getBoundingClientRect().right))"
        widest = b.page.evaluate(right)
        assert widest <= 391
        height = b.page.locator(".card:nth-child(1) button.row").first.bounding_box()["height"]
        assert height >= 36  # of a finger
        assert b.errors == b.elsewhere == []


def test_dark_mode_darkens(folder):
    brightness = {}
    for scheme in ("light", "dark"):
        with browsing(color_scheme=scheme) as b:
            b.page.goto((folder / "index.html").as_uri())
            brightness[scheme] = pixels(b.page, "body")[:, :8].mean()
            assert b.errors == []
    assert brightness["dark"] < 60 < 200 < brightness["light"]


def test_pages_show_the_pictures_that_lie_beside_them(folder):
    gallery.write_page(folder, [folder / "epsilon", folder / "epsilon_plus_flat"], page=4)
    try:
        with browsing() as b:
            b.page.goto((folder / "index.html").as_uri())
            assert len(names(b.page)) == 4
            b.page.keyboard.press("v")
            b.page.keyboard.press("n")
            b.page.wait_for_url("**/page-2.html#*")
            b.page.wait_for_selector(".card .map img[src]")
            assert len(names(b.page)) == 2
            expect(b.page.locator("input[value=side]")).to_be_checked()
            browser.settle(b.page)
            loaded = b.page.locator(FRAME + " img").evaluate_all("all => all.map(i => i.naturalWidth)")
            assert min(loaded) > 0
            assert b.errors == b.elsewhere == []
    finally:
        gallery.write_page(folder, [folder / "epsilon", folder / "epsilon_plus_flat"])


def test_slices_of_a_volume(tmp_path):
    stack = [keras.Input((6, 8, 8, 1)), kl.Conv3D(2, 3, activation="relu"), kl.Flatten(), kl.Dense(2)]
    explainer = lrp_tf.Explainer(randomize(keras.Sequential(stack)), "epsilon")
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).normal(size=(6, 8, 8, 1)).astype("float32"))
    plain = loading.get_preprocessing("none")
    job = arrays.ArrayGallery(explainer, plain, tmp_path / "out", slicing=Slicing(0), page=True)
    job.run([(str(tmp_path / f"{i}.npy"), f"{i}.npy") for i in range(2)])
    with browsing() as b:
        b.page.goto((tmp_path / "out/index.html").as_uri())
        b.page.wait_for_selector(".card .map img[src]")
        middle = pixels(b.page)
        expect(b.page.locator(".slices output").first).to_have_text("axis 0, slice 3 of 6")
        slide(b.page, 0, ".slices input")
        assert differs(middle, pixels(b.page)) > 0.1
        b.page.keyboard.press("ArrowRight")
        for _ in range(3):
            b.page.keyboard.press(".")
        assert differs(middle, pixels(b.page)) < 0.01
        assert b.errors == b.elsewhere == []


def test_signals_are_pictures_by_themselves(tmp_path):
    stack = [keras.Input((30, 2)), kl.Flatten(), kl.Dense(3)]
    explainer = lrp_tf.Explainer(randomize(keras.Sequential(stack)), "epsilon")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(30, 2)).astype("float32"))
    job = arrays.ArrayGallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", page=True)
    job.run([(str(tmp_path / "a.npy"), "a.npy")])
    with browsing() as b:
        b.page.goto((tmp_path / "out/index.html").as_uri())
        b.page.wait_for_selector(".card .map img[src]")
        picture = pixels(b.page)
        assert colours(picture) > 500
        assert (picture.max(-1) < 90).sum() > 100  # the line
        assert not b.page.locator("#opacity").is_visible()
        assert b.errors == b.elsewhere == []
