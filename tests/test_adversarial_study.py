"""The study of a tiny classifier, in this process: what is written is true, and an interruption changes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.studies import content, pictures, quadrants, table

import lrp_tf
from lrp_tf.evaluate import adversarial
from lrp_tf.evaluate.adversarial import outcomes, study
from lrp_tf.evaluate.adversarial.explained import Ranking
from lrp_tf.evaluate.adversarial.report import Report
from lrp_tf.evaluate.adversarial.store import Store
from lrp_tf.evaluate.adversarial.study import Plan, Study
from lrp_tf.evaluate.tables import write_csv


def made(attacks=("pgd",), composites=("epsilon",), targets=range(4), **changes) -> Study:
    options = {"pgd": {"epsilon": 0.6, "steps": 8}, "fgsm": {"epsilon": 0.02}}
    found = [adversarial.get(name, **options[name]) for name in attacks]
    plan = Plan(tuple(targets), (0, 1, 2, 3), **{"per_target": 3, "how": Ranking(top=(0.1,)), **changes})
    named = {name: lrp_tf.composites.get(name) for name in composites}
    return Study(quadrants(), *pictures(), found, named, plan, batch_size=4)


def run(one: Study, folder: Path, *, resume: bool = False, stop_after: int | None = None, sheets: int = 5) -> None:
    """Run a study and write its report; `stop_after`: interrupt it behind so many parts."""
    store = Store(folder, one.settings("quadrants"), resume=resume)
    heard = []

    def tell(*what: object) -> None:
        heard.append(what)
        if stop_after is not None and len(heard) >= stop_after:
            raise KeyboardInterrupt

    try:
        chosen = one.choose(store)
        one.run(store, chosen, tell)
        Report(one, store, chosen, ["a", "b", "c", "d"], "Quadrants.").write(sheets)
    finally:
        store.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    run(made(("pgd", "fgsm"), ("epsilon", "epsilon_plus")), folder)
    return folder


def test_what_is_written(finished):
    names = {path.name for path in finished.iterdir() if path.is_file()}
    assert names == {
        "settings.json", "attacks.csv", "failures.csv", "adversarial.npz", "pairs.csv", "ranking.csv",
        "ranking_by_target.csv", "shifts.csv", "histogram.csv", "ranking.png", "ranking_absolute.png", "study.md",
        "histogram_pgd_epsilon.png", "histogram_pgd_epsilon_plus.png",
    }  # fmt: skip
    assert not list(finished.rglob(".*"))


def test_rows_of_attacks_are_true_of_the_files(finished):
    """Judged anew from the arrays and the pictures, by Keras itself."""
    model, (pixels, labels) = quadrants(), pictures()
    network = adversarial.Network(model)
    with np.load(finished / "adversarial.npz") as kept:
        arrays = dict(kept)
    rows = table(finished / "attacks.csv")
    assert len(rows) == len(arrays["x"]) == 2 * 4 * 3
    for i, row in enumerate(rows):
        source, label, target = (int(row[name]) for name in ("source", "label", "target"))
        assert labels[source] == label != target
        original = pixels[source].astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(arrays["original"][i], original)
        case = outcomes.stem(row["attack"], study.cases.Case(source, label, target))
        seen = outcomes.read_picture(finished / "images" / f"{case}.png").astype(np.float32) / np.float32(255)
        for suffix, x in (("float", arrays["x"][i]), ("png", seen)):
            probabilities = model(x[None]).numpy()[0]
            assert float(row[f"p_label_{suffix}"]) == pytest.approx(probabilities[label], abs=1e-6)
            assert float(row[f"p_target_{suffix}"]) == pytest.approx(probabilities[target], abs=1e-6)
            assert int(row[f"class_{suffix}"]) == probabilities.argmax()
            assert float(row[f"logit_target_{suffix}"]) == pytest.approx(network.logits(x[None])[0, target], abs=1e-6)
            assert int(row[f"success_{suffix}"]) == (probabilities.argmax() == target)
            ending = "" if suffix == "float" else "_png"
            gap = x.astype(np.float64) - original
            assert float(row[f"l2{ending}"]) == pytest.approx(np.sqrt((gap**2).sum()), rel=1e-6)
            assert float(row[f"linf{ending}"]) == pytest.approx(np.abs(gap).max(), rel=1e-6)
    reached = Counter((row["attack"], row["success_float"]) for row in rows)
    assert reached["pgd", "1"] >= 6
    assert reached["fgsm", "0"] == 12


def test_failures_are_all_attacks_without_success(finished):
    missed = [row for row in table(finished / "attacks.csv") if "0" in (row["success_float"], row["success_png"])]
    failures = table(finished / "failures.csv")
    assert [(row["attack"], row["source"], row["target"]) for row in failures] == [
        (row["attack"], row["source"], row["target"]) for row in missed
    ]
    assert all("margin" in row["reason"] for row in failures)


def test_pairs_are_those_of_attacks_that_reached_their_target(finished):
    reached = {
        (row["attack"], row["source"], row["target"])
        for row in table(finished / "attacks.csv")
        if row["success_float"] == "1"
    }
    pairs = table(finished / "pairs.csv")
    assert {(row["attack"], row["source"], row["target"]) for row in pairs} == reached
    assert {row["composite"] for row in pairs} == {"epsilon", "epsilon_plus"}
    counts = Counter(row["kind"] for row in pairs)
    assert set(counts) == {"adversarial", "noise", "noise_same_class", "other_class", "other_image", "chance"}
    assert counts["adversarial"] == counts["chance"] == counts["other_class"] == 2 * len(reached)


def test_measures_of_pairs_are_those_of_the_maps(finished):
    """One pair, explained anew."""
    row = next(row for row in table(finished / "pairs.csv") if row["kind"] == "other_class")
    pixels, _ = pictures()
    x = pixels[[int(row["source"])]].astype(np.float32) / np.float32(255)
    explainer = lrp_tf.Explainer(quadrants(), row["composite"])
    maps = [np.asarray(explainer(x, target=int(row[name]))) for name in ("label", "target")]
    expected = Ranking(top=(0.1,)).shift(*maps)[0].measures
    for name, value in expected.items():
        assert float(row[name]) == pytest.approx(value, abs=1e-9), name
    assert any(name.startswith("absolute_left_top") for name in expected)


def test_shifts_of_components(finished):
    rows = table(finished / "shifts.csv")
    assert {row["component"] for row in rows} == set(map(str, range(64)))
    pairs = table(finished / "pairs.csv")
    for kind in ("adversarial", "noise"):
        own = [row for row in rows if (row["attack"], row["composite"], row["kind"]) == ("pgd", "epsilon", kind)]
        expected = [row for row in pairs if (row["attack"], row["composite"], row["kind"]) == ("pgd", "epsilon", kind)]
        mean = np.mean([float(row["mean_absolute_shift"]) for row in own]) / 64
        assert mean == pytest.approx(np.mean([float(row["shift_mean"]) for row in expected]), abs=1e-5)
        assert max(abs(float(row["mean_shift"])) for row in own) > 0
        assert all(abs(float(row["mean_shift"])) <= float(row["mean_absolute_shift"]) + 1e-6 for row in own)


def test_sheets_are_sorted_as_the_network_sees_the_image(finished):
    said = {}
    for row in table(finished / "attacks.csv"):
        case = study.cases.Case(*(int(row[name]) for name in ("source", "label", "target")))
        said[f"{outcomes.stem(row['attack'], case)}.png"] = row["class_float"] == row["label"]
    wrong, right = ({path.name for path in (finished / "sheets" / name).iterdir()} for name in
                    ("wrongly_classified", "rightly_classified"))  # fmt: skip
    assert len(wrong | right) == 5
    assert all(said[name] for name in right)
    assert not any(said[name] for name in wrong)
    assert right
    assert (finished / "sheets" / "overview_pgd.png").exists()


@pytest.fixture(scope="module")
def one() -> Study:
    return made(targets=(0, 2))


@pytest.fixture(scope="module")
def finished_alone(one, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    run(one, folder)
    return folder


@pytest.mark.parametrize("parts", [1, 3])
def test_an_interrupted_study_goes_on_to_the_same_results(one, finished_alone, tmp_path, parts):
    with pytest.raises(KeyboardInterrupt):
        run(one, tmp_path / "out", stop_after=parts)
    assert not (tmp_path / "out" / "attacks.csv").exists()
    run(one, tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == content(finished_alone)


def test_a_finished_study_is_not_computed_again(one, finished_alone, monkeypatch):
    before = content(finished_alone)
    for name in ("logits", "values", "probabilities"):
        monkeypatch.setattr(one.network, name, None)  # calling it would fail
    run(one, finished_alone, resume=True)
    assert content(finished_alone) == before


def test_another_study_is_not_resumed(finished_alone):
    again = made(("fgsm",), targets=(0, 2), seed=1)
    with pytest.raises(ValueError, match=r"other settings\. They differ in attacks: 'pgd' .*; seed: 0, now 1\. Remedy"):
        run(again, finished_alone, resume=True)


def test_another_model_or_other_data_are_not_resumed(one, finished_alone):
    model, (pixels, labels) = quadrants(), pictures()
    weights = model.get_weights()
    weights[-1][0] += 1e-4
    model.set_weights(weights)
    pixels[7, 3, 3] ^= 1
    again = Study(model, pixels, labels, one.attacks, {"epsilon": "epsilon"}, one.plan, batch_size=4)
    with pytest.raises(ValueError, match=r"They differ in data: .*; model: "):
        Store(finished_alone, again.settings("quadrants"), resume=True)


def test_shares_are_refused_before_anything_is_attacked():
    for top in ((0.1, 0.1), (0.0,), (1.5,)):
        with pytest.raises(ValueError, match="top expects shares"):
            Ranking(top=top)


class Stumbling:
    """PGD that refuses batches with one image in them."""

    name, settings = "stumbling", {}

    def __init__(self, source: np.ndarray) -> None:
        self.source, self.attack = source, adversarial.get("pgd", epsilon=0.6, steps=8)

    def __call__(self, network, x, target):
        if any(np.array_equal(image, self.source) for image in x):
            raise ValueError("NaN or Inf\nin this one")
        return self.attack(network, x, target)


def test_an_image_that_cannot_be_attacked_costs_its_row(tmp_path):
    plain = made(targets=(0,))
    store = Store(tmp_path / "first", plain.settings("quadrants"))
    case = plain.choose(store).all[1]
    store.close()
    one = Study(
        quadrants(), *pictures(), [Stumbling(plain.x[case.source])], {"epsilon": "epsilon"}, plain.plan, batch_size=4
    )
    run(one, tmp_path / "out")
    (failure,) = [row for row in table(tmp_path / "out" / "failures.csv") if not row["margin_float"]]
    assert (failure["source"], failure["reason"]) == (str(case.source), "NaN or Inf in this one")
    rows = table(tmp_path / "out" / "attacks.csv")
    assert len(rows) == 3
    assert [int(row["source"]) for row in rows if not row["success_float"]] == [case.source]


def test_without_any_success_there_are_still_tables(tmp_path):
    run(made(("fgsm",), ("epsilon",), targets=(1,)), tmp_path / "out")
    assert {row["success_float"] for row in table(tmp_path / "out" / "attacks.csv")} == {"0"}
    assert "0.0% (0)" in (tmp_path / "out" / "study.md").read_text()
    assert not (tmp_path / "out" / "ranking.csv").exists()
    assert list((tmp_path / "out" / "sheets" / "rightly_classified").iterdir())


# --- what cannot be -----------------------------------------------------------------------------


def test_maps_without_a_ranking_are_failures(tmp_path):
    """NaN, or one value everywhere, as where all relevance is absorbed: no row of results, but one that tells it."""

    class Broken:
        composite = "broken"

        def __call__(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
            maps = np.random.default_rng(0).normal(size=x.shape)
            maps[target == 1] = np.nan
            maps[target == 2] = 0
            return maps

    one = made(targets=(0, 1, 2), per_target=6)
    one.explainers = {"broken": Broken()}
    run(one, tmp_path / "out", sheets=1)
    pairs, failures = table(tmp_path / "out" / "pairs.csv"), table(tmp_path / "out" / "failures.csv")
    told = Counter(row["reason"] for row in failures if row["stage"] == "explain")
    assert set(told) == {"the map has NaN or Inf", "the map is the same everywhere"}
    classes = [{row["label"]} | ({row["target"]} if row["kind"] == "adversarial" else set()) for row in pairs]
    assert classes
    assert all(not {"1", "2"} & found for found in classes)


def test_a_study_that_cannot_be_leaves_nothing(tmp_path):
    one = made()
    one.labels = (one.labels + 1) % 4  # nothing is classified rightly
    store = Store(tmp_path / "out", one.settings("x"))
    with pytest.raises(ValueError, match="rightly classified images"):
        one.choose(store)
    store.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kill_before_the_first_part_is_recognised(tmp_path, monkeypatch):
    def killed(self: Path, **options: object) -> None:
        if self.name == "parts":
            raise KeyboardInterrupt
        make(self, **options)

    make = Path.mkdir
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path / "out", {"a": 1})
    Store(tmp_path / "out", {"a": 1}, resume=True).close()


def test_a_study_of_another_version_is_not_continued(tmp_path, monkeypatch):
    Store(tmp_path / "out", {"a": 1}).close()
    monkeypatch.setattr("lrp_tf.evaluate.adversarial.store.VERSION", 2)
    with pytest.raises(ValueError, match="version: 1, now 2"):
        Store(tmp_path / "out", {"a": 1}, resume=True)


def test_names_of_files_that_are_no_utf_8(tmp_path):
    write_csv(tmp_path / "t.csv", ["file"], [["a\udcff.png"]])
    assert (tmp_path / "t.csv").read_bytes() == b"file\r\na\xff.png\r\n"


def test_the_histogram_is_that_of_each_target(finished):
    rows = table(finished / "histogram.csv")
    fields = ("attack", "composite", "kind", "target")
    groups = {tuple(row[name] for name in fields) for row in rows}
    assert len(rows) == 40 * len(groups)
    assert {group[3] for group in groups} <= {"0", "1", "2", "3"}
    for group in groups:
        own = [
            float(row["share"])
            for row in rows
            if tuple(row[name] for name in ("attack", "composite", "kind", "target")) == group
        ]
        assert sum(own) == pytest.approx(1)


def test_controls_that_cannot_be_made_are_told(tmp_path, monkeypatch):
    def refused(*args: object, **kwargs: object) -> None:
        raise ValueError("noise expects\na norm")

    monkeypatch.setattr(study.explained.controls, "noise_like", refused)
    monkeypatch.setattr(study.explained.controls, "noise_keeping_class", lambda *args, **kwargs: (None, 7))
    monkeypatch.setattr(study.explained.controls, "partner", lambda *args, **kwargs: None)
    run(made(targets=(0, 1)), tmp_path / "out", sheets=0)
    told = Counter(
        (row["kind"], row["reason"]) for row in table(tmp_path / "out" / "failures.csv") if row["stage"] == "control"
    )
    reached = sum(row["success_float"] == "1" for row in table(tmp_path / "out" / "attacks.csv"))
    target = [reason for kind, reason in told if kind == "other_image"]
    assert told["noise", "noise expects a norm"] == reached
    assert told["noise_same_class", "none of 7 draws of noise keeps the class"] == reached
    assert target == [f"no image of class {i} is classified rightly" for i in (0, 1)]
    kinds = {row["kind"] for row in table(tmp_path / "out" / "pairs.csv")}
    assert kinds == {"adversarial", "other_class", "chance"}


def test_the_page_tells_how_often_a_map_is_upside_down(finished):
    rows = [row for row in table(finished / "attacks.csv") if (row["attack"], row["success_float"]) == ("pgd", "1")]
    before, after = (np.mean([float(row[f"logit_target_{of}"]) < 0 for row in rows]) for of in ("original", "float"))
    told = f"- pgd: the target's logit is negative for {before:.1%} of the originals, and for {after:.1%} of the"
    assert told in (finished / "study.md").read_text()
