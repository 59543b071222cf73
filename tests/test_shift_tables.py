"""Shifts of ranks as tables and pictures: numbers, bold differences, colours where they must be."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lrp_tf.evaluate.adversarial import plots, shifts, tables

VALUES = {"adversarial": 0.6, "noise": 0.1, "other_class": 0.6, "chance": 0.9}


@pytest.fixture(scope="module")
def pairs() -> list[shifts.Pair]:
    generator = np.random.default_rng(0)
    return [
        shifts.Pair(attack, source, 0, target, composite, kind, {"left_top_10": value + generator.normal() / 50})
        for attack in ("lbfgs", "fgsm")
        for composite in ("epsilon", "epsilon_plus_flat")
        for kind, value in VALUES.items()
        for source in range(12)
        for target in (1, 2)
    ]


def test_tables_show_means_intervals_and_what_differs(pairs: list[shifts.Pair]):
    rows = shifts.summarize(pairs)
    lines = tables.by_kind(rows, "left_top_10").splitlines()
    assert lines[0] == "| attack | composite | adversarial | noise | same image, other class | chance |"
    assert len(lines) == 2 + 4
    assert lines[2].startswith("| lbfgs | epsilon | 0.5") or lines[2].startswith("| lbfgs | epsilon | 0.6")
    cells = tables.differences(rows, "left_top_10").splitlines()[2].split(" | ")
    assert cells[2].startswith("**0.")
    assert "**" not in cells[3]  # the same as adversarial ones
    assert cells[4].startswith("**-0.")
    assert tables.counts(rows, "left_top_10").splitlines()[2].count("24 of 12") == 4
    for target in ("1", "2"):
        found = tables.by_kind(shifts.summarize(pairs, by=("composite", "kind", "target")), "left_top_10")
        assert f"| epsilon_plus_flat | {target} | 0." in found


def test_csv_reads_back_bit_for_bit(pairs: list[shifts.Pair], tmp_path: Path):
    rows = shifts.summarize(pairs)
    tables.write(tmp_path / "ranking.csv", rows)
    with open(tmp_path / "ranking.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0])[:4] == ["attack", "composite", "kind", "measure"]
    assert [float(row["mean"]) for row in read] == [row.mean for row in rows]
    assert {row["difference"] for row in read if row["kind"] == "adversarial"} == {""}
    with pytest.raises(ValueError, match="at least one row"):
        tables.write(tmp_path / "none.csv", [])
    with pytest.raises(ValueError, match="expected rows of 'x' by kind"):
        tables.by_kind(rows, "x")
    with pytest.raises(ValueError, match="by kind"):
        tables.by_kind(shifts.summarize(pairs, by=("attack",)), "left_top_10")


def test_two_adversarial_pairs_of_one_attack_are_refused(pairs: list[shifts.Pair]):
    with pytest.raises(ValueError, match="one adversarial pair of each"):
        shifts.summarize([*pairs, pairs[0]])


def inked(path: Path, colour: str) -> np.ndarray:
    """The rows and columns of pixels of a colour, [n, 2]."""
    pixels = cv2.imread(str(path))[..., ::-1].astype(int)
    return np.argwhere(np.abs(pixels - np.rint(255 * np.array(to_rgb(colour)))).sum(axis=-1) < 30)


def test_points_lie_where_their_values_are(pairs: list[shifts.Pair], tmp_path: Path):
    path = plots.by_composite(tmp_path / "by.png", shifts.summarize(pairs), "left_top_10", title="Fashion")
    size = cv2.imread(str(path)).shape[0]
    upper = {kind: inked(path, plots.COLOURS[kind]) for kind in VALUES}
    height = {kind: np.median(found[found[:, 0] < size / 2][:, 0]) for kind, found in upper.items()}  # the first panel
    assert height["chance"] < height["adversarial"] < height["noise"]
    assert abs(height["adversarial"] - height["other_class"]) < 0.05 * size
    with pytest.raises(ValueError, match=r"one of \['left_top_10'\]. Received: 'x'"):
        plots.by_composite(tmp_path / "x.png", shifts.summarize(pairs), "x")


def test_a_histogram_shows_how_far(tmp_path: Path):
    generator = np.random.default_rng(0)
    far = {"adversarial": generator.random((5, 400)), "noise": 0.05 * generator.random((5, 400))}
    path = plots.histogram(tmp_path / "far.png", far, title="epsilon")
    columns = {kind: inked(path, plots.COLOURS[kind])[:, 1] for kind in far}
    width = cv2.imread(str(path)).shape[1]
    assert np.quantile(columns["adversarial"], 0.9) > 0.7 * width
    for bad, message in (({}, "at least one pair"), ({"noise": []}, "at least one pair"), ({"x": [1]}, "some of")):
        with pytest.raises(ValueError, match=message):
            plots.histogram(tmp_path / "bad.png", bad)


def test_measures_in_words():
    assert plots.label_of("left_top_0.5") == "share of the top 0.5 % that leaves it"
    assert plots.label_of("absolute_left_top_10").endswith("ranked by |relevance|")
    assert plots.label_of("near") == "near"
