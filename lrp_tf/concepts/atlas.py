"""`atlas`: one prediction, its most relevant channels, and what they stand for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrp_tf.concepts.crops import Drawing, Images, axes_of, crops, over, pixels
from lrp_tf.concepts.kept import Kept
from lrp_tf.concepts.reference import Reference
from lrp_tf.concepts.sheet import positive, require_count
from lrp_tf.engine import targets
from lrp_tf.explainer import Explainer
from lrp_tf.heatmap.files import DPI, require_format
from lrp_tf.heatmap.layout import Layout, arrange
from lrp_tf.heatmap.sheets import write_sheet


def atlas(
    explainer: Explainer,
    x: Any,
    reference: Reference,
    layer: str,
    *,
    images: Images,
    path: str | os.PathLike,
    target: int | None = None,
    contrast: str | int | None = None,
    top: int = 5,
    n: int = 6,
    by: str = "relevance",
    same_class: bool = False,
    show: Callable[[np.ndarray], np.ndarray] | None = None,
    names: Mapping[int, str] | Sequence[str] | None = None,
    tile_inches: float = 1.1,
    dpi: float = DPI,
) -> Path:
    """One prediction as a figure: its most relevant channels, where they are in it, and what they stand for.

        atlas(explainer, x[0], reference, "conv2", images=x_train, path="why.png")

    The first row is the sample and its heatmap. Each row below is a channel: its share of the sum of |relevance| over
    all channels of the layer, the heatmap of what passed through it, and its reference samples, dimmed where nothing
    passed.

    Args:
        x: one sample, [...] or [1, ...].
        layer: one that the reference was built for.
        images, show, names, tile_inches, dpi: see `concept_sheet`.
        path: the picture to write, whole or not at all.
        target: class to explain; None: the predicted one. contrast: what it is set against, as for the Explainer.
        top: how many channels; all of them, if the layer has fewer.
        n: how many reference samples of each.
        by: which reference samples: those of the highest "relevance" or "activation".
        same_class: reference samples of the explained class alone.

    Returns:
        `path`.

    Raises:
        ValueError: a layer that the reference does not have, the reference of another model; several samples; n
            below 1; `same_class`, and no sample of the explained class; pictures of another size than their samples;
            see `Explainer.concepts`.
        OSError: the file cannot be written.
    """
    path = require_format(path)
    require_count(n)
    reference.check_explainer(explainer, layer)
    x, drawing = _single(explainer, x), Drawing(images, show, names)
    of = Explained(explainer, x, drawing.picture(x[0]), target, contrast)
    return write_sheet(path, arranged(of, reference, layer, drawing, top, n, by, same_class, tile_inches), dpi)


class Explained(NamedTuple):
    """What an atlas is of: a sample [1, ...] as the model takes it and as a picture, uint8 [H, W, 3]; see `atlas`."""

    explainer: Explainer
    x: np.ndarray
    picture: np.ndarray
    target: int | None
    contrast: str | int | None


def arranged(
    of: Explained,
    reference: Reference,
    layer: str,
    drawing: Drawing,
    top: int,
    n: int,
    by: str = "relevance",
    same_class: bool = False,
    tile_inches: float = 1.1,
    kept: Kept | None = None,
) -> Layout:
    """Where everything lies; see `atlas`, whose checks come first.

    Args:
        kept: crops of earlier atlases with the same arguments but `of`, without `same_class`.
    """
    explainer, x, picture, target, contrast = of
    found = explainer.concepts(x, target, layer=layer, top=min(top, reference.layers[layer]), contrast=contrast)
    label = int(np.asarray(found.target)[0])
    axes = axes_of(x[0].shape, picture)
    whole = pixels(np.asarray(explainer(x, label, contrast=contrast))[0], axes)
    rows: list[list[np.ndarray | None]] = [[picture, over(picture, whole)]]
    titles, labels = [""], ["the sample", f"relevance for {drawing.name(label)}"]
    relevance, shares, maps = (np.asarray(part)[0] for part in (found.relevance, found.share, found.maps))
    for channel, share, map_ in zip(np.asarray(found.channels)[0].tolist(), shares, maps, strict=True):
        samples = positive(reference.samples(layer, channel, by=by, label=label if same_class else None), n)
        make = functools.partial(crops, reference, samples, layer, channel, drawing, explainer)
        made = make() if kept is None else kept.get(channel, len(samples), make)
        rows.append([over(picture, pixels(map_, axes)), *(crop.masked for crop in made)])
        side = "for" if relevance[channel] >= 0 else "against"
        none = "" if len(samples) else f"; no sample has {by} above zero here"
        none += f"; {lost} file(s) cannot be read" if (lost := len(samples) - len(made)) else ""
        titles.append(f"channel {channel}: {share:.1%} of |R|, {side} {drawing.name(label)}{none}")
        labels.extend(["what passed it", *(crop.label for crop in made)])
    head = f"{drawing.name(label)}{_rather(contrast, drawing)}: {layer}"
    return arrange(rows, titles=titles, labels=labels, suptitle=head, tile_inches=tile_inches)


def _rather(contrast: str | int | None, drawing: Drawing) -> str:
    if contrast is None:
        return ""
    return f" rather than {'others' if isinstance(contrast, str) else drawing.name(contrast)}"


def _single(explainer: Explainer, x: Any) -> np.ndarray:
    """The sample as a batch of one."""
    x = np.asarray(x)
    (ref,) = explainer.graph.inputs if len(explainer.graph.inputs) == 1 else (None,)
    if ref is None:
        raise ValueError("An atlas needs a model with one input. Received: a model with several")
    x = x[None] if x.ndim == len(ref.shape) else x
    targets.inputs(explainer.graph, x)
    if len(x) != 1:
        raise ValueError(f"An atlas is of one sample. Expected [1, ...]. Received: shape {x.shape}")
    return x
