"""`lrp-tf explain-text` and `TextGallery`: classes and next tokens, bad lines, resumed runs."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.checking import randomize
from helpers.pictures import table
from keras import layers as kl
from keras import ops

import lrp_tf
from lrp_tf.cli import options, text, text_options
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.heatmap.text import Page
from lrp_tf.texts import TextGallery, get_tokenizer

WORDS = ["[PAD]", "[UNK]", "a", "good", "bad", "film", "was", "not", "the"]


def classifier(length=6):
    """Sums the vectors of tokens that are no padding."""
    inputs = {name: keras.Input((length,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    mask = ops.cast(ops.cast(inputs["padding_mask"], "bool"), "float32")[..., None]  # by way of bool it is a gate
    h = kl.Embedding(9, 4, name="tokens")(inputs["token_ids"]) * mask
    return randomize(keras.Model(inputs, kl.Dense(3, activation="softmax")(ops.sum(h, axis=1)), name="reviews"))


def language_model(length=6):
    """The next token from the sum of all tokens up to each; of open length, from the last alone."""
    inputs = keras.Input((length,), dtype="int32")
    h = kl.Embedding(9, 4, name="tokens")(inputs)
    if length is not None:
        h = ops.einsum("ts,bsd->btd", np.tril(np.ones((length, length), "float32")), h)
    return randomize(keras.Model(inputs, kl.Dense(9, name="head")(h), name="next"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    classifier().save(folder / "reviews.keras")
    language_model().save(folder / "next.keras")
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def explain(lrp, models):
    """Runs the command with a model's name and texts."""
    return lambda name, *rest: lrp("explain-text", models / f"{name}.keras", *rest, "--tokenizer", models / "words.txt")


def test_a_list_of_texts_with_bad_lines(explain, tmp_path):
    lines = b"a good film\r\n\n  \nthe film was not bad the film was good\n\xff\xfe\n=a bad film\na good film\n"
    (tmp_path / "lines.txt").write_bytes(lines)
    code, _, err = explain("reviews", "@lines.txt", "<b>good</b>", "--png", "--save-relevance", "--target", "topK:2")
    assert code == 1, err
    assert "was good: cut, 3 of 9 tokens left out" in err
    assert (tmp_path / "results/failures.csv").read_bytes().count(b"\r\n") == 2
    rows = table("results/results.csv")
    assert list(rows[0]) == list(ledger.COLUMNS)
    assert [row["file"] for row in rows[::2]] == [
        *("a good film", "the film was not bad the film was good", "./=a bad film", "<b>good</b>")
    ]
    assert [row["warning"] for row in rows[2:4]] == ["cut: 3 of 9 tokens left out"] * 2
    names = [row["result"] for row in rows[::2]]
    assert names == ["lines-1", "lines-4", "lines-6", "text-1"]
    for name in names:
        assert {path.suffix for path in (tmp_path / "results").glob(f"{name}.*")} == {".html", ".png", ".npy"}
    relevance = np.load("results/lines-1.npy")
    assert relevance.shape == (2, 6)
    assert not relevance[:, 3:].any()  # padding
    np.testing.assert_allclose(relevance.sum(1), [float(row["sum_of_relevance"]) for row in rows[:2]], rtol=1e-5)
    page = (tmp_path / "results/text-1.html").read_text(encoding="utf-8")
    assert "<b>good" not in page
    assert page.count("<section>") == 2
    index = (tmp_path / "results/index.html").read_text(encoding="utf-8")
    assert index.count('href="lines-1.html"') == 2
    assert "&lt;b&gt;good&lt;/b&gt;" in index


def test_a_run_is_resumed_and_guards_its_folder(explain, tmp_path):
    assert explain("reviews", "a film", "--out", "out")[0] == 0
    first = (tmp_path / "out/text-1.html").stat().st_mtime_ns
    code, _, err = explain("reviews", "a film", "--out", "out")
    assert (code, "--resume" in err) == (2, True)
    code, out, err = explain("reviews", "a film", "bad", "--out", "out", "--resume")
    assert (code, "1 explained" in out, "1 finished before" in out) == (0, True, True), err
    assert (tmp_path / "out/text-1.html").stat().st_mtime_ns == first
    assert [row["file"] for row in table("out/results.csv")] == ["a film", "bad"]
    assert (tmp_path / "out/index.html").read_text(encoding="utf-8").count("<tr>") == 3
    code, _, err = explain("reviews", "a film", "--out", "out", "--resume", "--target", "1")
    assert (code, "target" in err) == (2, True)
    with ledger.only_run(tmp_path / "out"):
        code, _, err = explain("reviews", "a film", "--out", "out", "--overwrite")
    assert (code, "Another run" in err) == (2, True)


def test_next_token_against_another(explain, models):
    """Given as tokens; the position is the last that is no padding, or chosen."""
    code, _, err = explain(
        *("next", "the film", "--target", "good", "--contrast", "bad", "--save-relevance", "--out", "out")
    )
    assert code == 0, err
    (row,) = table("out/results.csv")
    assert (row["target"], row["target_name"], row["contrast"]) == ("3", "good", "4")
    explainer = lrp_tf.Explainer(keras.models.load_model(models / "next.keras"), "attn_lrp")
    x = np.array([[8, 5, 0, 0, 0, 0]])
    np.testing.assert_allclose(np.load("out/text-1.npy"), explainer(x, [1, 3], contrast=4)[0], rtol=1e-5)
    logits = explainer.explain(x, [0, 0]).logits.numpy()[0]
    assert float(row["start"]) == pytest.approx(float(logits[1, 3] - logits[1, 4]), rel=1e-4)
    difference = f"{logits[1, 3] - logits[1, 4]:+.3g}".replace("-", "−")
    assert f"the difference {difference}<" in (Path("out") / "text-1.html").read_text(encoding="utf-8")
    assert '<td dir="auto">good rather than bad</td>' in Path("out/index.html").read_text(encoding="utf-8")
    code, _, err = explain("next", "the film", "--target", "topK:2", "--target", "7", "--position", "0", "--out", "b")
    assert code == 0, err
    rows = table("b/results.csv")
    assert [int(row["target"]) for row in rows] == [*np.argsort(-logits[0])[:2], 7]
    assert rows[0]["top1_logit"] == f"{logits[0].max():.7g}"
    code, _, err = explain("next", "the film", "--position", "4", "--out", "c")
    assert (code, "position 4 lies outside of its 2 tokens" in err) == (1, True)


def test_texts_longer_than_a_cell_and_texts_like_options(explain, tmp_path):
    (tmp_path / "long.txt").write_text("good film " * 20_000 + "\n" + "good film " * 20_001, encoding="utf-8")
    command = ("reviews", "--png", "-5 films", "@long.txt", "--out", "out")
    assert explain(*command)[0] == 0
    rows = table("out/results.csv")
    assert [row["result"] for row in rows] == ["text-1", "long-1", "long-2"]
    assert rows[1]["file"].startswith("good film good")
    assert len(rows[1]["file"]) < 9000
    code, out, err = explain(*command, "--resume")
    assert (code, "3 finished before" in out) == (0, True), err


@pytest.mark.parametrize(
    ("name", "rest", "says"),
    [
        ("reviews", [], "expected TEXT"),
        ("reviews", ["@none.txt"], "cannot be read"),
        ("reviews", ["a", "--target", "9"], "out of range"),
        ("reviews", ["a", "--target", "1", "--contrast", "1"], "target itself"),
        ("reviews", ["a", "--sizes", "5"], "--sizes"),
        ("next", ["a", "--target", "a film"], "one token"),
        ("next", ["a", "--target", "99"], "below 9"),
        ("reviews", ["a", "--cmap", "nocolours"], "nocolours"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(explain, tmp_path, name, rest, says):
    code, _, err = explain(name, *rest)
    assert code == 2
    assert says in err
    assert not (tmp_path / "results").exists()


def test_a_tokenizer_is_never_guessed(lrp, models):
    code, _, err = lrp("explain-text", models / "reviews.keras", "a film")
    assert code == 2
    assert "--tokenizer is missing" in err


def test_a_text_that_fails_in_the_network_costs_no_other(models, tmp_path):
    """Seen as the class of contrast, or with NaN behind one of its tokens."""
    model = keras.models.load_model(models / "reviews.keras")
    table_of = model.get_layer("tokens").embeddings
    table_of.assign(ops.where(ops.arange(9)[:, None] == 1, np.nan, table_of))
    explainer = lrp_tf.Explainer(model)
    texts = [("good", "a"), ("unknown", "b"), ("bad film", "c"), ("the", "d")]
    tops = {text: np.argmax(explainer.explain(ids(models, text)).logits) for text, _ in texts if text != "unknown"}
    told = []
    job = TextGallery(explainer, get_tokenizer(models / "words.txt"), tmp_path, contrast=int(tops["bad film"]))
    outcome = job.run(texts, tell=told.append)
    same = sum(top == tops["bad film"] for top in tops.values())
    assert (outcome.done, outcome.failed) == (3 - same, 1 + same)
    assert any(line.startswith("unknown: ") and "NaN" in line for line in told)
    assert any(line.startswith("bad film: it is seen as") for line in told)


def ids(models, text):
    found = np.array(get_tokenizer(models / "words.txt")(text).ids)
    padded = np.pad(found, (0, 6 - len(found)))[None]
    return {"token_ids": padded, "padding_mask": (padded > 0).astype("int32")}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_page_that_cannot_be_written_costs_a_line_and_a_full_disk_ends_the_run(models, tmp_path, monkeypatch, number):
    explainer = lrp_tf.Explainer(keras.saving.load_model(models / "reviews.keras"), "epsilon")
    job = TextGallery(explainer, get_tokenizer(models / "words.txt"), tmp_path / "out")
    save = Page.save

    def second_fails(page, path, **options):
        if "two" in str(path):
            raise OSError(number, os.strerror(number))
        save(page, path, **options)

    monkeypatch.setattr(Page, "save", second_fails)
    texts = [("a film", "one"), ("a bad film", "two"), ("a good film", "three")]
    if number == errno.EACCES:
        outcome = job.run(texts)
        assert (outcome.done, outcome.failed) == (2, 1)
        assert [row["reason"] for row in table(tmp_path / "out/failures.csv")] == [f"no result: {os.strerror(number)}"]
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            job.run(texts)
    assert [row["result"] for row in table(tmp_path / "out/results.csv")][:1] == ["one"]


def test_open_lengths_give_what_the_length_of_the_text_gives(tmp_path, models):
    """Each text alone, or padded to one length: a causal model does not see what is behind."""
    model, tokenizer = language_model(None), get_tokenizer(models / "words.txt")
    found = []
    for size in (None, 5):
        out = tmp_path / str(size)
        job = TextGallery(lrp_tf.Explainer(model), tokenizer, out, targets=(3,), size=size, save_relevance=True)
        assert job.run([("the film was", "a"), ("bad", "b")]).done == 2
        found.append([np.load(out / f"{name}.npy") for name in "ab"])
    for alone, padded in zip(*found, strict=True):
        np.testing.assert_allclose(padded[: len(alone)], alone, atol=1e-6)
        assert not padded[len(alone) :].any()


class Positions(kl.Layer):
    """Adds the vector of each position, as many as there are."""

    def build(self, shape):
        self.table = self.add_weight(shape=(8, shape[-1]), name="table")

    def call(self, x):
        return x + ops.take(self.table, ops.arange(ops.shape(x)[1]), axis=0)


def test_open_lengths_get_their_size_from_the_command(models, tmp_path):
    """`--sizes N` goes to the Explainer, which asks for it where positions are counted."""
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    model = randomize(keras.Model(inputs, kl.Dense(9)(Positions()(kl.Embedding(9, 4)(inputs)))))
    parse = options.parser(text_options.COMMANDS).parse_args
    command = ["explain-text", "m.keras", "a", "--out", str(tmp_path)]
    with pytest.raises(LoadError, match=r"sizes=.*--sizes N"):
        text._explainer(parse(command), model)
    explainer = text._explainer(parse([*command, "--sizes", "5"]), model)
    assert explainer.graph.inputs[0].shape == (5,)
    assert explainer.composite.name == "attn_lrp"
    job = TextGallery(explainer, get_tokenizer(models / "words.txt"), tmp_path / "out", targets=(3,))
    cut = []
    assert job.run([("the film", "a"), ("a bad film was not good", "b")], warn=cut.append).cut == 1
    assert cut == ["a bad film was not good: cut, 1 of 6 tokens left out"]


def test_texts_come_from_standard_input(models, lrp, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a good film\n\nnot bäd\n".encode())))
    options = ("--tokenizer", models / "words.txt", "--out", tmp_path / "out")
    code, out, err = lrp("explain-text", models / "reviews.keras", "-", *options)
    assert code == 0, err
    assert [row["result"] for row in table(tmp_path / "out/results.csv")] == ["stdin-1", "stdin-3"]
    assert "a good film: " in out


@pytest.mark.slow
def test_the_command_by_itself(models, tmp_path):
    """Standard input, as another process sees it."""
    command = [sys.executable, "-m", "lrp_tf", "explain-text", str(models / "reviews.keras"), "-"]
    command += ["--tokenizer", str(models / "words.txt"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, input=b"a good film\n\nnot bad\n", capture_output=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr.decode()
    assert [row["result"] for row in table(tmp_path / "out/results.csv")] == ["stdin-1", "stdin-3"]
    assert b"a good film: " in run.stdout
