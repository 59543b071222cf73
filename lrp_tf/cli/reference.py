"""`lrp-tf reference`: the samples of a folder of images that channels stand for, as a file."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from lrp_tf import concepts
from lrp_tf.cli import given
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.cli.reference_options import FOLDER
from lrp_tf.concepts.building import PART
from lrp_tf.engine import targets
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Classes
from lrp_tf.gallery import layers
from lrp_tf.terminal import printable, say

SOME_FAILED = 1


def reference_command(options: argparse.Namespace) -> int:
    """Build a reference, or merge those of shards."""
    if options.model is None and options.images:  # behind options, argparse takes MODEL for an image
        options.model = Path(options.images.pop(0))
    _make_way(options)
    return _merge(options) if options.merge else _build(options)


def _make_way(options: argparse.Namespace) -> None:
    """Refuse to replace or continue what was not asked for.

    Raises:
        LoadError: there is a file, and neither --resume nor --overwrite; options that exclude one another.
    """
    if options.merge and (options.model or options.images or options.layers):
        raise LoadError("--merge puts files of shards together. Expected no MODEL, IMAGE or --layers beside it")
    if not options.merge and not (options.model and options.layers):
        raise LoadError("Expected MODEL, IMAGE and --layers NAME, or --merge FILE for the files of shards")
    part = options.out.with_name(options.out.name + PART)
    if (options.out.exists() or part.exists()) and not (options.resume or options.overwrite):
        raise LoadError(
            f"{options.out} holds the reference of an earlier run. Remedy: --resume to finish it, --overwrite to begin "
            "anew, or another --out"
        )


def _merge(options: argparse.Namespace) -> int:
    if options.resume:
        raise LoadError("--merge has nothing to resume. Expected --overwrite, or another --out")
    _tell(concepts.Reference.merge(options.merge, options.out))
    return 0


def _build(options: argparse.Namespace) -> int:
    if options.model.suffix.lower() not in (".keras", ".h5", ".hdf5"):
        raise LoadError(f"Expected MODEL, a saved Keras model, ahead of the images. Received: {str(options.model)!r}")
    names = given.image_names(options)
    model = given.load_model(options)
    given.refuse_arrays(model, argparse.Namespace(command=options.command, images=names))
    preprocessing, classes = given.preprocessing_of(options, model), given.classes_of(options)
    explainer = given.explainer_of(
        model, options, given.bounds_of(options, model, preprocessing), _sizes(model, options)
    )
    chosen = layers.chosen(explainer.graph, options.layers)
    files = list(dict(given.files_of(options)).items())
    labels = _labels(options.labels, files, classes, explainer)
    how = {"how": options.resize, "size": options.size, "max_pixels": options.max_pixels}
    data = concepts.ImageFiles(explainer, files, preprocessing, labels=labels, **how)
    say(f"{printable(model.name)}, {len(files)} image(s), layers {', '.join(chosen)}")
    with ProgressBar(len(files)) as bar:
        seen = 0

        def advance(count: int) -> None:
            nonlocal seen
            bar.advance(count - seen)
            seen = count

        bar.advance(0)
        reference = concepts.build_reference(
            *(explainer, data, chosen),
            path=options.out,
            n=options.n,
            target=None if labels is None else "label",
            pooling=options.pooling,
            start=options.start,
            batch=options.batch,
            shard=options.shard,
            resume=options.resume,
            progress=advance,
        )
    for sample, reason in reference.failures:
        say(f"failed: {files[sample][0]!a}: {printable(reason)}", error=True)
    _tell(reference)
    return SOME_FAILED if reference.failures else 0


def _tell(reference: concepts.Reference) -> None:
    samples, failed = sum(reference.classes.values()), len(reference.failures)
    say(f"{samples} samples of {len(reference.classes)} classes, {failed} failed. Reference in {reference.path}")


def _sizes(model: keras.Model, options: argparse.Namespace) -> dict[str, tuple[int, ...]] | None:
    """The shape of an input that the model leaves open, which receptive fields need."""
    inputs = list(getattr(model, "inputs", None) or [])
    if options.size is None or len(inputs) != 1 or None not in inputs[0].shape[1:]:
        return None
    shape = inputs[0].shape[1:]
    return {inputs[0].name: (*options.size, shape[2]) if shape[2] in (1, 3) else (shape[0], *options.size)}


def _labels(
    text: str | None, files: Sequence[tuple[str, str]], classes: Classes, explainer: Explainer
) -> list[int | None] | None:
    """The class of each file, None where it has none; None at all without --labels.

    Raises:
        LoadError: an unknown class; a table without the columns, or that holds none of the files.
    """
    if text is None:
        return None
    count = targets.class_count(explainer.graph) or np.iinfo(np.int32).max
    classes.check(count)
    known: dict[str, int] = {}

    def number(name: str) -> int:
        if name not in known:
            known[name] = classes.index(name, count)
        return known[name]

    if text == FOLDER:
        return [number(os.path.basename(os.path.dirname(os.path.abspath(path)))) for path, _ in files]
    table = _table(Path(text))
    names = [next((table[n] for n in (path, relative) if n in table), None) for path, relative in files]
    if not any(names):
        raise LoadError(f"--labels {text} holds none of the {len(files)} files. Expected {files[0][1]!r} or the like")
    return [None if name is None else number(name) for name in names]


def _table(path: Path) -> dict[str, str]:
    """file -> class."""
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if not {"file", "class"} <= set(rows.fieldnames or ()):
            raise LoadError(f"--labels {path}: expected the columns file and class. Received: {rows.fieldnames}")
        return {row["file"]: row["class"] for row in rows if row["class"]}


COMMANDS = {"reference": reference_command}
