"""Two halves of the data: one chooses, the other reports. No sample is in both."""

from __future__ import annotations

import numpy as np

from lrp_tf.evaluate.samples import digest


def halves(x: np.ndarray, target: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the samples that choose, and of those that report, int64 each; of any class about half in each.

    Samples of equal content stay together. Both halves are shuffled so that any beginning of them has the classes in
    about the same proportions.

    Args:
        x: [n, ...]. target: the class of each, [n].

    Raises:
        ValueError: there are fewer than two different samples for each half.
    """
    random = np.random.default_rng([seed, 21])
    by_content: dict[str, list[int]] = {}
    for number, sample in enumerate(x):
        by_content.setdefault(digest(sample), []).append(number)
    units = list(by_content.values())
    if len(units) < 4:
        raise ValueError(
            f"tune expects four different samples at least: half of them choose, the other half report. Received: "
            f"{len(x)}, of which {len(units)} differ"
        )
    by_class: dict[int, list[list[int]]] = {}
    for unit in units:
        by_class.setdefault(int(target[unit[0]]), []).append(unit)
    found: tuple[list[list[int]], list[list[int]]] = ([], [])
    for label in sorted(by_class):
        of_class = by_class[label]
        turn = int(len(found[0]) > len(found[1]))  # what an odd number leaves over goes to the smaller half
        for place, index in enumerate(random.permutation(len(of_class))):
            found[(turn + place) % 2].append(of_class[index])
    chosen, reported = (_mixed(half, target, random) for half in found)
    return chosen, reported


def _mixed(units: list[list[int]], target: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The first of each class, in random order, then the second of each, and so on."""
    seen: dict[int, int] = {}
    keys = []
    for unit in units:
        label = int(target[unit[0]])
        seen[label] = seen.get(label, 0) + 1
        keys.append((seen[label], float(random.random())))
    # By the share of its class that comes before, so that rare classes are spread over the whole.
    shares = [(key[0] - 0.5) / seen[int(target[unit[0]])] for key, unit in zip(keys, units, strict=True)]
    order = sorted(range(len(units)), key=lambda i: (shares[i], keys[i][1]))
    return np.asarray([number for i in order for number in units[i]], np.int64)
