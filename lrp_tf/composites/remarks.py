"""What was measured of presets on kinds of nets: where a filter that sees no net tells more than the preset does."""

from __future__ import annotations

import copy
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
        nets: those that were measured, and how many pictures.
        sobel: SRG of a Sobel filter on each of them: the mean area between "least relevant first" and "most relevant
            first"; random maps have 0.
        better: a preset that was above Sobel on all nets of the kind.
        best: its SRG on each.
    """

    label: str
    name: str
    sees: Callable[[Graph], bool]
    nets: tuple[str, ...]
    sobel: tuple[float, ...]
    better: str
    best: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Figure:
    """SRG of a preset on one net, and the 95 % interval of its mean difference to the Sobel filter's in pairs."""

    srg: float
    low: float
    high: float

    @property
    def lost(self) -> bool:
        """Whether Sobel was better beyond chance."""
        return self.high < 0

    @property
    def won(self) -> bool:
        """Whether the preset was better beyond chance."""
        return self.low > 0


@dataclasses.dataclass(frozen=True)
class Remark:
    """A preset, with its default options, that lost to a Sobel filter on a net of a kind.

    Attributes:
        preset: its name.
        kind: of net.
        figures: on each net of the kind, those where it did not lose included.
    """

    preset: str
    kind: Kind
    figures: tuple[Figure, ...]

    @property
    def extent(self) -> str:
        """On how many nets of how many, where it did not lose on all."""
        lost = sum(figure.lost for figure in self.figures)
        return "" if lost == len(self.figures) else f"{lost} of {len(self.figures)}"

    def __str__(self) -> str:
        kind, extent = self.kind, self.extent and f"{self.extent} "
        measured = "; ".join(
            f"{figure.srg:.3f}, {sobel:.3f} and {best:.3f} ({net}; less Sobel in pairs {figure.low:.3f} to "
            f"{figure.high:.3f})"
            for net, sobel, best, figure in zip(kind.nets, kind.sobel, kind.best, self.figures, strict=True)
        )
        return (
            f"{self.preset} lost to a Sobel filter, which sees no net, on {extent}{kind.name}. Area by region flipping "
            f"(SRG) of it, Sobel and {kind.better}: {measured}. {self._elsewhere()}See {PAGE}."
        )

    def _elsewhere(self) -> str:
        """What holds of the nets on which it did not lose, a sentence for each."""
        found = ""
        for net, best, figure in zip(self.kind.nets, self.kind.best, self.figures, strict=True):
            if not figure.lost:
                than = f"Sobel and than {self.kind.better}" if figure.srg > best else "Sobel"
                found += f"On {net}, it was better than {than}. " if figure.won else f"On {net}, it did not lose. "
        return found


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


# By the commands of docs/which.md, which has the whole tables. Of a net of several kinds the first one holds.
DEPTHWISE = Kind(
    label="depthwise",
    name="nets of colour pictures with depthwise convolutions",
    sees=_with_depthwise,
    nets=("MobileNet, 23 photographs", "a small MobileNet on CIFAR-10, 200 pictures"),
    sobel=(0.225, 0.114),
    better="epsilon_gamma_wsquare",
    best=(0.409, 0.303),
)
NORMALIZED = Kind(
    label="normalized",
    name="nets of colour pictures with BatchNormalization",
    sees=_with_normalization,
    nets=("a CNN on CIFAR-10, 200 pictures",),
    sobel=(0.138,),
    better="tutorial",
    best=(0.561,),
)
PLAIN = Kind(
    label="plain",
    name="nets of colour pictures without BatchNormalization",
    sees=_classifies_pictures,
    nets=("a CNN on CIFAR-10, 200 pictures",),
    sobel=(0.138,),
    better="tutorial",
    best=(0.568,),
)
KINDS = (DEPTHWISE, NORMALIZED, PLAIN)
REMARKS = (
    Remark("epsilon", PLAIN, (Figure(0.060, -0.109, -0.044),)),
    Remark("epsilon_alpha2_beta1", PLAIN, (Figure(0.028, -0.145, -0.074),)),
    Remark("attn_lrp", PLAIN, (Figure(0.060, -0.109, -0.043),)),
    Remark("cp_lrp", PLAIN, (Figure(0.060, -0.112, -0.045),)),
    Remark("epsilon", NORMALIZED, (Figure(0.094, -0.075, -0.011),)),
    Remark("epsilon_alpha2_beta1", NORMALIZED, (Figure(-0.007, -0.185, -0.105),)),
    Remark("attn_lrp", NORMALIZED, (Figure(0.094, -0.075, -0.008),)),
    Remark("cp_lrp", NORMALIZED, (Figure(0.094, -0.075, -0.010),)),
    Remark("epsilon", DEPTHWISE, (Figure(0.041, -0.276, -0.112), Figure(-0.075, -0.218, -0.161))),
    Remark("epsilon_alpha2_beta1", DEPTHWISE, (Figure(0.015, -0.297, -0.143), Figure(-0.128, -0.276, -0.207))),
    Remark("epsilon_alpha2_beta1_flat", DEPTHWISE, (Figure(0.006, -0.297, -0.147), Figure(0.263, 0.116, 0.180))),
    Remark("tutorial", DEPTHWISE, (Figure(0.099, -0.207, -0.054), Figure(0.482, 0.337, 0.403))),
    Remark("attn_lrp", DEPTHWISE, (Figure(0.041, -0.285, -0.113), Figure(-0.075, -0.217, -0.162))),
    Remark("cp_lrp", DEPTHWISE, (Figure(0.041, -0.275, -0.110), Figure(-0.075, -0.217, -0.160))),
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
    box = {"low": 0.0, "high": 1.0}  # instead of its own, which may be arrays
    plain = copy.copy(composite)
    plain.entries = [
        (match, InputZBox(**box, stabilizer=rule.stabilizer) if type(rule) is InputZBox else rule)
        for match, rule in composite.entries
    ]
    return plain == presets.get(name, **(box if presets.needs_bounds(name) else {}))
