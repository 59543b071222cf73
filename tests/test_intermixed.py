"""Files stand where the user writes them: before, between and behind options, and behind `--`; threads are limited."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import cv2
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from helpers.pictures import photos

from lrp_tf import cli, threads
from lrp_tf.files.errors import LoadError


def parsed(line: str):
    found = cli._parser().parse_args(shlex.split(line))
    return next(getattr(found, name) for name in ("images", "texts", "outs") if hasattr(found, name)), found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("explain m.keras --preprocess none a.png", ["a.png"]),
        ("explain --preprocess none m.keras a.png --gallery b.png", ["a.png", "b.png"]),
        ("explain m.keras --target 3 281 -- a.png -b.png --gallery", ["a.png", "-b.png", "--gallery"]),
        ("explain m.keras a.png --out x -- -", ["a.png", "-"]),
        ("explain -- m.keras -b.png", ["-b.png"]),
        ("explain m.keras --composite epsilon epsilon_plus --shard 0/2 a.png --threads 2", ["a.png"]),
        ("evaluate m.keras --metrics srg a.png --threads 2 b.png", ["a.png", "b.png"]),
        ("grid m.keras --preprocess none a.png -- -b.png", ["a.png", "-b.png"]),
        ("tune m.keras --preprocess none a.png --threads 1", ["a.png"]),
        ("explain-text m.keras --tokenizer t.json one '-5 degrees' -- --two", ["one", "-5 degrees", "--two"]),
    ],
)
def test_files_stand_anywhere(line, names):
    found, options = parsed(line)
    assert (found, str(options.model)) == (names, "m.keras")
    if "281" in line:
        assert options.target == ["3", "281"]


def test_folders_to_merge_stand_anywhere():
    found, options = parsed("merge a --partial b --out c -- -d")
    assert (list(map(str, found)), str(options.out), options.partial) == (["a", "b", "-d"], "c", True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "explain m.keras --preproces none a.png --gallry",
            "unrecognized arguments: --gallry. Did you mean --gallery?",
        ),
        ("explain m.keras a.png --zzz", "unrecognized arguments: --zzz\n"),
        ("explain m.keras a.png -b.png", "For files whose names begin with a dash: -- -b.png"),
        ("report m.keras a.png b.png", "unrecognized arguments: b.png"),
        ("explain m.keras a.png --threads 0", "expected at least 1, received 0"),
        ("merge", "arguments are required: OUT"),
    ],
)
def test_what_cannot_be_meant(line, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(line)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.splitlines()[-1].startswith(f"lrp-tf {line.split()[0]}: error:")


def test_threads_are_those_of_all_libraries(monkeypatch):
    asked = []
    for kind in ("intra", "inter"):
        name = f"set_{kind}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, name, lambda count, kind=kind: asked.append((kind, count)))
    monkeypatch.setattr(threads, "_limit", [])
    before, all_of_them = cv2.getNumThreads(), threads.readers()
    try:
        threads.limit(1)
        assert (asked, cv2.getNumThreads(), threads.readers()) == ([("intra", 1), ("inter", 1)], 1, 1)
    finally:
        cv2.setNumThreads(before)

    def late(count):
        raise RuntimeError

    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", late)
    with pytest.raises(LoadError, match=r"`threads` 64: TensorFlow has begun .* Remedy: a new process"):
        threads.limit(64)
    assert all_of_them >= 1


@pytest.mark.slow
def test_a_process_has_as_many_threads_as_it_was_told(saved, tmp_path):
    photos(tmp_path / "in", 2)
    code = (
        "import sys, tensorflow as tf, cv2; from lrp_tf import cli, threads;"
        f"code = cli.main(['explain', {str(saved)!r}, '--preprocess', 'none', '--threads', '1', 'in']);"
        "print(code, tf.config.threading.get_intra_op_parallelism_threads(), cv2.getNumThreads(), threads.readers())"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 1 1 1"
