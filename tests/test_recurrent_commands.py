"""Recurrent models that people bring, from the command line: texts, signals, videos; some as a process of its own."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.checking import randomize
from helpers.pictures import table
from keras import layers as kl

import lrp_tf
from lrp_tf.cli import options, text, text_options

RNG = np.random.default_rng(7)
WORDS = ["[PAD]", "[UNK]", "a", "good", "bad", "film", "was", "not", "the"]
LINES = ["the film was not bad", "good", "a film"]  # of several lengths: two of them are padded


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


def embedded(*rest, length=6):
    stack = [keras.Input((length,), dtype="int32"), kl.Embedding(len(WORDS), 4, mask_zero=True), *rest]
    return randomize(keras.Sequential([*stack, kl.Dense(2, activation="softmax")], name="reviews"))


def lstm():
    return embedded(kl.LSTM(5))


def bidirectional():
    return embedded(kl.Bidirectional(kl.GRU(3)), length=None)


def stacked():
    """With dropout of both kinds, which rest."""
    return embedded(kl.LSTM(4, return_sequences=True, dropout=0.4), kl.Dropout(0.3), kl.LSTM(3, recurrent_dropout=0.4))


def of_whole_texts():
    """The text itself is the input: what follows TextVectorization is explained."""
    vectors = kl.TextVectorization(output_sequence_length=6, vocabulary=WORDS[2:])
    return keras.Sequential([keras.Input((1,), dtype="string"), vectors, *lstm().layers], name="reviews")


def cnn_lstm():
    stack = [keras.Input((4, 8, 8, 1)), kl.TimeDistributed(kl.Conv2D(3, 3, activation="relu"))]
    stack += [kl.TimeDistributed(kl.GlobalAveragePooling2D()), kl.LSTM(4), kl.Dense(2, activation="softmax")]
    return randomize(keras.Sequential(stack, name="videos"))


def conv_lstm():
    stack = [keras.Input((4, 8, 8, 1)), kl.ConvLSTM2D(3, 3, padding="same"), kl.GlobalAveragePooling2D()]
    return randomize(keras.Sequential([*stack, kl.Dense(2, activation="softmax")], name="videos"))


def conv1d():
    stack = [keras.Input((None, 2)), kl.Conv1D(4, 3, activation="relu"), kl.GlobalMaxPooling1D(), kl.Dense(3)]
    return randomize(keras.Sequential(stack, name="signals"))


def gru():
    stack = [keras.Input((20, 2)), kl.GRU(4, return_sequences=True, dropout=0.2), kl.GRU(3), kl.Dense(3)]
    return randomize(keras.Sequential(stack, name="signals"))


def given(folder):
    """A vocabulary, signals in both formats, and a video."""
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    signal = RNG.normal(size=(20, 2))
    np.savetxt(folder / "s.csv", signal, "%.5f", ",", header="left,right", comments="")
    np.save(folder / "s.npy", signal)
    np.save(folder / "film.npy", RNG.uniform(size=(4, 8, 8, 1)))


TEXTS = ("explain-text", "@lines.txt", "--png", "--save-relevance")


@pytest.mark.parametrize("model", [bidirectional, stacked, *map(slow, [lstm, of_whole_texts])])
def test_texts_in_the_order_of_their_words(lrp, tmp_path, model):
    """Relevance of the command is the Explainer's, exactly 0 at padding, and sums to what the table says."""
    given(tmp_path)
    model().save("m.keras")
    tokenizer = () if model is of_whole_texts else ("--tokenizer", "words.txt")
    code, out, err = lrp(TEXTS[0], "m.keras", *TEXTS[1:], *tokenizer)
    assert code == 0, err
    assert "composite cp_lrp, 3 text(s)" in out
    rows = table("results/results.csv")
    body = keras.models.load_model("m.keras")
    body = lstm() if model is of_whole_texts else body
    if model is of_whole_texts:
        body.set_weights(keras.models.load_model("m.keras").get_weights())
    explainer = lrp_tf.Explainer(body, "cp_lrp")
    for row, line in zip(rows, LINES, strict=True):
        ids = [WORDS.index(word) for word in line.split()]
        found = np.load(f"results/{row['result']}.npy")
        assert (found[len(ids) :] == 0).all()
        assert (found[: len(ids)] != 0).all()
        x = np.array([ids + [0] * (len(found) - len(ids))])
        expected = explainer(x).numpy()[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        assert found.sum() == pytest.approx(float(row["sum_of_relevance"]), rel=1e-4, abs=1e-6)
        page = (tmp_path / f"results/{row['result']}.html").read_text(encoding="utf-8")
        assert all(word in page for word in line.split())


def test_gates_are_held_by_default_where_a_model_is_recurrent(tmp_path):
    """And the composite that was asked for is taken whatever the model."""
    command = ["explain-text", "m.keras", "a", "--out", str(tmp_path)]
    parse = options.parser(text_options.COMMANDS).parse_args
    flat = embedded(kl.GlobalAveragePooling1D())
    for model, asked, expected in (
        (lstm(), [], "cp_lrp"),
        (bidirectional(), [], "cp_lrp"),
        (flat, [], "attn_lrp"),
        (lstm(), ["--composite", "attn_lrp"], "attn_lrp"),
        (lstm(), ["--composite", "epsilon:epsilon=0.01"], "epsilon"),
    ):
        chosen = parse([*command, *asked])
        assert text._explainer(chosen, model).composite.name == expected
        assert chosen.composite.name == expected  # which a resumed run compares


@pytest.mark.parametrize(
    ("model", "files"),
    [
        slow(conv1d, ["s.csv", "s.npy"]),
        (gru, ["s.csv", "s.npy"]),
        slow(cnn_lstm, ["film.npy"]),
        (conv_lstm, ["film.npy"]),
    ],
)
def test_signals_and_videos(lrp, tmp_path, model, files):
    given(tmp_path)
    model().save("m.keras")
    code, _, err = lrp("explain", "m.keras", *files, "--composite", "epsilon", "--save-relevance", "--target", "1")
    assert code == 0, err
    rows = table("results/results.csv")
    explainer = lrp_tf.Explainer(keras.models.load_model("m.keras"), "epsilon")
    for row, file in zip(rows, files, strict=True):
        found = np.load(f"results/{row['result']}.npy")
        x = np.loadtxt(file, delimiter=",", skiprows=1) if file.endswith("csv") else np.load(file)
        expected = explainer(x[None].astype("float32"), 1).numpy()[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        assert (tmp_path / f"results/{row['result']}.png").stat().st_size > 2000


@pytest.mark.parametrize("command", ["evaluate", "grid"])
def test_commands_of_photographs_say_what_takes_arrays(lrp, tmp_path, command):
    given(tmp_path)
    gru().save("m.keras")
    code, _, err = lrp(command, "m.keras", "s.npy")
    assert code == 2
    assert f"{command} takes photographs alone" in err
    assert "(None, 20, 2)" in err
    assert "lrp-tf explain" in err


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (lstm, [*TEXTS, "--tokenizer", "words.txt"]),
        *(
            slow(*case)
            for case in (
                (bidirectional, [*TEXTS, "--tokenizer", "words.txt"]),
                (stacked, [*TEXTS, "--tokenizer", "words.txt"]),
                (of_whole_texts, [*TEXTS]),
                (conv1d, ["explain", "s.csv", "s.npy"]),
                (gru, ["explain", "s.csv", "s.npy"]),
                (cnn_lstm, ["explain", "film.npy"]),
                (conv_lstm, ["explain", "film.npy"]),
                (cnn_lstm, ["check", "film.npy"]),
            )
        ),
    ],
)
def test_as_users_run_it(tmp_path, model, arguments):
    """A process of its own, which says nothing on standard error but errors of TensorFlow's C++ log."""
    given(tmp_path)
    model().save(tmp_path / "m.keras")
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-m", "lrp_tf", arguments[0], "m.keras", *arguments[1:]]
    env |= {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if arguments[0] != "check":
        rows = table(tmp_path / "results" / "results.csv")
        assert len(rows) == (3 if arguments[0] == "explain-text" else len(arguments) - 1)
        assert all(row["warning"] == "" for row in rows)
