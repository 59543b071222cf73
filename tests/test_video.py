"""vgg/video.py on short films: what it writes, what ends a film early, which options and files it refuses."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import video_scripts
from helpers.extras import need
from helpers.video_scripts import GREEN, LOOKS, SIZE, Cable, film, frames, halves, picture, red_at, times

need("av", extra="video")


@pytest.fixture(scope="module")
def films() -> ModuleType:
    return video_scripts.script("films")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_scripts.watcher(tmp_path_factory.mktemp("model") / "watcher.keras")


@pytest.fixture
def video(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs vgg/video.py with the watcher; returns exit code, output, errors."""
    main = video_scripts.script("video").main
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        given = ["--model", model, *LOOKS, "--classes", model.with_suffix(".txt"), *arguments]
        try:
            code = main([str(argument) for argument in given])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# --- what is written ---------------------------------------------------------------------------


def test_each_frame_beside_its_heatmap(video: Callable, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 10)
    code, out, _ = video("--source", source, "--out", "out.mp4", "--batch", 4)
    assert code == 0
    assert "10 frames explained" in out
    found = frames(tmp_path / "out.mp4")
    assert len(found) == 10
    np.testing.assert_allclose(times(tmp_path / "out.mp4"), times(source), atol=1e-3)
    for i, pixels in enumerate(found):
        shown, heatmap = halves(pixels)
        np.testing.assert_allclose(shown[15, 60], GREEN, atol=12)
        assert abs(red_at(heatmap) - (video_scripts.column(i, 10) + 6) / SIZE[1]) < 0.03
        assert np.ptp(pixels[250:]) > 150  # captions


def test_a_constant_rate_keeps_the_length(video: Callable, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 20, rate=20)
    assert video("--source", source, "--out", "slow.mp4", "--fps", 5)[0] == 0
    np.testing.assert_allclose(times(tmp_path / "slow.mp4"), [0, 0.2, 0.4, 0.6, 0.8], atol=1e-3)


def test_the_class_and_looks_that_are_asked_for(video: Callable, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 3)
    more = ("--target", "nothing", "--composite", "epsilon", "--zero-bias", "--style", "overlay", "--height", 240)
    assert video("--source", source, "--out", "out.mkv", *more, "--max-frames", 2, "--scale", "frame")[0] == 0
    found = frames(tmp_path / "out.mkv")
    assert len(found) == 2
    _, second = halves(found[1])
    grey = np.ptp(second[200:].astype(int), axis=-1)
    assert grey.max() < 20  # the ground below the square, without relevance: grey


@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_frames_come_upright(films: ModuleType, tmp_path: Path, turn: int) -> None:
    source = films.Film(film(tmp_path / "in.mp4", 2, turn))
    assert source.size == SIZE
    (first, second) = source.frames()
    np.testing.assert_allclose(first.pixels.astype(int), picture(0), atol=40)  # edges in half the colours
    assert np.abs(first.pixels.astype(int) - picture(0)).mean() < 3
    assert second.time == pytest.approx(0.04)


def test_mirrored_films_of_a_front_camera(films: ModuleType, tmp_path: Path) -> None:
    path = film(tmp_path / "in.mp4", 2)
    content = path.read_bytes()
    at = content.index(b"tkhd") + 44  # the matrix in the header of the track
    path.write_bytes(content[:at] + (-65536).to_bytes(4, "big", signed=True) + content[at + 4 :])
    first = next(iter(films.Film(path).frames()))
    assert np.abs(first.pixels.astype(int) - picture(0)[:, ::-1]).mean() < 3


# --- what ends a film early --------------------------------------------------------------------


def test_a_film_that_is_cut_off_gives_the_film_so_far(video: Callable, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    noisy = film(
        tmp_path / "in.mp4", 24, make=lambda i: picture(i) // 2 + numbers.integers(0, 90, (*SIZE, 3), np.uint8),
        options={"movflags": "faststart"},
    )  # fmt: skip
    content = noisy.read_bytes()
    noisy.write_bytes(content[: len(content) * 6 // 10])
    code, out, error = video("--source", noisy, "--out", "out.mp4")
    assert code == 1
    assert "is cut off after" in error
    assert "so far; it plays" in out
    assert 5 < len(frames(tmp_path / "out.mp4")) < 24
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_camera_that_is_pulled_out(video: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Cable(12, lambda i: time.sleep(0.05))
    monkeypatch.setattr("cv2.VideoCapture", lambda number: camera)
    code, out, error = video("--source", 0, "--out", "out.mp4")
    assert code == 1
    assert "camera 0: gives no more pictures after 11 frames" in error
    assert "dropped for newer ones" in out
    assert 1 <= len(frames(tmp_path / "out.mp4")) <= 11


def test_ctrl_c_leaves_a_film_that_plays(video: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path / "in.mp4", 8)
    running = video_scripts.script("running")
    once = video_scripts.script("films").Film.frames
    pressed = []

    def endless(job: Any) -> Iterator[Any]:
        while True:
            yield from once(job.source)
            if not pressed:
                pressed.append(True)
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(running.Job, "_frames", endless)
    code, out, error = video("--source", source, "--out", "out.mp4")
    assert code == 130
    assert "Interrupted" in error
    assert "so far; it plays" in out
    assert len(frames(tmp_path / "out.mp4")) >= 1
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_stale_frame_is_dropped(films: ModuleType) -> None:
    read = threading.Event()

    def source() -> Iterator[Any]:
        for i in range(5):
            yield films.Frame(np.zeros((1, 1, 3), np.uint8), float(i))
            if i == 0:
                assert read.wait(10)

    newest = films.Newest(source(), threading.Event(), threading.Event())
    found = iter(newest)
    assert next(found).time == 0
    reader = next(thread for thread in threading.enumerate() if thread.name == "newest")
    read.set()
    reader.join()
    assert [frame.time for frame in found] == [4]
    assert newest.dropped == 3


# --- what is refused ---------------------------------------------------------------------------


def _no_codec(path: Path) -> None:
    film(path, 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def _no_contents(path: Path) -> None:
    film(path, 20)
    path.write_bytes(path.read_bytes()[:400])


def _sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def _playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/film.mp4\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("no film\n" * 100), "no film, or in a format that is not read"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "no such file"),
        (_no_codec, "its codec is not known"),
        (_no_contents, "its table of contents, at the end of the file, is missing"),
        (_sound, "holds no pictures"),
        (_playlist, "no film, or in a format that is not read"),
    ],
)
def test_sources_that_are_no_films(video: Callable, tmp_path: Path, make: Callable, message: str) -> None:
    make(tmp_path / "in.mp4")
    code, _, error = video("--source", tmp_path / "in.mp4", "--out", "out.mp4")
    assert code == 2
    assert message in error
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Expected --out FILE.mp4, --serve PORT, or both"),
        (("--out", "there.mp4"), "exists. Remedy: another name, or --overwrite"),
        (("--out", "nowhere/out.mp4"), "there is no folder nowhere"),
        (("--out", "out.avi"), "expected a name ending in .mp4, .mov or .mkv"),
        (("--out", "in.mp4", "--overwrite"), "is the source itself"),
        (("--out", "out.mp4", "--scale", "wide"), "Expected scale"),
        (("--out", "out.mp4", "--fps", "0"), "expected 0.01 to 1000"),
        (("--serve", "0", "--fps", "5"), "--fps is the rate of --out"),
        (("--serve", "70000"), "expected a port"),
        (("--serve", "x"), "expected a port from 0 to 65535, received 'x'"),
        (("--max-frames", "0.5"), "expected a whole number from 1, received '0.5'"),
        (("--smooth", "much"), "expected a number of pixels or auto, received 'much'"),
        (("--out", "out.mp4", "--max-pixels", "100"), "expected frames of 1 to 100 pixels (--max-pixels)"),
        (("--out", "out.mp4", "--model", "vgg17"), "--model vgg17: expected vgg16"),
        (("--out", "out.mp4", "--target", "topK:2"), "a film explains one class of each frame"),
        (("--out", "out.mp4", "--target", "cat"), "no class has this name"),
    ],
)
def test_options_that_make_no_sense(video: Callable, tmp_path: Path, options: tuple, message: str) -> None:
    source = film(tmp_path / "in.mp4", 2)
    (tmp_path / "there.mp4").write_bytes(b"mine")
    code, _, error = video("--source", source, *options)
    assert code == 2
    assert message in error
    assert (tmp_path / "there.mp4").read_bytes() == b"mine"
    assert not (tmp_path / "out.mp4").exists()


def test_a_camera_that_is_not_there(video: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.VideoCapture", lambda number: Cable(0))
    code, _, error = video("--source", 3, "--out", "out.mp4")
    assert code == 2
    assert "camera 3 gives no picture" in error


def test_a_port_in_use(video: Callable, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 2)
    with video_scripts.script("live").listening(0) as taken:
        code, _, error = video("--source", source, "--serve", taken.getsockname()[1])
    assert code == 2
    assert "the port cannot be used" in error


# --- rates and scales --------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [Fraction(2), Fraction(10), Fraction(25), Fraction(30000, 1001)])
def test_pictures_of_a_constant_rate(films: ModuleType, rate: Fraction) -> None:
    """Each picture is the newest frame at its time, whatever the source's times."""
    at = np.cumsum([0, 0.1, 0.02, 0.3, 0.1, 0.1, 0.05])
    source = [films.Frame(np.full((1, 1, 3), i, np.uint8), float(t)) for i, t in enumerate(at)]
    shown = [frame.pixels[0, 0, 0] for frame in films.constant(source, rate, 20.0) for _ in range(frame.pictures)]
    expected = [np.searchsorted(at, k / float(rate) + 1e-9, side="right") - 1 for k in range(len(shown))]
    assert expected == shown
    assert 0 <= len(shown) / float(rate) - (at[-1] + 0.05) + 1e-9 < 1 / float(rate)


def test_colours_do_not_flicker() -> None:
    views = video_scripts.script("views")
    sizes = np.where(np.arange(200) % 2, 4.0, 1.0)
    steady, each = views.Scale("100%"), views.Scale("frame")
    maps = [np.array([[size, -size / 2]]) for size in sizes]
    found = np.array([steady(m, i / 25) for i, m in enumerate(maps)])
    assert [each(m, i / 25) for i, m in enumerate(maps)] == sizes.tolist()
    settled = found[50:]
    assert (settled.max() / settled.min()) < 1.25  # the maps differ fourfold
    assert 1 < settled.mean() < 4
    assert views.Scale(2.5)(maps[0], 0.0) == 2.5


def test_the_scale_follows_a_film_at_the_same_pace_at_any_rate() -> None:
    views = video_scripts.script("views")

    def after(rate: int) -> float:
        scale = views.Scale("100%")
        scale(np.ones((1, 1)), 0.0)
        return [scale(np.full((1, 1), 0.01), i / rate) for i in range(1, 2 * rate + 1)][-1]

    assert after(5) == pytest.approx(after(50))
    assert 0.01 < after(5) < 0.03


def test_an_empty_map_changes_no_scale() -> None:
    scale = video_scripts.script("views").Scale("99%")
    assert scale(np.full((2, 2), 3.0), 0.0) == pytest.approx(3)
    assert scale(np.zeros((2, 2)), 1.0) == pytest.approx(3)
    assert scale(np.full((2, 2), 3.0), 2.0) == pytest.approx(3)


@pytest.mark.parametrize("size", [(5, 7), (33, 64), (1, 1)])
def test_odd_sizes_become_even(films: ModuleType, tmp_path: Path, size: tuple[int, int]) -> None:
    filming = video_scripts.script("filming")
    pixels = np.full((*size, 3), (200, 40, 90), np.uint8)
    shown = [filming.Picture(filming.padded(pixels), i / 10) for i in range(3)]
    assert filming.write(tmp_path / "out.mp4", shown, None, 10.0) == (3, None)
    found = frames(tmp_path / "out.mp4")
    assert [f.shape[:2] for f in found] == [films.even(size)] * 3


def test_colours_survive_the_film(tmp_path: Path) -> None:
    filming = video_scripts.script("filming")
    colours = np.array([(255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 0, 0), (24, 24, 24)], np.uint8)
    pixels = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)
    filming.write(tmp_path / "out.mp4", [filming.Picture(pixels, 0.0)], None, 25.0)
    (found,) = frames(tmp_path / "out.mp4")
    np.testing.assert_allclose(found[8, 8::16].astype(int), colours, atol=6)
