"""How the relevance of a photograph is displayed: styles, colours, scale, resolution and format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Colormap

from lrp_tf.heatmap.colours import Paint, Reduce, Scale, Show, limits
from lrp_tf.heatmap.files import require_dpi
from lrp_tf.heatmap.photographs import overlay
from lrp_tf.heatmap.smoothing import Smooth

STYLES = ("side-by-side", "overlay", "heatmap")
FORMATS = ("png", "jpg", "webp", "pdf", "svg")
TILE = 3.2  # inches of a photograph beside its heatmap
_SHOWN = 640  # pixels of its longer side, at least


@dataclasses.dataclass(frozen=True)
class Look:
    """How relevance is drawn, see `lrp_tf.heatmap`.

    Attributes:
        styles: some of `STYLES`.
        scale: the |R| of full colour. None: the largest of each map; a number; "99%": that quantile of each map;
            "image": the largest of all targets of an image, "image:99%" a quantile of them; "run": the largest of the
            whole run, which computes all relevance a first time to find it.
        smooth: see `heatmap.save`; "auto" takes the first stride of the explained model.
        colorbar: beside overlays and heatmaps, which then have a margin, and below maps side by side.
        dpi: of pictures with texts or side by side; all others have one pixel for each pixel of the photograph.
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
        nothing, paint = np.zeros((1, 1)), self.paint(1)
        overlay(
            nothing,
            nothing,
            cmap=paint.cmap,
            scale=self._quantile(),
            gamma=paint.gamma,
            reduce=paint.reduce,
            show=paint.show,
            smooth=paint.smooth,
            stride=paint.stride,
        )
        require_dpi(self.dpi)
        if self.format not in FORMATS:
            raise ValueError(f"Expected format one of {', '.join(FORMATS)}. Received: {self.format!r}")

    @property
    def shown(self) -> int:
        """Pixels of the longer side of a photograph that is drawn beside its heatmap."""
        return max(_SHOWN, round(TILE * self.dpi))

    def paint(self, stride: float) -> Paint:
        """How a map is drawn, without its scale, for a model whose first convolution has that stride."""
        return Paint(
            cmap=self.cmap, reduce=self.reduce, gamma=self.gamma, show=self.show, smooth=self.smooth, stride=stride
        )  # fmt: skip

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
        """The scale without "image" and "run", which a heatmap of a single map does not take."""
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
