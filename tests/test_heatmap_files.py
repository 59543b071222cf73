"""Heatmaps as files: sizes, layout, formats, and that they appear whole or not at all."""

from __future__ import annotations

import re
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import matplotlib
import numpy as np
import pytest
from helpers import REPOSITORY
from matplotlib.figure import Figure

from lrp_tf import heatmap
from lrp_tf.heatmap import texts

RED = (128, 0, 0)
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
MAP = RNG.normal(size=(15, 25))


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def area(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """(height, width) of what has that colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


# --- sizes and layout --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".bmp"])
def test_bare_pictures_are_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    np.testing.assert_array_equal(read(heatmap.save(path, MAP)), heatmap.to_rgb(MAP))
    got = read(heatmap.save(path, MAP, image=PHOTO, style="overlay", gamma=0.5, alpha=0.3))
    np.testing.assert_array_equal(got, heatmap.overlay(PHOTO, MAP, gamma=0.5, alpha=0.3))
    got = read(heatmap.save(path, MAP, image=PHOTO, style="heatmap", cmap="lrp"))
    np.testing.assert_array_equal(got, heatmap.to_rgb(heatmap.resize(MAP, (30, 50)), cmap="lrp"))


def test_jpeg_keeps_colours(tmp_path: Path) -> None:
    checks = np.kron(np.indices((4, 4)).sum(axis=0) % 2 * 2.0 - 1.0, np.ones((2, 2)))
    got = read(heatmap.save(tmp_path / "a.jpg", checks)).astype(int)
    assert np.abs(got - heatmap.to_rgb(checks)).mean() < 8


def test_panels_keep_the_aspect_ratio(tmp_path: Path) -> None:
    picture = read(heatmap.save(tmp_path / "a.png", np.ones((3, 2)), image=np.zeros((40, 120)), title="wide"))
    for colour in (RED, (0, 0, 0)):
        height, width = area(picture[24:], colour)
        assert (height, width) == (pytest.approx(67, abs=4), pytest.approx(200, abs=4))


def test_large_images_are_drawn_pixel_by_pixel(tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (260, 300, 3), dtype=np.uint8)
    picture = read(heatmap.save(tmp_path / "a.png", np.zeros((2, 2)), image=image))
    inner = image[2:-2, 2:-2]
    assert any((picture[y : y + 256, 12 : 12 + 296] == inner).all() for y in range(picture.shape[0] - 256))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1)])
def test_extreme_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    for style in ("side-by-side", "overlay", "heatmap"):
        drawn = {"title": "a title", "colorbar": True, "style": style}
        picture = read(heatmap.save(tmp_path / "a.png", np.ones(shape), image=np.zeros(shape), **drawn))
        assert max(picture.shape) < 2000
        if style == "side-by-side":
            assert min(area(picture[:, :-100], RED)) > 90


def test_colorbar(tmp_path: Path) -> None:
    plain, barred = (
        read(heatmap.save(tmp_path / "a.png", np.zeros((9, 9)), title="t", scale=2.5, colorbar=bar)) for bar in (0, 1)
    )
    assert barred.shape[1] == plain.shape[1] + 100
    column = barred[:, plain.shape[1] + 6].astype(int)
    bar = column[(column != 255).any(axis=-1)]
    assert tuple(bar[5]) == pytest.approx(RED, abs=12)  # red above, blue below
    assert bar[-5, 2] > bar[-5, 0] + 50
    texts = [t.get_text() for t in heatmap.figure(MAP, scale=2.5, colorbar=True).axes[-1].get_yticklabels()]
    assert sorted(texts) == ["0", "2.5", "−2.5"]
    texts = [t.get_text() for t in heatmap.figure(MAP - 9, symmetric=False, colorbar=True).axes[-1].get_yticklabels()]
    assert texts == [f"{v:.3g}".replace("-", "−") for v in (MAP.min() - 9, MAP.max() - 9)]


def test_grid_keeps_aspect_ratios_and_refuses_what_is_no_picture(tmp_path: Path) -> None:
    tiles = [np.full((40, 20, 3), RED, np.uint8), np.full((20, 40, 3), (0, 99, 0), np.uint8)]
    picture = read(heatmap.grid(tmp_path / "g.png", [tiles], labels=["a", "b\nc"]))
    assert area(picture, RED) == (pytest.approx(200, abs=4), pytest.approx(100, abs=4))
    assert area(picture, (0, 99, 0)) == (pytest.approx(100, abs=4), pytest.approx(200, abs=4))
    with pytest.raises(ValueError, match="to_rgb"):
        heatmap.grid(tmp_path / "g.png", [[MAP]])
    with pytest.raises(ValueError, match="1 for 2 rows"):
        heatmap.grid(tmp_path / "g.png", [tiles, tiles], titles=["a"])


def test_style_of_the_process_does_not_show(tmp_path: Path) -> None:
    dark = {"axes.facecolor": "black", "text.color": "white", "image.origin": "lower", "axes.grid": True}
    drawn = {"image": PHOTO, "title": "title", "colorbar": True}
    plain = heatmap.save(tmp_path / "a.png", MAP, **drawn).read_bytes()
    with matplotlib.rc_context(dark):
        assert heatmap.save(tmp_path / "a.png", MAP, **drawn).read_bytes() == plain


def test_mistakes_in_style(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side-by-side"):
        heatmap.save(tmp_path / "a.png", MAP, style="both")
    with pytest.raises(ValueError, match=r"image.*style=.heatmap"):
        heatmap.save(tmp_path / "a.png", MAP, style="overlay")
    assert not list(tmp_path.iterdir())


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "magic"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".webp", b"RIFF")])
def test_figures_in_other_formats(tmp_path: Path, suffix: str, magic: bytes) -> None:
    for drawn in ({"title": "$ 猫"}, {"style": "overlay"}):
        path = heatmap.save(tmp_path / f"a{suffix}", MAP, image=PHOTO, **drawn)
        assert path.read_bytes().startswith(magic)


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = heatmap.save(tmp_path / "a.png", np.ones((2, 2)))
    drawing = heatmap.save(tmp_path / "a.pdf", np.ones((2, 2)))
    before = path.read_bytes(), drawing.read_bytes()
    with pytest.raises(ValueError, match="image"):
        heatmap.save(path, np.ones((2, 2)), image=np.zeros((2, 2, 7)))
    for name in ("noname", "a.nosuch"):
        with pytest.raises(ValueError, match=r"suffix.*\.png"):
            heatmap.save(tmp_path / name, np.ones((2, 2)))

    def half(self: Figure, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise RuntimeError("disk")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(RuntimeError, match="disk"):
        heatmap.save(drawing, np.ones((2, 2)), title="t")
    assert (path.read_bytes(), drawing.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.png"]


def test_atomic(tmp_path: Path) -> None:
    seen = []

    def draw(temporary: Path) -> None:
        seen.append(temporary.name)
        assert not (tmp_path / "a.json").exists()
        temporary.write_text("{}")

    path = heatmap.atomic(str(tmp_path / "a.json"), draw)
    assert re.fullmatch(r"\.tmp-\w+\.json", seen[0])
    assert path.read_text() == "{}"
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    with pytest.raises(FileNotFoundError, match="folder that exists"):
        heatmap.atomic(tmp_path / "nowhere" / "a.json", draw)


def test_threads_draw_the_same_pictures(tmp_path: Path) -> None:
    def draw(i: int) -> bytes:
        drawn = {"title": f"title {i}", "cmap": heatmap.PALETTES[i], "colorbar": True}
        return heatmap.save(tmp_path / f"{i}.png", MAP * (i + 1), image=PHOTO, **drawn).read_bytes()

    one_by_one = [draw(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(8))) == one_by_one
    assert len(set(one_by_one)) == 8


# --- texts, notebooks, the page ----------------------------------------------------------------


@pytest.mark.parametrize("title", ["$", "$x^{", "猫 🐈", "tab\tand\r\nbreak", "\x00\ud800", "  "])
def test_titles_of_any_characters(tmp_path: Path, title: str) -> None:
    heatmap.save(tmp_path / "a.png", MAP, title=title)  # warnings are errors
    heatmap.grid(tmp_path / "b.png", [[heatmap.to_rgb(MAP)]], titles=[title], labels=[title], suptitle=title)


def test_what_the_font_lacks_is_a_question_mark() -> None:
    drawn = heatmap.figure(MAP, title="a 猫 costs $1 or $2").texts[0]
    assert drawn.get_text() == "a ? costs $1 or $2"
    assert not drawn.get_parse_math()


def test_long_titles_are_wrapped() -> None:
    made = heatmap.figure(MAP, title="word " * 40)
    made.canvas.draw()
    box = made.texts[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= made.bbox.width
    assert box.y1 <= made.bbox.height


@pytest.mark.parametrize("inches", [0.9, 1.0, 1.3, 1.7, 2.0])
def test_a_number_keeps_its_unit(inches: float) -> None:
    text = "0 % of the score arrives at the pixels, biases absorb 132 %, other mechanisms add 33 %"
    lines = texts.wrapped(text, inches, 8).split("\n")
    assert len(lines) > 1
    assert " ".join(lines) == text
    assert not any(line.startswith("%") for line in lines)


def test_show_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython, ipython.display = lambda: SimpleNamespace(kernel=1), display
    display.Image, display.display = lambda data: data, shown.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert heatmap.show(MAP, PHOTO, title="t", style="overlay") is None
    assert shown[0].startswith(b"\x89PNG")
    ipython.get_ipython = lambda: None
    with pytest.raises(RuntimeError, match=r"heatmap\.save"):
        heatmap.show(MAP)
    monkeypatch.setitem(sys.modules, "IPython", None)  # not installed
    with pytest.raises(RuntimeError, match=r"heatmap\.save"):
        heatmap.show(MAP)


def test_pyplot_stays_out() -> None:
    for path in (REPOSITORY / "lrp_tf/heatmap").glob("*.py"):
        assert not re.search(r"import.*pyplot|plt\.", path.read_text(encoding="utf-8")), path.name


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs/heatmaps.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {"R": RNG.normal(size=(2, 15, 25, 3)), "x": RNG.uniform(size=(2, 30, 50, 3))}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/heatmaps.md", "exec"), names)
    assert len(list(tmp_path.iterdir())) == len(re.findall(r'"\w+\.\w{3,4}"', page))
    for name in heatmap.PALETTES:
        assert f"`{name}`" in page
    for name in heatmap.__all__:
        assert re.search(rf"`{name}\b", page), name
