"""Pictures that are drawn for each photograph beside those of its relevance: atlases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lrp_tf.explainer import Explainer
from lrp_tf.files.form import form_of
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Classes
from lrp_tf.gallery.draw import numbered
from lrp_tf.gallery.stream import Photograph
from lrp_tf.heatmap.look import Look

_SHOWN = ("png", "jpg", "webp")  # by browsers, at the size of the card


class Beside(Protocol):
    """What draws an atlas for each photograph and class, see `lrp_tf.concepts.Atlases`."""

    @property
    def of(self) -> str:
        """What it is of: the name of a layer."""

    def check(self, explainer: Explainer) -> None:
        """Raise ValueError if it belongs to another model."""

    def draw(
        self,
        explainer: Explainer,
        x: np.ndarray,
        picture: np.ndarray,
        target: int,
        path: Path,
        *,
        contrast: str | int | None,
        names: Sequence[str] | None,
        dpi: float,
    ) -> None:
        """Write one picture, whole or not at all."""


def suffixes(look: Look, count: int) -> list[str]:
    """What follows the name of a photograph in the names of its atlases, for `count` targets."""
    kind = look.format if look.format in _SHOWN else _SHOWN[0]
    return [f".atlas{number}.{kind}" for number in numbered(count)]


@dataclasses.dataclass(frozen=True)
class DrawnBeside:
    """Draws the atlases of a run; the attributes are those of `Gallery`."""

    beside: Beside
    explainer: Explainer
    contrast: str | int | None
    classes: Classes
    size: tuple[int, int] | None
    how: str
    look: Look

    def draw(self, base: Path, x: np.ndarray, photograph: Photograph, targets: Sequence[int]) -> None:
        """Write the atlases of one photograph.

        Args:
            base: the path of the pictures without suffix. x: the photograph as the model takes it.
            targets: the classes.
        """
        form = form_of(self.explainer, self.size)
        picture = Fit(form.height, form.width, self.how).apply(photograph.shown)
        how: dict[str, Any] = {"contrast": self.contrast, "names": self.classes.names or None, "dpi": self.look.dpi}
        for target, suffix in zip(targets, suffixes(self.look, len(targets)), strict=True):
            self.beside.draw(self.explainer, x, picture, target, Path(f"{base}{suffix}"), **how)
