"""lrp_tf/training/batches.py: what a network sees in each epoch of its training."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from lrp_tf.training import batches


def numbered(count: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros((count, 8, 8, 1), np.uint8)
    x += np.arange(count, dtype=np.uint8)[:, None, None, None]
    return x, np.arange(count)


def test_epochs_hold_every_picture_once_in_other_orders():
    x, y = numbered(10)
    found = list(batches.training(x, y, batch=4, first=0, last=2, seed=3))
    assert len(found) == 2 * batches.steps(10, 4) == 6
    for images, labels in found:
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)  # pictures stay with their classes
    orders = [np.concatenate([labels for _, labels in found[i : i + 3]]).tolist() for i in (0, 3)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_a_later_epoch_does_not_depend_on_the_earlier_ones():
    x = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), dtype=np.uint8)
    options = {"batch": 4, "seed": 3, "augment": ("crop", "flip", "shift")}
    whole = list(batches.training(x, np.arange(10), first=0, last=3, **options))
    rest = list(batches.training(x, np.arange(10), first=2, last=3, **options))
    for (a, labels), (b, others) in zip(whole[6:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(labels, others)
    other = list(batches.training(x, np.arange(10), first=2, last=3, **(options | {"seed": 4})))
    assert np.abs(other[0][0] - rest[0][0]).max() > 1


def test_flips_and_shifts_are_exact():
    """A flipped or shifted picture has the pixels of the original: nothing is blurred."""
    x = tf.constant(np.random.default_rng(0).uniform(1, 255, (64, 16, 16, 1)).astype("float32"))
    flipped = batches.moved(x, tf.constant([0, 1], tf.int64), ("flip",), "constant").numpy()
    same = [np.allclose(a, b, atol=1e-2) for a, b in zip(flipped, x.numpy(), strict=True)]
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-2) for a, b in zip(flipped, x.numpy(), strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48
    shifted = batches.moved(x, tf.constant([0, 1], tf.int64), ("shift",), "constant").numpy()
    places = set()
    for a, b in zip(shifted, x.numpy(), strict=True):
        padded = np.pad(b, ((2, 2), (2, 2), (0, 0)))
        at = [(i, j) for i in range(5) for j in range(5) if np.allclose(padded[i : i + 16, j : j + 16], a, atol=1e-2)]
        assert len(at) == 1
        places |= {*at}
    assert {i for i, _ in places} == {j for _, j in places} == set(range(5))


def test_crops_enlarge_and_stay_inside():
    """A crop of a picture with a bright frame loses parts of the frame, and nothing comes in from outside."""
    x = np.full((64, 20, 20, 3), 100, np.float32)
    x[:, 2:18, 2:18] = 10
    found = batches.moved(tf.constant(x), tf.constant([5, 5], tf.int64), ("crop",), "constant").numpy()
    assert found.min() > 9.9
    assert (found < 11).mean() > (x < 11).mean() + 0.05
