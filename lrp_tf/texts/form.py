"""How a model takes texts: which input holds token ids, which masks and segments; of which length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from lrp_tf.core.graph import Graph, Ref
from lrp_tf.files.errors import LoadError
from lrp_tf.heatmap.words import is_special
from lrp_tf.texts.tokenizers import Encoded, TextError

_ROLES = (("mask", r"mask"), ("segments", r"segment|type_id|token_type"), ("positions", r"position"))


class Fitted(NamedTuple):
    """A text of the model's length.

    Attributes:
        row: for each input of the model its values [T].
        tokens: T of them, padding included.
        used: how many of them are the text's.
        cut: how many tokens of the text were left out.
    """

    row: list[np.ndarray]
    tokens: list[str]
    used: int
    cut: int


class TextForm:
    """What a model takes.

    Args:
        graph: of the model.
        size: the length of texts in tokens, for a model that leaves it open; None: each text has its own.
        pad: the id of padding, and what it is called.

    Attributes:
        length: tokens of every text, or None.
        vocabulary: how many tokens the model knows, or None where no Embedding says so.

    Raises:
        LoadError: the model does not take token ids [T], or takes another length.
    """

    def __init__(self, graph: Graph, size: int | None = None, pad: tuple[int, str] = (0, "[PAD]")) -> None:
        self.graph, self.pad = graph, pad
        self.names = _names(graph)
        roles = [next((role for role, word in _ROLES if re.search(word, name)), "ids") for name in self.names]
        self.roles = dict(zip(self.names, roles, strict=True))
        self.ids = [name for name, role in self.roles.items() if role == "ids"]
        shapes = {name: ref.shape for name, ref in zip(self.names, graph.inputs, strict=True)}
        if not self.ids or any(len(shape) != 1 for shape in shapes.values()):
            raise LoadError(
                "Expected a model of token ids, [T], perhaps with a mask and segments of the same shape. Received "
                f"inputs: {shapes}"
            )
        lengths = {shape[0] for shape in shapes.values()}
        fixed = next((length for length in lengths if length is not None), None)
        if len(lengths - {None}) > 1 or (fixed is not None and size not in (None, fixed)):
            raise LoadError(f"The model takes {shapes} tokens. Received: `sizes` {size}", "sizes")
        self.length = fixed if fixed is not None else size
        refs = [ref for name, ref in zip(self.names, graph.inputs, strict=True) if self.roles[name] == "ids"]
        readers = [step for ref in refs for step in graph.consumers().get(ref, [])]
        sizes = [step.op.input_dim for step in readers if isinstance(step.op, keras.layers.Embedding)]
        self.vocabulary = min(sizes, default=None)

    def fit(self, encoded: Encoded) -> Fitted:
        """A text cut or padded to the length; of one that is cut, special tokens at its end stay there.

        Raises:
            TextError: an id that the model's Embedding does not have; the model has several inputs of ids, which the
                tokenizer does not tell apart.
        """
        wrong = [i for i in encoded.ids if i < 0 or (self.vocabulary is not None and i >= self.vocabulary)]
        if wrong:
            raise TextError(
                f"token {wrong[0]} is not one of the model's, 0 to {(self.vocabulary or 0) - 1}: is the tokenizer "
                "another model's?"
            )
        if len(self.ids) > 1 and not set(self.ids) <= set(encoded.inputs):
            raise TextError(
                f"the model takes ids in {', '.join(self.ids)}. Expected a tokenizer that gives a dict with these. "
                "Remedy: a function of your own"
            )
        count = len(encoded.ids)
        length = self.length or count
        kept = self._kept(encoded, length)
        values = dict.fromkeys(self.ids, encoded.ids) | dict(encoded.inputs)
        row = []
        for name, ref in zip(self.names, self.graph.inputs, strict=True):
            given = values.get(name)
            made = self._default(name, len(kept)) if given is None else np.asarray(_take(given, kept, count))
            padded = np.full(length, self.pad[0] if self.roles[name] == "ids" else 0)
            made = made[:length]
            padded[: len(made)] = made
            if self.roles[name] == "positions":
                padded = np.arange(length)
            row.append(padded.astype(ref.dtype))
        tokens = [encoded.tokens[i] for i in kept] + [self.pad[1]] * (length - len(kept))
        return Fitted(row, tokens, len(kept), count - len(kept))

    def _kept(self, encoded: Encoded, length: int) -> list[int]:
        count = len(encoded.ids)
        if count <= length:
            return list(range(count))
        ends = 0
        while ends < min(count, length - 1) and is_special(encoded.tokens[count - 1 - ends]):
            ends += 1
        return [*range(length - ends), *range(count - ends, count)]

    def _default(self, name: str, count: int) -> np.ndarray:
        return np.ones(count) if self.roles[name] == "mask" else np.zeros(count)

    def batch(self, rows: Sequence[Fitted]) -> Any:
        """The model's input, in its structure."""
        arrays = [np.stack(values) for values in zip(*(fitted.row for fitted in rows), strict=True)]
        return tree.pack_sequence_as(self.graph.input_structure, arrays)

    def of_ids(self, relevance: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Relevance in the structure of the model's inputs -> that of its token ids, and that of its other inputs.

        Raises:
            LoadError: none arrives at token ids.
        """
        leaves = [relevance] if isinstance(self.graph.input_structure, Ref) else tree.flatten(relevance)
        found = {name: np.asarray(r, np.float64) for name, r in zip(self.names, leaves, strict=True) if r is not None}
        of_ids = [found.pop(name) for name in self.ids if name in found]
        if not of_ids:
            raise LoadError(
                f"No relevance reaches the token ids ({', '.join(self.ids)}). Expected ids that an Embedding looks up"
            )
        return np.sum(of_ids, axis=0), found


def _take(values: Sequence, kept: list[int], count: int) -> list:
    """Those of the kept tokens; another input of ids may have a length of its own."""
    return [values[i] for i in kept] if len(values) == count else list(values)


def _names(graph: Graph) -> list[str]:
    """Names of the inputs: keys of a dict, or what Keras calls them."""
    if isinstance(graph.input_structure, dict):
        return [str(keys[-1]) for keys, _ in tree.flatten_with_path(graph.input_structure)]
    return list(graph.input_names)
