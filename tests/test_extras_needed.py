"""Tests that need a package never pass CI by being skipped."""

import pytest
from helpers.extras import need


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_is_not_there_fails_where_ci_is_set(ci, outcome, monkeypatch):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r'needs nowhere_to_be_found: pip install -e "\.\[ray\]"'):
        need("numpy", "nowhere_to_be_found", extra="ray")
    need("numpy", extra="ray")
