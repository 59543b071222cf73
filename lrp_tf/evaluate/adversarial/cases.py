"""Which images are attacked for which classes: rightly classified ones, spread over the classes they belong to."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """An original and the class that it is attacked for.

    Attributes:
        source: the number of the image among the test images.
        label: its class, which the network says. target: another one.
    """

    source: int
    label: int
    target: int


class Cases(NamedTuple):
    """What is attacked, target by target, and for each target with fewer than asked for a sentence."""

    all: list[Case]
    remarks: list[str]

    def of(self, target: int) -> list[Case]:
        return [case for case in self.all if case.target == target]


def choose(
    labels: np.ndarray,
    predictions: np.ndarray,
    *,
    targets: Sequence[int],
    sources: Sequence[int],
    per_target: int,
    seed: int,
) -> Cases:
    """For each target `per_target` rightly classified images of other classes, as many of each class as there can be.

    Which ones is drawn; the draw for a target depends on the seed and the target alone.

    Args:
        labels, predictions: true and predicted classes [N].
        sources: the classes that originals may belong to.

    Raises:
        ValueError: no image for any target.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    cases, remarks = [], []
    for target in targets:
        generator = np.random.default_rng([seed, target])
        left = {}
        for label in sources:
            if label != target:
                left[label] = list(generator.permutation(np.flatnonzero((labels == label) & (predictions == label))))
        # One of each class in turn; the classes in another order for each target, since the last turn may be cut.
        order = [sources[i] for i in generator.permutation(len(sources)) if sources[i] != target]
        chosen: list[Case] = []
        while len(chosen) < per_target and any(left.values()):
            for label in order:
                if left[label] and len(chosen) < per_target:
                    chosen.append(Case(int(left[label].pop()), int(label), int(target)))
        if len(chosen) < per_target:
            remarks.append(
                f"target {target}: {len(chosen)} of {per_target} images, since no more of the classes "
                f"{', '.join(map(str, sorted(left))) or 'none'} are classified rightly"
            )
        cases += sorted(chosen)
    if not cases:
        raise ValueError(
            "expected rightly classified images of other classes than the target. Received: none, of "
            f"{len(labels)} test images. Remedy: a network that is trained on these data, or other sources and targets"
        )
    return Cases(cases, remarks)


def seed_of(seed: int, case: Case, what: str) -> int:
    """The seed of what is drawn for a case: the same whatever else is drawn, and in whatever order."""
    words = [seed, *case, zlib.crc32(what.encode())]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
