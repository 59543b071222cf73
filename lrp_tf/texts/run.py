"""A list of texts -> pages of their relevance, with a table of results, one of failures, and an index.

Every page appears whole or not at all, and its row in `results.csv` only after it, so that a run that was killed can be
resumed; the files are those of `lrp_tf.gallery`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import Colormap

from lrp_tf.explainer import Explainer
from lrp_tf.files.loading import Classes
from lrp_tf.gallery import ledger
from lrp_tf.gallery.draw import save_array
from lrp_tf.gallery.ledger import COLUMNS, Item, Record, Row
from lrp_tf.heatmap.colours import Scale, Show
from lrp_tf.heatmap.text import Page, text
from lrp_tf.heatmap.words import is_padding
from lrp_tf.terminal import printable
from lrp_tf.texts.explain import ExplainedText, ExplainingTexts, FailedText, gives_tokens
from lrp_tf.texts.form import TextForm
from lrp_tf.texts.index import write_index
from lrp_tf.texts.tokenizers import Tokenizer

_NAME = COLUMNS.index("target_name")
_LONGEST = 8000  # characters of a text in a table


@dataclasses.dataclass(frozen=True)
class TextGallery:
    """What is done with each text of a list.

        lrp_tf.texts.TextGallery(explainer, tokenizer, Path("out")).run([("a film", "text-1")])

    Attributes:
        explainer: of a model of token ids, with classes as output, or tokens at positions.
        tokenizer: makes the ids.
        out: folder of the results.
        classes: their names; of a language model the tokenizer knows them.
        targets: what is explained of every text: ("top1",), ("topK:3",), (0, 1), tokens of a language model.
        contrast: what they are set against, as for the Explainer: "softmax", "mean", a class or token.
        position: of a language model's output; negative: from the end of the text.
        size: tokens of each text, for a model that leaves it open: shorter ones are padded, longer ones cut. None: each
            text has its own length, and is explained alone.
        pad: the id of padding; None: the tokenizer's.
        batch: texts that the model gets at once.
        scale, cmap, gamma, show: see `heatmap.text`; "page" is the largest of a text's targets.
        picture: write a picture (.png) beside every page.
        save_relevance: `.npy` files too: float64 [T], [k, T] for k targets, padding included.
        settings: have to be the same when a run is resumed; written to `settings.json`.
        describe: an error as the reason of a failure.

    Raises:
        LoadError, ValueError, TypeError: see `TextForm`, `ExplainingTexts` and `heatmap.text`.
    """

    explainer: Explainer
    tokenizer: Tokenizer
    out: Path
    classes: Classes = Classes()
    targets: tuple[str | int, ...] = ("top1",)
    contrast: str | int | None = None
    position: int = -1
    size: int | None = None
    pad: int | None = None
    batch: int = 8
    scale: Scale = None
    cmap: str | Colormap | None = None
    gamma: float = 1.0
    show: Show = "signed"
    picture: bool = False
    save_relevance: bool = False
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    describe: Callable[[Exception], str] = str

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        self._page([["a"]], [np.zeros(1)], [{}])  # raises what is wrong with the colours
        self.explaining()

    def explaining(self) -> ExplainingTexts:
        """What explains the texts, without writing anything."""
        graph, tokenizer = self.explainer.graph, self.tokenizer
        pad = tokenizer.pad if self.pad is None else self.pad
        form = TextForm(graph, self.size, (pad, _name_of_padding(tokenizer, pad)))
        name = tokenizer.token if gives_tokens(graph) else self.classes.name
        return ExplainingTexts(
            self.explainer,
            tokenizer,
            form,
            self.targets,
            name=name,
            contrast=self.contrast,
            position=self.position,
            batch=self.batch,
            describe=self.describe,
        )

    def run(
        self,
        texts: Iterable[tuple[str, str]],
        *,
        resume: bool = False,
        overwrite: bool = False,
        kept: Iterable[str] = (),
        progress: Callable[[int], object] = lambda done: None,
        tell: Callable[[str], object] = lambda line: None,
        finished: Callable[[list[Row]], object] = lambda rows: None,
        warn: Callable[[str], object] = lambda line: None,
    ) -> TextOutcome:
        """Explain `texts`, pairs of a text and what its results are named after. A text that comes twice is one.

        Args:
            kept: files that no result may replace, such as the list of texts.
            resume, overwrite, progress, tell, finished, warn: see `Gallery.run`.

        Raises:
            LoadError: settings other than those of the run to resume; results of an earlier run, and neither `resume`
                nor `overwrite`; another run is writing into `out`.
            OSError: the folder cannot be written, or the disk is full.
        """
        named: dict[str, tuple[str, str]] = {}
        for one, name in texts:
            named.setdefault(_cell(one), (one, name))
        suffixes = [".html", *([".png"] if self.picture else []), *([".npy"] if self.save_relevance else [])]
        with ledger.only_run(self.out):
            files = [(cell, name) for cell, (_, name) in named.items()]
            plan = ledger.plan(
                self.out, files, suffixes, self.settings, resume=resume, overwrite=overwrite, kept=kept
            )  # fmt: skip
            progress(plan.skipped)
            outcome, explaining = TextOutcome(0, 0, plan.skipped), self.explaining()
            with Record(self.out, append=resume) as record:
                for found in explaining([named[item.path][0] for item in plan.items]):
                    outcome = self._settle(record, plan.items[found.number], found, outcome, tell, finished, warn)
                    progress(1)
            write_index(self.out, explaining.name)
        return outcome

    def _settle(
        self,
        record: Record,
        item: Item,
        found: ExplainedText | FailedText,
        outcome: TextOutcome,
        tell: Callable[[str], object],
        finished: Callable[[list[Row]], object],
        warn: Callable[[str], object],
    ) -> TextOutcome:
        """Write the files of one text, then its rows."""
        reason = found.reason if isinstance(found, FailedText) else ""
        if isinstance(found, ExplainedText):
            try:
                self._write(item, found)
            except (OSError, ValueError) as error:
                reason = ledger.why_unwritten(error, self.describe)
        if reason or isinstance(found, FailedText):
            record.fail(item.path, reason)
            tell(f"{excerpt(item.path)}: {reason}")
            return outcome._replace(failed=outcome.failed + 1)
        rows = [(item.path, item.base, *row) for row in found.rows]
        record.add(rows)
        finished(rows)
        absurd = [(row[_NAME], why) for row, why in zip(rows, found.absurd, strict=True) if why]
        for name, why in absurd:
            warn(f"{excerpt(item.path)}, {printable(name)}: {why}")
        if cut := found.fitted.cut:
            warn(f"{excerpt(item.path)}: cut, {cut} of {found.fitted.used + cut} tokens left out")
        return outcome._replace(
            done=outcome.done + 1, absurd=outcome.absurd + len(absurd), cut=outcome.cut + bool(found.fitted.cut)
        )

    def _write(self, item: Item, found: ExplainedText) -> None:
        base = self.out / item.base
        base.parent.mkdir(parents=True, exist_ok=True)
        if self.save_relevance:
            save_array(base, found.relevance)
        page = self._page([found.fitted.tokens] * len(found.rows), list(found.relevance), found.facts)
        if self.picture:
            page.save(f"{base}.png")
        page.save(f"{base}.html")

    def _page(self, tokens: list[list[str]], relevance: list[np.ndarray], facts: list[dict[str, object]]) -> Page:
        """A page with a text for each target."""
        told = {name: [one.get(name) or "" for one in facts] for name in ("prediction", "target", "contrast", "note")}
        return text(
            tokens,
            relevance,
            **told,  # type: ignore[arg-type]
            score=[one.get("score") for one in facts],
            markers=self.tokenizer.markers,
            scale=self.scale,
            cmap=self.cmap,
            gamma=self.gamma,
            show=self.show,
        )


class TextOutcome(NamedTuple):
    """What became of the texts.

    Attributes:
        done, failed: texts with and without a result.
        skipped: texts that an earlier run finished.
        cut: texts that were longer than the model's input.
        absurd: maps that are not to be trusted, see `lrp_tf.RelevanceWarning`.
    """

    done: int
    failed: int
    skipped: int
    cut: int = 0
    absurd: int = 0


def _cell(text: str) -> str:
    """What the tables call a text: itself, or its beginning with a digest, since spreadsheets end at 32,767 characters.

    Python's csv, which reads the table of a run to resume, ends at 131,072.
    """
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{text[:_LONGEST]}… ({len(text)} characters, {digest})"


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text, for the terminal."""
    return printable(ascii(text[:length])[1:-1] if not text.isprintable() else text[:length]) + "…" * (
        len(text) > length
    )


def _name_of_padding(tokenizer: Tokenizer, pad: int) -> str:
    """What padding is called: the usual name where the tokenizer's is that of another token, or empty."""
    name = tokenizer.token(pad)
    return name if name and is_padding(name) else "[PAD]"
