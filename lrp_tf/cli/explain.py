"""`lrp-tf explain`: pictures and tables of images and arrays, for one composite or several, and a page over them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras

from lrp_tf.arrays.run import ArrayGallery
from lrp_tf.cli import given, several, tables, volumes
from lrp_tf.cli.composite_option import Written, composite, folders, name_of
from lrp_tf.cli.messages import message_of
from lrp_tf.cli.options import DEFAULT
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.engine.diagnosis import ADVICE, RelevanceWarning
from lrp_tf.explainer import Explainer
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.gallery.page.write import INDEX, write_page
from lrp_tf.gallery.run import Gallery, Outcome
from lrp_tf.heatmap.look import Look
from lrp_tf.tables.run import TableGallery
from lrp_tf.terminal import printable, say

SOME_FAILED = 1
BATCH = 8  # images or arrays at once
_EACH = 25  # With at most this many images, each gets a line on the console.


def explain_command(options: argparse.Namespace) -> int:
    """Explain images with a saved model."""
    model = given.load_model(options)
    if given.takes_arrays(model, options.images or options.target):
        return explain_arrays(model, options)
    preprocessing = given.preprocessing_of(options, model)
    return explain_images(model, options, preprocessing, given.classes_of(options), given.identity_of(options.model))


class _Task(NamedTuple):
    """What is explained, whatever the composite.

    Attributes:
        unit: what one file is called.
        batch: how many at once, without --batch.
        bounds: low and high of z^B, for options with `composite`.
        more: attributes of that kind of gallery.
    """

    kind: type[Gallery]
    model: keras.Model
    files: list[tuple[str, str]]
    preprocessing: loading.Preprocessing
    classes: loading.Classes
    identity: object
    unit: str
    batch: int
    bounds: Callable[[argparse.Namespace], dict[str, Any]]
    more: Mapping[str, Any]


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
    volumes.refuse_volume_options(options)
    more = {"size": options.size, "how": options.resize, "max_pixels": options.max_pixels}
    bounds = lambda one: given.bounds_of(one, model, preprocessing)  # noqa: E731
    files = given.files_of(options)
    return _explain(
        _Task(Gallery, model, files, preprocessing, classes, identity, "image", BATCH, bounds, more), options
    )  # fmt: skip


def explain_arrays(model: keras.Model, options: argparse.Namespace) -> int:
    """Explain the arrays of the command line: signals, videos, or tables; returns the exit code."""
    files, preprocessing = given.files_of(options, arrays=True), given.array_preprocessing(options)
    if tables.takes_tables(model, [path for path, _ in files]):
        return explain_tables(model, options, files)
    tables.refuse_table_options(options)
    slicing = volumes.slicing_of(options, files)
    for one in _each(options):
        given.check_array_options(one, volumes=slicing is not None)
    classes, identity = given.classes_of(options), given.identity_of(options.model)
    more = {"slicing": slicing}
    return _explain(
        _Task(ArrayGallery, model, files, preprocessing, classes, identity, "array", BATCH, _no_bounds, more), options
    )


def explain_tables(model: keras.Model, options: argparse.Namespace, files: list[tuple[str, str]]) -> int:
    """Explain every row of the tables in `files`; returns the exit code."""
    each = _each(options)
    for one in each:
        tables.check_table_options(one)
    rows, more = tables.tables_of(options, given.explainer_of(model, each[0], {}), files)
    preprocessing = given.array_preprocessing(options)
    classes, identity = given.classes_of(options), given.identity_of(options.model)
    task = _Task(TableGallery, model, rows, preprocessing, classes, identity, "row", tables.BATCH, _no_bounds, more)
    return _explain(task, options)


def _no_bounds(options: argparse.Namespace) -> dict[str, Any]:
    return {}  # `check_array_options` refuses what needs some


def _each(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options for each composite: with it as `composite`, and with the folder of its results as `out`.

    Raises:
        LoadError: one of them twice.
    """
    wanted = options.composites or [composite(DEFAULT)]
    names = [name_of(one) for one in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LoadError(f"--composite names {twice[0]} twice. Expected each once")
    outs = [options.out] if len(wanted) == 1 else [options.out / folder for folder in folders(wanted)]
    return [
        argparse.Namespace(**{**vars(options), "composite": one, "out": out})
        for one, out in zip(wanted, outs, strict=True)
    ]


def _explain(task: _Task, options: argparse.Namespace) -> int:
    """Explain files of one kind under each composite; returns the exit code."""
    each = _each(options)
    # All of them first, so that a mistake in the last one is told before the first one is worked on.
    explainers = [given.explainer_of(task.model, one, task.bounds(one)) for one in each]
    jobs = [_job(task, one, explainer, len(each) > 1) for one, explainer in zip(each, explainers, strict=True)]
    if len(jobs) == 1:
        several.make_way(options.out, overwrite=options.overwrite)
        failed = _run(task, jobs[0], each[0])
        _tell_page(options, 1)
        return SOME_FAILED if failed else 0
    with ledger.only_run(options.out):
        earlier = several.check(options, jobs)
        if options.overwrite:
            several.begin_anew(options.out)
        failed = sum([_run(task, job, one) for job, one in zip(jobs, each, strict=True)]) > 0
        if options.gallery:
            shown = several.keep(options.out, [*earlier, *(job.out.name for job in jobs)])
            _tell_page(options, len(write_page(options.out, shown)))
    return SOME_FAILED if failed else 0


def _job(task: _Task, options: argparse.Namespace, explainer: Explainer, beside: bool) -> Gallery:
    """The gallery of one composite; `beside`: there are others, and one page for all."""
    look = given.look_of(options)
    chosen = given.chosen_targets(options, explainer, task.classes)
    contrast = given.chosen_contrast(options, explainer, task.classes, chosen)
    settings = _settings(options, explainer, task.identity, task.preprocessing, chosen, look)
    return task.kind(
        explainer=explainer,
        preprocessing=task.preprocessing,
        out=options.out,
        classes=task.classes,
        targets=tuple(chosen),
        contrast=contrast,
        batch=options.batch or task.batch,
        look=look,
        save_relevance=options.save_relevance,
        layers=tuple(options.layers),
        save_layers=options.save_layers,
        page=options.gallery and not beside,
        tiles=options.gallery,
        name=name_of(options.composite),
        settings=settings | {"contrast": contrast},
        describe=message_of,
        **task.more,
    )


def _run(task: _Task, job: Gallery, options: argparse.Namespace) -> bool:
    """Explain the files under one composite; returns whether some failed or are absurd."""
    explainer, unit = job.explainer, task.unit
    say(f"{printable(explainer.model.name)}, composite {explainer.composite.name}, {len(task.files)} {unit}(s)")
    if not task.classes.names:
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    if job.look.scale == "run":
        say("--scale run: all relevance is computed twice, first for the scale, then for the pictures.")
    began = time.perf_counter()
    outcome = _with_bar(job, task.files, options, f"{unit}s")
    _tell(outcome, time.perf_counter() - began, options.out, task.preprocessing, f"{unit}s")
    return bool(outcome.failed or outcome.absurd)


def _tell_page(options: argparse.Namespace, pages: int) -> None:
    if options.gallery:
        say(f"Gallery: {options.out / INDEX}" + (f", {pages} pages" if pages > 1 else ""))


# --- one run -----------------------------------------------------------------------------------


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


def _with_bar(job: Gallery, files: list[tuple[str, str]], options: argparse.Namespace, unit: str) -> Outcome:
    """Run the job with a progress bar."""
    paths = frozenset(table.path for table in getattr(job, "tables", ()))
    passes = 2 if job.look.scale == "run" else 1
    with (
        ProgressBar(passes * len(files), unit, job.at, paths) as bar,
        warnings.catch_warnings(),
        _single_threaded_opencv(),
    ):
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
