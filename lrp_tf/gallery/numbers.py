"""The numbers of an explanation, as cells of the table of results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lrp_tf.engine import diagnosis
from lrp_tf.engine.explanation import Explanation
from lrp_tf.gallery.ledger import TOP, Row


class Numbers:
    """The numbers of a batch as arrays: logits and probabilities [B, C], shares [6, B, k].

    Args:
        stripped: the model's outputs are probabilities.
        places: int [B, n], for outputs of classes at places, [B, d1, ..., dn, C]: the place of each sample.
    """

    def __init__(self, explanation: Explanation, stripped: bool, places: np.ndarray | None = None) -> None:
        self.logits, self.probabilities = _scores(explanation, stripped, places)
        size = len(self.logits)
        conservation = explanation.conservation
        self.shares = np.stack([np.asarray(share).reshape(size, -1) for share in conservation.of_six()])
        self.unexplained = diagnosis.unexplained(conservation, explanation.begin).reshape(size, -1)
        self.amplification = explanation.amplification.numpy().reshape(size, -1)
        target = np.asarray(explanation.target)
        self.target = (target if places is None else target[:, -1]).reshape(size, -1)

    def targets(self, row: int) -> list[int]:
        """The classes that are explained of a sample."""
        return self.target[row].tolist()

    def best(self, row: int) -> list[int]:
        """The highest classes of a sample."""
        return [int(c) for c in np.argsort(-self.logits[row], kind="stable")[:TOP]]

    def warning(self, row: int, k: int) -> str:
        """What is absurd about a map, or ""; see `lrp_tf.RelevanceWarning`."""
        return diagnosis.remark(self.amplification[row, k], self.unexplained[row, k])

    def chance(self, row: int, index: int, digits: str) -> str:
        """The probability of a class, or "" where the model gives none."""
        return "" if self.probabilities is None else format(self.probabilities[row, index], digits)

    def cells(self, row: int, k: int, name: Callable[[int], str], largest: float, against: object = "") -> Row:
        """The cells of `ledger.COLUMNS` from "top1" on, for one target of one sample.

        Args:
            name: gives the name of a class.
            largest: the largest |relevance|.
            against: what the target is set against.
        """
        logits, best, target = self.logits[row], self.best(row), self.targets(row)[k]
        top = [cell for c in best for cell in (c, name(c), self.chance(row, c, ".6g"), f"{logits[c]:.7g}")]
        top += [""] * (4 * (TOP - len(best)))
        shares = self.shares[:, row, k]
        start, arrived = shares[:2]
        numbers = [f"{share:.7g}" for share in (logits[target], *shares[1:])]
        arrives = f"{arrived / start:.4g}" if start else ""
        more = (self.chance(row, target, ".6g"), arrives, f"{largest:.7g}", self.warning(row, k))
        return (*top, target, name(target), *numbers, *more, against, f"{start:.7g}")


def _scores(
    explanation: Explanation, stripped: bool, places: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits [B, C], and probabilities [B, C] if the model gives them; a single unit counts as two classes."""
    logits, output = explanation.logits, explanation.output
    if places is not None:
        at = (np.arange(len(places)), *places.T)
        logits, output = np.asarray(logits)[at], np.asarray(output)[at]
    logits, output = (np.asarray(values, np.float64).reshape(len(values), -1) for values in (logits, output))
    if logits.shape[1] == 1:
        logits, output = np.concatenate([-logits, logits], 1), np.concatenate([1 - output, output], 1)
    return logits, output if stripped else None
