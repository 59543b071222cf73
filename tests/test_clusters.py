"""Clusters find planted strategies and say where there are none; the page shows each image where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lrp_tf import concepts
from lrp_tf.concepts import clusters
from lrp_tf.concepts.embedding import COLOURS


def maps(counts=(30, 12, 8), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps [N, 12, 12] with relevance in the middle, at the left edge or in a corner, of any strength."""
    numbers = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(counts)), counts)
    found = numbers.normal(scale=0.1, size=(len(of), 12, 12))
    for one, kind in zip(found, of, strict=True):
        one[[slice(3, 9), slice(0, 12), slice(9, 12)][kind], [slice(3, 9), slice(0, 2), slice(9, 12)][kind]] += 1
        one *= numbers.uniform(0.1, 10)
    order = numbers.permutation(len(of))
    return found[order], of[order]


@pytest.mark.parametrize("shape", ["maps", "channels", "vectors"])
def test_strategies_are_found_and_counted(shape):
    values, of = maps()
    if shape == "channels":
        values = np.stack([0.25 * values, 0.75 * values], axis=-1)
    elif shape == "vectors":
        values = values.reshape(len(values), -1)
    found = clusters.spectral(values)
    assert len(found) == 3
    assert int(found.gaps.argmax()) == 2
    np.testing.assert_array_equal(found.labels, of)  # the largest cluster first
    np.testing.assert_array_equal(found.members(2), np.flatnonzero(of == 2))
    assert [row[1] for row in found.table().rows] == [30, 12, 8]


def test_one_strategy_is_one_cluster():
    values, _ = maps((60,))
    assert len(clusters.spectral(values)) == 1
    assert set(clusters.spectral(values, 4).labels) == {0, 1, 2, 3}  # as many as asked for


def test_strength_counts_only_where_it_is_asked_for():
    weak = concepts.shares(maps((30,))[0])
    both = np.concatenate([weak, weak[:1], 3 * weak])
    of = np.repeat([0, 1], [31, 30])
    assert (clusters.spectral(both, 2, normalize=False).labels == of).all()
    assert not (clusters.spectral(both, 2).labels == of).all()


def test_eigenvalues_are_those_of_the_laplacian():
    """Against a dense computation from the definition; and the way that large data go gives the same."""
    values, _ = maps()
    flat = concepts.shares(values).reshape(len(values), -1)
    far = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    near = np.argsort(far + np.diag(np.full(len(far), np.inf)), axis=1)[:, :6]
    graph = np.zeros_like(far)
    graph[np.repeat(np.arange(len(far)), 6), near.ravel()] = 1
    graph = np.maximum(graph, graph.T)
    root = 1 / np.sqrt(graph.sum(axis=1))
    want = np.sort(np.linalg.eigvalsh(np.eye(len(far)) - root[:, None] * graph * root[None]))
    found = clusters.spectral(values, neighbours=6, largest=8)
    np.testing.assert_allclose(found.eigenvalues, want[:9].clip(0), atol=1e-10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_DENSE", 10)
        sparse = clusters.spectral(values, neighbours=6, largest=8)
    np.testing.assert_allclose(sparse.eigenvalues, want[:9].clip(0), atol=1e-8)
    np.testing.assert_array_equal(sparse.labels, found.labels)


def test_maps_are_averaged_over_windows():
    values = np.arange(2 * 5 * 4, dtype=float).reshape(2, 5, 4)
    found = clusters.flattened(values, 2).reshape(2, 2, 2)
    np.testing.assert_allclose(found[1, 0], [values[1, :3, :2].mean(), values[1, :3, 2:].mean()])
    np.testing.assert_array_equal(clusters.flattened(values, 9), values.reshape(2, 20))


def test_the_embedding_keeps_strategies_apart():
    values, of = maps((20, 20))
    points = concepts.embed(values)
    assert points.min() == 0
    assert points.max() == 1
    far = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.diag(np.full(len(of), np.inf))
    assert (of[far.argmin(axis=1)] == of).mean() > 0.95


def test_thumbnails_lie_where_their_points_are(tmp_path):
    """Upper left, in a blue frame, a red picture; lower right, in the next colour, a white one."""
    points = np.array([[0.0, 1], [1, 0], [1, 0]])
    images = np.zeros((3, 6, 6, 3), np.uint8)
    images[0, ..., 0] = 200
    images[1:] = 255
    path = concepts.thumbnails(tmp_path / "page.png", points, images, groups=np.array([0, 1, 1]), side=120, tile=20)
    page = np.asarray(Image.open(path).convert("RGB"))
    assert page.shape == (120, 120, 3)
    assert tuple(page[0, 0]) == COLOURS[0]
    assert tuple(page[10, 10]) == (200, 0, 0)
    assert tuple(page[60, 60]) == (255, 255, 255)
    second = (page == COLOURS[1]).all(axis=-1)
    assert second[84:, 84:].any()
    assert second.sum() == 2 * (20 * 20 - 16 * 16)  # two of one place lie side by side
    few = concepts.thumbnails(tmp_path / "few.png", points, images, side=120, tile=20, limit=0)
    assert (np.asarray(Image.open(few).convert("RGB")) != 255).any(axis=-1).sum() == 32  # two squares, one on another


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda v: clusters.spectral(v[:2]), "three samples or more"),
        (lambda v: clusters.spectral(v[0, 0]), r"expected maps"),
        (lambda v: clusters.spectral(np.full_like(v, np.inf)), "finite"),
        (lambda v: clusters.spectral(v, 50), "n expects a whole number from 1 to 49. Received: 50"),
        (lambda v: clusters.spectral(v, n=2.5), "n expects a whole number from 1 to 49. Received: 2.5"),
        (lambda v: clusters.spectral(v, n=True), "n expects a whole number from 1 to 49. Received: True"),
        (lambda v: clusters.spectral(v, neighbours=2.5), "neighbours expects a whole number from 1 to 49"),
        (lambda v: clusters.spectral(v, largest="8"), "largest expects a whole number from 1. Received: '8'"),
        (lambda v: clusters.spectral(v, pixels=7.5), "pixels expects a whole number from 1. Received: 7.5"),
        (lambda v: clusters.spectral(v).members(0.5), "cluster expects a whole number from 0 to 2. Received: 0.5"),
        (lambda v: clusters.spectral(v, neighbours=50), "neighbours expects"),
        (lambda v: clusters.spectral(v, largest=0), "largest expects"),
        (lambda v: clusters.spectral(v, pixels=0), "pixels expects"),
        (lambda v: clusters.spectral(v).members(3), "cluster expects a whole number from 0 to 2. Received: 3"),
        (lambda v: concepts.embed(v[:3]), "four samples or more"),
        (lambda v: concepts.embed(np.zeros((10, 4, 4))), "all alike. Remedy"),
        (lambda v: concepts.embed(v[0] * np.arange(1, 9)[:, None, None]), "8 that are all alike"),
        (lambda v: concepts.embed(v, perplexity=50), "perplexity expects"),
        (lambda v: concepts.thumbnails("x.png", v[:, 0, :2] + 9, v), "from 0 to 1"),
        (lambda v: concepts.thumbnails("x.png", np.zeros((3, 2)), v), "images expects one for each of 3"),
        (lambda v: concepts.thumbnails("x.png", np.zeros((50, 2)), v, groups=np.zeros(2)), "groups expects"),
        (lambda v: concepts.thumbnails("x.png", np.zeros((50, 2)), v, tile=400), "tile expects"),
    ],
)
def test_mistakes(call, match):
    with pytest.raises(ValueError, match=match):
        call(maps()[0])
