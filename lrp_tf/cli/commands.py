"""What the commands of `lrp-tf` do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from lrp_tf import composites, heatmap
from lrp_tf.arrays.form import array_form
from lrp_tf.arrays.run import ArrayGallery
from lrp_tf.arrays.stream import ArrayStream
from lrp_tf.cli import given, tables, volumes
from lrp_tf.cli.messages import message_of, with_options
from lrp_tf.cli.options import Written
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.engine import targets
from lrp_tf.engine.diagnosis import ADVICE, RelevanceWarning
from lrp_tf.explainer import Explainer
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.gallery import ledger
from lrp_tf.gallery.run import Gallery, Outcome
from lrp_tf.heatmap.look import Look
from lrp_tf.serving import saved_model
from lrp_tf.tables.run import TableGallery
from lrp_tf.terminal import printable, say

SOME_FAILED = 1
_EACH = 25  # With at most this many images, each gets a line on the console.


def explain_command(options: argparse.Namespace) -> int:
    """Explain images with a saved model."""
    model = given.load_model(options)
    if given.takes_arrays(model, options.images or options.target):
        return explain_arrays(model, options)
    preprocessing = given.preprocessing_of(options, model)
    return explain_images(model, options, preprocessing, given.classes_of(options), given.identity_of(options.model))


def summary_command(options: argparse.Namespace) -> int:
    """Print the layers of a model and their rules."""
    model = given.load_model(options)
    bounds = {"low": 0.0, "high": 1.0} if given.needs_bounds(options) else {}  # any: the table does not show them
    given.explainer_of(model, options, bounds).summary(say)
    return 0


def report_command(options: argparse.Namespace) -> int:
    """Print what each layer received, passed on and absorbed for one image."""
    explainer, x = _fed(options)
    classes = given.classes_of(options)
    chosen = given.chosen_targets(options, explainer, classes)
    contrast = given.chosen_contrast(options, explainer, classes, chosen)
    explainer.report(x, targets.for_all(chosen, explainer.graph, batch=1), contrast=contrast, print_fn=say)
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Check that explanations of a model hold."""
    explainer, x = _fed(options)
    return 0 if explainer.check(x, print_fn=say) else SOME_FAILED


def _fed(options: argparse.Namespace) -> tuple[Explainer, np.ndarray]:
    """The explainer of a command that takes one image, and that image as fed to the model, [1, ...]."""
    model = given.load_model(options)
    if given.takes_arrays(model, [options.image]):
        return _fed_array(model, options)
    preprocessing = given.preprocessing_of(options, model)
    explainer = given.explainer_of(model, options, given.bounds_of(options, model, preprocessing))
    form = form_of(explainer, options.size)
    try:
        image = images.read(options.image, options.max_pixels)
    except images.ImageError as error:
        raise LoadError(f"{options.image}: {error}", error.options) from error
    pixels = images.Fit(form.height, form.width, options.resize).apply(image)
    x = preprocessing(form.arrange(pixels)[None])
    say(f"fed to the model: {x.min():.4g} to {x.max():.4g} (--preprocess {preprocessing.name})")
    return explainer, form.order(x)


def _fed_array(model: keras.Model, options: argparse.Namespace) -> tuple[Explainer, np.ndarray]:
    """The same for an array, or a row of a table."""
    if tables.takes_tables(model, [tables.split_row(options.image)[0]]):
        return tables.fed_row(model, options)
    tables.refuse_table_options(options)
    given.check_array_options(options)
    preprocessing = given.array_preprocessing(options)
    explainer = given.explainer_of(model, options, {})
    stream = ArrayStream(array_form(explainer.graph), preprocessing, 1, message_of)
    for x, _ in stream.batches([options.image]):
        say(f"fed to the model: {x.min():.4g} to {x.max():.4g} (--preprocess {preprocessing.name})")
        return explainer, x
    ((_, reason),) = stream.failures()
    raise LoadError(f"{options.image}: {reason}")


def export_command(options: argparse.Namespace) -> int:
    """Write a SavedModel that explains what it predicts."""
    model = given.load_model(options)
    known = options.preprocess is not None or given.needs_bounds(options)
    preprocessing = given.preprocessing_of(options, model) if known else None
    bounds = given.bounds_of(options, model, preprocessing) if preprocessing else {}
    explainer, classes = given.explainer_of(model, options, bounds), given.classes_of(options)
    exported = saved_model.export(
        explainer,
        options.out,
        contrast=given.chosen_contrast(options, explainer, classes),
        preprocess=preprocessing,
        classes=classes,
        size=options.size,
        resize=options.resize,
        max_pixels=options.max_pixels,
        top_k=options.top_k,
        cmap=options.cmap or heatmap.RELEVANCE_CMAP,
        gamma=options.color_gamma,
        reduce=options.reduce,
        scale=options.scale,
        warmup=not options.no_warmup,
        print_fn=lambda line: say(with_options(line, ("preprocess", "size"))),
    )
    for name, (inputs, outputs) in exported.signatures.items():
        say(printable(f"{name}: {', '.join(inputs)} -> {', '.join(outputs)}"))
    say(f"Exported to {exported.path}")
    return 0


def composites_command(options: argparse.Namespace) -> int:
    """Print the presets as text."""
    given.import_modules(options)
    for name in composites.PRESETS:
        say(name)
        try:
            bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}
            entries = composites.get(name, **bounds).entries
        except (TypeError, ValueError) as error:  # a user's preset that requires options
            say(printable(f"    {error}"))
            continue
        for entry in entries:
            say(printable(f"    {composites.Composite([entry])}"))
    return 0


def explain_images(
    model: keras.Model,
    options: argparse.Namespace,
    preprocessing: loading.Preprocessing,
    classes: loading.Classes,
    identity: object,
) -> int:
    """Explain the images of the command line; returns the exit code.

    Args:
        identity: distinguishes the model from others, for `--resume`.
    """
    tables.refuse_table_options(options)
    files = given.files_of(options)
    explainer = given.explainer_of(model, options, given.bounds_of(options, model, preprocessing))
    more = {"size": options.size, "how": options.resize, "max_pixels": options.max_pixels}
    return _explain(Gallery, explainer, options, files, preprocessing, classes, identity, "image", more)


def explain_arrays(model: keras.Model, options: argparse.Namespace) -> int:
    """Explain the arrays of the command line: signals, videos, or tables; returns the exit code."""
    files, preprocessing = given.files_of(options, arrays=True), given.array_preprocessing(options)
    if tables.takes_tables(model, [path for path, _ in files]):
        return explain_tables(model, options, files)
    tables.refuse_table_options(options)
    slicing = volumes.slicing_of(options, files)
    given.check_array_options(options, volumes=slicing is not None)
    explainer, classes = given.explainer_of(model, options, {}), given.classes_of(options)
    identity = given.identity_of(options.model)
    return _explain(
        ArrayGallery, explainer, options, files, preprocessing, classes, identity, "array", {"slicing": slicing}
    )


def explain_tables(model: keras.Model, options: argparse.Namespace, files: list[tuple[str, str]]) -> int:
    """Explain every row of the tables in `files`; returns the exit code."""
    tables.check_table_options(options)
    preprocessing, explainer = given.array_preprocessing(options), given.explainer_of(model, options, {})
    classes, identity = given.classes_of(options), given.identity_of(options.model)
    rows, more = tables.tables_of(options, explainer, files)
    options = tables.with_batch(options)
    return _explain(TableGallery, explainer, options, rows, preprocessing, classes, identity, "row", more)


def _explain(
    kind: type[Gallery],
    explainer: Explainer,
    options: argparse.Namespace,
    files: list[tuple[str, str]],
    preprocessing: loading.Preprocessing,
    classes: loading.Classes,
    identity: object,
    unit: str,
    more: Mapping[str, Any],
) -> int:
    """Explain files of one kind.

    Args:
        unit: what one is called.
        more: attributes of that kind of gallery.
    """
    look = given.look_of(options)
    chosen = given.chosen_targets(options, explainer, classes)
    contrast = given.chosen_contrast(options, explainer, classes, chosen)
    job = kind(
        explainer=explainer,
        preprocessing=preprocessing,
        out=options.out,
        classes=classes,
        targets=tuple(chosen),
        contrast=contrast,
        batch=options.batch,
        look=look,
        save_relevance=options.save_relevance,
        layers=tuple(options.layers),
        save_layers=options.save_layers,
        settings=_settings(options, explainer, identity, preprocessing, chosen, look) | {"contrast": contrast},
        describe=message_of,
        **more,
    )
    say(f"{printable(explainer.model.name)}, composite {explainer.composite.name}, {len(files)} {unit}(s)")
    if not classes.names:
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    if look.scale == "run":
        say("--scale run: all relevance is computed twice, first for the scale, then for the pictures.")
    began = time.perf_counter()
    outcome = _run(job, files, options, f"{unit}s")
    _tell(outcome, time.perf_counter() - began, options.out, preprocessing, f"{unit}s")
    return SOME_FAILED if outcome.failed or outcome.absurd else 0


def _settings(
    options: argparse.Namespace,
    explainer: Explainer,
    identity: object,
    preprocessing: loading.Preprocessing,
    chosen: list[str | int],
    look: Look,
) -> dict[str, object]:
    """What has to be the same when a run is resumed."""
    kept: tuple[str, ...] = ("zero_bias", "relevance_filter", "fast", "output", "resize", "size", "save_relevance")
    kept += ("axis", "slices", "spacing", "columns", "drop", "id")
    return {name: getattr(options, name, None) for name in kept} | {
        # None where they are not given: a run of an earlier version, which did not know them, can be resumed.
        "layers": options.layers or None,
        "save_layers": options.save_layers or None,
        "composite": str(explainer.composite if isinstance(options.composite, Written) else options.composite),
        "model": identity,
        "preprocess": preprocessing.name,
        "target": chosen,
        "look": dataclasses.asdict(look),
    }


def _run(job: Gallery, files: list[tuple[str, str]], options: argparse.Namespace, unit: str) -> Outcome:
    """Run the job with a progress bar."""
    passes = 2 if job.look.scale == "run" else 1
    with ProgressBar(passes * len(files), unit, job.at) as bar, warnings.catch_warnings(), _single_threaded_opencv():
        warnings.simplefilter("ignore", RelevanceWarning)  # the bar shows one for each map
        return job.run(
            files,
            resume=options.resume,
            overwrite=options.overwrite,
            progress=bar.advance,
            tell=bar.tell_failure,
            finished=bar.tell_result if len(files) <= _EACH else lambda rows: None,
            warn=bar.tell_absurd,
        )


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Pictures are drawn beside one another already; more threads would take the cores from the network."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _tell(outcome: Outcome, seconds: float, out: Path, preprocessing: loading.Preprocessing, unit: str) -> None:
    """Say what became of the files."""
    say(
        f"{outcome.done} explained in {seconds:.1f} s ({outcome.done / seconds:.2f} {unit}/s), "
        f"{outcome.failed} failed, {outcome.skipped} finished before. Results in {out}"
    )
    if outcome.scale is not None:
        say(f"Full colour in every picture: |R| = {outcome.scale:.4g} ({out / ledger.SCALE})")
    if outcome.done:
        say(f"Fed to the model: {outcome.low:.4g} to {outcome.high:.4g} (--preprocess {preprocessing.name})")
    if outcome.failed:
        say(f"The failures and their reasons are in {out / ledger.FAILURES}", error=True)
    if outcome.absurd:
        say(f'{outcome.absurd} map(s) are absurd, see the column "warning". {ADVICE}', error=True)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "explain": explain_command,
    "summary": summary_command,
    "report": report_command,
    "check": check_command,
    "export": export_command,
    "composites": composites_command,
}
