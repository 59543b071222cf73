"""How the relevance of a photograph is displayed: styles, colours, scale, resolution and format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Colormap

from lrp_tf.heatmap.colours import Paint, Reduce, Scale, Show, limits
from lrp_tf.heatmap.files import require_dpi
from lrp_tf.heatmap.photographs import overlay
from lrp_tf.heatmap.smoothing import Smooth

STYLES = ("side-by-side", "overlay", "heatmap")
FORMATS = ("png", "pdf", "svg")
TILE = 3.2  # inches of a photograph beside its heatmap
_SHOWN = 640  # pixels of its longer side, at least


@dataclasses.dataclass(frozen=True)
class Look:
    """How relevance is drawn, see `lrp_tf.heatmap`.

    Attributes:
        styles: some of `STYLES`.
        scale: the |R| of full colour. None: the largest of each map; a number; "99%": that quantile of each map;
            "image": the largest of all targets of an image, "image:99%" a quantile of them; "run": the largest of the
            whole run, for which all relevance is computed once before.
        smooth: see `heatmap.save`; "auto" takes the first stride of the explained model.
        colorbar: beside overlays and heatmaps, which then have a margin, and below maps side by side.
        dpi: of what has texts or lies side by side; the others have the pixels of the photograph.
        format: one of `FORMATS`.
    """

    styles: tuple[str, ...] = ("side-by-side",)
    cmap: str | Colormap | None = None
    gamma: float = 1.0
    reduce: Reduce = "sum"
    scale: float | str | None = None
    show: Show = "signed"
    smooth: Smooth = None
    colorbar: bool = False
    dpi: float = 100
    format: str = "png"

    def check(self) -> None:
        """Raise ValueError where `lrp_tf.heatmap` would, before any work is done."""
        overlay(np.zeros((1, 1)), np.zeros((1, 1)), stride=1, **self.colours, scale=self._quantile())
        require_dpi(self.dpi)
        if self.format not in FORMATS:
            raise ValueError(f"Expected format one of {', '.join(FORMATS)}. Received: {self.format!r}")

    @property
    def colours(self) -> dict[str, Any]:
        names = ("cmap", "gamma", "reduce", "show", "smooth")
        return {name: getattr(self, name) for name in names}

    @property
    def shown(self) -> int:
        """Pixels of the longer side of a photograph that is drawn beside its heatmap."""
        return max(_SHOWN, round(TILE * self.dpi))

    def paint(self, stride: float) -> Paint:
        """For a model with that first stride."""
        return Paint(**self.colours, stride=stride)

    def scales(self, maps: Sequence[np.ndarray], run: float | None) -> list[float]:
        """The |R| of full colour for the map of each target.

        Args:
            maps: as drawn, [h, w] each.
            run: the |R| of full colour of the whole run, needed if `scale` is "run".

        Raises:
            ValueError: `scale` is "run", but `run` is None.
        """
        if self.scale == "run":
            if run is None:
                raise ValueError('Expected the scale of the whole run, for scale="run". Received: None')
            return [float(run)] * len(maps)
        if isinstance(self.scale, str) and self.scale.startswith("image"):
            return [limits(np.stack(maps), self._quantile())[1]] * len(maps)
        return [limits(m, self.scale)[1] for m in maps]

    def _quantile(self) -> Scale:
        """The scale without "image" and "run", which heatmaps of a single map do not know."""
        if self.scale in ("image", "run"):
            return None
        if isinstance(self.scale, str):
            quantile = self.scale.removeprefix("image:")
            if not quantile.strip().endswith("%"):
                raise ValueError(
                    'Expected scale as a number, "99%", "image", "image:99%", "run" or None. '
                    f"Received: scale={self.scale!r}"
                )
            return quantile
        return self.scale
