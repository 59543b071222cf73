"""What the tests of `check` share: a batch for each kind of model, and the check without its table."""

import numpy as np

import lrp_tf
from helpers.checking import images, vectors

VEC, IMG = vectors(dtype="float32"), images(dtype="float32")


def checked(model, x, *arguments, **options):
    return lrp_tf.Explainer(model, *arguments, **options).check(x, print_fn=None)


SEQUENCES = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 6))
