"""Modules that come with the extra `evaluate` alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import REPOSITORY

from lrp_tf.evaluate.extras import optional


def test_a_missing_module_names_its_extra() -> None:
    assert optional("math").sqrt(4) == 2
    with pytest.raises(ImportError, match=r"Remedy: pip install \"lrp_tf\[evaluate\]\"") as caught:
        optional("not_there.at_all")
    assert caught.value.name == "not_there.at_all"


def test_evaluation_imports_no_extra() -> None:
    """Keras itself loads some of them where they are installed; lrp_tf.evaluate adds none."""
    code = (
        "import sys, keras, tensorflow, cv2; before = set(sys.modules); import lrp_tf.evaluate;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} & {'scipy', 'skimage', 'matplotlib'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
