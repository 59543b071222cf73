"""Pictures of one cell: maps on a page, and what becomes of the relevance of marked pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lrp_tf import heatmap
from lrp_tf.concepts.embedding import embed, thumbnails
from lrp_tf.concepts.planted.cells import CLEAN, CORRECTED, TRAINED, Data, Place, Shown
from lrp_tf.concepts.planted.marks import wrong
from lrp_tf.concepts.planted.nets import CONCEPTS
from lrp_tf.explainer import Explainer

FOLDER = "pictures"
COUNT = 8  # pictures in a row


def draw(folder: Path, place: Place, shown: Shown, data: Data) -> None:
    """FOLDER/{place}-clusters.png and {place}-corrected.png."""
    (folder / FOLDER).mkdir(exist_ok=True)
    clusters(folder / FOLDER / f"{place}-clusters.png", shown)
    corrected(folder / FOLDER / f"{place}-corrected.png", shown, data)


def clusters(path: Path, shown: Shown) -> Path:
    """The maps of the class, alike ones close together, each in a frame of the colour of its cluster."""
    seen = shown.seen
    scale = float(np.quantile(np.abs(seen.maps), 0.995)) or 1.0
    tiles = np.stack([heatmap.to_rgb(r, scale=scale) for r in seen.maps])
    points = embed(seen.maps)
    return thumbnails(path, points, tiles, groups=seen.clusters.labels, side=800, tile=32)


def corrected(path: Path, shown: Shown, data: Data) -> Path:
    """Test pictures that the mark misleads: the relevance of what each model says of them, and what it says."""
    misled = _misled(shown, data)
    x = shown.mark(data.x_test[misled])
    channel = np.full((len(x), 1), shown.seen.channel)
    explainer = Explainer(shown.models[TRAINED])
    concept = np.asarray(explainer.concepts(x, data.label, layer=CONCEPTS, channels=channel).maps)[:, 0]
    rows = [[heatmap.image_to_rgb(picture) for picture in x]]
    labels = [f"a {label}" for label in data.test_labels[misled]]
    titles = ["test pictures with the mark, and what they are"]
    for name in (TRAINED, *CORRECTED, CLEAN):
        explained = Explainer(shown.models[name]).explain(x)
        rows.append([heatmap.to_rgb(r) for r in np.asarray(explained.relevance)])
        labels += [f"says {int(said)}" for said in np.asarray(explained.target)]
        titles.append(name)
        if name == TRAINED:
            rows.append([heatmap.to_rgb(r) for r in concept])
            labels += [f"channel {shown.seen.channel}"] * len(x)
            titles.append(f"of that, for class {data.label}, what passes channel {shown.seen.channel} of {CONCEPTS}")
    return heatmap.grid(path, rows, titles=titles, labels=labels, tile_inches=1.0)


def _misled(shown: Shown, data: Data) -> np.ndarray:
    """Test pictures, of other classes each, that become the mark's class by the mark; others if there are too few."""
    others = np.flatnonzero(data.test_labels != data.label)
    model = shown.models[TRAINED]
    marked = wrong(data.x_test[others], data.test_labels[others], shown.mark, data.label)
    before, after = (np.asarray(model(x)).argmax(axis=1) for x in (data.x_test[others], marked))
    fooled = (before == data.test_labels[others]) & (after == data.label)
    order = [*others[fooled], *others[~fooled]]
    _, first = np.unique(data.test_labels[order], return_index=True)
    found = [order[i] for i in np.sort(first)]
    return np.asarray(found[:COUNT])
