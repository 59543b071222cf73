"""evaluate.evidence and benchmarks/evidence.py: texts whose evidence is known, rollout, what small nets show."""

import importlib
import types

import keras
import numpy as np
import pytest
from helpers import REPOSITORY

from lrp_tf.evaluate import evidence


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        names = ("evidence", "evidence_nets", "evidence_methods", "evidence_decoder")
        yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.mark.parametrize("name", ["occurrence", "pair", "negation", "shortcut", "lookup"])
def test_evidence_alone_tells_the_class(bench, name):
    nets = bench.evidence_nets
    tokens, label, evidence = nets.TASKS[name].make(np.random.default_rng(0), 3000)
    assert tokens.shape == evidence.shape == (3000, nets.LENGTH)
    assert (tokens[:, 0] == nets.CLS).all()
    assert not evidence[:, 0].any()
    assert (tokens[evidence] < nets.NEUTRAL).all()
    said = {}
    for words, known, one in zip(tokens, evidence, label, strict=True):
        assert said.setdefault(tuple(sorted(words[known])), one) == one
    assert set(label) == set(range(nets.TASKS[name].classes))
    counts = (tokens == nets.NOT).sum(1)
    if name == "negation":  # the number of NOTs says nothing
        assert set(counts) == {1}
    if name == "shortcut":
        assert set(counts) == {2, 3}


def test_texts_in_three_parts():
    found = evidence.generate("lookup", samples=200, seed=4)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [160, 20, 20]
    again = evidence.generate("lookup", samples=200, seed=4)
    for part in ("train", "validation", "test"):
        one, other = getattr(found, part), getattr(again, part)
        assert one.x.dtype == np.int32
        assert one.masks.sum(axis=1).tolist() == [2] * len(one)
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.label, other.label)
    assert not np.array_equal(found.train.x[:20], found.test.x)
    assert not np.array_equal(found.train.x, evidence.generate("lookup", samples=200).train.x)
    for given, message in (({"name": "look"}, "name expects one of"), ({"name": "pair", "samples": 9}, "at least 20")):
        with pytest.raises(ValueError, match=message):
            evidence.generate(**given)


def test_next_word_of_a_repeated_sequence(bench):
    tokens, period = bench.evidence_nets.repeated(np.random.default_rng(0), 50, 40, 40, 20, 30)
    source, evidence = bench.evidence_decoder.places(period)
    rows = np.arange(50)
    assert (tokens[rows, source] == tokens[:, -1]).all()
    assert (tokens[rows, source - 1] == tokens[:, -2]).all()
    assert ((tokens[:, :-1] == tokens[:, -1:]).sum(1) == 1).all()  # it stood there once
    assert (evidence.sum(1) == 3).all()


def test_rollout_of_uniform_attention(bench):
    """(I + U) / 2, twice, with U = 1/T everywhere: (I + 3 U) / 4, the first row of it."""
    model = bench.evidence_nets.encoder(3, layers=2, width=8, heads=2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            layer.query_dense.kernel.assign(np.zeros(layer.query_dense.kernel.shape))
    length = bench.evidence_nets.LENGTH
    found = bench.evidence_methods.rollout(model)(np.zeros((2, length), "int32"), np.zeros(2, int))
    want = np.full((2, length), 3 / 4 / length)
    want[:, 0] += 1 / 4
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_precision_counts_as_many_tokens_as_there_is_evidence(bench):
    relevance = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    evidence = np.array([[True, False, True, False], [True, False, False, False]])
    assert bench.evidence_methods.precision(relevance, evidence) == (1 / 2 + 0) / 2


@pytest.mark.slow
def test_relevance_of_a_trained_encoder_lies_on_the_evidence(bench):
    options = ["--train", "8000", "--epochs", "4", "--width", "32", "--samples", "200", "--tasks", "occurrence", "pair"]
    found = bench.evidence.text(bench.evidence.parser().parse_args(options))
    for name in ("occurrence", "pair"):
        assert found[name]["accuracy"] > 0.97, name
        rows = found[name]["methods"]
        assert max(rows[f"{preset}, γ 0.05"]["R"] for preset in ("attn_lrp", "cp_lrp")) >= 0.95, name
        assert rows["random"]["R"] < 0.2, name
