"""The command as a process: its ways in, what it says and does not say, how it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import REPOSITORY
from helpers.pictures import photos, table

import lrp_tf
from lrp_tf import cli, composites, heatmap, rules
from lrp_tf.cli import composite_option, options
from lrp_tf.files import images
from lrp_tf.heatmap import look

WAYS_IN = [
    ["-m", "lrp_tf"],
    ["-m", "lrp_tf.cli"],
    ["-c", "import sys; sys.argv[0] = 'lrp-tf'; from lrp_tf.cli import main; sys.exit(main())"],
]


def run(*arguments, cwd=None, code=WAYS_IN[0], **environment):
    """A fresh process, as a user starts it: no variable that quiets TensorFlow is set."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    env |= {"PYTHONPATH": str(REPOSITORY), **environment}
    command = [sys.executable, *code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", WAYS_IN, ids=["lrp_tf", "lrp_tf.cli", "script"])
def test_every_way_in_is_the_command(code):
    done = run("explain", "m.keras", "a.png", "--resize", "stretch", code=code)
    assert done.returncode == 2
    assert "lrp-tf explain: error: argument --resize: invalid choice: 'stretch'" in done.stderr
    assert run("--help", code=code).stdout.startswith("usage: lrp-tf ")


def test_a_run_says_nothing_but_its_own(saved, tmp_path):
    photos(tmp_path / "in", 1)
    done = run("explain", saved, "in", "--preprocess", "none", "--target", "topK:2", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("small, composite epsilon_plus_flat, 1 image(s)\n")


IMPORTED = """
import atexit, sys
atexit.register(lambda: print("tensorflow" in sys.modules, file=sys.stderr))
sys.argv[0] = "lrp-tf"
from lrp_tf.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["explain", "--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["explain"], 2),
        (["explain", "m.keras", "a.png", "--resize", "stretch"], 2),
    ],
)
def test_help_and_mistakes_need_no_tensorflow(arguments, code):
    began = time.perf_counter()
    done = run(*arguments, code=["-c", IMPORTED])
    assert time.perf_counter() - began < 3  # 0.2 s on an idle machine; importing TensorFlow takes 4
    assert done.returncode == code
    assert done.stderr.endswith("False\n")


def test_options_know_the_names_that_their_modules_own():
    assert tuple(composites.PRESETS) == composite_option.PRESETS
    assert composites.FOR_TRANSFORMERS == composite_option.FOR_TRANSFORMERS
    assert images.FITS == options.FITS
    assert images.MAX_PIXELS == options.MAX_PIXELS
    assert look.STYLES == options.STYLES
    assert look.FORMATS == options.FORMATS
    assert heatmap.PALETTES == options.PALETTES
    assert rules.base.WHEN_EMPTY == composite_option.WHEN_EMPTY


def test_the_driver_of_vgg_offers_the_nets_that_loading_has():
    done = run("--help", code=[str(REPOSITORY / "vgg" / "lrp.py")])
    from lrp_tf.files import loading

    assert done.returncode == 0
    assert f"{{{','.join(loading.IMAGENET)}}}" in done.stdout
    assert done.stderr == ""


# --- the package -------------------------------------------------------------------------------


def test_every_public_name_is_listed_and_there():
    assert set(lrp_tf.__all__) <= set(dir(lrp_tf))
    assert {"heatmap", "export", "Explainer", "__version__"} <= set(dir(lrp_tf))
    for name in lrp_tf.__all__:
        assert getattr(lrp_tf, name) is not None
    with pytest.raises(AttributeError, match="'lrp_tf' has no attribute 'heatmaps'"):
        lrp_tf.heatmaps  # noqa: B018


FORMS = """
import sys
import lrp_tf
assert "tensorflow" not in sys.modules
names = {}
exec("from lrp_tf import *", names)
assert set(lrp_tf.__all__) <= set(names)
from lrp_tf import Explainer, rules, explainer
import lrp_tf.flows
assert lrp_tf.rules is rules and lrp_tf.Explainer is Explainer is explainer.Explainer
print("fine")
"""


def test_every_form_of_import_works():
    assert run(code=["-c", FORMS]).stdout == "fine\n"


def test_another_backend_is_refused_before_keras_is_imported():
    done = run(code=["-c", "import sys\ntry:\n    import lrp_tf\nfinally:\n    print('keras' in sys.modules)"],
               KERAS_BACKEND="jax")  # fmt: skip
    assert done.stdout == "False\n"
    assert "Expected KERAS_BACKEND=tensorflow" in done.stderr


# --- TensorFlow's greetings --------------------------------------------------------------------


def filtered(body, **environment):
    """What arrives on standard error of a process that writes inside the filter."""
    code = f"import os, sys, signal\nfrom lrp_tf.cli import quiet\nwith quiet._without_greetings():\n    {body}\n"
    return run(code=["-c", code], **environment)


NOTE = "I0000 00:00:1795821857.357128    7037 port.cc:153] oneDNN custom operations are on."
ERROR = "E0000 00:00:1795821898.951538    7229 cuda_platform.cc:52] failed call to cuInit: INTERNAL"
MISSING = "I0000 00:00:1795821857.357525    7037 cudart_stub.cc:31] Could not find cuda drivers on your machine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="greetings are held back by a forked process")
def test_greetings_are_dropped_and_errors_are_not():
    done = filtered(f"os.write(2, {(NOTE + chr(10) + ERROR + chr(10)).encode()!r}); print('own', file=sys.stderr)")
    assert done.stderr == f"{ERROR}\nown\n"
    assert filtered(f"os.write(2, {(MISSING + chr(10) + ERROR + chr(10)).encode()!r})").stderr == ""
    failed = filtered(f"os.write(2, {(NOTE + chr(10)).encode()!r}); raise ImportError('broken')")
    assert "port.cc" not in failed.stderr
    assert failed.stderr.endswith("ImportError: broken\n")
    crashed = filtered("os.write(2, b'F0000 the last words\\n'); os.abort()")
    assert crashed.returncode < 0
    assert "F0000 the last words\n" in crashed.stderr


# --- how it ends -------------------------------------------------------------------------------

SLOW = """
import pathlib, time
pathlib.Path("begun").touch()
time.sleep(60)
"""
DEAF = """
import pathlib, time
pathlib.Path("begun").touch()
try:
    time.sleep(60)
except BaseException:
    pass
"""


# A job in the background of a shell has its interrupts ignored, and so have all that it starts, these tests too.
HEEDING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("slow", [SLOW, DEAF], ids=["slow", "deaf"])
def test_an_interrupt_at_the_start_is_no_traceback(tmp_path, slow):
    """While the imports run, which take seconds; a package of Keras' name makes them last, or drops the interrupt."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text(slow, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    env |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    for command, kept in ((["summary", "m.keras"], ""), (["explain", "m.keras", "a.png"], " Finished results")):
        (tmp_path / "begun").unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", HEEDING, "-m", "lrp_tf", *command],
            cwd=tmp_path,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while not (tmp_path / "begun").exists() and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            err = process.stderr.read()
        assert process.returncode == 130
        assert err.startswith(f"\nInterrupted.{kept}")
        assert "Traceback" not in err


@pytest.fixture
def nobody_reads(monkeypatch):
    """Standard output is a pipe whose reader has gone, as behind `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield


def test_a_reader_that_has_gone_is_no_mistake(nobody_reads, saved, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in", 2)
    assert cli.main(["summary", str(saved)]) == 0
    assert cli.main(["report", str(saved), "in/photo0.png", "--preprocess", "none"]) == 0
    assert cli.main(["explain", str(saved), "in", "--preprocess", "none", "--style", "heatmap"]) == 0
    assert len(table("results/results.csv")) == 2  # the work is done, whether anybody reads or not
    assert capfd.readouterr().err == ""


def test_help_through_head_is_quiet():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lrp_tf", "explain", "--help"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def closing(redirection, *arguments, cwd):
    """The command as a shell starts it behind a redirection."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = f'"$0" -m lrp_tf "$@" {redirection}'
    return subprocess.run(["bash", "-c", command, sys.executable, *map(str, arguments)], cwd=cwd, env=env, check=False,
                          capture_output=True, text=True)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="streams are closed by a POSIX shell")
def test_closed_streams_are_no_mistake(saved, tmp_path):
    photos(tmp_path / "in", 1)
    explain = ("explain", saved, "in", "gone.png", "--preprocess", "none", "--out")
    done = closing(">&- 2>&- <&-", *explain, "all", cwd=tmp_path)
    assert done.returncode == 1  # gone.png
    assert len(table(tmp_path / "all" / "results.csv")) == 1
    assert len(table(tmp_path / "all" / "failures.csv")) == 1
    assert closing("2>&-", "explain", saved, "-", "--preprocess", "none", cwd=tmp_path).returncode == 2  # no names


@pytest.mark.slow
def test_an_error_stream_without_reader_stops_nothing(saved, tmp_path):
    photos(tmp_path / "in", 1)
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")  # told before the run, gone.png within it
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lrp_tf", "explain", saved, "gone.png", "in", "--preprocess", "none"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 1
    assert len(table(tmp_path / "results" / "results.csv")) == 1


def test_a_file_as_the_folder_of_results(saved, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in", 1)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in ("file", "file/below"):
        assert cli.main(["explain", str(saved), "in", "--preprocess", "none", "--out", out]) == 2
        assert f"Expected a folder for the results. Received: {out}" in capfd.readouterr().err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
