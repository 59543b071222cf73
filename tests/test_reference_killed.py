"""A reference survives SIGKILL: processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lrp_tf.concepts import store

CHILD = """
import sys
import keras, numpy as np
import lrp_tf
from lrp_tf.concepts import build_reference
keras.utils.set_random_seed(0)
layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, activation="relu", name="conv"), keras.layers.Flatten()]
explainer = lrp_tf.Explainer(keras.Sequential([*layers, keras.layers.Dense(3)]), "epsilon_plus")
rng = np.random.default_rng(0)
data = rng.normal(size=(6_000, 8, 8, 1)), rng.integers(0, 3, 6_000)
tell = lambda seen: print(seen, flush=True)
build_reference(explainer, data, "conv", path=sys.argv[1], batch=8, seconds=float(sys.argv[2]), progress=tell)
"""


@pytest.mark.slow
def test_a_run_that_was_killed(tmp_path: Path) -> None:
    """SIGKILL while files are written all the time: what is left is whole, and the run resumes to the same file."""

    def run(name: str, seconds: float, kill_at: int | None = None) -> int:
        command = [sys.executable, "-c", CHILD, str(tmp_path / name), str(seconds)]
        last = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                last = int(line)
                if kill_at is not None and last >= kill_at:
                    child.send_signal(signal.SIGKILL)
                    break
        assert (child.returncode == 0) == (kill_at is None)
        return last

    run("whole.h5", 60.0)
    run("killed.h5", 0.0, kill_at=2000)
    assert not (tmp_path / "killed.h5").exists()
    with store.opened(tmp_path / "killed.h5.part") as file:
        assert 1900 <= 8 * len(store.head_of(file).batches) < 6000
    assert run("killed.h5", 60.0) == 6000
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "killed.h5.part").exists()
