"""`lrp-tf tune`: which setting of the rules suits a model, over image files."""

from __future__ import annotations

import argparse

import keras
import numpy as np

from lrp_tf import evaluate
from lrp_tf.cli import given, records, tune_options
from lrp_tf.cli.composite_option import NamedPreset
from lrp_tf.cli.messages import message_of
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.composites import Composite
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Preprocessing
from lrp_tf.gallery import ledger
from lrp_tf.gallery.stream import Stream
from lrp_tf.heatmap.look import Look
from lrp_tf.terminal import printable, say

SOME_FAILED = 1
_RECORD = "record"  # the folder, below that of the results, which a resumed run reads


def tune_command(options: argparse.Namespace) -> int:
    """Choose a composite by one half of the images, and report by the other."""
    given.import_modules(options)  # which may declare metrics
    options.grid, more = tune_options.split(options.grid)
    options.images = [*options.images, *more]
    metric = _metric(options.metric)
    model = given.load_model(options)
    given.refuse_arrays(model, options)
    preprocessing = given.preprocessing_of(options, model)
    default = _composite(options, options.default, model, preprocessing)
    also = None if options.also is None else [_composite(options, one, model, preprocessing) for one in options.also]
    explainer = Explainer(model, default, output=given.output_of(options))
    form = form_of(explainer, options.size)
    target = _target(options, explainer)
    low, high = preprocessing.bounds(form.channels)
    files = given.files_of(options)
    fit = Fit(form.height, form.width, options.resize)
    look = Look(("side-by-side",))  # no picture is drawn
    stream = Stream(form, fit, preprocessing, look, options.batch, options.max_pixels, describe=message_of)
    with ledger.only_run(options.out):
        record = records.folder_of(options, _RECORD, "a tuning")
        x, names, failed = _images(stream, list(dict.fromkeys(path for path, _ in files)))
        if x is None:
            say("No image could be read.", error=True)
            return SOME_FAILED
        say(f"{printable(model.name)}, {len(x)} image(s)")
        with _Told() as told:
            found = evaluate.tune(
                *(model, x, target),
                grid=options.grid or None,
                metric=metric,
                budget=options.budget,
                default=default,
                also=also,
                search=options.search,
                low=low,
                high=high,
                output=given.output_of(options),
                channel_axis=1 if form.channels_first else -1,
                batch_size=options.batch,
                seed=options.seed,
                resume=record,
                progress=told,
            )
        found.save(options.out, names=names)
    say(str(found))
    say(f"Results in {options.out}: tune.md, ranking.csv, pareto.png, winner.toml, advised.toml, settings.json")
    advised = "as ever" if found.keep_default else f"--composite {options.out / 'advised.toml'}"
    say(f"Explain {advised}. Fed to the model: {stream.low:.4g} to {stream.high:.4g} ({preprocessing.name})")
    return SOME_FAILED if failed else 0


class _Told:
    """A progress bar whose length is known with the first call."""

    def __init__(self) -> None:
        self.bar: ProgressBar | None = None

    def __enter__(self) -> _Told:
        return self

    def __call__(self, count: int, total: int) -> None:
        if self.bar is None:
            self.bar = ProgressBar(total, "maps").__enter__()
            self.bar.advance(0)
        self.bar.advance(count)

    def __exit__(self, *raised: object) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)


def _images(stream: Stream, paths: list[str]) -> tuple[np.ndarray | None, list[str], int]:
    """All images that can be read, [n, ...]; their names, and how many could not be read."""
    batches, names, failed = list[np.ndarray](), list[str](), 0
    for x, indices in stream.batches(paths):
        names += [stream.take(int(index)).path for index in indices]
        batches.append(np.asarray(x))
    for index, reason in stream.failures():
        failed += 1
        say(f"failed: {printable(paths[index])}: {printable(reason)}", error=True)
    return (np.concatenate(batches) if batches else None), names, failed


def _metric(item: NamedPreset) -> evaluate.Metric:
    try:
        return evaluate.get(item.name, **item.options)
    except (TypeError, ValueError) as error:
        raise LoadError(f"--metric {item}: {error}") from error


def _composite(
    options: argparse.Namespace, item: object, model: keras.Model, preprocessing: Preprocessing
) -> str | Composite:
    """A composite of the command line; a preset without options stays a name."""
    if isinstance(item, str):
        return item
    if isinstance(item, NamedPreset) and not item.options:
        return item.name
    more = {"composite": item, "relevance_filter": None, "fast": None, "zero_bias": False}
    one = argparse.Namespace(**{**vars(options), **more})
    made = given.explainer_of(model, one, given.bounds_of(one, model, preprocessing)).composite
    return Composite(made.entries, str(item), canonizers=made.canonizers, flow_epsilon=made.flow_epsilon)


def _target(options: argparse.Namespace, explainer: Explainer) -> int | None:
    (wanted,) = given.chosen_targets(options, explainer, given.classes_of(options))
    if wanted != "top1" and not isinstance(wanted, int):
        raise LoadError(f"--target expects top1 or one class: each image has one explanation. Received: {wanted}")
    return wanted if isinstance(wanted, int) else None


COMMANDS = {"tune": tune_command}
