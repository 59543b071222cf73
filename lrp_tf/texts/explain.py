"""Texts -> the explanation of each for table and page, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lrp_tf.core.graph import Graph
from lrp_tf.engine import contrast as contrasts
from lrp_tf.engine import targets
from lrp_tf.engine.check import CheckError
from lrp_tf.engine.contrast import SameClassError
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.draw import where_it_went
from lrp_tf.gallery.ledger import COLUMNS, Row
from lrp_tf.gallery.numbers import Numbers
from lrp_tf.heatmap.text import signed
from lrp_tf.texts.form import Fitted, TextForm
from lrp_tf.texts.tokenizers import Encoded, TextError, Tokenizer

_WARNING = COLUMNS.index("warning") - 2


class ExplainedText(NamedTuple):
    """What is known of one text.

    Attributes:
        number: its index in the list.
        fitted: its tokens.
        relevance: of each target, float64 [k, T], padding included.
        rows: for each target the cells of `results.csv` from "top1" on.
        facts: for each target what `heatmap.text` writes above and below.
        absurd: what is absurd about the map of each target, or "".
    """

    number: int
    fitted: Fitted
    relevance: np.ndarray
    rows: list[Row]
    facts: list[dict[str, object]]
    absurd: list[str]


class FailedText(NamedTuple):
    """A text without explanation: its index in the list, and the reason."""

    number: int
    reason: str


class ExplainingTexts:
    """Explains texts in batches.

    Args:
        wanted: targets of every text: classes, or tokens of a language model; "top1", "topK:3".
        name: the name of a class, or the token of an id.
        contrast: what the targets are set against, as for the Explainer.
        position: of the output of a language model, [T, V]; negative: from the end of the text.
        batch: texts that the model gets at once, if all have one length.

    Attributes:
        count: number of targets of a text.

    Raises:
        LoadError: an output that is neither of classes nor of tokens at positions.
        TypeError, ValueError: a target or contrast that the model does not have.
    """

    def __init__(
        self,
        explainer: Explainer,
        tokenizer: Tokenizer,
        form: TextForm,
        wanted: Sequence[str | int] = ("top1",),
        *,
        name: Callable[[int], str] = str,
        contrast: str | int | None = None,
        position: int = -1,
        batch: int = 8,
        describe: Callable[[Exception], str] = str,
    ) -> None:
        self.explainer, self.tokenizer, self.form, self.wanted = explainer, tokenizer, form, tuple(wanted)
        self.name, self.contrast, self.position, self.batch = name, contrast, position, batch
        self.describe = describe
        self.of_positions = gives_tokens(explainer.graph)
        contrasts.checked(explainer.graph, contrast, tf.zeros([1]))
        self.codes = codes_of(self.wanted, explainer.graph)
        self.count = len(self.codes)

    def __call__(self, texts: Sequence[str]) -> Iterator[ExplainedText | FailedText]:
        """Every text once, in their order but for those that fail."""
        waiting: list[tuple[int, Fitted]] = []
        full = self.batch if self.form.length is not None else 1
        for number, text in enumerate(texts):
            try:
                waiting.append((number, self._fitted(text)))
            except TextError as error:
                yield FailedText(number, self.describe(error))
            if len(waiting) == full:
                yield from self._explained(waiting)
                waiting = []
        if waiting:
            yield from self._explained(waiting)

    def _fitted(self, text: str) -> Fitted:
        encoded: Encoded = self.tokenizer(text)
        fitted = self.form.fit(encoded)
        if self.of_positions and not -fitted.used <= self.position < fitted.used:
            raise TextError(f"position {self.position} lies outside of its {fitted.used} tokens")
        return fitted

    def _explained(self, waiting: list[tuple[int, Fitted]]) -> Iterator[ExplainedText | FailedText]:
        """A batch; where it fails, each of its texts alone, so that a bad one costs no other."""
        try:
            yield from self._batch(waiting)
        except (CheckError, LoadError):
            raise
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            if len(waiting) > 1:
                for one in waiting:
                    yield from self._explained([one])
                return
            yield FailedText(waiting[0][0], self._reason(error))

    def _reason(self, error: Exception) -> str:
        if isinstance(error, SameClassError) and isinstance(self.contrast, int):
            name = self.name(self.contrast)
            return f"it is seen as {name!r}, and so nothing speaks for it rather than {name!r}"
        return self.describe(error)

    def _batch(self, waiting: list[tuple[int, Fitted]]) -> list[ExplainedText]:
        fitted = [one for _, one in waiting]
        x = self.form.batch(fitted)
        if self.of_positions:
            places = np.array([[self.position % one.used] for one in fitted])
            found = [
                self.explainer.explain(x, np.concatenate([places, tokens[:, None]], 1), contrast=self.contrast)
                for tokens in self._tokens(x, places)
            ]
            numbers = [Numbers(one, self._stripped, places) for one in found]
            parts = [self.form.of_ids(one.relevance) for one in found]
            relevance = np.stack([of_ids for of_ids, _ in parts], axis=1)
            others = {name: np.stack([other[name] for _, other in parts], axis=1) for name in parts[0][1]}
        else:
            chosen = targets.for_all(self.wanted, self.explainer.graph, len(waiting))
            explanation = self.explainer.explain(x, chosen, contrast=self.contrast)
            numbers = [Numbers(explanation, self._stripped)]
            relevance, others = self.form.of_ids(explanation.relevance)
            if self.count == 1:
                relevance, others = relevance[:, None], {name: r[:, None] for name, r in others.items()}
        return [
            self._one(index, one, numbers, row, relevance[row], {name: r[row] for name, r in others.items()})
            for row, (index, one) in enumerate(waiting)
        ]

    @property
    def _stripped(self) -> bool:
        return bool(self.explainer.graph.stripped)

    def _tokens(self, x: Any, places: np.ndarray) -> list[np.ndarray]:
        """The tokens to explain: for each target int [B]."""
        size = len(places)
        if all(code >= 0 for code in self.codes):
            return [np.full(size, code) for code in self.codes]
        inputs = targets.inputs(self.explainer.graph, x)
        clone = self.explainer.clone
        logits = np.asarray(clone.output(clone.forward(inputs)))[np.arange(size), places[:, 0]]
        order = np.argsort(-logits, axis=-1, kind="stable")
        return [np.full(size, code) if code >= 0 else order[:, -code - 1] for code in self.codes]

    def _one(
        self,
        index: int,
        fitted: Fitted,
        numbers: list[Numbers],
        row: int,
        relevance: np.ndarray,
        others: dict[str, np.ndarray],
    ) -> ExplainedText:
        """One text of a batch; `others`: relevance of the inputs beside the ids, [k, T]."""
        rows, facts, absurd = [], [], []
        left_out = f"cut: {fitted.cut} of {fitted.used + fitted.cut} tokens left out" if fitted.cut else ""
        for k in range(self.count):
            one, column = (numbers[k], 0) if self.of_positions else (numbers[0], k)
            largest = float(np.abs(relevance[k]).max())
            cells = list(one.cells(row, column, self.name, largest, "" if self.contrast is None else self.contrast))
            absurd.append(str(cells[_WARNING]))
            cells[_WARNING] = "; ".join(filter(None, (absurd[-1], left_out)))
            rows.append(tuple(cells))
            place = f"output at token {self.position % fitted.used + 1} of {fitted.used}" if self.of_positions else ""
            elsewhere = [f"relevance at {name}: {signed(float(r[k].sum()))}" for name, r in others.items()]
            told = self._facts(one, row, column, "the inputs" if others else "the tokens")
            told["note"] = "; ".join(filter(None, (place, left_out, *elsewhere, told["note"])))
            facts.append(told)
        return ExplainedText(index, fitted, relevance, rows, facts, absurd)

    def _facts(self, numbers: Numbers, row: int, column: int, at: str) -> dict[str, Any]:
        """What `heatmap.text` writes above and below; `at`: where relevance arrives, in words."""
        target, top = numbers.targets(row)[column], numbers.best(row)[0]
        likely = lambda index: f" (p = {p})" if (p := numbers.chance(row, index, ".3g")) else ""  # noqa: E731
        shares, absurd = map(float, numbers.shares[:5, row, column]), numbers.warning(row, column)
        score = signed(float(numbers.logits[row, target]))
        if self.contrast is not None:
            score = f"{score}, the difference {signed(float(numbers.shares[0, row, column]))}"
        against = {"softmax": "the others (softmax)", "mean": "the others (mean)", None: None}
        return {
            "prediction": f"{self._label(top)}{likely(top)}",
            "target": f"{self._label(target)}{likely(target)}",
            "score": score,
            "contrast": self._label(self.contrast) if isinstance(self.contrast, int) else against[self.contrast],
            "note": f"ABSURD: {absurd}" if absurd else where_it_went(*shares, at=at),
        }

    def _label(self, index: int) -> str:
        name = self.name(index)
        return f"class {index}" if name == str(index) and not self.of_positions else name


def gives_tokens(graph: Graph) -> bool:
    """Whether the output is one of classes at positions, [T, V], as a language model's.

    Raises:
        LoadError: it is neither that nor of classes.
    """
    shape = graph.outputs[0].shape
    if len(shape) > 2:
        raise LoadError(f"Expected a model with classes as output, or tokens at positions [T, V]. Received: {shape}")
    return len(shape) == 2


def codes_of(wanted: Sequence[str | int], graph: Graph) -> list[int]:
    """Classes or tokens, and ranks as negative numbers, as `targets.ranked` has them, for language models too.

    Raises:
        TypeError, ValueError: see `targets.ranked`.
    """
    return targets.ranked(wanted, last_axis(graph))


def last_axis(graph: Graph) -> Graph:
    """The graph with an output of the classes alone, at whatever position."""
    if not gives_tokens(graph):
        return graph
    found = graph.copy()
    (found.outputs[0],) = [type(ref)(ref.shape[-1:], ref.dtype) for ref in graph.outputs[:1]]
    return found
