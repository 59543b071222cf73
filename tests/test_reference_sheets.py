"""Sheets and atlases: crops are what a channel saw, colours are where relevance passed it."""

from __future__ import annotations

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras import layers as kl

import lrp_tf
from lrp_tf.concepts import Reference, atlas, build_reference, concept_sheet
from lrp_tf.concepts.crops import axes_of, dimmed, pixels
from lrp_tf.heatmap import image_to_rgb

pytestmark = pytest.mark.usefixtures("mode")
SIDE, RED, GREEN = 12, 0, 1
NAMES = {RED: "rouge", GREEN: "vert"}


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Class 0 counts red and class 1 green; channel 0 is red, channel 1 green, channel 2 blue, which nothing reads."""
    model = keras.Sequential([
        keras.Input((SIDE, SIDE, 3)),
        kl.Conv2D(3, 3, activation="relu", name="colours"),
        kl.GlobalAveragePooling2D(),
        kl.Dense(2, name="scores"),
    ])  # fmt: skip
    kernel = np.zeros((3, 3, 3, 3), "float32")
    kernel[:, :, range(3), range(3)] = 1
    model.set_weights([kernel, np.zeros(3), np.float32([[1, -0.5], [-0.5, 1], [0, 0]]), np.zeros(2)])
    return model


@pytest.fixture(scope="module")
def explainer(model: keras.Model) -> lrp_tf.Explainer:
    return lrp_tf.Explainer(model, "epsilon")


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Pictures with a red or a green patch, the stronger the later, each at a place of its own, and blue everywhere."""
    x, y = np.zeros((6, SIDE, SIDE, 3), "float32"), np.array([RED, GREEN] * 3)
    x[..., 2] = 0.2
    for i in range(6):
        x[i, i : i + 4, 2 * (i % 3) : 2 * (i % 3) + 4, y[i]] = 0.5 + 0.1 * i
    return x, y


@pytest.fixture(scope="module")
def reference(explainer: lrp_tf.Explainer, data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = tmp_path_factory.mktemp("reference") / "colours.h5"
    return build_reference(explainer, data, "colours", path=path, n=3, pooling="max")


def where(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Places where a sheet holds a picture, but for rounding."""
    found = cv2.matchTemplate(sheet, picture, cv2.TM_SQDIFF)
    return [tuple(at) for at in np.argwhere(found < 2 * picture.size).tolist()]


def enlarged(crop: np.ndarray, tile: int) -> np.ndarray:
    return cv2.resize(crop, (tile, tile), interpolation=cv2.INTER_NEAREST)


def test_a_sheet_shows_crops_of_what_the_channel_saw(reference: Reference, data: tuple, tmp_path: Path) -> None:
    x, _ = data
    found = reference.samples("colours", RED)
    assert found.ids.tolist() == [4, 2, 0]
    sheet = concept_sheet(reference, RED, layer="colours", images=x, tile_inches=0.6, path=tmp_path / "sheet.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1], sheet)
    places = []
    for i, position in zip(found.ids, found.positions, strict=True):
        crop = image_to_rgb(x[i])[reference.box("colours", position)[:2]]
        assert crop.shape == (3, 3, 3)
        assert (crop[..., 0] == crop.max()).all()  # the patch alone, and nothing of what is around it
        places.append(where(sheet, enlarged(crop, 60)))
    assert all(len(at) >= 1 for at in places)
    assert places[0][0][1] < places[1][0][1] < places[2][0][1]  # the best first
    assert len(sheet) == len(concept_sheet(reference, RED, layer="colours", images=lambda i: x[i], tile_inches=0.6))


def test_a_sheet_dims_what_relevance_did_not_pass(
    reference: Reference, explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path
) -> None:
    plain, masked = (
        concept_sheet(reference, GREEN, layer="colours", images=data[0], explainer=one, names=NAMES, n=2)
        for one in (None, explainer)
    )
    assert len(masked) > 1.5 * len(plain)  # a row more
    both = concept_sheet(reference, GREEN, layer="colours", images=data[0], by=("relevance", "activation"), n=2)
    assert len(both) > 1.5 * len(plain)
    picture, relevance = np.full((20, 20, 3), 200, np.uint8), np.zeros((20, 20))
    relevance[5:9, 5:9] = -1.0
    shown = dimmed(picture, relevance)
    assert (shown[6:8, 6:8] > 190).all()  # relevance of either sign
    assert (shown[12:, 12:] == 32).all()
    assert (dimmed(picture, np.zeros((20, 20))) == 32).all()


def test_a_channel_without_relevance_has_no_sheet(reference: Reference, data: tuple, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Channel 2 of 'colours' has no sample whose relevance is above zero"):
        concept_sheet(reference, 2, layer="colours", images=data[0])
    assert concept_sheet(reference, 2, layer="colours", images=data[0], by="activation").ndim == 3
    with pytest.raises(ValueError, match=r"has no sample of class 1 whose relevance is above zero"):
        concept_sheet(reference, RED, layer="colours", images=data[0], label=GREEN)
    with pytest.raises(ValueError, match=r"images has no sample 4. .*by id. Received: ndarray"):
        concept_sheet(reference, RED, layer="colours", images=data[0][:2])
    with pytest.raises(ValueError, match=r"\.xyz"):
        concept_sheet(reference, RED, layer="colours", images=data[0], path=tmp_path / "sheet.xyz")


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_samples_below_one(
    reference: Reference, explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path, n: object
) -> None:
    with pytest.raises(ValueError, match=r"n expects a number of reference samples, at least 1. Received"):
        concept_sheet(reference, RED, layer="colours", images=data[0], n=n)
    with pytest.raises(ValueError, match=r"n expects a number of reference samples, at least 1. Received"):
        atlas(explainer, data[0][0], reference, "colours", images=data[0], path=tmp_path / "atlas.png", n=n)


def test_pictures_of_another_size(
    reference: Reference, explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path
) -> None:
    x, path = data[0], tmp_path / "atlas.png"
    for show in (lambda one: one[:6], lambda one: np.repeat(np.repeat(one, 2, 0), 2, 1)):
        with pytest.raises(ValueError, match=r"a sample \(12, 12, 3\). Remedy: a `show` that leaves every pixel"):
            concept_sheet(reference, RED, layer="colours", images=x, show=show)
        with pytest.raises(ValueError, match=r"a sample \(12, 12, 3\). Remedy: a `show` that leaves every pixel"):
            atlas(explainer, x[0], reference, "colours", images=x, path=path, show=show)
    with pytest.raises(ValueError, match=r"samples of one shape, as the model takes them. Received: \[\(11, 12, 3\), "):
        concept_sheet(reference, RED, layer="colours", images=lambda i: x[i][int(i == 2) :], explainer=explainer)
    assert not path.exists()


def test_channels_that_come_first() -> None:
    x = np.zeros((3, 5, 4))
    picture = np.zeros((5, 4, 3), np.uint8)
    assert axes_of(x.shape, picture) == (1, 2)
    assert axes_of(picture.shape, picture) == (0, 1)
    x[:, 2, 3] = 1.0
    assert np.argwhere(pixels(x, (1, 2))).tolist() == [[2, 3]]


def test_an_atlas(reference: Reference, explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path) -> None:
    """A red patch above a green one, explained as red: red speaks for it where it is red, green against it."""
    x = np.zeros((SIDE, SIDE, 3), "float32")
    x[1:5, 1:5, 0], x[7:11, 7:11, 1] = 1.0, 0.9
    path = atlas(
        explainer,
        x,
        reference,
        "colours",
        images=data[0],
        path=tmp_path / "atlas.png",
        target=RED,
        top=2,
        n=2,
        names=NAMES,
    )
    sheet = cv2.imread(str(path))[..., ::-1].astype(int)
    third = len(sheet) // 3
    red, blue = sheet[..., 0] - sheet[..., 2] > 60, sheet[..., 2] - sheet[..., 0] > 60
    tile = slice(0, 120)  # the heatmap of a channel is the first of its row
    assert red[third : 2 * third, tile].any()
    assert not blue[third : 2 * third, tile].any()
    assert blue[2 * third :, tile].any()
    assert not red[2 * third :, tile].any()
    rows, columns = np.nonzero(red[third : 2 * third, tile])
    under, right = np.nonzero(blue[2 * third :, tile])
    assert (columns.mean(), rows.mean()) < (right.mean(), under.mean())
    crop = image_to_rgb(data[0][4])[reference.box("colours", reference.samples("colours", RED).positions[0])[:2]]
    assert where(sheet.astype(np.uint8)[third : 2 * third], enlarged(crop, 110))  # relevance fills this crop
    with pytest.raises(ValueError, match=r"One sample|of one sample. Expected \[1, ...\]"):
        atlas(explainer, data[0], reference, "colours", images=data[0], path=tmp_path / "several.png")
    with pytest.raises(ValueError, match=r"The reference has no layer 'scores'. Expected one of \['colours'\]"):
        atlas(explainer, x, reference, "scores", images=data[0], path=tmp_path / "layer.png")
    assert [p.name for p in tmp_path.iterdir()] == ["atlas.png"]


def test_an_atlas_of_another_model_and_of_one_class(
    reference: Reference, explainer: lrp_tf.Explainer, data: tuple, tmp_path: Path
) -> None:
    model = keras.models.clone_model(explainer.model)
    model.set_weights([2 * w for w in explainer.model.get_weights()])
    other = lrp_tf.Explainer(model, "epsilon")
    with pytest.raises(ValueError, match=r"Expected an explainer of the model that .*whose layers or weights differ"):
        atlas(other, data[0][0], reference, "colours", images=data[0], path=tmp_path / "other.png")
    with pytest.raises(ValueError, match="whose layers or weights differ"):
        concept_sheet(reference, RED, layer="colours", images=data[0], explainer=other)
    sizes = []
    for same_class in (False, True):  # of class red none has relevance above zero at the channel green
        path = atlas(
            *(explainer, data[0][:1], reference, "colours"),
            images=data[0],
            path=tmp_path / f"{same_class}.png",
            top=2,
            same_class=same_class,
        )
        sizes.append(cv2.imread(str(path)).shape)
    assert sizes[0] != sizes[1] or not np.array_equal(*(cv2.imread(str(p)) for p in sorted(tmp_path.glob("*.png"))))


def test_labels_of_two_classes(tmp_path: Path) -> None:
    """One-hot for two units; one unit has two classes, and no one-hot labels."""
    x, y = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])

    layers = {units: [keras.Input((3,)), kl.Dense(2, name="h"), kl.Dense(units)] for units in (1, 2)}
    explainers = {units: lrp_tf.Explainer(keras.Sequential(found), "epsilon") for units, found in layers.items()}

    def run(units: int, labels: np.ndarray) -> dict[int, int]:
        path = tmp_path / "r.h5"
        return build_reference(explainers[units], (x, labels), "h", path=path, batch=5, resume=False).classes

    counts = {0: 2, 1: 3}
    for units, labels in ((2, np.eye(2)[y]), (2, y), (2, y[:, None]), (1, y), (1, y[:, None].astype(float))):
        assert run(units, labels) == counts, (units, labels.shape)
    with pytest.raises(ValueError, match=r"\[B\] integers. Received: float64 \(5, 2\)"):
        run(1, np.eye(2)[y])
    for units, bad in ((1, 0.5), (2, np.nan), (2, np.inf)):
        with pytest.raises(ValueError, match=rf"Expected a class for each sample.* Received: label {bad} of sample 3"):
            run(units, np.where(np.arange(5) == 3, bad, y))
