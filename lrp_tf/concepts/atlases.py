"""Atlases of every photograph of a gallery."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lrp_tf.concepts.atlas import Explained, arranged
from lrp_tf.concepts.crops import Drawing, Images
from lrp_tf.concepts.kept import Kept
from lrp_tf.concepts.reference import Reference
from lrp_tf.concepts.sheet import require_count
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.heatmap.sheets import write_sheet

# Pictures are drawn in several threads; atlases ask the network, which one at a time keeps busy.
_ONE = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Atlases:
    """An atlas for each photograph and class that a gallery explains. What channels show is kept from one to the next.

        atlases = Atlases(reference, reference.images(explainer, preprocessing))
        Gallery(explainer, preprocessing, "results", page=True, atlas=atlases).run(files)

    Attributes:
        reference: of the model that the gallery explains.
        images: the data set of the reference: `Reference.images`, or see `concept_sheet`.
        layer: one that the reference holds; None: its only one.
        top: how many channels; all of them, if the layer has fewer. n: how many reference samples of each.
        show: see `concept_sheet`; for `images` that are no `ImageFiles`.

    Raises:
        ValueError: no such layer, or several and none was named; top or n below 1.
    """

    reference: Reference
    images: Images
    layer: str | None = None
    top: int = 5
    n: int = 6
    show: Callable[[np.ndarray], np.ndarray] | None = None
    _kept: Kept = dataclasses.field(default_factory=Kept, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count(self.n)
        if not isinstance(self.top, (int, np.integer)) or isinstance(self.top, bool) or self.top < 1:
            raise ValueError(f"top expects a number of channels, at least 1. Received: {self.top!r}")
        held = list(self.reference.layers)
        if self.layer is None and len(held) > 1:
            raise LoadError(
                f"An atlas is of one layer. Expected one of {', '.join(held)}. Received: none. Remedy: `layer`", "layer"
            )
        if self.layer is not None and self.layer not in held:
            raise ValueError(
                f"Expected a layer that the reference holds: {', '.join(held)}. Received: {self.layer!r}. Remedy: one "
                "of these, or a reference with that layer"
            )

    @property
    def of(self) -> str:
        """The name of the layer."""
        return self.layer if self.layer is not None else next(iter(self.reference.layers))

    def check(self, explainer: Explainer) -> None:
        """Raise ValueError unless the reference is of the model of an explainer.

        atlases.check(explainer)
        """
        self.reference.check_explainer(explainer, self.of)
        self._kept.clear()

    def draw(
        self,
        explainer: Explainer,
        x: np.ndarray,
        picture: np.ndarray,
        target: int,
        path: Path,
        *,
        contrast: str | int | None,
        names: Mapping[int, str] | Sequence[str] | None,
        dpi: float,
    ) -> None:
        """Write the atlas of one class of one photograph, whole or not at all.

            atlases.draw(explainer, x[0], picture, 3, Path("why.png"), contrast=None, names=None, dpi=100)

        Args:
            x: the sample, as the model takes it. picture: the same, uint8 [H, W, 3].
            target: the class. contrast: what it is set against.
            names: of classes.
        """
        drawing = Drawing(self.images, self.show, names)
        with _ONE:
            of = Explained(explainer, x[None], picture, target, contrast)
            self._kept.serve(explainer, names)
            layout = arranged(of, self.reference, self.of, drawing, self.top, self.n, kept=self._kept)
        write_sheet(path, layout, dpi)
