"""Sound: files, long signals as envelopes, `lrp-tf explain`."""

import re
import sys

import keras
import numpy as np
import pytest
import soundfile
from helpers.checking import raises, randomize
from helpers.pictures import rgb, table
from keras import layers as kl

from lrp_tf import heatmap
from lrp_tf.arrays import files
from lrp_tf.arrays.files import ArrayError
from lrp_tf.arrays.sample import Array
from lrp_tf.arrays.tiles import tiles
from lrp_tf.files.errors import ExtraError
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.signals import LONG

RNG = np.random.default_rng(3)
RATE = 8000


def refused(error, *words):
    return raises(error, *map(re.escape, words))


def tone(seconds=0.1, channels=1):
    t = np.arange(round(seconds * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * 440 * t)
    return wave if channels == 1 else np.stack([wave / (c + 1) for c in range(channels)], axis=1)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".WAV"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_float32_between_minus_one_and_one(tmp_path, suffix, channels):
    wave = tone(channels=channels)
    soundfile.write(tmp_path / f"x{suffix}", wave, RATE)
    found = files.read(tmp_path / f"x{suffix}")
    assert found.values.dtype == np.float32
    assert found.values.shape == wave.shape
    assert found.rate == RATE
    np.testing.assert_allclose(found.values, wave, atol=0.1 if suffix == ".ogg" else 1e-4)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("x.wav", lambda data: data[: len(data) // 2], ["cut", "822", "1644"]),
        ("x.flac", lambda data: data[: len(data) // 2], ["sound"]),
        ("x.ogg", lambda data: data[: len(data) // 2], ["sound"]),
        ("x.wav", lambda data: b"", ["no sound"]),
        ("x.wav", lambda data: b"RIFF" + bytes(100), ["no sound"]),
        ("x.flac", lambda data: b"something else", ["no sound"]),
    ],
)
def test_damaged_sound_says_why(tmp_path, name, damage, words):
    soundfile.write(tmp_path / name, tone(), RATE)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damage(data))
    with refused(ArrayError, *words) as caught:
        files.read(tmp_path / name)
    assert "BufferedReader" not in str(caught.value)


def test_wav_files_written_into_a_pipe_name_no_length(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(), RATE)
    data = bytearray((tmp_path / "x.wav").read_bytes())
    data[4:8] = b"\xff" * 4
    (tmp_path / "x.wav").write_bytes(bytes(data))
    assert files.read(tmp_path / "x.wav").values.shape == (800,)


def test_without_soundfile_the_extra_is_named(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.wav", tone(), RATE)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with refused(ExtraError, "soundfile", "lrp_tf[audio]"):
        files.read(tmp_path / "x.wav")


def sounds(shape):
    stack = [keras.Input(shape), kl.Reshape((-1, shape[1] if len(shape) > 1 else 1))]
    stack += [kl.Conv1D(3, 9, strides=4, activation="relu"), kl.GlobalMaxPooling1D(), kl.Dense(2)]
    return randomize(keras.Sequential(stack, name="sounds"))


@pytest.mark.parametrize(("shape", "channels"), [((800,), 1), ((800, 1), 1), ((800, 2), 2)])
def test_the_command_explains_sound(lrp, tmp_path, shape, channels):
    """Nothing is resampled, cut or mixed: another length or number of channels is a failure that states both."""
    sounds(shape).save("sounds.keras")
    (tmp_path / "in").mkdir()
    soundfile.write("in/a.wav", tone(channels=channels), RATE)
    soundfile.write("in/other.wav", tone(channels=3 - channels), RATE)
    soundfile.write("in/short.flac", tone(0.05, channels), RATE)
    code, out, err = lrp("explain", "sounds.keras", "in", "--composite", "epsilon", "--save-relevance")
    assert code == 1, err
    assert "1 explained" in out
    assert np.load("results/a.npy").shape == shape
    reasons = {row["file"]: row["reason"] for row in table(tmp_path / "results" / "failures.csv")}
    assert set(reasons) == {"in/other.wav", "in/short.flac"}
    for words in ("(800", "(400", "0.05 s of sound at 8000 Hz", "neither cuts nor resamples"):
        assert words in reasons["in/short.flac"]
    assert f"{3 - channels} channel(s)" in reasons["in/other.wav"]
    assert lrp("report", "sounds.keras", "in/a.wav", "--composite", "epsilon")[0] == 0
    assert lrp("check", "sounds.keras", "in/a.wav", "--composite", "epsilon")[0] == 0


def red(picture):
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return np.nonzero((r > 100) & (g < 60) & (b < 60))


def test_a_long_signal_is_the_range_of_each_column(tmp_path):
    """A single relevant point, and a single high one, of a million stay visible at their places."""
    values, relevance = RNG.normal(0, 0.1, 1_000_000), np.zeros(1_000_000)
    relevance[750_000], values[250_000] = 1.0, 5.0
    heatmap.signal(tmp_path / "x.png", relevance, values, x=np.arange(1_000_000) / RATE, unit="seconds")
    picture = rgb(tmp_path / "x.png")
    inside = picture[:, 75:875]
    _, columns = red(inside)
    assert columns.size
    assert np.abs(columns - 0.75 * 800).max() < 8
    grey = np.all(np.abs(inside.astype(int) - 160) < 12, axis=-1)
    high = np.nonzero(grey[: len(grey) // 3].any(axis=0))[0]  # only the high point reaches the upper third
    assert high.size
    assert np.abs(high - 0.25 * 800).max() < 8


def test_long_and_short_drawings_agree_on_where(tmp_path):
    for length in (LONG - 1, LONG):
        relevance, values = np.zeros(length), RNG.normal(size=length)
        relevance[: length // 4] = -1.0
        heatmap.signal(tmp_path / f"{length}.png", relevance, values)
    first, second = (rgb(tmp_path / f"{n}.png").astype(int) for n in (LONG - 1, LONG))
    blue = [np.nonzero((p[..., 2] > 60) & (p[..., 0] < 60))[1] for p in (first, second)]
    assert abs(int(blue[0].max()) - int(blue[1].max())) <= 3
    assert abs(int(blue[0].min()) - int(blue[1].min())) <= 3


def test_a_single_relevant_point_of_a_long_signal_shows_on_the_page():
    relevance, values = np.zeros(100_000), RNG.normal(size=100_000)
    relevance[75_000] = 1.0
    picture = tiles([relevance], Array(values), Look(), None).maps[0][0]
    _, columns = red(picture)
    assert columns.size
    assert np.abs(columns / picture.shape[1] - 0.75).max() < 0.01
