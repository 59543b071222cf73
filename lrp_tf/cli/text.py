"""`lrp-tf explain-text`: pages of the relevance of texts."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from lrp_tf.cli import given
from lrp_tf.cli.composite_option import NamedPreset, Written
from lrp_tf.cli.messages import message_of
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.core.graph import Graph
from lrp_tf.core.loop import Loop
from lrp_tf.engine.contrast import KINDS
from lrp_tf.engine.diagnosis import ADVICE, RelevanceWarning
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Classes
from lrp_tf.gallery import ledger
from lrp_tf.gallery.draw import where_it_went
from lrp_tf.gallery.ledger import COLUMNS, Row
from lrp_tf.recipe import identity_of
from lrp_tf.terminal import printable, say
from lrp_tf.texts.explain import gives_tokens, last_axis
from lrp_tf.texts.index import INDEX
from lrp_tf.texts.run import TextGallery, TextOutcome, excerpt
from lrp_tf.texts.tokenizers import Tokenizer, get_tokenizer, settings_of
from lrp_tf.texts.vectorization import split_vectorization, takes_texts

SOME_FAILED = 1
_EACH = 25  # With at most this many texts, each gets a line on the console.


def explain_text_command(options: argparse.Namespace) -> int:
    """Explain texts with a saved model."""
    options.target = options.target or ["top1"]
    texts: dict[str, str] = {}
    for text, name in texts_of(options):
        texts.setdefault(text, name)
    model = given.load_model(options)
    tokenizer, model = _tokenizer(options, model)
    explainer = _explainer(options, model)
    classes, graph = given.classes_of(options), explainer.graph
    chosen = [_class(text, graph, classes, tokenizer) for text in options.target]
    contrast = _contrast(options.contrast, graph, classes, tokenizer)
    if contrast in chosen:
        raise LoadError(f"--contrast {options.contrast} is a target itself. Expected another one than --target")
    job = TextGallery(
        explainer=explainer,
        tokenizer=tokenizer,
        out=options.out,
        classes=classes,
        targets=tuple(chosen),
        contrast=contrast,
        position=options.position,
        size=options.sizes,
        pad=options.pad,
        batch=options.batch,
        scale=options.scale,
        cmap=options.cmap,
        gamma=options.color_gamma,
        show=options.show,
        picture=options.png,
        save_relevance=options.save_relevance,
        settings=_settings(options, str(explainer.composite), tokenizer, chosen, contrast),
        describe=message_of,
    )
    say(f"{printable(model.name)}, composite {explainer.composite.name}, {len(texts)} text(s)")
    if not classes.names and not gives_tokens(graph):
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    began = time.perf_counter()
    outcome = _run(job, texts, options)
    _tell(outcome, time.perf_counter() - began, options.out)
    return SOME_FAILED if outcome.failed or outcome.absurd else 0


# --- what the options ask for ------------------------------------------------------------------


def texts_of(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The texts, and what the results of each are named after.

    Raises:
        LoadError: none, or a file that cannot be read or holds none.
    """
    number = 0
    sources = [*options.texts, *(f"@{path}" for path in options.files)]
    for source in sources:
        if source == "-":
            yield from _lines(sys.stdin.buffer.read(), "standard input", "stdin")
        elif source.startswith("@"):
            path = Path(source[1:])
            try:
                content = path.read_bytes()
            except OSError as error:
                raise LoadError(
                    f"{source[1:]!r}: the file of texts cannot be read: {error.strerror or error}. Expected a text on "
                    "each line. Remedy: a text that itself begins with @ goes into a file, or through - "
                ) from error
            yield from _lines(content, repr(source[1:]), path.stem)
        else:
            number += 1
            yield source, f"text-{number}.txt"
    if not sources:
        raise LoadError("expected TEXT: a text, @file, - or --file")


def _lines(content: bytes, source: str, stem: str) -> Iterator[tuple[str, str]]:
    """The lines that are not blank. One that is not UTF-8 fails later, alone."""
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
    found = [(i, line.removesuffix("\r")) for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise LoadError(f"{source} holds no text. Expected one on each line")
    digits = len(str(len(lines)))
    for i, line in found:
        yield line, f"{stem}-{i:0{digits}}.txt"


def _tokenizer(options: argparse.Namespace, model: keras.Model) -> tuple[Tokenizer, keras.Model]:
    """The tokenizer, and the model that takes its ids."""
    if options.tokenizer is not None:
        return get_tokenizer(options.tokenizer), model
    if takes_texts(model):
        return split_vectorization(model)
    raise LoadError(
        "--tokenizer is missing, and the model does not begin with TextVectorization. Expected the tokenizer that it "
        "was trained with: a Hugging Face tokenizer (.json), a vocabulary (.txt), a SentencePiece model (.model), "
        "or module:function"
    )


def _explainer(options: argparse.Namespace, model: keras.Model) -> Explainer:
    """The explainer, of a model whose open lengths are those of `--sizes`; writes the default into `options.composite`.

    attn_lrp shares half and half between a gate and its signal. From time step to time step of a recurrent layer these
    halves multiply, and relevance grows without bound, so that its gates are held (Arras et al. 2019).
    """
    if options.composite is not None:
        return _explainer_of(options, model)
    options.composite = NamedPreset("attn_lrp", {})
    explainer = _explainer_of(options, model)
    if any(isinstance(step.op, Loop) for step in explainer.graph.steps):
        options.composite = NamedPreset("cp_lrp", {})
        explainer = _explainer_of(options, model)
    return explainer


def _explainer_of(options: argparse.Namespace, model: keras.Model) -> Explainer:
    inputs = getattr(model, "inputs", None) or ()
    open_ones = [tensor.name for tensor in inputs if tuple(tensor.shape[1:]) == (None,)]
    sizes = dict.fromkeys(open_ones, (options.sizes,)) if options.sizes else {}
    try:
        return given.explainer_of(model, options, {}, sizes)
    except ValueError as error:
        if open_ones and not sizes and "sizes=" in str(error):
            raise LoadError(
                f"{error} On the command line: --sizes N, the tokens that texts are padded or cut to"
            ) from error
        raise


def _class(text: str, graph: Graph, classes: Classes, tokenizer: Tokenizer) -> str | int:
    """A target as the library takes it.

    Raises:
        LoadError: no class or token of the model.
    """
    if text.lower().startswith("topk:") or text.lower() == "top1":
        return text
    count = last_axis(graph).outputs[0].shape[-1] or np.iinfo(np.int32).max
    if not gives_tokens(graph):
        classes.check(None if count == np.iinfo(np.int32).max else max(count, 2))
        return classes.index(text, max(count, 2))
    found = int(text) if text.isdecimal() else tokenizer.find(text)
    if found >= count:
        raise LoadError(f"token {text!r} is {found}. Expected one below {count}, the size of the model's output")
    return found


def _contrast(text: str | None, graph: Graph, classes: Classes, tokenizer: Tokenizer) -> str | int | None:
    return text if text is None or text in KINDS else _class(text, graph, classes, tokenizer)


def _settings(
    options: argparse.Namespace, composite: str, tokenizer: Tokenizer, chosen: list[str | int], contrast: object
) -> dict[str, object]:
    """What has to be the same when a run is resumed."""
    kept = ["zero_bias", "relevance_filter", "fast", "output", "sizes", "pad", "position", "save_relevance", "png"]
    kept += ["scale", "cmap", "color_gamma", "show"]
    return {name: getattr(options, name, None) for name in kept} | {
        "composite": composite if isinstance(options.composite, Written) else str(options.composite),
        "model": identity_of(options.model),
        "tokenizer": settings_of(tokenizer),
        "target": chosen,
        "contrast": contrast,
    }


# --- the run -----------------------------------------------------------------------------------


def _run(job: TextGallery, texts: dict[str, str], options: argparse.Namespace) -> TextOutcome:
    """Run the job with a progress bar."""
    names = [*options.files, *(text[1:] for text in options.texts if text.startswith("@"))]
    with ProgressBar(len(texts), "texts") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)  # the bar shows one for each map
        return job.run(
            texts.items(),
            resume=options.resume,
            overwrite=options.overwrite,
            kept=[os.fspath(name) for name in names],
            progress=bar.advance,
            tell=bar.tell_failure,
            finished=_tell_result if len(texts) <= _EACH else lambda rows: None,
            warn=bar.tell_absurd,
        )


def _tell_result(rows: list[Row]) -> None:
    """Show a text, with a line for each target."""
    for row in rows:
        cells = dict(zip(COLUMNS, map(str, row), strict=True))
        likely = f" {float(chance):.3f}" if (chance := cells["top1_probability"]) else ""
        shares = (float(cells[name]) for name in ("start", "sum_of_relevance", "bias", "stabilizer", "other"))
        went = where_it_went(*shares, at="the inputs")
        say(
            f"{excerpt(cells['file'])}: {printable(cells['top1_name'])}{likely}; {printable(cells['target_name'])}: "
            f"logit {float(cells['logit']):.4g}; {went}"
        )


def _tell(outcome: TextOutcome, seconds: float, out: Path) -> None:
    """Say what became of the texts."""
    say(
        f"{outcome.done} explained in {seconds:.1f} s ({outcome.done / seconds:.2f} texts/s), {outcome.failed} failed, "
        f"{outcome.skipped} finished before. Results in {out}, see {out / INDEX}"
    )
    if outcome.cut:
        say(f'{outcome.cut} text(s) are longer than the model\'s input, and cut, see the column "warning"', error=True)
    if outcome.failed:
        say(f"The failures and their reasons are in {out / ledger.FAILURES}", error=True)
    if outcome.absurd:
        say(f'{outcome.absurd} map(s) are absurd, see the column "warning". {ADVICE}', error=True)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"explain-text": explain_text_command}
