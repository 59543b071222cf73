"""Errors of the library name arguments; `lrp-tf` shows options in their place."""

import pickle

import pytest
from helpers.pictures import photos, table

from lrp_tf.cli.messages import message_of, with_options
from lrp_tf.files.errors import ExtraError, ImageError, LoadError


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (LoadError("Remedy: `size`, not `size2`", "size"), "Remedy: --size HEIGHTxWIDTH, not `size2`"),
        (LoadError("`a` or `save_relevance`", ("save_relevance",)), "`a` or --save-relevance"),
        (ExtraError("pip, or `warmup=False`", "warmup=False"), "pip, or --no-warmup"),
        (ImageError("{`max_pixels`} % \\1", "max_pixels"), "{--max-pixels} % \\1"),
        (LoadError("names no `size`"), "names no `size`"),
        (OSError("`size`"), "`size`"),
    ],
)
def test_arguments_become_options(error, shown):
    assert message_of(error) == shown
    assert with_options(str(error), getattr(error, "options", ())) == shown
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), message_of(again)) == (type(error), shown)


def test_a_picture_that_is_too_large(lrp, saved, tmp_path):
    photos(tmp_path / "in", 1)
    explain = ("explain", saved, "in", "--preprocess", "none", "--max-pixels", "12")
    code, _, err = lrp(*explain)
    assert code == 1
    assert "the limit is 12 (--max-pixels)" in err
    (failure,) = table("results/failures.csv")
    assert failure["reason"].endswith("the limit is 12 (--max-pixels)")
    code, _, err = lrp("report", saved, "in/photo0.png", *explain[3:])
    assert code == 2
    assert "the limit is 12 (--max-pixels)" in err


def test_a_part_that_is_left_out_of_an_export(lrp, saved):
    code, out, _ = lrp("export", saved, "served/1", "--no-warmup")
    assert code == 0
    assert "Remedy: --preprocess. Expected one of: " in out
