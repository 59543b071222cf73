"""Seeded random nets as plain specs, built in torch by `make_references.py` and in Keras by `test_zennit.py`.

Numpy only, since no environment needs to hold both frameworks. Kernels are laid out as Keras wants them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CLASSES = 10
# The seeds are such that the two samples of a net differ in their top class and neither has this one.
FIXED_TARGET = 3
# Near the defaults of Keras, and exact in float32: TensorFlow keeps such attributes so, even in a float64 net.
BN_EPSILON = 2.0**-10
LEAKY_SLOPE = 2.0**-3


@dataclass(frozen=True)
class Layer:
    """One node: `kind` says what it is, `options` holds weights and geometry.

    kinds: conv, dense, batchnorm, relu, leaky_relu, maxpool, avgpool, globalavgpool, flatten, add.
    padding is "same" (stride 1, odd kernels only, where Keras and torch agree) or the number of zeros on every side.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Net:
    """A net, its batch [B, H, W, C] and the input's bounds (a number, or one per channel).

    `tutorial` says which rule each linear layer gets from the preset of that name, by layer name, so that no
    framework's idea of execution order enters the comparison.
    """

    name: str
    layers: tuple[Layer, ...]
    x: np.ndarray
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    tutorial: dict[str, str]


class _Builder:
    """Appends layers, follows the number of channels and draws the weights."""

    def __init__(self, seed: int, channels: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self.tip = "input"
        self.channels = {"input": channels}

    def _append(self, kind: str, name: str, inputs: tuple[str, ...], channels: int, **options: Any) -> str:
        self.layers.append(Layer(kind, name, inputs, options))
        self.channels[name] = channels
        self.tip = name
        return name

    def _bias(self, size: int, bias: bool) -> np.ndarray | None:
        return 0.1 * self.rng.standard_normal(size) if bias else None

    def conv(
        self,
        name: str,
        filters: int,
        size: int = 3,
        stride: int = 1,
        padding: str | int = "same",
        bias: bool = True,
        groups: int = 1,
        source: str | None = None,
        activation: str | None = None,
    ) -> str:
        """A convolution with He-scaled kernel; with `activation`, as the argument of the layer."""
        source = source or self.tip
        shape = (size, size, self.channels[source] // groups, filters)
        kernel = self.rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))
        weights = {"kernel": kernel, "bias": self._bias(filters, bias)}
        options = {"stride": stride, "padding": padding, "groups": groups, "activation": activation}
        return self._append("conv", name, (source,), filters, **weights, **options)

    def dense(self, name: str, units: int, fan_in: int, bias: bool = True, activation: str | None = None) -> str:
        kernel = self.rng.standard_normal((fan_in, units)) * np.sqrt(2 / fan_in)
        weights = {"kernel": kernel, "bias": self._bias(units, bias)}
        return self._append("dense", name, (self.tip,), units, **weights, activation=activation)

    def batchnorm(self, name: str) -> str:
        """Statistics as after training: variances of the size of the activations', one negative scale."""
        channels = self.channels[self.tip]
        gamma = self.rng.uniform(0.4, 1.6, channels)
        gamma[channels // 2] *= -1
        weights = {
            "gamma": gamma,
            "beta": 0.2 * self.rng.standard_normal(channels),
            "mean": 0.3 * self.rng.standard_normal(channels),
            "variance": self.rng.uniform(0.5, 2.0, channels),
        }
        return self._append("batchnorm", name, (self.tip,), channels, **weights)

    def pool(self, kind: str, name: str, size: int = 2, stride: int = 2, padding: int = 0) -> str:
        channels = self.channels[self.tip]
        return self._append(kind, name, (self.tip,), channels, size=size, stride=stride, padding=padding)

    def plain(self, kind: str, name: str) -> str:
        """relu, leaky_relu, flatten or globalavgpool."""
        return self._append(kind, name, (self.tip,), self.channels[self.tip])

    def add(self, name: str, left: str, right: str) -> str:
        return self._append("add", name, (left, right), self.channels[left])

    def batch(self, size: int, low: float | tuple[float, ...], high: float | tuple[float, ...]) -> np.ndarray:
        """Two standardised pictures, each with a tint that sets their classes apart, clipped to the bounds. The second
        is fainter: no two samples share the scale that `Relative` takes per sample."""
        channels = self.channels["input"]
        x = self.rng.standard_normal((2, size, size, channels)) + self.rng.standard_normal((2, 1, 1, channels))
        return np.clip(x * np.array([1.0, 0.5])[:, None, None, None], low, high)


def vgg() -> Net:
    """VGG-style; the activations are arguments of their layers."""
    b = _Builder(seed=12, channels=3)
    for block, filters in ((1, 8), (2, 12)):
        b.conv(f"conv{block}a", filters, activation="relu")
        b.conv(f"conv{block}b", filters, activation="relu")
        b.pool("maxpool", f"pool{block}")
    b.conv("conv3a", 16, activation="relu")
    b.plain("flatten", "flatten")
    b.dense("dense", 24, fan_in=3 * 3 * 16, activation="relu")
    b.dense("logits", CLASSES, fan_in=24)
    tutorial = {"conv1a": "ZBox", "conv1b": "Gamma", "conv2a": "Gamma", "conv2b": "Epsilon", "conv3a": "Epsilon"}
    tutorial |= {"dense": "Zero", "logits": "Zero"}
    return Net("vgg", tuple(b.layers), b.batch(12, -2.0, 2.0), -2.0, 2.0, tutorial)


def batchnorm() -> Net:
    """BatchNormalization behind every linear layer, with and without their own bias; grouped convolutions (one of them
    depthwise), an average pooling, and leaky ReLUs: inputs are signed there and relevance arrives where z < 0."""
    b = _Builder(seed=22, channels=3)
    b.conv("conv1", 8, bias=False)
    b.batchnorm("bn1")
    b.plain("leaky_relu", "act1")
    b.conv("conv2", 10)
    b.batchnorm("bn2")
    b.plain("leaky_relu", "act2")
    b.pool("maxpool", "maxpool")
    b.conv("depthwise", 10, groups=10, bias=False)
    b.batchnorm("bn3")
    b.plain("leaky_relu", "act3")
    b.conv("pointwise", 12, size=1)
    b.batchnorm("bn4")
    b.plain("relu", "act4")
    b.pool("avgpool", "avgpool")
    b.conv("conv5", 12, groups=2, bias=False)
    b.batchnorm("bn5")
    b.plain("relu", "act5")
    b.plain("flatten", "flatten")
    b.dense("dense", 16, fan_in=3 * 3 * 12)
    b.batchnorm("bn6")
    b.plain("relu", "act6")
    b.dense("logits", CLASSES, fan_in=16)
    low, high = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
    tutorial = {"conv1": "ZBox", "conv2": "Gamma", "depthwise": "Gamma", "pointwise": "Epsilon", "conv5": "Epsilon"}
    tutorial |= {"dense": "Zero", "logits": "Zero"}
    return Net("batchnorm", tuple(b.layers), b.batch(12, low, high), low, high, tutorial)


def resnet() -> Net:
    """A strided stem, a padded overlapping max pooling, an identity block and one with a strided projection."""
    b = _Builder(seed=3, channels=3)

    def conv_bn(name: str, filters: int, relu: bool = True, **options: Any) -> str:
        b.conv(name, filters, **options)
        out = b.batchnorm(f"{name}_bn")
        return b.plain("relu", f"{name}_relu") if relu else out

    conv_bn("stem", 8, size=5, stride=2, padding=2, bias=False)
    fork = b.pool("maxpool", "stem_pool", size=3, stride=2, padding=1)
    conv_bn("identity_a", 8, padding=1)
    branch = conv_bn("identity_b", 8, relu=False, bias=False)
    b.add("identity_add", fork, branch)
    fork = b.plain("relu", "identity_out")
    conv_bn("project_a", 12, stride=2, padding=1, bias=False)
    branch = conv_bn("project_b", 12, relu=False)
    shortcut = conv_bn("project_shortcut", 12, relu=False, size=1, stride=2, padding=0, source=fork)
    b.add("project_add", shortcut, branch)
    b.plain("relu", "project_out")
    b.plain("globalavgpool", "average")
    b.dense("logits", CLASSES, fan_in=12)
    # The first half ends before the projection block, whose two branches have no order of their own.
    tutorial = {"stem": "ZBox", "identity_a": "Gamma", "identity_b": "Gamma"}
    tutorial |= {"project_a": "Epsilon", "project_b": "Epsilon", "project_shortcut": "Epsilon", "logits": "Zero"}
    return Net("resnet", tuple(b.layers), b.batch(16, -2.0, 2.0), -2.0, 2.0, tutorial)


NETS: dict[str, Callable[[], Net]] = {"vgg": vgg, "batchnorm": batchnorm, "resnet": resnet}

PRESETS = (
    "epsilon",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "tutorial",
)
# lrp_tf and zennit agree on `zero_bias` but for Gamma, where lrp_tf takes the sign of z without the bias too.
ZERO_BIAS_PRESETS = ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1")
FIXED_TARGET_PRESETS = ("epsilon_plus",)


def key(net: str, preset: str, zero_bias: bool = False, fixed_target: bool = False) -> str:
    """Name of a relevance in zennit.npz."""
    return f"{net}/{preset}{'/zero_bias' if zero_bias else ''}{f'/target{FIXED_TARGET}' if fixed_target else ''}"


def runs(net: str) -> list[tuple[str, str, bool, bool]]:
    """(key, preset, zero_bias, fixed_target) of every stored relevance of a net."""
    settings = [(p, False, False) for p in PRESETS]
    settings += [(p, True, False) for p in ZERO_BIAS_PRESETS]
    settings += [(p, False, True) for p in FIXED_TARGET_PRESETS]
    return [(key(net, *setting), *setting) for setting in settings]
