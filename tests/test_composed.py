"""Pictures that are drawn without matplotlib: panels at their place, colours of the relevance, texts, bars, fonts."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from lrp_tf import heatmap
from lrp_tf.heatmap import files, texts

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (220, 300, 3), dtype=np.uint8)
MAP = cv2.GaussianBlur(RNG.normal(size=(55, 75)), (0, 0), 2)
TITLE = "wire-haired fox terrier, p = 0.912\n0 % of the score arrives"


def drawn(folder: Path, **options: object) -> np.ndarray:
    path = heatmap.save(folder / "a.png", MAP, image=PHOTO, **options)
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def places(picture: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Where `part` lies in a picture, pixel by pixel: (top, left) of each place."""
    begins = np.ones((len(picture) - len(part) + 1, picture.shape[1] - part.shape[1] + 1), bool)
    for i in range(9):  # the first pixels of three rows
        y, x = divmod(i, 3)
        begins &= (picture[y:, x:] == part[y, x]).all(-1)[: begins.shape[0], : begins.shape[1]]
    found = [(int(y), int(x)) for y, x in np.argwhere(begins)]
    return [(y, x) for y, x in found if (picture[y : y + len(part), x : x + part.shape[1]] == part).all()]


def ink(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of dark pixels without colour, [n, 2]."""
    return np.argwhere((picture.max(-1) < 128) & (np.ptp(picture.astype(int), axis=-1) == 0))


@pytest.mark.parametrize("cmap", [None, "coldnhot"])
def test_panels_are_whole_and_at_their_place(tmp_path: Path, cmap: str | None) -> None:
    heat = heatmap.to_rgb(heatmap.resize(MAP, PHOTO.shape[:2]), cmap=cmap, gamma=0.7)
    picture = drawn(tmp_path, cmap=cmap, gamma=0.7)
    ((top, left),) = places(picture, PHOTO)
    assert places(picture, heat) == [(top, left + 310)]
    frame = picture[top - 1 : top + 221, left - 1 : left + 301]
    for edge in (frame[0], frame[-1], frame[:, 0], frame[:, -1]):
        assert (edge == 178).all()
    margins = (top, left, picture.shape[0] - top - 220, picture.shape[1] - left - 310 - 300)
    assert min(margins) >= 5
    # All else is white.
    picture[top - 1 : top + 221, left - 1 : left + 611] = 255
    assert (picture == 255).all()


def test_a_title_is_centred_above_the_panels_and_moves_nothing_else(tmp_path: Path) -> None:
    bare, titled = drawn(tmp_path), drawn(tmp_path, title=TITLE)
    above = len(titled) - len(bare)
    np.testing.assert_array_equal(titled[above + 4 :], bare[4:])
    letters = ink(titled[: above + 4])
    assert len(letters) > 300
    assert letters.min() >= 2
    left, right = letters[:, 1].min(), titled.shape[1] - 1 - letters[:, 1].max()
    assert abs(int(left) - int(right)) <= 3
    rows = np.unique(letters[:, 0])
    assert (np.diff(rows) > 1).sum() >= 1  # a gap between two lines
    assert (titled != drawn(tmp_path, title=TITLE.replace("0.912", "0.913"))).any()


@pytest.mark.parametrize("style", ["side-by-side", "overlay", "heatmap"])
@pytest.mark.parametrize("dpi", [100, 200])
def test_pixels_look_like_the_figure(tmp_path: Path, style: str, dpi: int) -> None:
    """The same layout drawn by matplotlib, which draws letters and frames a little differently."""
    photo = cv2.GaussianBlur(PHOTO, (0, 0), 5)
    options = {"image": photo, "style": style, "title": TITLE, "colorbar": True, "dpi": dpi}
    path = heatmap.save(tmp_path / "a.png", MAP, **options)
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(np.float32)
    figure = files.rendered(heatmap.figure(MAP, **options)).astype(np.float32)
    assert picture.shape == figure.shape
    blurred = [cv2.GaussianBlur(pixels, (0, 0), dpi / 25) for pixels in (picture, figure)]
    assert np.abs(blurred[0] - blurred[1]).mean() < 1.5
    assert np.abs(blurred[0] - blurred[1]).max() < 60


def test_colour_bars_have_the_colours_and_their_numbers(tmp_path: Path) -> None:
    low, high = (drawn(tmp_path, colorbar=True, scale=scale) for scale in (2.5, 7.5))
    x = drawn(tmp_path).shape[1] + 4
    column = low[12:-20, x]
    want = heatmap.to_rgb(np.linspace(2.5, -2.5, len(column))[:, None], scale=2.5)[:, 0]
    assert np.abs(column.astype(int) - want).mean() < 10
    np.testing.assert_array_equal(low[:, x], high[:, x])
    changed = np.argwhere((low != high).any(-1) & (np.arange(low.shape[1]) > x))
    rows = changed[:, 0]
    assert len(rows)
    assert ((rows < 25) | (rows > len(low) - 30)).all()  # the zero in the middle stays


def test_no_figure_is_made_for_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "__init__", None)
    for suffix in ("png", "jpg", "webp", "tif", "bmp"):
        heatmap.save(tmp_path / f"a.{suffix}", MAP, image=PHOTO, title=TITLE, colorbar=True)
    heatmap.grid(tmp_path / "g.png", [[PHOTO]], titles=["a"], labels=["b"], suptitle="c")
    with pytest.raises(TypeError):
        heatmap.save(tmp_path / "a.svg", MAP, title=TITLE)


# --- texts -------------------------------------------------------------------------------------


def letters(text: str, size: float = 12) -> np.ndarray:
    return texts.written(texts.drawable(text), size, 100).ink


@pytest.mark.parametrize("text", ["Żółć", "жираф", "ζῷον", "tab\tx", "שלום", "مرحبا", "a\u0301"])
def test_letters_of_many_scripts(text: str) -> None:
    drawn = letters(text)
    assert (drawn > 128).sum() > 20
    plain = letters("?" * len(text))
    assert drawn.shape != plain.shape or (drawn != plain).any()


def test_what_the_font_lacks_is_drawn_as_a_question_mark() -> None:
    np.testing.assert_array_equal(letters("猫\ud800"), letters("??"))
    assert not letters("").size
    assert not letters(" \n ").any()


def test_the_fonts_are_those_of_matplotlib() -> None:
    default = letters("aж")
    with matplotlib.rc_context({"font.family": ["cmr10"]}):
        first = letters("aж")  # which it lacks
    with matplotlib.rc_context({"font.family": ["cmr10", "DejaVu Sans"]}):
        both = letters("aж")
    with matplotlib.rc_context({"font.family": ["no such font"]}):
        np.testing.assert_array_equal(letters("aж"), default)
    assert (both.shape, first.shape) != (default.shape, default.shape)
    assert both.shape != first.shape or (both != first).any()
    np.testing.assert_array_equal(letters("aж"), default)


@pytest.mark.parametrize("text", ["word " * 40, "W" * 300, "猫" * 90, "i" * 500])
def test_long_texts_stay_on_the_sheet(tmp_path: Path, text: str) -> None:
    picture = drawn(tmp_path, title=text)
    ((top, _),) = places(picture, PHOTO)
    found = ink(picture[: top - 1])
    assert found.min() >= 1
    assert found[:, 1].max() < picture.shape[1] - 1
    assert texts.wrapped(text, 6.3, 9).count("\n") + 1 <= top / 15


def test_wrapped_lines_are_balanced() -> None:
    first, second = texts.wrapped("0 % of the score arrives at the pixels, biases absorb 100 %", 3.4, 9).split("\n")
    assert abs(len(first) - len(second)) < 12
    assert texts.wrapped("short", 3.4, 9) == "short"
