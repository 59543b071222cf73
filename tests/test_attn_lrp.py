"""The presets attn_lrp and cp_lrp on whole transformers, against slow implementations of the papers."""

import numpy as np
import pytest
from helpers import attention_reference as reference
from helpers.transformers import decoder, vision_transformer

import lrp_tf

METHODS = ("attn_lrp", "cp_lrp")
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3))
TOKENS = np.array([[1, 4, 2, 9, 3, 3], [7, 0, 5, 5, 10, 2]], "int32")


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 2e-7), ("float32", 3e-6)])
@pytest.mark.parametrize("method", METHODS)
def test_a_vision_transformer(method, dtype, limit):
    model = vision_transformer(dtype=dtype)
    images, target = IMAGES.astype(dtype), [2, 0]
    e = lrp_tf.Explainer(model, method).explain(images, target)
    for n in range(2):
        logit, R = reference.vision_transformer(model, images[n].astype("float64"), target[n], method)
        assert error(e.logits[n, target[n]], logit) < limit
        assert error(e.relevance[n], R) < limit
    assert np.abs(e.conservation.unexplained).max() < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-6), ("float32", 5e-6)])
@pytest.mark.parametrize("method", METHODS)
def test_a_decoder(method, dtype, limit):
    model, target = decoder(dtype=dtype), [[5, 3], [4, 8]]
    e = lrp_tf.Explainer(model, method).explain(TOKENS, target)
    for n, (position, token) in enumerate(target):
        logit, R = reference.decoder(model, TOKENS[n], position, token, method)
        assert error(e.logits[n, position, token], logit) < limit
        assert error(e.relevance[n], R) < limit
    assert np.abs(e.conservation.unexplained).max() < 1e-5
