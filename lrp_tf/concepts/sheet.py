"""`concept_sheet`: what one channel stands for, on one sheet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lrp_tf.concepts.crops import Drawing, Images, crops
from lrp_tf.concepts.reference import Reference, Samples
from lrp_tf.explainer import Explainer
from lrp_tf.heatmap.composed import composed
from lrp_tf.heatmap.files import DPI, require_format
from lrp_tf.heatmap.layout import Layout, arrange
from lrp_tf.heatmap.sheets import write_sheet


def concept_sheet(
    reference: Reference,
    channel: int,
    *,
    layer: str,
    images: Images,
    explainer: Explainer | None = None,
    by: str | Sequence[str] = "relevance",
    label: int | None = None,
    n: int | None = None,
    show: Callable[[np.ndarray], np.ndarray] | None = None,
    names: Mapping[int, str] | Sequence[str] | None = None,
    path: str | os.PathLike | None = None,
    tile_inches: float = 1.0,
    dpi: float = DPI,
) -> np.ndarray:
    """The reference samples of a channel, cut to what it saw of them.

        sheet = concept_sheet(reference, 3, layer="conv2", images=x_train, explainer=explainer, path="channel3.png")

    Args:
        images: the data set of the reference, as the model takes it: anything that gives a sample for its id, by
            `images[id]` or `images(id)`.
        explainer: that of the reference. With it a second row shows the crops as far as relevance passed the channel:
            the conditional map of each sample dims the rest.
        by: "relevance", "activation", or both, one above the other.
        label: samples of this class alone.
        n: how many; None: all that the reference has.
        show: turns a sample as the model takes it into a picture, where that is not one already; it keeps the height
            and width. Channels that come first are moved to the end: `lambda x: np.moveaxis(x, 0, -1)`.
        names: of classes.
        path: a picture to write, whole or not at all.
        tile_inches: the longer side of a crop. dpi: pixels per inch.

    Returns:
        The sheet, uint8 [H, W, 3].

    Raises:
        ValueError: see `Reference.samples`; no sample whose score is above zero, samples that are no pictures or whose
            pictures have another size, n below 1, the explainer of another model.
    """
    require_count(n)
    if path is not None:
        require_format(path)
    if explainer is not None:
        reference.check_explainer(explainer, layer)
    rankings = (by,) if isinstance(by, str) else tuple(by)
    drawing = Drawing(images, show, names)
    layout = _arranged(reference, channel, layer, drawing, explainer, rankings, label, n, tile_inches)
    if path is not None:
        write_sheet(path, layout, dpi)
    return composed(layout, dpi)


def _arranged(
    reference: Reference,
    channel: int,
    layer: str,
    drawing: Drawing,
    explainer: Explainer | None,
    rankings: Sequence[str],
    label: int | None,
    n: int | None,
    tile_inches: float,
) -> Layout:
    """Where everything lies; see `concept_sheet`."""
    rows: list[list[np.ndarray | None]] = []
    titles: list[str] = []
    labels: list[str] = []
    for by in rankings:
        found = positive(reference.samples(layer, channel, by=by, label=label), n)
        if not len(found):
            of = "" if label is None else f" of class {label}"
            raise ValueError(
                f"Channel {channel} of {layer!r} has no sample{of} whose {by} is above zero. Remedy: another channel, "
                'class or by="activation"'
            )
        made = crops(reference, found, layer, channel, drawing, explainer)
        rows.append([crop.plain for crop in made])
        titles.append(f"highest {by}")
        labels.extend(crop.label for crop in made)
        if explainer is not None:
            rows.append([crop.masked for crop in made])
            titles.append("what passed the channel")
            labels.extend("" for _ in made)
    head = f"{layer}, channel {channel}"
    return arrange(rows, titles=titles, labels=labels, suptitle=head, tile_inches=tile_inches)


def require_count(n: int | None) -> None:
    """Raise ValueError unless n is a number of samples, or None."""
    if n is not None and (not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1):
        raise ValueError(f"n expects a number of reference samples, at least 1. Received: {n!r}")


def positive(samples: Samples, n: int | None) -> Samples:
    """The best n samples among those whose score is above zero: others say nothing of what a channel stands for."""
    kept = np.flatnonzero(samples.scores > 0)[:n]
    return Samples(samples.ids[kept], samples.scores[kept], samples.positions[kept], samples.labels[kept])
