"""Modules that come with the extra `evaluate` alone."""

from __future__ import annotations

import pytest

from lrp_tf.evaluate.extras import optional


def test_a_missing_module_names_its_extra() -> None:
    assert optional("math").sqrt(4) == 2
    with pytest.raises(ImportError, match=r"Remedy: pip install \"lrp_tf\[evaluate\]\"") as caught:
        optional("not_there.at_all")
    assert caught.value.name == "not_there.at_all"
