"""What was measured of presets on kinds of nets: where a filter that sees no net tells more than the preset does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras

from lrp_tf.composites import presets
from lrp_tf.composites.bounds import InputZBox
from lrp_tf.composites.composite import Composite
from lrp_tf.composites.kinds import contractions
from lrp_tf.composites.match import linear_steps
from lrp_tf.core.graph import Graph

PAGE = "docs/which.md"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of net, as its graph shows it.

    Attributes:
        label: in tables.
        name: of several, as in "nets with depthwise convolutions".
        sees: whether a graph is of this kind.
        better: the preset that measured best there.
        best: its SRG.
    """

    label: str
    name: str
    sees: Callable[[Graph], bool]
    better: str
    best: float


@dataclasses.dataclass(frozen=True)
class Remark:
    """A preset, with its default options, that lost to a Sobel filter on a net of a kind.

    Attributes:
        preset: its name.
        kind: of net.
        net: what was measured: a net, and how many pictures.
        srg: mean area between "least relevant first" and "most relevant first" of the preset; random maps have 0.
        sobel: that of the Sobel filter.
        low, high: 95 % interval of the mean of `srg - sobel` in pairs.
    """

    preset: str
    kind: Kind
    net: str
    srg: float
    sobel: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.preset} lost to a Sobel filter, which sees no net, on {self.kind.name}. Area by region flipping "
            f"(SRG), {self.net}: {self.srg:.3f} against {self.sobel:.3f}, difference {self.low:.3f} to {self.high:.3f} "
            f"in pairs; {self.kind.better} has {self.kind.best:.3f}. See {PAGE}."
        )


def _classifies_pictures(graph: Graph) -> bool:
    """Whether it is a convolutional net from a picture of three colours to classes, without attention."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 1:
        return False
    shape = graph.inputs[0].shape
    coloured = len(shape) == 3 and 3 in (shape[0], shape[-1])
    return coloured and any(s.entry.convolution for s in linear_steps(graph)) and not contractions().select(graph)


def _with_depthwise(graph: Graph) -> bool:
    return _classifies_pictures(graph) and any(
        isinstance(step.op, keras.layers.DepthwiseConv2D) or step.kind == "ops.DepthwiseConv" for step in graph.steps
    )


def _with_normalization(graph: Graph) -> bool:
    layers = (layer for step in graph.steps for layer in (step.op, *step.before, *step.after))
    return _classifies_pictures(graph) and any(isinstance(n, keras.layers.BatchNormalization) for n in layers)


_PICTURES = "nets of colour pictures"
DEPTHWISE = Kind("depthwise", f"{_PICTURES} with depthwise convolutions", _with_depthwise, "epsilon_plus_flat", 0.407)
NORMALIZED = Kind("normalised", f"{_PICTURES} with BatchNormalization", _with_normalization, "tutorial", 0.561)
PLAIN = Kind("plain", f"{_PICTURES} without BatchNormalization", _classifies_pictures, "tutorial", 0.568)
KINDS = (DEPTHWISE, NORMALIZED, PLAIN)  # of a net of several kinds the first one holds

# By the commands of docs/which.md, which has the whole tables.
_MOBILENET = "MobileNet, 23 photographs"
_CIFAR = "CNN on CIFAR-10, 200 pictures"
REMARKS = (
    Remark("epsilon", PLAIN, _CIFAR, 0.060, 0.138, -0.109, -0.044),
    Remark("epsilon_alpha2_beta1", PLAIN, _CIFAR, 0.028, 0.138, -0.145, -0.074),
    Remark("attn_lrp", PLAIN, _CIFAR, 0.060, 0.138, -0.109, -0.043),
    Remark("cp_lrp", PLAIN, _CIFAR, 0.060, 0.138, -0.112, -0.045),
    Remark("epsilon", NORMALIZED, _CIFAR, 0.094, 0.138, -0.075, -0.011),
    Remark("epsilon_alpha2_beta1", NORMALIZED, _CIFAR, -0.007, 0.138, -0.185, -0.105),
    Remark("attn_lrp", NORMALIZED, _CIFAR, 0.094, 0.138, -0.075, -0.008),
    Remark("cp_lrp", NORMALIZED, _CIFAR, 0.094, 0.138, -0.075, -0.010),
    Remark("epsilon", DEPTHWISE, _MOBILENET, 0.041, 0.225, -0.276, -0.112),
    Remark("epsilon_alpha2_beta1", DEPTHWISE, _MOBILENET, 0.015, 0.225, -0.297, -0.143),
    Remark("epsilon_alpha2_beta1_flat", DEPTHWISE, _MOBILENET, 0.006, 0.225, -0.297, -0.147),
    Remark("tutorial", DEPTHWISE, _MOBILENET, 0.099, 0.225, -0.207, -0.054),
    Remark("attn_lrp", DEPTHWISE, _MOBILENET, 0.041, 0.225, -0.285, -0.113),
    Remark("cp_lrp", DEPTHWISE, _MOBILENET, 0.041, 0.225, -0.275, -0.110),
)

_MEASURED_PRESETS = dict(presets.PRESETS)  # a user may register another function by the same name


def of_preset(name: str) -> list[Remark]:
    """The remarks on a preset; none on a user's own, whatever its name."""
    if presets.PRESETS.get(name) is not _MEASURED_PRESETS.get(name):
        return []
    return [remark for remark in REMARKS if remark.preset == name]


def of_net(composite: Composite, graph: Graph) -> list[Remark]:
    """The remarks on a composite that equals a preset with its default options, whatever its name, on a net.

    Of a net of several kinds that of the first kind holds: MobileNet is one with depthwise convolutions.
    """
    kind = next((kind for kind in KINDS if kind.sees(graph)), None)
    return [r for name in _MEASURED_PRESETS for r in of_preset(name) if r.kind is kind and _is_default(composite, name)]


def _is_default(composite: Composite, name: str) -> bool:
    """Whether the composite is this preset with default options; bounds of the input may be any."""
    boxes = [rule for _, rule in composite.entries if isinstance(rule, InputZBox)]
    needed = presets.needs_bounds(name)
    if len(boxes) != int(needed):
        return False
    bounds = {"low": boxes[0].low, "high": boxes[0].high} if needed else {}
    return composite == presets.get(name, **bounds)
