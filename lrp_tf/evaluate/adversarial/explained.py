"""Maps of originals, adversarial images and controls, and how the ranks of their components differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrp_tf.evaluate.adversarial import controls, ranking
from lrp_tf.evaluate.adversarial.cases import Case, seed_of
from lrp_tf.evaluate.adversarial.network import Network
from lrp_tf.evaluate.adversarial.outcomes import Scale
from lrp_tf.evaluate.adversarial.store import Store
from lrp_tf.explainer import Explainer

ABSOLUTE = "absolute_"  # before the names of measures by absolute relevance


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """The test images: x float32 [N, H, W, C], true and predicted classes [N]."""

    x: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How maps are ranked, see `ranking.shift`.

    They are ranked twice. By relevance: where the adversarial image turns the sign of a map, this turns its ranks
    upside down. And by absolute relevance, which says where the relevance is, whatever its sign.
    """

    top: tuple[float, ...] = ranking.TOP
    by: ranking.By = "pixel"

    def __post_init__(self) -> None:
        """Refuse shares that `ranking.shift` would refuse after hours of attacks."""
        ranking.shift(np.eye(2), np.eye(2), top=self.top)

    def shift(self, before: np.ndarray, after: np.ndarray) -> list[ranking.Shift]:
        """Shifts by relevance, with the measures by absolute relevance beside theirs, named `absolute_…`."""
        signed = ranking.shift(before, after, top=self.top, by=self.by)
        absolute = ranking.shift(before, after, top=self.top, by=self.by, order="absolute")
        return [
            dataclasses.replace(
                one, measures=one.measures | {f"{ABSOLUTE}{name}": value for name, value in other.measures.items()}
            )
            for one, other in zip(signed, absolute, strict=True)
        ]

    def unsound(self, *maps: np.ndarray) -> str | None:
        """Why one of these maps [H, W, C], or components [K], has no ranking; None if all have."""
        if not all(np.isfinite(one).all() for one in maps):
            return "the map has NaN or Inf"
        if not all(np.ptp(self.components(one[None])) > 0 for one in maps):
            return "the map is the same everywhere"
        return None

    def components(self, maps: np.ndarray) -> np.ndarray:
        """What is ranked, [B, K]."""
        return ranking.components(maps, by=self.by)


@dataclasses.dataclass
class _Set:
    """What a kind of control holds against the original: images, their classes, the rows of the originals."""

    images: list[np.ndarray]
    classes: list[int]
    rows: list[int]

    def add(self, image: np.ndarray, label: int, row: int) -> None:
        self.images.append(image)
        self.classes.append(int(label))
        self.rows.append(row)


def explain(
    store: Store,
    part: str,
    network: Network,
    explainers: Mapping[str, Explainer],
    undisturbed: Undisturbed,
    adversarial: np.ndarray,
    rows: Sequence[dict[str, Any]],
    *,
    scale: Scale,
    how: Ranking,
    seed: int,
) -> None:
    """Explain adversarial images [B, H, W, C] of these rows of attacks.csv, their originals and the controls.

    Kept of each composite: `maps_NAME` [B, 2, H, W], original and adversarial image, channels summed; and for each kind
    `moved_NAME_KIND` [M, K], the rank of each component in the second map minus that in the first. Rows are pairs with
    `measures`, or failures with a `reason`. An attack that failed has maps, but no pair.
    """
    cases = [Case(row["source"], row["label"], row["target"]) for row in rows]
    sets, found = _sets(network, undisturbed, adversarial, rows, cases, scale, seed)
    arrays: dict[str, np.ndarray] = {}
    for number, (name, explainer) in enumerate(explainers.items()):
        own = [case.label for case in cases]
        before = _maps(explainer, undisturbed.x[[case.source for case in cases]], own, network.batch_size)
        after = {kind: _maps(explainer, one.images, one.classes, network.batch_size) for kind, one in sets.items()}
        arrays[f"maps_{number}"] = np.stack([_summed(before), _summed(after["adversarial"])], axis=1)
        for kind, maps, kept in _pairs(before, after, sets, rows, cases, how, seed):
            reasons = [how.unsound(before[kept[i]], maps[i]) for i in range(len(maps))]
            sound = np.array([reason is None for reason in reasons], bool)
            found += [
                _row(rows[kept[i]], name, kind, "explain") | {"reason": reasons[i]} for i in np.flatnonzero(~sound)
            ]
            kept, maps = np.asarray(kept, np.int64)[sound], maps[sound]
            shifts = how.shift(_alike(before[kept], maps, how), maps) if len(kept) else []
            arrays[f"moved_{number}_{kind}"] = np.array([one.by_component for one in shifts], np.float32)
            found += [
                _row(rows[i], name, kind, "explain") | {"measures": one.measures}
                for i, one in zip(kept, shifts, strict=True)
            ]
    store.keep_arrays(part, arrays)
    store.finish(part, found)


def _row(row: dict[str, Any], composite: str, kind: str, stage: str) -> dict[str, Any]:
    own = {name: row[name] for name in ("attack", "source", "label", "target")}
    return own | {"composite": composite, "kind": kind, "stage": stage}


def _sets(
    network: Network,
    undisturbed: Undisturbed,
    adversarial: np.ndarray,
    rows: Sequence[dict[str, Any]],
    cases: Sequence[Case],
    scale: Scale,
    seed: int,
) -> tuple[dict[str, _Set], list[dict[str, Any]]]:
    """Images and classes of each kind, and what could not be made."""
    names = ("adversarial", "noise", "noise_same_class", "other_class", "other_image")
    sets = {kind: _Set([], [], []) for kind in names}
    failed: list[dict[str, Any]] = []
    for i, (row, case) in enumerate(zip(rows, cases, strict=True)):
        x = undisturbed.x[case.source]
        sets["adversarial"].add(adversarial[i], case.target, i)
        if not row["success_float"]:
            continue
        sets["other_class"].add(x, case.target, i)
        own, low, high = seed_of(seed, case, row["attack"]), scale.low, scale.high
        try:
            noisy = controls.noise_like(x, adversarial[i], seed=own, low=low, high=high)
            sets["noise"].add(noisy, int(network.logits(noisy[None]).argmax()), i)
        except ValueError as error:
            failed.append(_row(row, "", "noise", "control") | {"reason": " ".join(str(error).split())})
        try:
            calm, tries = controls.noise_keeping_class(
                network, x, adversarial[i], case.label, seed=own, low=low, high=high
            )
            reason = f"none of {tries} draws of noise keeps the class"
        except ValueError as error:
            calm, reason = None, " ".join(str(error).split())
        if calm is None:
            failed.append(_row(row, "", "noise_same_class", "control") | {"reason": reason})
        else:
            sets["noise_same_class"].add(calm, case.label, i)
        # The same image for every attack, so that attacks are compared under the same control.
        other = controls.partner(
            undisturbed.labels, undisturbed.predictions, case.target, seed=seed_of(seed, case, "other_image")
        )
        if other is None:
            reason = f"no image of class {case.target} is classified rightly"
            failed.append(_row(row, "", "other_image", "control") | {"reason": reason})
        else:
            sets["other_image"].add(undisturbed.x[other], case.target, i)
    return sets, failed


def _pairs(
    before: np.ndarray,
    after: Mapping[str, np.ndarray],
    sets: Mapping[str, _Set],
    rows: Sequence[dict[str, Any]],
    cases: Sequence[Case],
    how: Ranking,
    seed: int,
) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """For each kind its maps, and the rows of the originals; of attacks that reached their target."""
    reached = [i for i, row in enumerate(rows) if row["success_float"]]
    adversarial = after["adversarial"]
    yield "adversarial", adversarial[np.array(reached, np.int64)], reached
    for kind, one in sets.items():
        if kind != "adversarial":
            yield kind, after[kind], one.rows
    finite = [i for i in reached if np.isfinite(adversarial[i]).all()]
    if finite:
        seeds = [seed_of(seed, cases[i], "chance") for i in finite]
        found = [ranking.shuffled(adversarial[[i]], [own], by=how.by) for i, own in zip(finite, seeds, strict=True)]
        yield "chance", np.concatenate(found), finite


def _alike(before: np.ndarray, maps: np.ndarray, how: Ranking) -> np.ndarray:
    """The first maps, as components if the second ones are."""
    return how.components(before) if maps.ndim == 2 and before.ndim > 2 else before


def _maps(explainer: Explainer, x: Sequence[np.ndarray] | np.ndarray, classes: Sequence[int], size: int) -> np.ndarray:
    """Relevance float32 [B, H, W, C], in batches that are filled up: every image runs through the same kernels."""
    images, target = np.asarray(x, np.float32), np.asarray(classes, np.int64)
    found = []
    for first in range(0, len(images), size):
        part, asked = images[first : first + size], target[first : first + size]
        lack = size - len(part)
        filled = [np.concatenate([a, np.repeat(a[-1:], lack, axis=0)]) for a in (part, asked)]
        found.append(np.asarray(explainer(filled[0], target=filled[1]))[: len(part)])
    return np.concatenate(found) if found else np.zeros((0, 1, 1, 1), np.float32)


def _summed(maps: np.ndarray) -> np.ndarray:
    return maps.astype(np.float64).sum(axis=-1).astype(np.float32)


def _finite(maps: np.ndarray) -> np.ndarray:
    return np.isfinite(maps).all(axis=tuple(range(1, maps.ndim)))
