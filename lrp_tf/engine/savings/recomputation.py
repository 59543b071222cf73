"""Memory of deep models: where a plan is cut, so that the values between two cuts are computed again and not kept."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from lrp_tf.core.graph import Graph, Ref, Step

# What counts for a size that is known only at the call, if the inputs of the model name none: a long text.
_UNKNOWN = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Steps in a row that are computed again together.

    Attributes:
        steps: in execution order.
        read: the tensors that they read and other steps make; kept from the forward pass.
    """

    steps: tuple[Step, ...]
    read: tuple[Ref, ...]


def whole(graph: Graph) -> tuple[Segment, ...]:
    """All steps as one segment: nothing is computed again."""
    return (Segment(tuple(graph.steps), tuple(graph.inputs)),)


def segments(graph: Graph) -> tuple[Segment, ...]:
    """The steps of a graph cut at narrow places, so that little memory is needed at once.

    Kept are the tensors that lie across a cut, and while relevance passes a segment all that its steps compute. The
    cuts minimise the sum of the two, the second for the largest segment. For N blocks of equal size that gives about
    sqrt(N) segments and a memory of O(sqrt(N)) (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
    What no input of the model can change counts nothing: it is kept, as weights are.
    """
    crossing, sizes = _crossing(graph), [_size(graph, step.outputs) for step in graph.steps]
    places = _narrow(crossing)
    made = [0]
    for size in sizes:
        made.append(made[-1] + size)
    best = min((_fewest(places, crossing, made, limit) for limit in _limits(places, made)), key=lambda found: found[0])
    bounds = [0, *best[1], len(sizes)]
    return tuple(_segment(graph, first, last) for first, last in itertools.pairwise(bounds))


def _size(graph: Graph, refs: Sequence[Ref]) -> int:
    """Entries of one sample that tensors hold; constants have none.

    A size that is open, as in the scores of an attention, counts as the longest axis of the inputs.
    """
    longest = max((n for ref in graph.inputs for n in ref.shape if n is not None), default=_UNKNOWN)
    shapes = [ref.shape for ref in refs if ref not in graph.constants]
    return sum(math.prod(longest if n is None else n for n in shape) for shape in shapes)


def _crossing(graph: Graph) -> list[int]:
    """For each place ahead of a step, and for the end, the size of what is made before it and read behind it.

    The inputs of the model count nothing: the caller holds them.
    """
    last: dict[Ref, int] = {}
    for position, step in enumerate(graph.steps):
        last.update(dict.fromkeys(step.inputs, position))
    found, ending, alive = [], dict[int, int](), 0
    for position, step in enumerate(graph.steps):
        found.append(alive)
        for ref in step.outputs:
            size = _size(graph, [ref])
            if last.get(ref, -1) > position:
                alive += size
                ending[last[ref]] = ending.get(last[ref], 0) + size
        alive -= ending.get(position, 0)
    return [*found, alive]


def _narrow(crossing: list[int]) -> list[int]:
    """The places where no neighbour is narrower: all that a cut needs to consider."""
    inner = range(1, len(crossing) - 1)
    return [p for p in inner if crossing[p] <= min(crossing[p - 1] if p > 1 else math.inf, crossing[p + 1])]


def _limits(places: list[int], made: list[int]) -> Iterator[int]:
    """Sizes that the largest segment may have: from what must lie in one to the whole, in steps of an eighth."""
    bounds = [0, *places, len(made) - 1]
    limit = max(made[b] - made[a] for a, b in itertools.pairwise(bounds))
    while limit < made[-1]:
        yield limit
        limit += max(limit // 8, 1)
    yield made[-1]


def _fewest(places: list[int], crossing: list[int], made: list[int], limit: int) -> tuple[int, list[int]]:
    """Cuts of which no segment is larger than `limit` and that let least across; the memory needed, and the cuts."""
    points = [0, *places, len(made) - 1]
    cost: list[float] = [0]
    before = [0]
    first = 0
    for j in range(1, len(points)):
        while made[points[j]] - made[points[first]] > limit:
            first += 1
        i = min(range(first, j), key=cost.__getitem__)
        before.append(i)
        cost.append(cost[i] + (crossing[points[j]] if j < len(points) - 1 else 0))
    cuts, j = list[int](), before[-1]
    while j:
        cuts.append(points[j])
        j = before[j]
    return int(cost[-1]) + limit, cuts[::-1]


def _segment(graph: Graph, first: int, last: int) -> Segment:
    steps = tuple(graph.steps[first:last])
    made = {ref for step in steps for ref in step.outputs}
    read = dict.fromkeys(ref for step in steps for ref in step.inputs if ref not in made)
    return Segment(steps, tuple(read))
