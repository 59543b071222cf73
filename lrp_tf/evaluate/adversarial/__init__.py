"""Adversarial examples: attacks on a classifier, and what they change.

FGSM, PGD and Carlini and Wagner's attack are written from their papers. The kept library for them,
adversarial-robustness-toolbox 1.20.1, installs and runs beside TensorFlow 2.21 and Keras 3.15, but it does not fit:

- At import it warns that PyTorch is missing; TensorFlow warns of a persistent tape that is called inside its context.
- PGD draws its starts from NumPy's global state, so that a result depends on earlier calls and on its batch.
- CarliniL2Method descends along one gradient by a search for the step, where the paper has Adam, and takes the model's
  output for logits, so that a model that ends in a softmax is attacked through it.
- It does not count the calls of an image.
"""

from __future__ import annotations

import inspect
from typing import Any

from lrp_tf.evaluate.adversarial import tables
from lrp_tf.evaluate.adversarial.attack import Attack, Attempt
from lrp_tf.evaluate.adversarial.carlini import CarliniWagner
from lrp_tf.evaluate.adversarial.controls import KINDS, noise_keeping_class, noise_like, partner
from lrp_tf.evaluate.adversarial.distances import distances
from lrp_tf.evaluate.adversarial.gradient_attacks import FGSM, PGD
from lrp_tf.evaluate.adversarial.lbfgs import LBFGS
from lrp_tf.evaluate.adversarial.network import Network
from lrp_tf.evaluate.adversarial.ranking import Shift, ranks, shift
from lrp_tf.evaluate.adversarial.shifts import Pair, Row, summarize

__all__ = [
    "FGSM",
    "KINDS",
    "LBFGS",
    "PGD",
    "Attack",
    "Attempt",
    "CarliniWagner",
    "Network",
    "Pair",
    "Row",
    "Shift",
    "distances",
    "get",
    "names",
    "noise_keeping_class",
    "noise_like",
    "partner",
    "ranks",
    "shift",
    "summarize",
    "tables",
]

_ATTACKS: dict[str, type] = {attack.name: attack for attack in (LBFGS, FGSM, PGD, CarliniWagner)}

names: tuple[str, ...] = tuple(_ATTACKS)


def get(
    name: str, *, low: float = 0.0, high: float = 1.0, confidence: float = 0.0, seed: int = 0, **settings: Any
) -> Attack:
    """An attack by name: "lbfgs", "fgsm", "pgd" or "cw".

        attack = lrp_tf.evaluate.adversarial.get("pgd", epsilon=0.2, steps=10)

    Args:
        low, high: the box of the model's input.
        confidence: by how much the target's logit has to exceed all others.
        seed: of what the attack draws; only "pgd" does.
        **settings: of the attack, see its class.

    Raises:
        ValueError: an unknown name; a setting out of range. TypeError: a setting that the attack does not have.
    """
    if name not in _ATTACKS:
        raise ValueError(f"unknown attack. Expected one of {list(names)}. Received: {name!r}")
    attack = _ATTACKS[name]
    known = [key for key in inspect.signature(attack).parameters if key not in ("low", "high", "confidence", "seed")]
    if unknown := sorted(set(settings) - set(known)):
        raise TypeError(f"attack {name} takes {known}. Received: {unknown}")
    return attack(low=low, high=high, confidence=confidence, seed=seed, **settings)
