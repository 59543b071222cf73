"""The parts of a net that have settings of their own: the first step, a lower and an upper half, and what is dense."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from lrp_tf import composites, rules
from lrp_tf.composites.composite import Entry
from lrp_tf.composites.match import Match, linear_steps
from lrp_tf.core.graph import Graph

PARTS = ("first", "lower", "upper", "dense")


@dataclasses.dataclass(frozen=True)
class Parts:
    """How many linear steps each part of a net has, and the matchers that select them.

    With convolutions: the first convolution, the first half of them, the other half, and what the presets treat as
    Dense. Without: the first layer, the first half of the layers, the other half, and the last layer.
    """

    convolutional: bool
    counts: Mapping[str, int]
    half: int
    pools: bool = False  # whether there is max pooling

    @classmethod
    def of(cls, graph: Graph) -> Parts:
        """Those of a canonized graph."""
        steps = linear_steps(graph)
        convolutional = bool(composites.convolutions().select(graph))
        found = cls(convolutional, {}, max(math.ceil(len(steps) / 2), 1))
        left, counts = set(steps), {}
        for part, match in found._matches():
            mine = left if match is None else left.intersection(match.select(graph))
            counts[part] = len(mine)
            left = left - mine
        pools = bool(composites.max_pooling().select(graph))
        return dataclasses.replace(found, counts=counts, pools=pools)

    def count(self, part: str) -> int:
        """Linear steps of a part."""
        return self.counts[part]

    def usual_rule(self, part: str) -> str:
        """The rule of a part that the grid says nothing of."""
        if part == "dense":
            return "epsilon"
        return "flat" if part == "first" and self.convolutional else "gamma"

    def entries(self, chosen: Mapping[str, rules.Rule]) -> list[Entry]:
        """The entries of a composite, from the rule of each part; parts without steps have none."""
        found: list[Entry] = []
        for part, match in self._matches():
            if self.counts[part] or match is None:
                found.append((match, chosen[part]))
        if self.convolutional:
            found.append((None, chosen["dense"]))
        return found

    def _matches(self) -> list[tuple[str, Match | None]]:
        if self.convolutional:
            return [
                ("first", composites.first_convolution()),
                ("dense", composites.dense_like()),
                ("lower", composites.first_half_of_convolutions()),
                ("upper", composites.convolutions()),
            ]
        return [
            ("dense", composites.last()),
            ("first", composites.first()),
            ("lower", composites.first_n(self.half)),
            ("upper", None),
        ]
