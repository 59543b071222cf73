"""benchmarks/recurrent.py: sequences whose evidence is known and ends early, and nets trained on them."""

import importlib
import types

import numpy as np
import pytest
from helpers import REPOSITORY


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        yield types.SimpleNamespace(**{n: importlib.import_module(n) for n in ("recurrent", "recurrent_nets")})


@pytest.mark.parametrize("name", ["occurrence", "order", "lookup", "bump", "marked"])
def test_evidence_alone_tells_the_class_and_ends_before_the_gap(bench, name):
    nets = bench.recurrent_nets
    x, label, evidence = nets.TASKS[name].make(np.random.default_rng(0), 2000)
    assert x.shape[:2] == evidence.shape[:2] == (2000, nets.LENGTH)
    assert evidence.shape == x.shape[: evidence.ndim]
    assert evidence.reshape(2000, nets.LENGTH, -1)[:, : nets.LENGTH - nets.GAP].any((1, 2)).all()
    assert not evidence[:, nets.LENGTH - nets.GAP :].any()
    assert set(label) == set(range(nets.TASKS[name].classes))
    said = {}
    for values, known, one in zip(x, evidence, label, strict=True):
        if name == "bump":
            assert (values[known].mean() > 0) == one
        elif name == "marked":
            assert (values[known, 0].sum() > 0) == one
            assert (values[:, 1] == known).all()
        else:
            assert said.setdefault(tuple(values[known]), one) == one


@pytest.mark.parametrize("name", ["occurrence", "order", "lookup", "bump", "marked"])
def test_other_steps_look_like_evidence(bench, name):
    """Else |x|, which sees no net, would find it."""
    nets = bench.recurrent_nets
    x, _, evidence = nets.TASKS[name].make(np.random.default_rng(0), 500)
    if nets.TASKS[name].tokens:
        assert (((x < nets.NEUTRAL) & ~evidence).sum(1) >= 1).all()
    elif name == "bump":
        assert bench.recurrent.precision(np.abs(x), evidence) < 0.5
    else:
        assert (x[..., 2].sum(1) == 2).all()


def test_precision_of_entries_or_of_time_steps(bench):
    relevance = np.array([[[3.0, -1.0], [1.0, 0.5], [0.0, 0.0]]])
    steps = np.array([[False, True, False]])
    assert bench.recurrent.precision(relevance, steps) == 0  # sums 2, 1.5, 0
    entries = np.zeros((1, 3, 2), bool)
    entries[0, 0, 0] = entries[0, 0, 1] = True
    assert bench.recurrent.precision(relevance, entries) == 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lrp_tf.engine.diagnosis.RelevanceWarning")  # of rules that share with gates
@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_relevance_of_a_trained_net_lies_on_the_evidence(bench, layer):
    options = bench.recurrent.parser().parse_args(["--samples", "100"])
    found, _ = bench.recurrent.measured("occurrence", layer, options)
    assert found["accuracy"] > 0.99
    assert found["methods"]["LRP"]["R"] >= 0.95
    assert found["methods"]["random"]["R"] < 0.2
