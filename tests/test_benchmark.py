"""`evaluate.benchmark`: nets, methods, the table, and a run that is killed."""

import csv
import dataclasses
import functools
import itertools
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import lrp_tf
from lrp_tf import composites, evaluate, gradients
from lrp_tf.evaluate import xaitris
from lrp_tf.evaluate.benchmark import methods, nets, results, run
from lrp_tf.evaluate.benchmark.methods import Methods

CUT = {"problems": ["xor"], "backgrounds": ["white"], "nets": ["mlp"], "seeds": 2, "samples": 60}
SOME = ["epsilon", "epsilon_plus", "IntegratedGradients", "GradCAM", "absolute", "sobel", "random"]


@pytest.fixture(scope="module")
def problem() -> xaitris.Problem:
    return xaitris.generate("xor", "white")


@pytest.fixture(scope="module")
def trainer() -> nets.Trainer:
    return nets.Trainer("mlp", 8, epochs=2)


@pytest.fixture(scope="module")
def found() -> evaluate.Benchmark:
    return evaluate.benchmark(**CUT, methods=SOME)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights]


def test_training_depends_on_the_seed_alone(trainer: nets.Trainer, problem: xaitris.Problem) -> None:
    first = trainer.fit(problem, 0)
    before = weights(trainer.model)
    trainer.fit(problem, 1)
    assert not np.array_equal(before[0], weights(trainer.model)[0])
    again = trainer.fit(problem, 0)
    for a, b in zip(before, weights(trainer.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.accuracy, first.epochs) == (again.accuracy, again.epochs)


def test_training_ends_where_the_validation_loss_is_least(problem: xaitris.Problem) -> None:
    """Labels that mean nothing cannot be learnt: the loss on other samples rises, and training ends early."""
    noise = dataclasses.replace(problem.train, label=np.random.default_rng(0).permutation(problem.train.label))
    trainer = nets.Trainer("mlp", 8)
    fitted = trainer.fit(dataclasses.replace(problem, train=noise), 0)
    assert fitted.epochs < 25
    assert not fitted.learnt
    kept, _ = trainer.judge(problem.validation)
    trainer.epochs = fitted.epochs
    trainer.fit(dataclasses.replace(problem, train=noise), 0)
    assert trainer.judge(problem.validation)[0] == kept


def test_explainers_follow_the_weights(trainer: nets.Trainer, problem: xaitris.Problem) -> None:
    model, x, label = trainer.model, problem.test.x[:20], problem.test.label[:20]
    wanted = ["epsilon", "tutorial", "SmoothGrad", "Occlusion"]
    built = Methods.of(model, methods.listed(wanted), contrast=methods.CONTRASTS)
    assert list(built.explain) == [f"{n}{c}" for n in wanted for c in ("", " contrast softmax")]
    for explain in built.explain.values():
        explain(x, label)
    trainer.fit(problem, 5)
    fresh = {
        "epsilon": lrp_tf.Explainer(model, "epsilon"),
        "tutorial contrast softmax": functools.partial(
            lrp_tf.Explainer(model, "tutorial", low=-1, high=1), contrast="softmax"
        ),
        "SmoothGrad": gradients.SmoothGrad(model, n=25, noise=0.1),
        "Occlusion": gradients.Occlusion(model, window=1),
    }
    for name, explain in fresh.items():
        np.testing.assert_allclose(built.explain[name](x, label), explain(x, label), atol=1e-6, err_msg=name)


def test_what_does_not_apply_and_what_is_the_same_is_told() -> None:
    mlp = Methods.of(nets.mlp(8), methods.listed(None), contrast=methods.CONTRASTS)
    dense = ("epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat")
    same = dict.fromkeys((*dense, "epsilon_gamma_wsquare"), "epsilon") | {"cp_lrp": "attn_lrp"}
    assert mlp.same == same | {f"{a} contrast softmax": f"{b} contrast softmax" for a, b in same.items()}
    assert set(mlp.refused) == {"GradCAM", "GradCAM contrast softmax"}
    assert "needs a layer whose output has positions" in mlp.refused["GradCAM"]
    cnn = Methods.of(nets.cnn(8), methods.listed(None))
    assert cnn.same == {"cp_lrp": "attn_lrp"}
    assert not cnn.refused
    every = [*methods.names(), *(f"{n} contrast softmax" for n in methods.names() if n not in methods.BASELINES)]
    assert sorted([*mlp.explain, *mlp.same, *mlp.refused]) == sorted(every)


def test_methods_of_the_callers_own() -> None:
    model = nets.mlp(8)
    own = {
        "text": composites.parse("first: flat; all: epsilon"),
        "ours": lambda model: evaluate.baselines.Centre(),
        "wide": methods.Named("SmoothGrad", {"n": 3}),
        "gamma": methods.Named("epsilon_gamma_box", {"gamma": 1.0}),
        "wrong": methods.Named("epsilon", {"gama": 1.0}),
    }
    built = Methods.of(model, methods.listed(own))
    assert list(built.explain) == ["text", "ours", "wide", "gamma"]
    assert built.explain["wide"].n == 3
    assert "takes the options" in built.refused["wrong"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"methods": ["epsilom"]}, ValueError, "methods expects some of .* Received: 'epsilom'"),
        ({"methods": ["epsilon", "epsilon"]}, ValueError, "each name once"),
        ({"methods": {"mine": 3}}, TypeError, r"methods\['mine'\] expects a name, a composite or a function"),
        ({"methods": []}, ValueError, "at least one"),
        ({"problems": ["xnor"]}, ValueError, "problems expects some of"),
        ({"backgrounds": "white"}, ValueError, "backgrounds expects some of .* Received: 'white'"),
        ({"nets": ["mlp", "mlp"]}, ValueError, "nets expects some of .* each once"),
        ({"contrast": ["mean"]}, ValueError, "contrast expects some of"),
        ({"seeds": 0}, ValueError, r"seeds expects at least 1\. Received: 0"),
        ({"seeds": 1.5}, ValueError, r"seeds expects a whole number, at least 1\. Received: 1\.5"),
        ({"samples": 0}, ValueError, r"samples expects at least 1\. Received: 0"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    given: dict, error: type, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "Trainer", None)
    with pytest.raises(error, match=message):
        evaluate.benchmark(**{**CUT, **given}, resume=tmp_path / "nets")
    assert not (tmp_path / "nets").exists()


def test_a_cut_of_the_table(found: evaluate.Benchmark) -> None:
    """A net that learnt xor on white noise: LRP finds the evidence, a filter and chance do not."""

    def mean(method: str, metric: str = "precision") -> float:
        return found.row("mlp", "xor", "white", metric, method).mean

    assert all(cell.learnt and cell.explained == 60 for cell in found.cells)
    assert mean("epsilon") > 0.6
    assert mean("IntegratedGradients") > 0.6
    assert mean("epsilon", "mass") > 0.5
    for metric in found.metrics:
        assert mean("epsilon", metric) > mean("absolute", metric) > mean("random", metric)
    assert mean("random") == pytest.approx(0.125, abs=0.06)  # as many pixels as are evidence
    assert mean("random", "mass") == pytest.approx(0.125, abs=0.03)
    assert found.row("mlp", "xor", "white", "emd", "epsilon_plus") == (
        *found.row("mlp", "xor", "white", "emd", "epsilon")[:4], "epsilon_plus",
        *found.row("mlp", "xor", "white", "emd", "epsilon")[5:-1], "the maps of epsilon",
    )  # fmt: skip
    row = found.row("mlp", "xor", "white", "emd", "GradCAM")
    assert row.seeds == 0
    assert np.isnan(row.mean)
    assert row.note.startswith("does not apply: GradCAM needs a layer")


def test_intervals_are_those_of_student() -> None:
    mean, low, high = results.interval([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert high - mean == pytest.approx(4.302653 * np.std([1, 2, 4], ddof=1) / 3**0.5, rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    assert results.interval([2.0])[0] == 2
    assert np.isnan(results.interval([2.0])[1:]).all()
    assert np.isnan(results.interval([])).all()


def test_the_table_tells_means_winners_and_what_is_missing(found: evaluate.Benchmark) -> None:
    text = found.markdown()
    assert "| xor | white | 0.35 | 0.125 |" in text
    assert " 2/2 |" in text
    precision = text.split("## precision, mlp")[1].split("##")[0]
    lines = {line.split("|")[1].strip(): line for line in precision.splitlines() if line.startswith("| ")}
    assert set(lines) == {
        "method", "epsilon = epsilon_plus", "IntegratedGradients", "absolute", "sobel", "random"
    }  # fmt: skip
    means = {n: found.row("mlp", "xor", "white", "precision", n.split(" = ")[0]).mean for n in lines if n != "method"}
    best = max(means, key=lambda name: means[name])
    assert [name for name in means if "**" in lines[name]] == [best]
    assert list(means) == sorted(means, key=lambda name: -means[name])
    assert f"{means['sobel']:.3f} ±" in lines["sobel"]
    assert lines["epsilon = epsilon_plus"].endswith("| 0 |")
    assert "- GradCAM does not apply to mlp: GradCAM needs a layer" in text
    assert "†" not in precision


def test_nets_that_do_not_learn_are_told_and_not_hidden(tmp_path: Path) -> None:
    found = evaluate.benchmark(**{**CUT, "seeds": 1}, methods=["epsilon", "sobel"], training=400, epochs=1)
    assert not found.cells[0].learnt
    text = found.markdown()
    assert " 0/1 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| sobel"))
    assert "†" in row
    assert "±" not in row  # one seed has no interval


def test_files_and_picture(found: evaluate.Benchmark, tmp_path: Path) -> None:
    folder = found.save(tmp_path / "out")
    names = {"precision", "mass", "emd", "precision_R_positive", "mass_R_positive"}
    assert {path.name for path in folder.iterdir()} == {
        "table.md", "summary.csv", "seeds.csv", "nets.csv", *(f"{name}.png" for name in names)
    }  # fmt: skip
    tables = {}
    for name in ("summary", "seeds", "nets"):
        with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert len(tables["summary"]) == len(SOME) * 5
    assert len(tables["seeds"]) == 2 * len(SOME) * 5
    assert [row["explained"] for row in tables["nets"]] == ["60", "60"]
    of_seeds = [float(r["value"]) for r in tables["seeds"] if (r["method"], r["metric"]) == ("sobel", "emd")]
    (row,) = [r for r in tables["summary"] if (r["method"], r["metric"]) == ("sobel", "emd")]
    assert float(row["mean"]) == pytest.approx(np.mean(of_seeds))
    pixels = cv2.imread(str(folder / "precision.png"))[..., ::-1].astype(int)
    dots = (np.abs(pixels - [0x1F, 0x4E, 0x79]).sum(axis=-1) < 30).any(axis=1)
    rows = sum(1 for before, now in itertools.pairwise([False, *dots.tolist()]) if now and not before)
    assert rows >= 6  # a dot for each method that applies, and one in the legend
    with pytest.raises(ValueError, match="metric expects one of"):
        found.plot(folder / "x.png", "srg")


class Killed(Exception):
    """Takes the place of a kill."""


def test_a_killed_run_is_resumed_to_the_same_numbers(
    found: evaluate.Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(cell: object, done: int, of: int) -> None:
        assert of == 2
        raise Killed

    given = {**CUT, "methods": SOME, "resume": tmp_path / "nets"}
    with pytest.raises(Killed):
        evaluate.benchmark(**given, progress=kill)
    assert len(list((tmp_path / "nets").glob("xor-*.json"))) == 1
    again = evaluate.benchmark(**given)
    without_times = [[dataclasses.replace(cell, seconds=0.0) for cell in one.cells] for one in (again, found)]
    assert without_times[0] == without_times[1]
    monkeypatch.setattr(run, "Trainer", None)  # nothing is trained any more
    assert evaluate.benchmark(**given).cells == again.cells
    assert evaluate.benchmark(**{**given, "seeds": 1}).cells == again.cells[:1]
    with pytest.raises(ValueError, match=r"holds a benchmark with other settings\. They differ in samples: 60, now 61"):
        evaluate.benchmark(**{**given, "samples": 61})


def test_methods_of_texts() -> None:
    """Relevance of ids, gradients behind the embedding, and no relevance of the token that the class is read from."""
    texts = evaluate.evidence.generate("pair", samples=40)
    x, label = texts.test.x, texts.test.label
    model = evaluate.evidence.encoder(2, layers=1, width=8, heads=2)
    built = Methods.of(model, methods.listed(["epsilon", "cp_lrp", "Gradient", "InputTimesGradient", "random"]))
    tf.config.run_functions_eagerly(True)
    try:
        maps = {name: explain(x.astype("float32"), label) for name, explain in built.explain.items()}
        vectors = model.get_layer("embedding")(x)
        behind = keras.Model(model.get_layer("embedding").output, model.output)
        slope = np.asarray(gradients.Gradient(behind)(vectors, label))
        lrp = np.asarray(lrp_tf.Explainer(model, "cp_lrp")(x, label))
    finally:
        tf.config.run_functions_eagerly(False)
    for name, found in maps.items():
        assert found.shape == x.shape, name
        assert (found[:, 0] == 0).all(), name
        assert np.abs(found[:, 1:]).max() > 0, name
    np.testing.assert_allclose(maps["Gradient"][:, 1:], np.linalg.norm(slope, axis=-1)[:, 1:], rtol=1e-4)
    np.testing.assert_allclose(
        maps["InputTimesGradient"][:, 1:], (slope * vectors.numpy()).sum(-1)[:, 1:], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(maps["cp_lrp"][:, 1:], lrp[:, 1:], rtol=1e-4, atol=1e-7)
    refused = Methods.of(model, methods.listed(["GradCAM", "sobel", "guided_backprop"])).refused
    assert "not defined for tokens. Expected one of ['Gradient'" in refused["GradCAM"]
    assert "whose ids are names and no numbers" in refused["sobel"]
    assert "is a gradient, which ids of tokens do not have" in refused["guided_backprop"]
    with pytest.raises(ValueError, match="problems expects some of"):
        evaluate.benchmark(["xor", "pair"])
    with pytest.raises(ValueError, match=r"nets expects some of \['encoder'\]"):
        evaluate.benchmark(["pair"], nets=["mlp"])


@pytest.mark.slow
def test_texts_whose_evidence_is_found() -> None:
    some = ["cp_lrp", "IntegratedGradients", "random"]
    found = evaluate.benchmark(["occurrence"], seeds=1, samples=100, training=8000, methods=some)
    (cell,) = found.cells
    assert cell.accuracy > 0.95
    assert cell.of("cp_lrp", "precision") > 0.85
    assert cell.of("IntegratedGradients", "precision") > 0.5
    assert cell.of("random", "precision") == pytest.approx(cell.chance, abs=0.06)
    assert "# Texts of 32 tokens" in found.markdown()


@pytest.mark.slow
def test_all_problems_are_learnt_and_beat_chance() -> None:
    """All problems on white noise by both nets, one seed."""
    found = evaluate.benchmark(backgrounds=["white"], seeds=1, methods=["epsilon", "IntegratedGradients", "random"])
    assert len(found.cells) == 8
    for cell in found.cells:
        assert cell.learnt, cell.place
        for method in ("epsilon", "IntegratedGradients"):
            assert cell.of(method, "precision") > 2 * cell.of("random", "precision"), (cell.place, method)
