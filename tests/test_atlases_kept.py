"""Crops of channels that are kept from one atlas to the next: the same pictures, computed once, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.colours import make_net, read, squares

import lrp_tf
from lrp_tf.concepts import Atlases, ImageFiles, build_reference, crops
from lrp_tf.concepts.crops import Crop
from lrp_tf.concepts.kept import Kept
from lrp_tf.files import images, loading

pytestmark = pytest.mark.usefixtures("mode")


def test_channels_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer, other = (lrp_tf.Explainer(make_net(), name) for name in ("epsilon", "epsilon_plus"))
    files = ImageFiles(
        explainer, list(images.find([str(squares(tmp_path / "in", 4))])), loading.get_preprocessing("scale:1/255")
    )
    reference = build_reference(explainer, files, "colours", path=tmp_path / "r.h5", n=2, target=None)
    computed: list[tuple[lrp_tf.Explainer, int]] = []
    conditional = crops.conditional

    def counted(of: lrp_tf.Explainer, x: np.ndarray, target: object, layer: str, channel: int) -> np.ndarray:
        computed.append((of, channel))
        return conditional(of, x, target, layer, channel)

    monkeypatch.setattr(crops, "conditional", counted)

    def sheets(atlases: Atlases, of: lrp_tf.Explainer = explainer, names: list[str] | None = None) -> list[np.ndarray]:
        found = []
        for i in range(4):
            sample, path = files.sample(i), tmp_path / "atlas.png"
            atlases.draw(of, sample.x, sample.picture, i % 2, path, contrast=None, names=names, dpi=100)
            found.append(read(path))
        return found

    atlases, anew = Atlases(reference, files, n=2), Atlases(reference, files, n=2)
    object.__setattr__(anew, "_kept", Kept(0))
    kept = sheets(atlases)
    assert sorted(channel for _, channel in computed) == [0, 1]  # channel 2 has no samples
    computed.clear()
    for one, two in zip(kept, sheets(anew), strict=True):
        assert np.array_equal(one, two)
    assert len(computed) == 8
    computed.clear()
    named = sheets(atlases, names=["red", "green"])  # the labels of crops differ
    assert len(computed) == 2
    assert any(one.shape != two.shape or (one != two).any() for one, two in zip(kept, named, strict=True))
    computed.clear()
    sheets(atlases, other)  # another composite
    assert {of for of, _ in computed} == {other}
    atlases.check(other)  # what a gallery does first: weights may have changed
    computed.clear()
    sheets(atlases, other)
    assert len(computed) == 2


def test_memory_is_bounded() -> None:
    kept, made = Kept(limit=1000), []

    def crop(channel: int, size: int = 10) -> list[Crop]:
        made.append(channel)
        whole = np.full((100, 100, 3), channel, np.uint8)
        return [Crop(whole[:size, :size], whole[:size, :size], "")]

    for channel in (0, 1, 2, 0, 3, 1, 0):  # three of 300 bytes fit
        found = kept.get(channel, 1, lambda channel=channel: crop(channel))
        assert (found[0].masked == channel).all()
        assert kept.bytes <= 1000
    assert made == [0, 1, 2, 3, 1]  # 1 had gone for 3, and 2 for 1
    assert kept.get(7, 1, lambda: crop(7, 50))[0].masked.shape == (50, 50, 3)  # larger than all that may be held
    assert kept.bytes == 0
    assert len(kept.get(8, 2, lambda: crop(8))) == 1  # a file could not be read, which may pass
    assert kept.bytes == 0
