"""Which images are attacked, what a folder of a study refuses, and what sheets show."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest

from lrp_tf.evaluate.adversarial import cases, outcomes, sheets
from lrp_tf.evaluate.adversarial.attack import Attempt
from lrp_tf.evaluate.adversarial.cases import Case
from lrp_tf.evaluate.adversarial.store import Store, StoreError
from lrp_tf.evaluate.tables import write_csv

# --- cases ---------------------------------------------------------------------------------------


def chosen(per_target=6, targets=range(4), sources=range(4), seed=0, wrong=(), count=40):
    labels = np.arange(count) % 4
    predictions = labels.copy()
    predictions[list(wrong)] = (labels[list(wrong)] + 1) % 4
    options = {"targets": list(targets), "sources": list(sources), "per_target": per_target, "seed": seed}
    return labels, predictions, cases.choose(labels, predictions, **options)


def test_originals_are_classified_rightly_and_of_other_classes_than_the_target():
    labels, predictions, found = chosen(per_target=20, wrong=range(0, 40, 3))
    assert {case.target for case in found.all} == set(range(4))
    for source, label, target in found.all:
        assert labels[source] == predictions[source] == label != target
    for target in range(4):
        sources = [case.source for case in found.of(target)]
        assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("per_target", [3, 6, 7, 8])
def test_originals_are_spread_over_the_classes(per_target):
    _, _, found = chosen(per_target=per_target)
    for target in range(4):
        counts = Counter(case.label for case in found.of(target))
        assert sum(counts.values()) == per_target
        assert len(counts) == 3
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_class_that_lacks_images_is_made_up_for_by_others():
    _, _, found = chosen(per_target=12, targets=[0], wrong=np.flatnonzero(np.arange(40) % 4 == 1)[:9])
    assert Counter(case.label for case in found.all) == {1: 1, 2: 6, 3: 5} or Counter(
        case.label for case in found.all
    ) == {1: 1, 2: 5, 3: 6}
    assert found.remarks == []


def test_too_few_are_told_and_none_is_an_error():
    _, _, found = chosen(per_target=25, targets=[0, 1], sources=[1, 2])
    assert len(found.of(0)) == 20
    assert len(found.of(1)) == 10
    assert found.remarks[0].startswith("target 0: 20 of 25 images")
    assert found.remarks[1].startswith("target 1: 10 of 25 images")
    with pytest.raises(ValueError, match=r"expected rightly classified images .*Received: none, of 40"):
        chosen(wrong=range(40))
    with pytest.raises(ValueError, match="Received: none"):
        chosen(targets=[1], sources=[1])


def test_the_draw_for_a_target_depends_on_the_seed_and_the_target_alone():
    alone = chosen(targets=[2])[2].all
    assert alone == chosen()[2].of(2) == chosen(targets=[3, 2, 0])[2].of(2)
    assert alone != chosen(targets=[2], seed=1)[2].all


def test_seeds_of_cases_differ_by_all_that_they_are_of():
    case = Case(5, 1, 2)
    others = [(1, case, "a"), (0, case, "b"), (0, case._replace(source=6), "a"), (0, case._replace(target=3), "a")]
    seeds = [cases.seed_of(0, case, "a"), *(cases.seed_of(*other) for other in others)]
    assert len(set(seeds)) == len(seeds)
    assert cases.seed_of(0, Case(5, 1, 2), "a") == seeds[0]


# --- the folder ----------------------------------------------------------------------------------

SETTINGS = {"model": "abc", "targets": [0, 1], "attacks": {"pgd": {"epsilon": 0.1}}}


def begun(folder, **changes):
    store = Store(folder, SETTINGS | changes)
    store.keep_arrays("one", {"x": np.arange(6, dtype=np.float32)})
    store.finish("one", [{"value": 0.1 + 0.2, "flag": True}])
    store.close()
    return folder


def test_a_part_is_finished_when_its_rows_are_there(tmp_path):
    store = Store(tmp_path / "study", SETTINGS)
    store.keep_arrays("one", {"x": np.arange(3)})
    assert not store.has("one")
    store.finish("one", [])
    assert store.has("one")
    store.close()


def test_what_is_kept_is_read_bit_for_bit(tmp_path):
    store = Store(begun(tmp_path / "study"), SETTINGS, resume=True)
    assert store.rows("one") == [{"value": 0.1 + 0.2, "flag": True}]
    np.testing.assert_array_equal(store.arrays("one")["x"], np.arange(6, dtype=np.float32))
    store.close()


def test_a_study_is_neither_continued_nor_removed_unasked(tmp_path):
    folder = begun(tmp_path / "study")
    with pytest.raises(StoreError, match=r"holds a study\. Remedy: `resume` to continue it, `overwrite`"):
        Store(folder, SETTINGS)
    assert (folder / "parts" / "one.json").exists()
    store = Store(folder, SETTINGS, overwrite=True)
    assert not store.has("one")
    store.close()


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({"model": "other"}, 'model: "abc", now "other"'),
        ({"targets": [0]}, r"targets: \[0, 1\], now \[0\]"),
        ({"attacks": {"pgd": {"epsilon": 0.2}}}, r"attacks: 'pgd' 'epsilon' 0\.1, now 0\.2"),
        ({"top": [1]}, r"top: null, now \[1\]"),
    ],
)
def test_other_settings_are_refused_and_the_study_stays(tmp_path, changes, differ):
    folder = begun(tmp_path / "study")
    before = (folder / "settings.json").read_bytes()
    with pytest.raises(StoreError, match=f"holds a study with other settings. They differ in {differ}"):
        Store(folder, SETTINGS | changes, resume=True)
    assert (folder / "settings.json").read_bytes() == before
    Store(folder, SETTINGS | changes, overwrite=True).close()


def test_folders_of_others_are_not_touched(tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(StoreError, match=r"expects a folder of its own.*photo\.jpg"):
            Store(tmp_path, SETTINGS, **options)
    (tmp_path / "settings.json").write_text(json.dumps({"methods": []}))
    with pytest.raises(StoreError, match="results of something else"):
        Store(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / "photo.jpg").exists()
    with pytest.raises(StoreError, match="which is a file"):
        Store(tmp_path / "photo.jpg", SETTINGS)


def test_overwriting_leaves_files_that_are_not_the_studys(tmp_path):
    folder = begun(tmp_path / "study")
    (folder / "notes.txt").write_text("mine")
    (folder / "attacks.csv").write_text("old")
    Store(folder, SETTINGS, overwrite=True).close()
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "attacks.csv").exists()


def test_one_process_at_a_time(tmp_path):
    store = Store(tmp_path / "study", SETTINGS)
    with pytest.raises(StoreError, match="in use by another process"):
        Store(tmp_path / "study", SETTINGS, resume=True)
    store.close()
    Store(tmp_path / "study", SETTINGS, resume=True).close()


def test_damaged_parts_are_told(tmp_path):
    folder = begun(tmp_path / "study")
    store = Store(folder, SETTINGS, resume=True)
    (folder / "parts" / "one.npz").write_bytes(b"PK\3\4 cut")
    with pytest.raises(StoreError, match=r"one\.npz cannot be read.*Remedy: delete it and"):
        store.arrays("one")
    (folder / "parts" / "one.json").write_text("[{")
    with pytest.raises(StoreError, match=r"one\.json cannot be read"):
        store.rows("one")
    store.close()


def test_files_of_a_killed_process_are_removed(tmp_path):
    folder = begun(tmp_path / "study")
    (folder / "parts" / ".tmp-0123.npz").write_bytes(b"half")
    Store(folder, SETTINGS, resume=True).close()
    assert not list(folder.rglob(".tmp-*"))


def test_cells_of_tables(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b", "c", "d"], [[True, math.nan, 'a "b", c', 0.1 + 0.2], [False, None, "", 1]])
    assert (tmp_path / "t.csv").read_text() == 'a,b,c,d\n1,,"a ""b"", c",0.30000000000000004\n0,,,1\n'
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1][2] == 'a "b", c'


# --- 8 bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255), (-2.5, 0.5)])
def test_every_pixel_comes_back(low, high):
    scale = outcomes.Scale(low, high)
    pixels = np.arange(256, dtype=np.uint8)
    values = scale.values(pixels)
    assert values.dtype == np.float32
    assert values.min() == np.float32(low)
    assert values.max() == np.float32(high)
    np.testing.assert_array_equal(scale.pixels(values), pixels)
    half = (high - low) / 255 * 0.49
    np.testing.assert_array_equal(scale.pixels(values.astype(np.float64) + half)[:-1], pixels[:-1])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_written_and_read_without_loss(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    outcomes.write_picture(tmp_path / "p.png", pixels)
    np.testing.assert_array_equal(outcomes.read_picture(tmp_path / "p.png"), pixels)


def row(**changes):
    return {"attack": "pgd", "source": 3, "label": 0, "target": 1, "success_float": True, "success_png": True,
            "margin_float": 0.5, "margin_png": 0.2, "class_float": 1, "class_png": 1} | changes  # fmt: skip


def test_failures_say_what_failed():
    rows = [row(), row(success_float=False, margin_float=-2.0), row(success_png=False, margin_png=-0.1, class_png=0),
            {"attack": "pgd", "source": 3, "label": 0, "target": 1, "reason": "NaN"}]  # fmt: skip
    found = outcomes.failures(rows, 0.0)
    assert [one["stage"] for one in found] == ["attack", "png", "attack"]
    assert "its margin is -2" in found[0]["reason"]
    assert (
        "rounding to 8 bits undoes it: the margin falls from 0.5 to -0.1, and the network says class 0"
        in found[1]["reason"]
    )
    assert found[2]["reason"] == "NaN"
    assert "by 3" in outcomes.failures([row(success_float=False)], 3.0)[0]["reason"]


# --- sheets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.5, 1), (0.3, 1.5), (0.2, 2), (0.049, 10), (0.0004, 1000), (0.9, 0.5)]
)
def test_differences_are_enlarged_as_far_as_they_fit(largest, factor):
    x = np.full((4, 4, 1), 0.05)
    moved = x.copy()
    moved[0, 0], moved[1, 1] = x[0, 0] + largest, x[1, 1] - largest / 2
    picture, found = sheets.difference(x, moved)
    assert found == factor
    assert picture.shape == (4, 4, 3)
    assert abs(int(picture[3, 3, 0]) - 127.5) <= 0.5
    assert int(picture[0, 0, 0]) == pytest.approx(127.5 + 255 * factor * largest, abs=1)
    assert int(picture[1, 1, 0]) == pytest.approx(127.5 - 255 * factor * largest / 2, abs=1)


def test_sheets_are_spread_over_attacks_and_targets():
    keys = [("a", 0)] * 5 + [("a", 1)] * 2 + [("b", 0)]
    assert sheets.spread(keys, 4) == [0, 1, 5, 7]
    assert sheets.spread(keys, 100) == list(range(8))
    assert sheets.spread(keys, 0) == []


def example(**changes):
    original = np.zeros((8, 8, 1))
    adversarial = original.copy()
    original[2:4, 2:4] = 1
    adversarial[2:4, 2:4] = 0.8
    maps = np.zeros((2, 8, 8))
    maps[0, 0, 0], maps[1, 7, 7] = 1.0, -0.5
    numbers = dict.fromkeys(("p_label_original", "p_label_float", "p_target_float", "p_target_png", "l2", "linf"), 0.5)
    return sheets.Example(row(**numbers, **changes), original, adversarial, {"epsilon": maps})


def test_examples_are_sorted_as_the_network_sees_the_adversarial_image():
    assert example().folder == "wrongly_classified"
    assert example(class_float=0).folder == "rightly_classified"
    assert example(class_float=2, success_float=False).folder == "wrongly_classified"


def test_a_sheet_shows_both_maps_on_one_scale(tmp_path):
    import cv2

    path = sheets.sheet(tmp_path / "s.png", example(), ["zero", "one"])
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    # seismic: the largest relevance is dark red, half of it negative is plain blue; in the difference -1 is dark blue.
    dark_red, plain_blue, dark_blue = (
        (red > 110) & (red < 145) & (blue < 20),
        (blue > 240) & (red < 20),
        (blue < 100) & (blue > 60) & (red < 20) & (green < 20),
    )
    assert dark_red.sum() > 100
    assert plain_blue.sum() > 200  # in the map of the adversarial image and in the change
    assert dark_blue.sum() > 100
    rows = [np.flatnonzero(mask.any(axis=1)) for mask in (dark_red, plain_blue, dark_blue)]
    assert rows[0].max() < rows[1].min() < rows[2].max()
    assert (picture == 0).all(axis=-1).sum() > 1000  # the black of the original


def test_the_overview_has_a_row_for_each_example(tmp_path):
    import cv2

    one, three = (sheets.overview(tmp_path / f"{n}.png", [example()] * n, ["zero", "one"], "title") for n in (1, 3))
    heights = [cv2.imread(str(path)).shape[0] for path in (one, three)]
    assert 2 < (heights[1] - 40) / (heights[0] - 40) <= 3.2


@pytest.mark.parametrize(("margin", "reached", "seen"), [(1.2, True, True), (0.5, False, True), (-0.1, False, False)])
def test_rounding_may_use_up_the_confidence(margin: float, reached: bool, seen: bool):
    """A picture of 8 bits is adversarial if the network says the target, whatever is left of the margin."""

    class Said:
        def logits(self, x: np.ndarray) -> np.ndarray:
            return np.tile([0.0, margin], (len(x), 1))

        probabilities = logits

    x = np.zeros((1, 2, 2, 1), np.float32)
    attempt = Attempt(x[0], True, margin, 1, 1, 0.0)
    (row,) = outcomes._judged(Said(), outcomes.Scale(0, 1), x, x, x, {0: attempt}, [Case(0, 0, 1)], 1.0).values()
    assert (row["success_float"], row["success_png"]) == (reached, seen)
