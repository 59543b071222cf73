"""Tokenizers with one face: files of every kind, functions, Keras' TextVectorization; and texts of a model's length."""

import io
import json

import keras
import numpy as np
import pytest
from helpers.extras import need
from keras import layers as kl

import lrp_tf
from lrp_tf import heatmap
from lrp_tf.files.errors import LoadError
from lrp_tf.texts import Encoded, get_tokenizer, split_vectorization
from lrp_tf.texts.form import TextForm
from lrp_tf.texts.tokenizers import TextError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "un", "##usual", "##s", "!"]
WORDS = ["", "[UNK]", "a", "film", "Über"]


def file(tmp_path, name, lines):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_words_between_spaces(tmp_path):
    tokenizer = get_tokenizer(file(tmp_path, "words.txt", WORDS))
    assert tokenizer("A  (film), über Über!") == Encoded([2, 3, 1, 4], ["a", "film", "[UNK]", "Über"])
    assert tokenizer.pad == 0
    assert tokenizer.find("film") == 3
    with pytest.raises(TextError, match="empty"):
        tokenizer(" \n")
    with pytest.raises(TextError, match="not UTF-8"):
        tokenizer("a \udcff")
    with pytest.raises(LoadError, match="one token"):
        tokenizer.find("a film")
    unforgiving = get_tokenizer(file(tmp_path, "known.txt", ["a", "film"]))
    with pytest.raises(TextError, match="'book'"):
        unforgiving("a book")


def test_word_piece_vocabulary(tmp_path):
    need("tokenizers", extra="text")
    tokenizer = get_tokenizer(file(tmp_path, "vocab.txt", PIECES))
    found = tokenizer("Unusual films!")
    assert found.tokens == ["[CLS]", "un", "##usual", "film", "##s", "!", "[SEP]"]
    assert found.ids == [2, 6, 7, 5, 8, 9, 3]
    assert tokenizer.markers == "##"
    assert [word.text for word in heatmap.words(found.tokens, np.ones(7))][1:3] == ["unusual", "films"]
    assert (tokenizer.pad, tokenizer.token(4), tokenizer.token(99)) == (0, "a", "99")


def test_hugging_face_file(tmp_path):
    need("tokenizers", extra="text")
    import tokenizers

    ids = {"<|pad|>": 3, "Ġfilm": 0, "a": 1, "Ã©": 2, "Ġ": 4, "f": 5, "i": 6, "l": 7, "m": 8, "Ã": 9, "©": 10, "fi": 11}
    ids |= {"lm": 12, "film": 13}
    merges = [("f", "i"), ("l", "m"), ("fi", "lm"), ("Ġ", "film"), ("Ã", "©")]
    model = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.enable_padding(pad_id=3, pad_token="<|pad|>", length=9)
    model.enable_truncation(2)
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = get_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer("a filmé") == Encoded([1, 0, 2], ["a", "Ġfilm", "Ã©"])  # neither padded nor cut
    assert (tokenizer.pad, tokenizer.markers) == (3, "Ġ")
    assert [tokenizer.find(text) for text in ("Ġfilm", " film", "é", "film")] == [0, 0, 2, 13]


def test_sentencepiece_model(tmp_path):
    need("sentencepiece", extra="text")
    import sentencepiece

    made, lines = io.BytesIO(), ["a film", "a good film", "good films are good"] * 20
    options = {"vocab_size": 30, "model_type": "bpe", "pad_id": 3, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=made, **options)
    (tmp_path / "spm.model").write_bytes(made.getvalue())
    tokenizer = get_tokenizer(tmp_path / "spm.model")
    found = tokenizer("a good film")
    assert "".join(found.tokens) == "▁a▁good▁film"
    assert [tokenizer.token(i) for i in found.ids] == found.tokens
    assert (tokenizer.pad, tokenizer.markers) == (3, "▁")


def test_functions_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "def plain(text): return [len(w) for w in text.split()]\ndef named(text): return plain(text), text.split()\n"
    (tmp_path / "own_tokens.py").write_text(code, encoding="utf-8")
    assert get_tokenizer("own_tokens:plain")("a film") == Encoded([1, 4], ["1", "4"])
    assert get_tokenizer("own_tokens:named")("a film") == Encoded([1, 4], ["a", "film"])
    ids = get_tokenizer(lambda text: {"ids": np.array([[1, 2]]), "other_ids": [3]})("a")
    assert (ids.ids, ids.inputs) == ([1, 2], {"ids": [1, 2], "other_ids": [3]})
    assert get_tokenizer(len)("film").ids == [4]
    for wrong, says in ((lambda text: [0.5], "float"), (lambda text: ([1], ["a", "b"]), "1 ids and 2")):
        with pytest.raises(TextError, match=says):
            get_tokenizer(wrong)("film")
    with pytest.raises(TextError, match="ZeroDivisionError"):
        get_tokenizer(lambda text: 1 / 0)("film")


@pytest.mark.parametrize("name", ["none.json", "own_tokens:none", "os:sep", "broken.json"])
def test_what_is_no_tokenizer_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    with pytest.raises((LoadError, ImportError), match="tokenizer"):
        get_tokenizer(name)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_model_that_begins_with_text_vectorization(tmp_path, kind):
    layer = kl.TextVectorization(output_sequence_length=5, vocabulary=["film", "good", "bad"])
    parts = [layer, kl.Embedding(5, 3), kl.Flatten(), kl.Dense(2)]
    model = keras.Sequential([keras.Input((1,), dtype="string"), *parts])
    if kind == "functional":
        x = inputs = keras.Input((), dtype="string")
        for part in parts:
            x = part(x)
        model = keras.Model(inputs, x)
    model.save(tmp_path / "strings.keras")
    model = keras.models.load_model(tmp_path / "strings.keras")
    tokenizer, rest = split_vectorization(model)
    assert tokenizer("Good, unknown film") == Encoded([3, 1, 2], ["good", "[UNK]", "film"])
    fitted = TextForm(lrp_tf.Explainer(rest, "epsilon").graph).fit(tokenizer("good film"))
    texts = np.array(["good film"]) if kind == "functional" else np.array([["good film"]])
    np.testing.assert_array_equal(rest(fitted.row[0][None]), model(keras.ops.convert_to_tensor(texts)))
    with pytest.raises(LoadError, match="one TextVectorization"):
        split_vectorization(rest)


# --- texts of a model's length -----------------------------------------------------------------


def graph(length=6, *more):
    inputs = {name: keras.Input((length,), dtype="int32", name=name) for name in ("token_ids", *more)}
    h = kl.Embedding(11, 3)(inputs["token_ids"])
    for name in more:
        h = h + (
            kl.Embedding(9, 3)(inputs[name]) if "ids" in name else keras.ops.cast(inputs[name], "float32")[..., None]
        )
    return lrp_tf.Explainer(keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(h))), "epsilon").graph


def test_texts_are_padded_and_cut_and_special_ends_stay():
    form = TextForm(graph(6, "padding_mask", "segment_ids", "position_ids"), pad=(7, "[PAD]"))
    short = form.fit(Encoded([2, 5, 3], ["[CLS]", "a", "[SEP]"]))
    by_name = dict(zip(form.names, (values.tolist() for values in short.row), strict=True))
    assert by_name == {
        "token_ids": [2, 5, 3, 7, 7, 7],
        "padding_mask": [1, 1, 1, 0, 0, 0],
        "segment_ids": [0] * 6,
        "position_ids": [0, 1, 2, 3, 4, 5],
    }
    assert (short.tokens[2:4], short.used, short.cut) == (["[SEP]", "[PAD]"], 3, 0)
    long = form.fit(Encoded([2, 4, 5, 6, 7, 8, 9, 3], ["[CLS]", *"abcdef", "[SEP]"]))
    assert "".join(long.tokens) == "[CLS]abcd[SEP]"
    assert (long.used, long.cut) == (6, 2)
    assert long.row[form.names.index("token_ids")].tolist() == [2, 4, 5, 6, 7, 3]


def test_a_tokenizer_may_give_every_input():
    form = TextForm(graph(4, "second_ids"))
    given = get_tokenizer(lambda text: {"token_ids": [1, 2], "second_ids": [3, 4]})("a")
    assert [values.tolist() for values in form.fit(given).row] in (
        [[1, 2, 0, 0], [3, 4, 0, 0]],
        [[3, 4, 0, 0], [1, 2, 0, 0]],
    )
    with pytest.raises(TextError, match="second_ids"):
        form.fit(Encoded([1, 2], ["a", "b"]))


def test_lengths_and_vocabularies_that_do_not_fit_are_told():
    with pytest.raises(LoadError, match="sizes"):
        TextForm(graph(6), 5)
    with pytest.raises(TextError, match="0 to 10"):
        TextForm(graph(6)).fit(Encoded([11], ["a"]))
    assert TextForm(graph(None)).fit(Encoded([1, 2], ["a", "b"])).row[0].tolist() == [1, 2]
    assert TextForm(graph(None), 3).fit(Encoded([1, 2], ["a", "b"])).row[0].tolist() == [1, 2, 0]
    vectors = keras.Model(i := keras.Input((4, 3)), kl.Dense(2)(kl.Flatten()(i)))
    with pytest.raises(LoadError, match="token ids"):
        TextForm(lrp_tf.Explainer(vectors, "epsilon").graph)
