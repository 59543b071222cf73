"""Texts in the colours of their relevance: words, pages, pictures; and patches in the geometry of a picture."""

import html
import html.parser
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf

from lrp_tf import heatmap
from lrp_tf.heatmap.text_picture import dark_letters

# Tokens, markers, words with "_" for the space ahead of them.
WORDS = {
    "wordpiece": (["[CLS]", "un", "##usual", ",", "##", "[SEP]"], "_[CLS] _unusual _, _## _[SEP]"),
    "sentencepiece": (["<s>", "▁Der", "▁Über", "mut", "!", "</s>"], "_<s> _Der _Übermut! _</s>"),
    "sentencepiece: bytes": (["▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x0A>", "▁a"], "_😀 ↵ _a"),
    "byte-level": (["Hello", "Ġw", "orld", "ĊĊ", "next", "ĠÃ©t", "Ã©", "<|eos|>"], "Hello _world ↵ next _été _<|eos|>"),
    "no markers": (["a", "film", "[UNK]"], "_a _film _[UNK]"),
}  # fmt: skip


def written(words):
    return " ".join("_" * word.space + word.text for word in words)


@pytest.mark.parametrize("name", WORDS)
def test_tokens_become_words_and_their_sums_are_conserved(name, rng):
    tokens, expected = WORDS[name]
    relevance = rng.normal(size=(len(tokens), 3)).astype("float32")
    found = heatmap.words(tokens, relevance)
    assert written(found) == expected
    assert [token for word in found for token in word.tokens] == tokens
    np.testing.assert_allclose(sum(word.relevance for word in found), relevance.sum(dtype="float64"), atol=1e-12)
    start = len(found[0].tokens)
    np.testing.assert_allclose(
        found[1].relevance, relevance[start : start + len(found[1].tokens)].sum(dtype="float64"), atol=1e-12
    )


def test_special_tokens_stay_apart_and_can_be_named():
    tokens = ["<s>", "new", "▁world", "TURN", "s"]
    assert written(heatmap.words(tokens, np.ones(5))) == "_<s> new _worldTURNs"
    named = heatmap.words(tokens, np.ones(5), special={"TURN"})
    assert [(word.text, word.special) for word in named] == [
        *[("<s>new", False), ("world", False), ("TURN", True), ("s", False)]
    ]
    assert len(heatmap.words(["un", "##usual"], [1, 2], markers=None)) == 2


@pytest.mark.parametrize(
    ("tokens", "relevance", "error", "says"),
    [
        (["a"], [1.0, 2.0], ValueError, "each of 1 tokens"),
        ([], [], ValueError, "at least one"),
        (["a"], [np.nan], ValueError, "NaN"),
        ([3], [1.0], TypeError, "tokens as texts"),
        ("a b", [1.0], TypeError, "split"),
    ],
)
def test_wrong_tokens_are_refused(tokens, relevance, error, says):
    with pytest.raises(error, match=says):
        heatmap.text(tokens, relevance)


class Reader(html.parser.HTMLParser):
    """Words with their colours, and all that could make a request."""

    def __init__(self, page):
        super().__init__()
        self.words, self.links, self.tags, self.style = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.links += [value for name, value in found.items() if name in ("src", "href", "srcset", "action")]
        self.style = found["style"] if found.get("class", "")[:1] == "w" else None

    def handle_data(self, data):
        if self.style:
            self.words.append((data, *re.findall("#[0-9a-f]+", self.style)))
            self.style = None


def test_page_holds_all_it_needs_and_escapes_what_it_shows():
    evil = '<script src="https://example.org/x.js">alert("&")</script>'
    page = heatmap.text(
        [evil, "\x1b[31m", "\ud800"], [2.0, -2.0, 0.0], title=evil, prediction=evil, target="</title>", note=evil
    )
    read = Reader(page)
    assert isinstance(page, str)
    assert page.startswith("<!DOCTYPE html>")
    assert "script" not in read.tags
    assert read.links == ["data:,"]
    assert "url(" not in page
    assert "default-src 'none'" in html.unescape(page)
    page.encode("utf-8")
    assert read.words == [
        (evil, "#800000", "#fff"),
        ("\ufffd[31m", "#00004c", "#fff"),
        ("\ufffd", "#ffffff", "#000"),
    ]  # red for, blue against, white for none
    assert "prefers-color-scheme:dark" in page


def test_page_tells_prediction_target_score_contrast_and_legend():
    page = heatmap.text(
        ["a", "##b"], [3.0, -0.5], prediction="good (0.9)", target="good", score=tf.constant(2.5), contrast="bad"
    )
    for said in ("<b>prediction: </b>good (0.9)", "<b>rather than: </b>bad", "<b>score: </b>+2.5", "+2.5 for"):
        assert said in page
    assert 'title="ab: +2.5 = a +3, ##b −0.5"' in page
    assert "against −2.5" in page


def test_special_tokens_do_not_set_the_scale_and_silent_padding_is_left_out():
    page = heatmap.text(["[CLS]", "a", "b", "[PAD]", "[PAD]"], [90.0, 1.0, -0.5, 0.0, 0.25])
    assert [word[0] for word in Reader(page).words] == ["[CLS]", "a", "b", "[PAD]"]
    assert page.entries[0].bar.ends == (-1, 1)
    assert "+90.8, special tokens +90.2 of it" in page


def test_sizes_of_relevance_do_not_cancel():
    page = heatmap.text(["a", "##b", "c"], [3.0, -2.0, -4.0], show="abs")
    assert page.entries[0].bar.ends == (0, 5)
    assert page.entries[0].colours[0].tolist() == heatmap.to_rgb([[1.0]], show="abs")[0, 0].tolist()
    assert "against" not in page


def test_several_texts_share_a_page_and_if_asked_a_scale():
    tokens, relevance = [["a", "b"], ["c"]], [np.array([1.0, 4.0]), np.array([-2.0])]
    page = heatmap.text(tokens, relevance, target=["x", "y"], score=0.5, scale="page")
    assert [entry.bar.ends for entry in page.entries] == [(-4, 4)] * 2
    assert page.count("<b>score: </b>+0.5") == 2
    assert "<b>target: </b>y" in page
    assert heatmap.text(tokens, relevance).entries[1].bar.ends == (-2, 2)
    with pytest.raises(ValueError, match="each of 2 texts"):
        heatmap.text(tokens, relevance, target=["x"])
    assert pickle.loads(pickle.dumps(page)) == page
    assert page._repr_html_().startswith("<style>")


def test_picture_shows_the_colours_in_wrapped_lines(tmp_path):
    tokens = [f"word{i}" for i in range(40)] + ["שלום", "x" * 200]
    relevance = np.where(np.arange(42) % 2, 1.0, -1.0)
    page = heatmap.text(tokens, relevance, title="Überschrift", target="x")
    picture, narrow = page.pixels(), page.pixels(width=3)
    assert picture.shape[1] == 800
    assert narrow.shape[0] > picture.shape[0]
    colours, counts = np.unique(narrow.reshape(-1, 3), axis=0, return_counts=True)
    many = {tuple(colour) for colour, count in zip(colours.tolist(), counts, strict=True) if count > 1000}
    assert {(128, 0, 0), (0, 0, 76), (255, 255, 255)} <= many
    for name in ("a.png", "a.html", "a.webp"):
        assert page.save(tmp_path / name).stat().st_size > 1000
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page
    with pytest.raises(ValueError, match=r"\.html"):
        page.save(tmp_path / "a.pdf")
    assert len(list(tmp_path.iterdir())) == 3


def test_letters_stand_out_on_every_colour():
    for palette in heatmap.PALETTES:
        for colour in heatmap.to_rgb(np.linspace(-1, 1, 101)[None], cmap=palette)[0]:
            light = np.where(colour <= 10, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
            light = light @ [0.2126, 0.7152, 0.0722]
            contrast = (light + 0.05) / 0.05 if dark_letters(colour) else 1.05 / (light + 0.05)
            assert contrast > 4.5, (palette, colour)


def test_text_from_the_right_begins_there():
    page = heatmap.text(["שלום", "עולם"], [1.0, -1.0])
    picture = page.pixels()
    red, blue = (np.argwhere((picture == colour).all(-1))[:, 1] for colour in ((128, 0, 0), (0, 0, 76)))
    red = red[red > 400]  # not the legend's
    assert red.min() > blue[blue > 400].max()


# --- patches -----------------------------------------------------------------------------------


def test_patches_lie_where_they_were_cut_and_keep_their_sum(rng):
    relevance = rng.normal(size=(7, 4)).astype("float32")
    found = heatmap.patches(relevance, (2, 3), image=np.zeros((9, 11, 3)))
    assert found.shape == (9, 11)
    np.testing.assert_allclose(found.sum(), relevance[1:].sum(), rtol=1e-5)
    np.testing.assert_allclose(found[:5, :4].sum(), relevance[1].sum(), rtol=1e-5)
    assert np.ptp(found[:5, :4]) == 0
    assert (
        heatmap.patches(relevance[1:], (2, 3)).tolist() == relevance[1:].sum(1, dtype="float64").reshape(2, 3).tolist()
    )


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_patches_find_a_square_behind_class_tokens(ahead):
    relevance = np.arange(16.0 + ahead)
    np.testing.assert_array_equal(heatmap.patches(relevance), np.arange(ahead, 16.0 + ahead).reshape(4, 4))
    grid = np.ones((4, 2, 3))
    assert heatmap.patches(grid, size=(8, 8)).sum() == 24


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((7,), {}),
        ((7,), {"grid": (2, 2), "class_tokens": 1}),
        ((4,), {"grid": (2, 3)}),
        ((4,), {"size": (1, 5)}),
        ((2, 2, 2, 2), {}),
        ((4,), {"size": (4, 4), "image": np.zeros((4, 4))}),
    ],
)
def test_patches_that_do_not_fit_are_refused(shape, options):
    with pytest.raises(ValueError, match="Expected"):
        heatmap.patches(np.zeros(shape), **options)
