"""What a contrast does to maps of a trained net on photographs, as docs/contrast.md says (benchmarks/contrast.py)."""

import importlib.util

import numpy as np
import pytest
from helpers import REPOSITORY

import lrp_tf
from lrp_tf.files import images

DATA = REPOSITORY.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "photos").exists(), reason="needs ../shared/data: trained weights and photographs")
def test_a_contrast_tells_classes_and_objects_apart():
    spec = importlib.util.spec_from_file_location("contrast", REPOSITORY / "benchmarks/contrast.py")
    contrast = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contrast)
    model = contrast.mobilenet(DATA / "mobilenet075.weights.h5")
    explainer = lrp_tf.Explainer(model)
    fit = images.Fit(224, 224, "squash")
    x = contrast.fed(np.stack([fit.apply(images.read(str(f))) for f in sorted((DATA / "photos").glob("*.jpg"))]))
    assert np.median(contrast.alike(explainer, x, "none")) > 0.9
    assert np.median(contrast.alike(explainer, x, "softmax")) < -0.5
    np.testing.assert_allclose(contrast.alike(explainer, x[:2], "the other class"), -1, atol=1e-4)

    two, classes = contrast.pasted(model, DATA / "photos")
    assert len(two) > 40
    plain = contrast.own_share(explainer, two, classes, "none")["positive"]
    for kind in ("softmax", "the other class"):
        share = contrast.own_share(explainer, two, classes, kind)["positive"]
        assert share.mean() > 0.95 > plain.mean() + 0.05
        # From the map of one class to that of the other, so much of the positive relevance changes sides.
        assert share.sum(axis=1).mean() - 1 > plain.sum(axis=1).mean() - 1 + 0.2
