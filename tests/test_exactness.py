"""Every rule x every linear layer kind against the slow float64 computation from the dense Jacobian."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from helpers.exactness import QUICK, RULES, SIGNS, check, gradient_of_clone, layer_and_data, matrix
from helpers.thinning import thinned

import lrp_tf


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dense", "conv same stride 2 dilation 1 groups 1"])
def test_compiled_equals_eager(name: str, rule: str) -> None:
    model, _, x, start = layer_and_data(name, "signed", "positive", "float64")
    found = lrp_tf.Explainer(model, RULES[rule][0])(x, start=start).numpy()
    want = gradient_of_clone(model, RULES[rule][0], x, start)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-11 * np.abs(want).max())


@pytest.mark.parametrize(("name", "rule", "sign"), thinned(list(QUICK), list(RULES), list(SIGNS)))
def test_rule_float64(name: str, rule: str, sign: str) -> None:
    check(name, rule, sign, "positive", "float64")


@pytest.mark.parametrize(("name", "rule"), thinned(list(QUICK), list(RULES)))
def test_rule_by_its_formula_alone(name: str, rule: str) -> None:
    """With all savings switched off."""
    check(name, rule, "nonnegative", "negative", "float64", savings=False)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dense", "conv same stride 2 dilation 1 groups 1"])
def test_rule_float32(name: str, rule: str) -> None:
    check(name, rule, "signed", "negative", "float32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule", "sign", "bias", "dtype", "savings"), matrix())
def test_rule_everywhere(name: str, rule: str, sign: str, bias: str, dtype: str, savings: bool) -> None:
    check(name, rule, sign, bias, dtype, savings)


@pytest.mark.parametrize(("name", "rule"), thinned(list(QUICK), list(RULES)))
def test_sign_knowledge_changes_nothing(name: str, rule: str) -> None:
    """The shorter forms for x >= 0 give what the long ones give."""
    model, layer, x, start = layer_and_data(name, "nonnegative", "negative", "float64")
    ignorant = keras.Model(inputs := keras.Input(x.shape[1:], dtype="float64"), layer(inputs))
    instance = RULES[rule][0]
    found = gradient_of_clone(model, instance, x, start)
    want = gradient_of_clone(ignorant, instance, x, start)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-12 * np.abs(want).max())
