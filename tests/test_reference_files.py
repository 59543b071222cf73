"""A reference of image files notices another file of the same name and size, and opens none that nobody touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from helpers.colours import SIDE, make_net

import lrp_tf
from lrp_tf.concepts import ImageFiles, Reference, build_reference
from lrp_tf.files import images, loading

pytestmark = pytest.mark.usefixtures("mode")
COUNT, BATCH, MIDDLE = 8, 2, "5.bmp"


@pytest.fixture(scope="module")
def explainer() -> lrp_tf.Explainer:
    return lrp_tf.Explainer(make_net(), "epsilon")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures that are not compressed, so that all have the same size in bytes."""
    (tmp_path / "in").mkdir()
    for i in range(COUNT):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.bmp"), picture(i))
    return tmp_path / "in"


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were read."""
    found: list[str] = []
    decode = images.read

    def read(path: str, *more: object) -> np.ndarray:
        found.append(Path(path).name)
        return decode(path, *more)

    monkeypatch.setattr(images, "read", read)
    return found


@pytest.fixture
def build(explainer: lrp_tf.Explainer, folder: Path, tmp_path: Path) -> Callable[..., Reference]:
    def run(name: str = "r.h5", **more: object) -> Reference:
        place = more.pop("place", folder)
        files = ImageFiles(explainer, list(images.find([str(place)])), loading.get_preprocessing("scale:1/255"))
        how = {"path": tmp_path / name, "n": 2, "target": None, "batch": BATCH, **more}
        return build_reference(explainer, files, "colours", **how)

    return run


def killed(build: Callable[..., Reference], after: int) -> None:
    """A run that ended behind so many samples, with all of them in its file."""

    def stop(seen: int) -> None:
        if seen > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(seconds=0, progress=stop)


def replace(folder: Path, *, keep_time: bool = False) -> None:
    """Another picture, of the same name and size in bytes, and on demand with the time of the former."""
    path = folder / MIDDLE
    before = path.stat()
    cv2.imwrite(str(path), picture(99))
    assert path.stat().st_size == before.st_size
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns


def finished(build: Callable[..., Reference]) -> None:
    build()


def merged(build: Callable[..., Reference]) -> None:
    parts = [build(f"part{i}.h5", shard=(i, 2)).path for i in range(2)]
    Reference.merge(parts, parts[0].with_name("r.h5"))


def nearly_all(build: Callable[..., Reference]) -> None:
    killed(build, 7)


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("earlier", [finished, merged, nearly_all])
def test_another_file_in_the_middle_is_noticed(build, folder, earlier, keep_time):
    earlier(build)
    build()  # nothing was changed
    replace(folder, keep_time=keep_time)
    with pytest.raises(ValueError, match="the samples of batch 2 differ from those of the earlier run"):
        build()


def test_files_that_nobody_touched_are_not_opened(build, folder, opened):
    whole = build().path.read_bytes()
    ends = [f"{i}.bmp" for i in (0, 1, 6, 7)]  # of the first and the last batch
    opened.clear()
    build()
    assert sorted(opened) == ends
    (folder / MIDDLE).touch()
    opened.clear()
    build()
    assert sorted(opened) == sorted([*ends, "4.bmp", MIDDLE])  # the batch of the file that was touched
    assert (folder.parent / "r.h5").read_bytes() == whole


def test_a_killed_run_remembers_what_it_read_again(build, folder, opened):
    killed(build, 5)
    (folder / "2.bmp").touch()
    again = build()
    opened.clear()
    build()
    assert "2.bmp" not in opened
    assert again.path.read_bytes() == build("new.h5").path.read_bytes()


def test_a_copy_is_read_again_and_holds_the_same(build, folder, tmp_path, opened):
    build()
    shutil.copytree(folder, tmp_path / "copy")
    opened.clear()
    build(place=tmp_path / "copy")
    assert len(opened) == COUNT
    replace(tmp_path / "copy")
    with pytest.raises(ValueError, match="the samples of batch 2 differ"):
        build(place=tmp_path / "copy")


def test_a_file_of_an_earlier_version_is_compared_by_content(build, folder):
    with h5py.File(build().path, "a") as file:
        del file["batches/stamp"]
    build()
    replace(folder, keep_time=True)
    with pytest.raises(ValueError, match="the samples of batch 2 differ"):
        build()
