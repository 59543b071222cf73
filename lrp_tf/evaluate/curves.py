"""Scores under perturbation, and the areas that sum them up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

Of = Literal["probabilities", "scores"]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """What became of the target's score while regions were flipped in one order.

    Attributes:
        order: "morf" (most relevant first), "lerf" (least relevant first) or "random".
        scores: of the target, as `predict` gave them (logits), float64 [B, steps + 1]; the first is the whole sample's.
        probabilities: of the target, float64 [B, steps + 1]; None if they are not known.
        flips: regions flipped so far at each step, int64 [steps + 1].
        regions: how many there are.
    """

    order: str
    scores: np.ndarray
    probabilities: np.ndarray | None
    flips: np.ndarray
    regions: int

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def fraction(self) -> np.ndarray:
        """Share of the regions flipped so far, float64 [steps + 1]."""
        return self.flips / self.regions

    def values(self, of: Of | None = None) -> np.ndarray:
        """[B, steps + 1] of "probabilities" or "scores"; None: probabilities where they are known, else scores.

        Raises:
            ValueError: anything else; probabilities that are not known.
        """
        if of not in (None, "probabilities", "scores"):
            raise ValueError(f'of expects "probabilities" or "scores". Received: {of!r}')
        if of == "probabilities" and self.probabilities is None:
            raise ValueError(
                'probabilities are not known: predict gives scores alone. Remedy: link="softmax" or "sigmoid", '
                'evaluate.Predictor(model), or of="scores"'
            )
        return self.scores if of == "scores" or self.probabilities is None else self.probabilities

    def auc(self, of: Of | None = None, *, normalised: bool = True) -> np.ndarray:
        """Area under the curve by the trapezoid rule, float64 [B].

        For "morf" it is known as the area under the activation curve (AUAC), lower is better; for "lerf" as that of
        the pruning curve, higher is better.

        Args:
            normalised: over the share of regions that is flipped, 0..1, so schedules can be compared. Otherwise over
                the number of the step, 0, 1, 2, ..., as R. Bermudez Schettino has it.
        """
        return _area(self.values(of), self.fraction if normalised else None)

    def aopc(self, of: Of | None = None) -> np.ndarray:
        """Area over the perturbation curve, Σ_k (y_0 - y_k) / (steps + 1), [B]; Samek et al. 2017, eq. 12."""
        values = self.values(of)
        return (values[:, :1] - values).mean(axis=1)

    def au_mse(self, of: Of | None = None, *, normalised: bool = True) -> np.ndarray:
        """Area under the squared deviation from the whole sample's score, (y_k - y_0)², by the trapezoid rule, [B].

        The AU-MSE of pruning in Ali et al. 2022 ("XAI for Transformers"), for one target's score: with "lerf", lower
        is better, since what is irrelevant can go and change nothing.
        """
        values = self.values(of)
        return _area((values - values[:, :1]) ** 2, self.fraction if normalised else None)


def _area(values: np.ndarray, x: np.ndarray | None) -> np.ndarray:
    """By the trapezoid rule, [B, n] -> [B]; x: [n], None: 0, 1, 2, ..."""
    widths = 1.0 if x is None else np.diff(x)
    return ((values[:, 1:] + values[:, :-1]) / 2 * widths).sum(axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Perturbation(Mapping[str, Curve]):
    """Curves of several orders, by name: `found["morf"]`.

        found = evaluate.perturb(evaluate.Predictor(model), x, R, target, order=["morf", "lerf"])
        found.srg(), found["morf"].auc()

    `evaluate.perturb` returns it.
    """

    curves: dict[str, Curve]

    def __getitem__(self, order: str) -> Curve:
        return self.curves[order]

    def __iter__(self) -> Iterator[str]:
        return iter(self.curves)

    def __len__(self) -> int:
        return len(self.curves)

    def srg(self, of: Of | None = None) -> np.ndarray:
        """Area between "lerf" and "morf", float64 [B]: the symmetric relevance gain of Blücher et al. 2024.

        Random relevance scores 0, and the negative of a map the negative of its value; higher is better.

        Raises:
            ValueError: one of the two orders is missing.
        """
        if missing := {"morf", "lerf"} - set(self):
            raise ValueError(f'srg expects the orders "morf" and "lerf". Missing: {sorted(missing)}')
        return self["lerf"].auc(of) - self["morf"].auc(of)
