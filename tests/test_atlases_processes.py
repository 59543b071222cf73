"""Atlases of runs that are killed, and of runs in several processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import REPOSITORY
from helpers.colours import check_colours, make_net, same, shown, squares
from helpers.extras import need

import lrp_tf
from lrp_tf.concepts import ImageFiles, build_reference
from lrp_tf.files import images, loading

pytestmark = [
    pytest.mark.slow,
    # Ray warns of its own settings, and leaves files and sockets to the collector.
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")),
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
    ),
]
HOW = ["--preprocess", "scale:1/255", "--composite", "epsilon", "--target", "topK:2", "--gallery"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a net, photographs, and their reference."""
    home, net = tmp_path_factory.mktemp("atlases"), make_net()
    net.save(home / "net.keras")
    explainer, files = lrp_tf.Explainer(net, "epsilon"), list(images.find([str(squares(home / "pictures", 30))]))
    data = ImageFiles(explainer, files, loading.get_preprocessing("scale:1/255"))
    build_reference(explainer, data, "colours", path=home / "net.h5", n=2, target=None)
    return home


def environment() -> dict[str, str]:
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": "-1"}


def test_a_run_that_was_killed_resumes_to_the_same_atlases(home, tmp_path):
    given = [home / "net.keras", home / "pictures", *HOW, "--atlas", home / "net.h5", "--atlas-top", 1]
    begin = [sys.executable, "-m", "lrp_tf", "explain", *map(str, given), "--batch", "2", "--out"]

    def run(out: str, *more: str) -> str:
        return subprocess.run(
            [*begin, out, *more], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        ).stdout

    def drawn() -> int:
        return len(list((tmp_path / "killed").rglob("[0-9]*.atlas.*.png")))

    with subprocess.Popen([*begin, "killed"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE) as child:
        until = time.monotonic() + 120
        while drawn() < 12:
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    before = drawn()
    assert 12 <= before < 60
    finished = int(re.search(r"(\d+) finished before", run("killed", "--resume"))[1])
    assert 0 < finished <= before // 2
    run("whole")
    found = shown(tmp_path / "killed")
    assert len(found) == 60
    check_colours(found)
    assert same(found, shown(tmp_path / "whole"))
    assert not list((tmp_path / "killed").rglob(".tmp-*"))


def test_atlases_by_processes_of_ray(lrp, home, tmp_path):
    need("ray", "pyarrow", extra="ray")
    few = [path for i in range(6) for path in (home / "pictures").rglob(f"{i}.png")]
    given = [home / "net.keras", *few, *HOW, "--atlas", home / "net.h5", "--atlas-top", 1]
    assert lrp("explain", *given, "--out", "alone")[0] == 0
    code, _, err = lrp("explain", *given, "--ray", "--workers", 2, "--out", "spread")
    assert code == 0, err
    found = shown(tmp_path / "spread")
    assert len(found) == 12
    check_colours(found)
    assert same(found, shown(tmp_path / "alone"))
    code, _, err = lrp("explain", *given, "--ray", "--to", "csv", "--out", "tables")
    assert (code, "--to csv writes no pictures. Expected it without --atlas" in err) == (2, True)
