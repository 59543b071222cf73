"""Every rule on sums of linear steps inside a cell, and every way for gates to share, against plain formulas."""

from __future__ import annotations

import pytest
from helpers.recurrent_cases import CASES
from helpers.unrolled import check_unrolled
from references.tape import Rule, Tape, alpha_beta, epsilon_rule, flat, gamma_rule, w_square

from lrp_tf import composites, flows, rules

RULES: dict[str, tuple[rules.Rule, Rule, dict]] = {
    "epsilon 0.1": (rules.Epsilon(0.1), epsilon_rule, {"epsilon": 0.1}),
    "zplus": (rules.ZPlus(), alpha_beta(1, 0), {}),
    "alphabeta": (rules.AlphaBeta(2, 1), alpha_beta(2, 1), {}),
    "gamma": (rules.Gamma(0.25), gamma_rule(0.25), {}),
    "flat": (rules.Flat(), flat, {}),
    "wsquare": (rules.WSquare(), w_square, {}),
}


@pytest.mark.usefixtures("mode", "double_precision")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["LSTM", "GRU reset before", "ConvLSTM1D", "own cell"])
@pytest.mark.usefixtures("seldom_compiled")
def test_every_rule_on_sums_of_linear_steps(name: str, rule: str) -> None:
    instance, formula, options = RULES[rule]
    check_unrolled(CASES[name](), instance, Tape(formula, **options))


@pytest.mark.usefixtures("mode", "double_precision")
@pytest.mark.parametrize("gates", ["share", "proportional", "absolute"])
@pytest.mark.parametrize(
    "name", ["LSTM masked", "LSTM in parts", "GRU", "GRU reset before", "GRU reset before, in parts"]
)
@pytest.mark.usefixtures("seldom_compiled")
def test_what_gates_take(name: str, gates: str) -> None:
    """With a stabiliser of 0.1, without which LRP-prop grows out of all proportion where g + s is almost 0."""
    product = flows.Product(gates=gates, stabilizer=0.1)
    composite = composites.Composite([(composites.products(), product), (None, rules.Epsilon())])
    check_unrolled(CASES[name](), composite, Tape(gates=gates, products=0.1), "masked" in name)
