"""`lrp-tf evaluate`: composites and what to compare with × metrics, over image files."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from lrp_tf import evaluate, gradients
from lrp_tf.cli import comparing, given, records
from lrp_tf.cli.composite_option import NamedPreset
from lrp_tf.cli.messages import message_of
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.evaluate import baselines
from lrp_tf.evaluate.protocol import Array, Explain
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.images import Fit
from lrp_tf.files.loading import Classes
from lrp_tf.gallery import ledger
from lrp_tf.gallery.stream import Stream
from lrp_tf.heatmap.look import Look
from lrp_tf.terminal import printable, say

SOME_FAILED = 1
_RECORD = "record"  # the folder, below that of the results, which a resumed run reads
_LEAST = 128  # A pixel of the model's input is on the object if at least half of it is in a box.


def evaluate_command(options: argparse.Namespace) -> int:
    """Judge explanations of images by metrics."""
    given.import_modules(options)  # which may declare metrics
    metrics = _metrics(options)
    if metrics is None:
        return 0
    model = given.load_model(options)
    given.refuse_arrays(model, options)
    explainers = _Explainers(model, options)
    if options.reference is not None and options.reference not in explainers.methods:
        raise LoadError(f"--reference expects one of {list(explainers.methods)}. Received: {options.reference}")
    files = given.files_of(options)
    stream = explainers.stream()
    paths = list(dict.fromkeys(path for path, _ in files))
    images = _Images(stream, paths, None if options.boxes is None else _boxes(options.boxes), [], [])
    if images.boxes is not None:
        count = sum(images.boxes_of(path) is not None for path in paths)
        if not count:
            raise LoadError(f"--boxes {options.boxes}: no boxes for any of the images. Expected their names")
        say(f"Boxes for {count} of the images (--boxes)")
    counts = f"{len(explainers.methods)} method(s), {len(metrics)} metric(s), {len(images.paths)} image(s)"
    say(f"{printable(model.name)}, {counts}")
    with ledger.only_run(options.out):
        found = _compared(options, explainers, metrics, images)
        if found is None:
            say("No image could be read.", error=True)
            return SOME_FAILED
        say(str(found))
        found.save(options.out, unread=images.failed)
    say(f"Results in {options.out}: table.md, bars.png, summary.csv, samples.csv, failures.csv")
    say(f"Fed to the model: {stream.low:.4g} to {stream.high:.4g} (--preprocess {explainers.preprocessing.name})")
    return SOME_FAILED if images.failed or found.failures else 0


def _compared(
    options: argparse.Namespace, explainers: _Explainers, metrics: dict[str, evaluate.Metric], images: _Images
) -> evaluate.Comparison | None:
    """The comparison with a progress bar; None if there is no image."""
    record = records.folder_of(options, _RECORD, "an evaluation")
    methods = explainers.methods
    with ProgressBar(len(images.paths) * len(methods), "explanations") as bar, warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: bar.tell_absurd(str(message))
        bar.advance(0)
        batches = images.batches(bar, len(methods))
        first = next(batches, None)
        if first is None:
            return None
        found = evaluate.compare(
            methods,
            itertools.chain([first], batches),
            explainers.target,
            predict=evaluate.Predictor(explainers.first, batch_size=options.batch),
            model=explainers.first.model,
            metrics=metrics,
            masks=None if images.boxes is None else lambda element: element[1],
            channel_axis=1 if explainers.form.channels_first else -1,
            batch_size=options.batch,
            seed=options.seed,
            reference=options.reference,
            resume=record,
            progress=bar.advance,
        )
    return dataclasses.replace(found, samples=tuple(images.names))


def _metrics(options: argparse.Namespace) -> dict[str, evaluate.Metric] | None:
    """The metrics under the names that they were asked for by; None if they were listed instead."""
    asked = options.metrics or [NamedPreset("srg", {})]
    if [item.name for item in asked] == ["list"]:
        for name in evaluate.names():
            metric = evaluate.get(name)
            needs = f", needs {' and '.join(metric.needs)}" if metric.needs else ""
            say(f"{name}: {metric.family}, better: {metric.better or 'neither'}{needs}; {metric.paper}")
        return None
    found = {}
    for item in asked:
        try:
            found[str(item)] = evaluate.get(item.name, **item.options)
        except (TypeError, ValueError) as error:
            raise LoadError(f"--metrics {item}: {error}") from error
    return found


# --- explainers ----------------------------------------------------------------------------------


class _Explainers:
    """All methods of the command line under their names, and what they share."""

    def __init__(self, model: keras.Model, options: argparse.Namespace) -> None:
        self.options = options
        self.preprocessing = given.preprocessing_of(options, model)
        self.classes: Classes = given.classes_of(options)
        composites = given.explainers_of(model, options, self.preprocessing)
        self.first: Explainer = next(iter(composites.values()))
        self.form = form_of(self.first, options.size)
        (wanted,) = given.chosen_targets(options, self.first, self.classes)
        if wanted != "top1" and not isinstance(wanted, int):
            raise LoadError(f"--target expects top1 or one class: each image has one explanation. Received: {wanted}")
        self.target = wanted if isinstance(wanted, int) else None
        self.methods: dict[str, Explain] = {}
        contrasts = self._contrasts()
        for name, explainer in composites.items():
            self._add(name, explainer, contrasts)
        for item in options.methods:
            if item.name in comparing.BASELINES:
                axis = 1 if self.form.channels_first else -1
                self._add(str(item), baselines.get(item.name, channel_axis=axis, seed=options.seed), [None])
            else:
                self._add(str(item), self._gradient(model, item), contrasts)

    def _add(self, name: str, explain: Callable[..., Array], contrasts: Sequence[str | int | None]) -> None:
        for contrast in contrasts:
            full = name if contrast is None else f"{name} contrast {contrast}"
            if full in self.methods:
                raise LoadError(f"the method {full} comes twice. Expected each once")
            self.methods[full] = _against(explain, contrast)

    def _contrasts(self) -> list[str | int | None]:
        """What is explained against what; None: without contrast."""
        found: list[str | int | None] = []
        for text in self.options.contrast or ["none"]:
            one = argparse.Namespace(contrast=None if text == "none" else text)
            chosen = [] if self.target is None else [self.target]
            found.append(given.chosen_contrast(one, self.first, self.classes, chosen))
        return found

    def _gradient(self, model: keras.Model, item: NamedPreset) -> gradients.Method:
        """A method of lrp_tf.gradients."""
        known = {
            name: kind
            for name, kind in vars(gradients).items()
            if inspect.isclass(kind)
            and issubclass(kind, gradients.Method)
            and kind is not gradients.Method
            and len(_required(kind)) == 1  # others need more than a model, such as a background
        }
        if item.name not in known:
            names = ", ".join([*known, *comparing.BASELINES])
            raise LoadError(f"--methods expects some of {names}. Received: {item.name}")
        try:
            kind = known[item.name]
            options: dict[str, Any] = {"output": given.output_of(self.options), **item.options}
            if "seed" in inspect.signature(kind).parameters:
                options.setdefault("seed", self.options.seed)
            return kind(model, **options)
        except (TypeError, ValueError) as error:
            raise LoadError(f"--methods {item}: {error}") from error

    def stream(self) -> Stream:
        """Image files -> what the model takes."""
        fit = Fit(self.form.height, self.form.width, self.options.resize)
        look = Look(("side-by-side",))  # no picture is drawn
        more = (self.preprocessing, look, self.options.batch, self.options.max_pixels)
        return Stream(self.form, fit, *more, describe=message_of)


def _required(kind: type) -> list[str]:
    """The arguments that a class cannot be made without."""
    arguments = inspect.signature(kind).parameters.items()
    return [name for name, argument in arguments if argument.default is argument.empty]


def _against(explain: Callable[..., Array], contrast: str | int | None) -> Explain:
    return explain if contrast is None else functools.partial(explain, contrast=contrast)


# --- images ----------------------------------------------------------------------------------------


class _Images(NamedTuple):
    """The image files, as batches; those that cannot be read are told and left out.

    Attributes:
        paths: the files, each once.
        boxes: name of a file -> boxes.
        names: the files that were read, in order. failed: the others, with reasons.
    """

    stream: Stream
    paths: list[str]
    boxes: dict[str, list] | None
    names: list[str]
    failed: list[tuple[str, str]]

    def batches(self, bar: ProgressBar, methods: int) -> Iterator[tuple[np.ndarray, ...]]:
        """(x [B, ...],), with masks bool [B, H, W] behind it if there are boxes."""
        for x, indices in self.stream.batches(self.paths):
            self._tell(bar, methods)
            photographs = [self.stream.take(int(index)) for index in indices]
            self.names.extend(photograph.path for photograph in photographs)
            if self.boxes is None:
                yield (x,)
            else:
                yield x, np.stack([self._mask(photograph.path, photograph.size) for photograph in photographs])
        self._tell(bar, methods)

    def _tell(self, bar: ProgressBar, methods: int) -> None:
        for index, reason in self.stream.failures():
            self.failed.append((self.paths[index], reason))
            bar.tell_failure(f"{self.paths[index]!r}: {reason}")
            bar.advance(methods)

    def boxes_of(self, path: str) -> list | None:
        """The boxes of a file, known by its path or its name."""
        boxes = self.boxes or {}
        return boxes.get(path, boxes.get(Path(path).name))

    def _mask(self, path: str, size: tuple[int, int]) -> np.ndarray:
        """Where the objects are in the model's input, bool [H, W]; nowhere if the picture has no boxes.

        Raises:
            LoadError: a box outside of the picture.
        """
        fit, boxes = self.stream.fit, self.boxes_of(path)
        if not boxes:
            return np.zeros((fit.height, fit.width), bool)
        try:
            mask = evaluate.masks_of([boxes], size)[0]
        except ValueError as error:
            raise LoadError(f"--boxes: {path}: {error}") from error
        return fit.apply(np.uint8(255) * mask[..., None].astype(np.uint8)).reshape(fit.height, fit.width) >= _LEAST


def _boxes(path: Path) -> dict[str, list]:
    """Name of a file -> boxes, from {"cat.jpg": [[x0, y0, x1, y1]]} or [{"file": …, "boxes": …}].

    Raises:
        LoadError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            content = {row["file"]: row.get("boxes", row.get("boxes_xyxy")) for row in content}
        if not isinstance(content, dict) or not all(isinstance(boxes, list) for boxes in content.values()):
            raise ValueError("no lists of boxes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise LoadError(
            f'--boxes {path}: expected JSON, {{"cat.jpg": [[x0, y0, x1, y1]]}} or [{{"file": "cat.jpg", "boxes": '
            f"[[x0, y0, x1, y1]]}}]. Received: {reason}"
        ) from error
    return content


COMMANDS = {"evaluate": evaluate_command}
