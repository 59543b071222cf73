"""Makes captum.npz, what captum's methods give for a small net.

    python -m pip install torch==2.13.0 captum==0.9.0
    python tests/references/captum_references.py

It needs nothing of lrp_tf. captum's "riemann_trapezoid" is left out: its weights add up to (n - 1) / n.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from captum import attr
from torch import nn

RULES = {
    "left": "riemann_left",
    "right": "riemann_right",
    "middle": "riemann_middle",
    "gauss_legendre": "gausslegendre",
}


class Net(nn.Module):
    """Two convolutions and a linear layer, from kernels as Keras has them."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3).double(), nn.Conv2d(4, 5, 3).double()
        self.head, self.pool = nn.Linear(5, 3).double(), nn.MaxPool2d(2)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        for layer, name in ((self.first, "first"), (self.second, "second")):
            layer.weight.data = torch.tensor(weights[f"{name}_kernel"]).permute(3, 2, 0, 1)
            layer.bias.data = torch.tensor(weights[f"{name}_bias"])
        self.head.weight.data = torch.tensor(weights["head_kernel"]).T
        self.head.bias.data = torch.tensor(weights["head_bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.pool(self.relu1(self.first(x)))
        return self.head(self.relu2(self.second(h)).mean((2, 3)))


def main() -> None:
    rng = np.random.default_rng(0)
    shapes = {"first": (3, 3, 2, 4), "second": (3, 3, 4, 5), "head": (5, 3)}
    weights = {f"{name}_kernel": rng.normal(size=shape) / 3 for name, shape in shapes.items()}
    weights |= {f"{name}_bias": rng.normal(size=shape[-1]) / 3 for name, shape in shapes.items()}
    net, images, classes = Net(weights), rng.normal(size=(2, 11, 11, 2)), np.array([0, 2])
    x, target = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_(), torch.tensor(classes)
    maps = {
        "gradient": attr.Saliency(net).attribute(x, target, abs=False),
        "input_times_gradient": attr.InputXGradient(net).attribute(x, target),
        "guided_backprop": attr.GuidedBackprop(net).attribute(x, target),
        "deconvnet": attr.Deconvolution(net).attribute(x, target),
        "occlusion": attr.Occlusion(net).attribute(x, (2, 3, 3), (2, 3, 3), 0.1, target),
    }
    for rule, method in RULES.items():
        at = attr.IntegratedGradients(net).attribute(x, torch.full_like(x, 0.2), target, n_steps=10, method=method)
        maps[f"integrated_{rule}"] = at
    found = {name: value.detach().permute(0, 2, 3, 1).numpy() for name, value in maps.items()}
    cam = attr.LayerGradCam(net, net.relu1).attribute(x, target, relu_attributions=True)
    found["gradcam"] = attr.LayerAttribution.interpolate(cam, (11, 11), "bilinear").detach().numpy()[:, 0]
    np.savez_compressed(Path(__file__).with_name("captum.npz"), x=images, target=classes, **weights, **found)


if __name__ == "__main__":
    main()
