"""captum on the torch twin. It is BSD, and used through its interface; none of its code is copied."""

from __future__ import annotations

from typing import Any

import captum.attr
import captum.attr._utils.lrp_rules as captum_rules
import numpy as np
import torch
from torch import nn
from twin_torch import STABILIZER, Add, Function, Twin


def explanation(
    name: str, nodes: list[dict[str, Any]], arrays: dict[str, np.ndarray], x: torch.Tensor, target: torch.Tensor
) -> Function:
    """Rules on the layers, and `LRP.attribute`, which scales by the logit itself."""

    def rule(module: nn.Module) -> captum_rules.PropagationRule | None:
        if isinstance(module, nn.MaxPool2d):
            # The winner takes all, as with the others; captum's 1e-9 withholds 1e-5 of it where activations are small.
            return captum_rules.EpsilonRule(1e-20)
        if isinstance(module, nn.Conv2d) and name != "epsilon":
            positive = captum_rules.Alpha1_Beta0_Rule(set_bias_to_zero=True)
            positive.STABILITY_FACTOR = STABILIZER
            return positive
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, Add)):
            return captum_rules.EpsilonRule(STABILIZER)
        return None

    net = Twin(nodes, arrays).to(x.device, x.dtype)
    rules = [(module, made) for module in net.children() if (made := rule(module)) is not None]
    lrp = captum.attr.LRP(net)

    def function() -> torch.Tensor:
        for module, made in rules:  # captum removes the rules after each call
            module.rule = made
        return lrp.attribute(x, target=target).detach()

    return function
