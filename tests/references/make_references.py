"""Writes zennit.npz: relevances of the seeded nets of nets.py, computed by zennit in float64.

    python -m pip install torch==2.13.0 numpy && python -m pip install --no-deps zennit==0.5.1
    python tests/references/make_references.py

zennit is used through its public interface; none of its code is copied. It is no dependency of lrp_tf or its tests.
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import nets
import numpy as np
import torch
from torch.nn import functional

# The package imports its helpers for pictures and torchvision's models whole. Neither takes part here, so that Pillow
# and torchvision (which must match torch's build) need not be installed.
for _unused in ("zennit.image", "zennit.torchvision"):
    sys.modules.setdefault(_unused, ModuleType(_unused))

import zennit.canonizers  # noqa: E402
import zennit.composites  # noqa: E402
import zennit.core  # noqa: E402
import zennit.layer  # noqa: E402
import zennit.rules  # noqa: E402
import zennit.types  # noqa: E402

STABILIZER = 1e-6
PATH = Path(__file__).with_name("zennit.npz")
# Bytes that a repository can hold without regret.
LIMIT = 300_000


class Flatten(torch.nn.Module):
    """Flattens as Keras does: row, column, channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class SpecModule(torch.nn.Module):
    """A net in float64, one child per layer, NCHW in and logits out."""

    def __init__(self, net: nets.Net) -> None:
        super().__init__()
        self.layers = net.layers
        for layer in net.layers:
            self.add_module(layer.name, make_module(layer))
            if layer.options.get("activation"):
                self.add_module(f"{layer.name}_activation", torch.nn.ReLU())
        self.double().eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"input": x}
        for layer in self.layers:
            inputs = [values[name] for name in layer.inputs]
            value = getattr(self, layer.name)(torch.stack(inputs, -1) if layer.kind == "add" else inputs[0])
            if layer.kind == "globalavgpool":
                value = value.flatten(1)
            if layer.options.get("activation"):
                value = getattr(self, f"{layer.name}_activation")(value)
            values[layer.name] = value
        return value


def make_module(layer: nets.Layer) -> torch.nn.Module:
    """The torch module of one layer, weights included."""
    o = layer.options
    match layer.kind:
        case "conv":
            size, _, inputs, outputs = o["kernel"].shape
            module = torch.nn.Conv2d(
                inputs * o["groups"],
                outputs,
                size,
                stride=o["stride"],
                padding=(size - 1) // 2 if o["padding"] == "same" else o["padding"],
                groups=o["groups"],
                bias=o["bias"] is not None,
            ).double()
            return with_values(module, weight=o["kernel"].transpose(3, 2, 0, 1), bias=o["bias"])
        case "dense":
            module = torch.nn.Linear(*o["kernel"].shape, bias=o["bias"] is not None).double()
            return with_values(module, weight=o["kernel"].T, bias=o["bias"])
        case "batchnorm":
            convolution = layer.inputs[0] != "dense"
            kind = torch.nn.BatchNorm2d if convolution else torch.nn.BatchNorm1d
            module = kind(len(o["gamma"]), eps=nets.BN_EPSILON).double()
            statistics = {"running_mean": o["mean"], "running_var": o["variance"]}
            return with_values(module, weight=o["gamma"], bias=o["beta"], **statistics)
        case "relu":
            return torch.nn.ReLU()
        case "leaky_relu":
            return torch.nn.LeakyReLU(nets.LEAKY_SLOPE)
        case "maxpool":
            return torch.nn.MaxPool2d(o["size"], o["stride"], padding=o["padding"])
        case "avgpool":
            return torch.nn.AvgPool2d(o["size"], o["stride"], padding=o["padding"])
        case "globalavgpool":
            return torch.nn.AdaptiveAvgPool2d(1)
        case "flatten":
            return Flatten()
        case "add":
            return zennit.layer.Sum(dim=-1)
    raise ValueError(f"Unknown kind of layer. Received: {layer}")


def with_values(module: torch.nn.Module, **values: np.ndarray | None) -> torch.nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return module


class MaxAsAverage(zennit.core.Hook):
    """Max pooling in the forward pass; its relevance is that of an average pooling of the same geometry.

    The LRP tutorial swaps the layer, which zennit's own composites do not.
    """

    def forward(self, module: torch.nn.Module, input: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.stored_tensors["input"] = input[0].detach()

    def backward(self, module: torch.nn.Module, grad_input: tuple, grad_output: tuple) -> tuple[torch.Tensor]:
        x = self.stored_tensors["input"].clone().requires_grad_()
        with torch.enable_grad():
            # The zeros around it count: Keras pads in a layer of its own and pools what comes out.
            z = functional.avg_pool2d(x, module.kernel_size, module.stride, module.padding, count_include_pad=True)
        share = grad_output[0] / zennit.core.Stabilizer(STABILIZER)(z.detach())
        return (x.detach() * torch.autograd.grad(z, x, share)[0],)


def per_channel(bound: float | tuple[float, ...]) -> float | torch.Tensor:
    return bound if isinstance(bound, float) else torch.tensor(bound, dtype=torch.float64)[None, :, None, None]


def assign(net: nets.Net, preset: str, zero_bias: bool) -> dict[str, zennit.core.Hook]:
    """Layer name -> hook. Max pooling without one is the plain gradient: all to the winner."""
    zero = {"zero_params": ["bias"] if zero_bias else None}
    box = zennit.rules.ZBox(per_channel(net.low), per_channel(net.high), STABILIZER)
    dense = zennit.rules.Epsilon(STABILIZER, **zero)
    convolution = {
        "epsilon": zennit.rules.Epsilon(STABILIZER, **zero),
        "epsilon_plus": zennit.rules.ZPlus(STABILIZER, **zero),
        "epsilon_alpha2_beta1": zennit.rules.AlphaBeta(2.0, 1.0, STABILIZER, **zero),
        "epsilon_gamma_box": zennit.rules.Gamma(0.25, STABILIZER, **zero),
    }
    tutorial = {
        "ZBox": box,
        "Gamma": zennit.rules.Gamma(0.25, STABILIZER, **zero),
        # A quarter of the root mean square of z over each sample.
        "Epsilon": zennit.rules.Epsilon(zennit.core.Stabilizer(0.25, norm_scale=True), **zero),
        "Zero": zennit.rules.Epsilon(STABILIZER, **zero),
    }
    first = {"_flat": zennit.rules.Flat(STABILIZER), "_box": box}
    suffix = next((s for s in first if preset.endswith(s)), "")
    hooks: dict[str, zennit.core.Hook] = {}
    for layer in net.layers:
        match layer.kind:
            case "conv" | "dense" if preset == "tutorial":
                hooks[layer.name] = tutorial[net.tutorial[layer.name]]
            case "conv" if suffix and layer.inputs == ("input",):
                hooks[layer.name] = first[suffix]
            case "conv":
                hooks[layer.name] = convolution[preset.removesuffix("_flat")]
            case "dense":
                hooks[layer.name] = dense
            case "batchnorm" | "relu" | "leaky_relu":
                hooks[layer.name] = zennit.rules.Pass()
            case "avgpool" | "globalavgpool" | "add":
                hooks[layer.name] = zennit.rules.Norm(STABILIZER)
            case "maxpool" if preset == "tutorial":
                hooks[layer.name] = MaxAsAverage()
        if layer.options.get("activation"):
            hooks[f"{layer.name}_activation"] = zennit.rules.Pass()
    return hooks


def relevance(net: nets.Net, preset: str, zero_bias: bool, fixed_target: bool) -> tuple[np.ndarray, np.ndarray]:
    """Relevance of the input, NHWC, of the top class (or the fixed one), and the logits of the canonized net."""
    model = SpecModule(net)
    hooks = assign(net, preset, zero_bias)
    merges = [(list(layer.inputs), layer.name) for layer in net.layers if layer.kind == "batchnorm"]
    composite = zennit.composites.NameMapComposite(
        name_map=[((name,), hook) for name, hook in hooks.items()],
        canonizers=[zennit.canonizers.NamedMergeBatchNorm(merges)],
    )
    x = torch.from_numpy(net.x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    with composite.context(model):
        # zennit makes the merged BatchNorm an identity but for its epsilon: 1 / sqrt(1 + 1e-3) would remain.
        for module in model.modules():
            if isinstance(module, zennit.types.BatchNorm):
                module.eps = 0.0
        logits = model(x)
        target = torch.full((len(x),), nets.FIXED_TARGET) if fixed_target else logits.argmax(1)
        start = functional.one_hot(target, nets.CLASSES) * logits.detach()
        (grad,) = torch.autograd.grad(logits, x, start)
    return grad.numpy().transpose(0, 2, 3, 1).copy(), logits.detach().numpy()


def check(net: nets.Net, results: dict[str, np.ndarray]) -> None:
    """What must hold whatever lrp_tf does: no hook is missing, and relevance is conserved where no bias absorbs it.

    Raises:
        AssertionError: the references are wrong.
    """
    assert len({*results[f"{net.name}/target"], nets.FIXED_TARGET}) == len(net.x) + 1, "seed: classes must differ"
    for preset in nets.PRESETS:
        hooked = set(assign(net, preset, zero_bias=False))
        # Flatten moves relevance as the gradient does, and so does max pooling but for the tutorial.
        free = {"flatten"} if preset == "tutorial" else {"flatten", "maxpool"}
        missing = {layer.name for layer in net.layers if layer.kind not in free} - hooked
        assert not missing, f"{net.name}, {preset}: no hook on {missing}"
    top = results[f"{net.name}/logits"].max(1)
    # Epsilon: the other rules lose what reaches an empty denominator. The rest is the stabilisers' share.
    total = results[nets.key(net.name, "epsilon", zero_bias=True)].sum((1, 2, 3))
    np.testing.assert_allclose(total, top, rtol=1e-2)
    for name, value in results.items():
        assert np.isfinite(value).all(), name
        assert value.any(), name


def main() -> None:
    stored: dict[str, np.ndarray] = {}
    for name, make in nets.NETS.items():
        net = make()
        model = SpecModule(net)
        with torch.no_grad():
            logits = model(torch.from_numpy(net.x.transpose(0, 3, 1, 2).copy())).numpy()
        print(f"{name}: targets {logits.argmax(1)}, top logits {logits.max(1)}")
        results = {f"{name}/logits": logits, f"{name}/target": logits.argmax(1)}
        for key, preset, zero_bias, fixed_target in nets.runs(name):
            results[key], canonized = relevance(net, preset, zero_bias, fixed_target)
            np.testing.assert_allclose(canonized, logits, rtol=0, atol=1e-12, err_msg="merging changed the function")
            print(f"  {key}: max |R| {np.abs(results[key]).max():.3g}, sum {results[key].sum((1, 2, 3))}")
        check(net, results)
        stored |= results
    versions = {package: metadata.version(package) for package in ("torch", "zennit", "numpy")}
    versions["python"] = platform.python_version()
    print(versions)
    stored |= {f"versions/{package}": np.array(version) for package, version in versions.items()}
    np.savez_compressed(PATH, **stored)
    size = PATH.stat().st_size
    print(f"{PATH.name}: {size} bytes")
    assert size < LIMIT


if __name__ == "__main__":
    main()
