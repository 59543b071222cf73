"""`lrp-tf explain`: pictures and tables of images and arrays, for one composite or several, and a page over them."""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import keras

from lrp_tf.cli import atlas_option, farm, given, recipes, several, tables, volumes
from lrp_tf.cli.composite_option import composite, folders, name_of
from lrp_tf.cli.messages import message_of
from lrp_tf.cli.options import DEFAULT
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.engine.diagnosis import ADVICE, RelevanceWarning
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.gallery.page.write import INDEX, write_page
from lrp_tf.gallery.run import Gallery, Outcome
from lrp_tf.gallery.shards import Shard
from lrp_tf.heatmap.volumes import Slicing
from lrp_tf.ray.sources import Found
from lrp_tf.terminal import printable, say

SOME_FAILED = 1
_EACH = 25  # With at most this many images, each gets a line on the console.


def explain_command(options: argparse.Namespace) -> int:
    """Explain images with a saved model."""
    model = given.load_model(options)
    if given.takes_arrays(model, options.images or options.target):
        return explain_arrays(model, options)
    return explain_images(model, options)


class _Task(NamedTuple):
    """What is explained, whatever the composite.

    Attributes:
        kind: see `Recipe`.
        unit: what one file is called.
        more: attributes of the gallery that are no part of a recipe.
        slicing: of volumes.
        identity: distinguishes the model from others, for `--resume`; None: its file does.
        found: where the files are, with --ray.
    """

    kind: str
    model: keras.Model
    files: list[tuple[str, str]]
    unit: str
    more: Mapping[str, Any] = MappingProxyType({})
    slicing: Slicing | None = None
    identity: object = None
    found: list[Found] | None = None


def explain_images(
    model: keras.Model,
    options: argparse.Namespace,
    preprocessing: loading.Preprocessing | None = None,
    classes: loading.Classes | None = None,
    identity: object = None,
) -> int:
    """Explain the images of the command line; returns the exit code.

    Args:
        preprocessing, classes, identity: of a model that is no file; None: as the options say.
    """
    spread = farm.is_wanted(options)
    tables.refuse_table_options(options, ("id",) if spread else ())
    volumes.refuse_volume_options(options)
    atlas_option.check_atlas(options)
    if preprocessing is None:
        preprocessing = given.preprocessing_of(options, model)
    more = {"preprocessing": preprocessing, "classes": given.classes_of(options) if classes is None else classes}
    found = farm.found_of(options) if spread else None
    files = given.files_of(options) if found is None else [(one.path, one.relative) for one in found]
    task = _Task("images", model, files, "image", more, identity=identity, found=found)
    with farm.cluster(options):
        return _explain(task, options)


def explain_arrays(model: keras.Model, options: argparse.Namespace) -> int:
    """Explain the arrays of the command line: signals, videos, or tables; returns the exit code."""
    atlas_option.refuse_atlas(options)
    farm.refuse(options)
    files = given.files_of(options, arrays=True)
    given.array_preprocessing(options)  # mistakes in it are told first
    if tables.takes_tables(model, [path for path, _ in files]):
        return explain_tables(model, options, files)
    tables.refuse_table_options(options)
    slicing = volumes.slicing_of(options, files)
    for one in _each(options):
        given.check_array_options(one, volumes=slicing is not None)
    return _explain(_Task("arrays", model, files, "array", slicing=slicing), options)


def explain_tables(model: keras.Model, options: argparse.Namespace, files: list[tuple[str, str]]) -> int:
    """Explain every row of the tables in `files`; returns the exit code."""
    each = _each(options)
    for one in each:
        tables.check_table_options(one)
    rows, more = tables.tables_of(options, given.explainer_of(model, each[0], {}), files)
    return _explain(_Task("tables", model, rows, "row", more), options)


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
    if options.shard is not None and len(each) > 1:
        raise LoadError(
            f"--shard is for one composite. Expected --composite once. Received: {len(each)}. Remedy: shards of each "
            "of them, with an --out of its own; once merged, lrp_tf.gallery.write_page makes one page of all"
        )
    # All of them first, so that a mistake in the last one is told before the first one is worked on.
    jobs = [_job(task, one, len(each) > 1) for one in each]
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


def _job(task: _Task, options: argparse.Namespace, beside: bool) -> Gallery:
    """The gallery of one composite; `beside`: there are others, and one page for all."""
    recipe = recipes.recipe_of(options, task.kind, task.slicing)
    job = recipe.gallery(
        options.out,
        model=task.model,
        page=options.gallery and not beside,
        tiles=options.gallery,
        settings=recipes.settings_of(options, task.identity),
        describe=message_of,
        **task.more,
    )
    return job if task.found is None else farm.spread(job, recipe, task.found, options)


def _run(task: _Task, job: Gallery, options: argparse.Namespace) -> bool:
    """Explain the files under one composite; returns whether some failed or are absurd."""
    explainer, unit = job.explainer, task.unit
    part = "" if options.shard is None else f"shard {'/'.join(map(str, options.shard))} of "
    say(f"{printable(explainer.model.name)}, composite {explainer.composite.name}, {part}{len(task.files)} {unit}(s)")
    if not job.classes.names:
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    if job.look.scale == "run":
        say("--scale run: all relevance is computed twice, first for the scale, then for the pictures.")
    began = time.perf_counter()
    outcome = _with_bar(job, task.files, options, f"{unit}s")
    out = options.out if options.shard is None else Shard(*options.shard).folder(options.out)
    _tell(outcome, time.perf_counter() - began, out, job.preprocessing, f"{unit}s")
    if options.shard is not None:
        say(f"A shard of {options.shard[1]}. When all are finished: lrp-tf merge {options.out}")
    return bool(outcome.failed or outcome.absurd)


def _tell_page(options: argparse.Namespace, pages: int) -> None:
    if options.gallery and options.shard is None:
        say(f"Gallery: {options.out / INDEX}" + (f", {pages} pages" if pages > 1 else ""))


# --- one run -----------------------------------------------------------------------------------


def _with_bar(job: Gallery, files: list[tuple[str, str]], options: argparse.Namespace, unit: str) -> Outcome:
    """Run the job with a progress bar."""
    paths = frozenset(table.path for table in getattr(job, "tables", ()))
    passes = 2 if job.look.scale == "run" else 1
    index, count = options.shard or (0, 1)
    total = len(range(index, len(files), count))
    with (
        ProgressBar(passes * total, unit, job.at, paths) as bar,
        warnings.catch_warnings(),
        _single_threaded_opencv(),
    ):
        warnings.simplefilter("ignore", RelevanceWarning)  # the bar shows one for each map
        return job.run(
            files,
            resume=options.resume,
            overwrite=options.overwrite,
            shard=options.shard,
            progress=bar.advance,
            tell=bar.tell_failure,
            finished=bar.tell_result if total <= _EACH else lambda rows: None,
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
