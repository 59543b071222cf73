"""The study: originals chosen, attacked, explained, held against controls, in parts that survive a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from lrp_tf.evaluate.adversarial import cases, explained, outcomes
from lrp_tf.evaluate.adversarial.attack import Attack
from lrp_tf.evaluate.adversarial.explained import Ranking, Undisturbed
from lrp_tf.evaluate.adversarial.network import Network
from lrp_tf.evaluate.adversarial.outcomes import Scale
from lrp_tf.evaluate.adversarial.shifts import Pair
from lrp_tf.evaluate.adversarial.store import Store, StoreError
from lrp_tf.evaluate.fingerprints import model_digest
from lrp_tf.evaluate.samples import digest
from lrp_tf.explainer import Explainer

ORIGINALS = "originals"
# Called with what is done ("attack" or "explain"), the part, and whether it was done now, not by an earlier run.
Tell = Callable[[str, "Part", bool], object]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is attacked, and how it is explained.

    Attributes:
        targets, sources: classes that are attacked for, and that originals belong to.
        per_target: originals for each target.
        seed: of everything that is drawn.
    """

    targets: tuple[int, ...]
    sources: tuple[int, ...]
    per_target: int = 20
    confidence: float = 0.0
    seed: int = 0
    how: Ranking = dataclasses.field(default_factory=Ranking)
    scale: Scale = dataclasses.field(default_factory=lambda: Scale(0.0, 1.0))


class Part:
    """Originals that are attacked together: at most a batch of one target of one attack."""

    def __init__(self, attack: Attack, target: int, number: int, chosen: Sequence[cases.Case]) -> None:
        self.attack, self.target, self.cases = attack, target, list(chosen)
        self.name = f"{attack.name}-to{target}-{number}"

    @property
    def attacked(self) -> str:
        return f"attack-{self.name}"

    @property
    def explained(self) -> str:
        return f"explain-{self.name}"


class Study:
    """An adversarial study of one model.

        study = Study(model, x, labels, attacks, {"epsilon_plus": "epsilon_plus"}, Plan(targets, sources))
        store = Store("study", study.settings("digits"))
        study.run(store, lambda *what: None)

    Args:
        pixels: test images, uint8 [N, H, W, C]. labels: their classes [N].
        composites: by name, as `Explainer` takes them.

    Raises:
        ValueError: images or labels that do not fit the model, a class that it does not have, unknown composites.
    """

    def __init__(
        self,
        model: keras.Model,
        pixels: np.ndarray,
        labels: np.ndarray,
        attacks: Sequence[Attack],
        composites: Mapping[str, Any],
        plan: Plan,
        *,
        batch_size: int = 32,
    ) -> None:
        self.network = Network(model, batch_size=batch_size)
        self.x, self.labels, self.plan = plan.scale.values(pixels), np.asarray(labels, np.int64), plan
        self.attacks, self.batch_size = list(attacks), batch_size
        self.network.checked(self.x[:1])
        largest = max(int(self.labels.max()), *plan.targets, *plan.sources)
        if largest >= self.network.classes:
            raise ValueError(
                f"expected a model with an output for each class of the data and each target, {largest + 1} or more. "
                f"Received: {self.network.classes} outputs"
            )
        self.explainers = {name: Explainer(model, composite) for name, composite in composites.items()}
        self._digests = digest(pixels), digest(self.labels), model_digest(model)

    def settings(self, data: str) -> dict[str, object]:
        """What decides the results, for `Store`; `data`: the name of the data."""
        plan, (pixels, labels, model) = self.plan, self._digests
        return {
            "data": f"{data} {pixels} {labels}",
            "model": model,
            "attacks": {attack.name: attack.settings for attack in self.attacks},
            "composites": {name: str(explainer.composite) for name, explainer in self.explainers.items()},
            "targets": list(plan.targets),
            "sources": list(plan.sources),
            "per_target": plan.per_target,
            "confidence": plan.confidence,
            "by": plan.how.by,
            "top": list(plan.how.top),
            "seed": plan.seed,
            "range": [plan.scale.low, plan.scale.high],
            "batch_size": self.batch_size,
        }

    def choose(self, store: Store) -> cases.Cases:
        """The originals, and the classes that the network gives to all test images; from `store` if it has them.

        Raises:
            ValueError: no rightly classified image.
        """
        plan = self.plan
        if not store.has(ORIGINALS):
            try:
                predictions = self.network.logits(self.x).argmax(axis=1)
                chosen = cases.choose(
                    self.labels, predictions,
                    targets=plan.targets, sources=plan.sources, per_target=plan.per_target, seed=plan.seed,
                )  # fmt: skip
            except ValueError:
                store.forget()
                raise
            store.keep_arrays(ORIGINALS, {"predictions": predictions, "cases": np.array(chosen.all, np.int64)})
            store.finish(ORIGINALS, [{"remark": remark} for remark in chosen.remarks])
        kept = store.arrays(ORIGINALS)
        self.undisturbed = Undisturbed(self.x, self.labels, kept["predictions"])
        found = [cases.Case(*map(int, row)) for row in kept["cases"]]
        return cases.Cases(found, [row["remark"] for row in store.rows(ORIGINALS)])

    def parts(self, chosen: cases.Cases) -> Iterator[Part]:
        """All that is to be done, in its order."""
        for attack in self.attacks:
            for target in self.plan.targets:
                own = chosen.of(target)
                for number, first in enumerate(range(0, len(own), self.batch_size)):
                    yield Part(attack, target, number, own[first : first + self.batch_size])

    def run(self, store: Store, chosen: cases.Cases, tell: Tell) -> None:
        """Attack and explain what is not finished; `tell` hears of each part, of finished ones at once.

        Raises:
            StoreError: a damaged file of an earlier run.
        """
        for part in self.parts(chosen):
            if fresh := not store.has(part.attacked):
                x = self.x[[case.source for case in part.cases]]
                outcomes.attack(
                    store,
                    part.attacked,
                    part.attack,
                    self.network,
                    self.plan.scale,
                    x,
                    part.cases,
                    self.plan.confidence,
                )
            tell("attack", part, fresh)
        for part in self.parts(chosen):
            if fresh := not store.has(part.explained):
                rows, found = judged(store, part)
                explained.explain(
                    store, part.explained, self.network, self.explainers, self.undisturbed, found, rows,
                    scale=self.plan.scale, how=self.plan.how, seed=self.plan.seed,
                )  # fmt: skip
            tell("explain", part, fresh)


def judged(store: Store, part: Part) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The rows of a part's attacks that gave an image, and these images [B, H, W, C]."""
    rows, kept = store.rows(part.attacked), store.arrays(part.attacked)
    found = [rows[i] for i in kept["case"]]
    if any("margin_float" not in row for row in found):
        raise StoreError(f"{part.attacked} in {store.folder} does not fit its images. Remedy: delete the study")
    return found, kept["x"]


def pairs_of(rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Rows of `explained.explain` as pairs of maps."""
    return [
        Pair(row["attack"], row["source"], row["label"], row["target"], row["composite"], row["kind"], row["measures"])
        for row in rows
        if "measures" in row
    ]
