"""Texts -> token ids for a model, and the relevance of their tokens. See docs/text.md."""

from lrp_tf.texts.run import TextGallery, TextOutcome
from lrp_tf.texts.tokenizers import Encoded, Tokenizer, get_tokenizer
from lrp_tf.texts.vectorization import split_vectorization

__all__ = ["Encoded", "TextGallery", "TextOutcome", "Tokenizer", "get_tokenizer", "split_vectorization"]
