"""What the options of a command ask for: its model, images, preprocessing, explainers, targets, looks."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lrp_tf import composites, named
from lrp_tf.arrays import files as array_files
from lrp_tf.cli.composite_option import FOR_TRANSFORMERS, PRESETS, NamedPreset, Written
from lrp_tf.cli.options import MAX_PIXELS
from lrp_tf.explainer import Explainer
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.heatmap.look import STYLES, Look
from lrp_tf.ray.places import is_remote
from lrp_tf.terminal import say


def look_of(options: argparse.Namespace) -> Look:
    """How pictures look.

    Raises:
        ValueError: see `Look.check`.
    """
    styles = STYLES if options.style == "all" else (options.style,)
    display = ("cmap", "reduce", "scale", "show", "smooth", "colorbar", "dpi", "format")
    look = Look(styles, gamma=options.color_gamma, **{name: getattr(options, name) for name in display})
    look.check()
    return look


def files_of(
    options: argparse.Namespace, *, arrays: bool = False, suffixes: frozenset[str] | None = None
) -> list[tuple[str, str]]:
    """The images, or arrays, as `images.find` gives them; what it leaves out is told.

    Args:
        suffixes: of the files that a folder is searched for, if not those of images or arrays.
    """
    skipped = lambda path, reason: say(f"skipped: {path!a}: {reason}", error=True)  # noqa: E731
    known, what = (array_files.SUFFIXES, "array") if arrays else (images.SUFFIXES, "image")
    found: list[tuple[str, str]] = []
    for name in image_names(options):
        files = list(images.find([name], skipped=skipped, suffixes=suffixes or known, what=what))
        found += _without_results(name, files, getattr(options, "out", None), what)
    return found


def _without_results(folder: str, files: list[tuple[str, str]], out: Path | None, what: str) -> list[tuple[str, str]]:
    """The files of a folder without those in the results of earlier runs into `out`, which lie inside of it."""
    if out is None or not os.path.isdir(folder):
        return files
    home = os.path.join(os.path.realpath(folder), "")
    runs = [os.path.join(os.path.realpath(run), "") for run in [out, *out.glob("*")] if _is_run(run)]
    inside = tuple(run.removeprefix(home) for run in runs if run != home and run.startswith(home))
    left = [(path, relative) for path, relative in files if not relative.startswith(inside)]
    if len(left) < len(files):
        say(f"{len(files) - len(left)} {what}(s) left out: results of an earlier run in {out}", error=True)
    if not left:
        raise LoadError(f"folder {folder!r} holds no {what} but results of an earlier run in {out}")
    return left


def _is_run(folder: Path) -> bool:
    """Whether a folder holds the results of a run, or of its shards."""
    whole = (folder / ledger.RESULTS).exists() and (folder / ledger.SETTINGS).exists()
    return whole or bool(ledger.shards_in(folder))


def takes_arrays(model: keras.Model, names: Sequence[str]) -> bool:
    """Whether arrays are explained and no photographs: files are such, or the model takes nothing like a photograph."""
    if any(_holds_arrays(name) for name in names):
        return True
    inputs = list(getattr(model, "inputs", None) or [])
    return len(inputs) == 1 and len(inputs[0].shape) != 4


def refuse_arrays(model: keras.Model, options: argparse.Namespace) -> None:
    """For commands that take photographs alone.

    Raises:
        LoadError: arrays were given, or the model takes such.
    """
    if takes_arrays(model, options.images):
        shape = tuple(model.inputs[0].shape) if getattr(model, "inputs", None) else "not known"
        raise LoadError(
            f"{options.command} takes photographs alone. Expected image files, and a model of pictures. Received: "
            f"{', '.join(map(repr, options.images[:3]))}, and a model whose input is {shape}. Remedy: lrp-tf explain "
            "for arrays; lrp_tf.evaluate judges their explanations from Python (docs/evaluation.md)"
        )


def _holds_arrays(name: str) -> bool:
    """Whether a name stands for arrays: a file, or a folder whose first known file is one."""
    if os.path.isdir(name):
        for place, folders, files in os.walk(name):
            if place != name and _is_run(Path(place)):  # their tables are no signals
                folders.clear()
                continue
            for file in sorted(files):
                if array_files.suffix_of(file) is not None:
                    return True
                if Path(file).suffix.lower() in images.SUFFIXES:
                    return False
        return False
    return not name.startswith("@") and array_files.suffix_of(name) is not None


def array_preprocessing(options: argparse.Namespace) -> loading.Preprocessing:
    """What arrays go through; without `--preprocess` they are fed as they are."""
    return loading.get_preprocessing(options.preprocess or "none")


def check_array_options(options: argparse.Namespace, *, volumes: bool = False) -> None:
    """Refuse options of photographs.

    Args:
        volumes: they are drawn as slices, which have styles and may be smoothed.

    Raises:
        LoadError: one was given.
    """
    defaults: dict[str, object] = {"size": None, "resize": "squash", "max_pixels": MAX_PIXELS}
    defaults |= {} if volumes else {"style": "side-by-side", "smooth": None}
    for name, default in defaults.items():
        if getattr(options, name, default) != default:
            kinds = "photographs and volumes" if name in ("style", "smooth") else "photographs"
            raise LoadError(
                f"--{name.replace('_', '-')} is an option of {kinds}. Expected "
                "files of arrays without it: signals are drawn as lines, planes and videos beside their relevance"
            )
    if needs_bounds(options):
        name, _ = options.composite
        raise LoadError(
            f"{name} needs the lowest and highest value of the input, which arrays do not tell. Remedy: --composite "
            f"{name}:low=-1,high=1 with the values of your data"
        )


def image_names(options: argparse.Namespace) -> list[str]:
    """The images. In `--target topK:3 cat.jpg` argparse takes the file for a target; here it becomes an image."""
    names = list(options.images)
    for greedy, is_file in (("target", _is_file), ("layers", _is_there), ("columns", _is_there), ("drop", _is_there)):
        taken = getattr(options, greedy, None) or []
        while not options.images and len(taken) > 1 and is_file(taken[-1]):
            names.insert(0, taken.pop())
    if not names:
        raise LoadError("expected IMAGE: a file, a folder, a glob pattern, - or @list.txt")
    return names


def _is_file(text: str) -> bool:
    return (
        text == "-" or text.startswith("@") or os.path.lexists(text) or is_remote(text) or any(c in text for c in "*?[")
    )


def _is_there(text: str) -> bool:
    """Whether a text stands for files and cannot be a regular expression of a layer that looks like a pattern."""
    return text == "-" or text.startswith("@") or os.path.lexists(text) or is_remote(text) or bool(glob.glob(text))


def chosen_targets(options: argparse.Namespace, explainer: Explainer, classes: loading.Classes) -> list[str | int]:
    """The targets of the command line, with classes as numbers; see `named.targets_of`."""
    return named.targets_of(options.target, explainer.graph, classes)


def chosen_contrast(
    options: argparse.Namespace, explainer: Explainer, classes: loading.Classes, chosen: Sequence[str | int] = ()
) -> str | int | None:
    """What the targets are set against, with a class as a number; see `named.contrast_of`."""
    return named.contrast_of(options.contrast, explainer.graph, classes, chosen)


def load_model(options: argparse.Namespace) -> keras.Model:
    import_modules(options)
    for composite in getattr(options, "composites", None) or [getattr(options, "composite", None)]:
        if isinstance(composite, Written):  # mistakes in it are told before the model is loaded, which takes longer
            written_composite(argparse.Namespace(**{**vars(options), "composite": composite}))
    return loading.load_model(options.model, unsafe=options.unsafe)


def import_modules(options: argparse.Namespace) -> None:
    named.import_modules(options.modules)


def preprocessing_of(options: argparse.Namespace, model: keras.Model) -> loading.Preprocessing:
    """The preprocessing that was asked for; see `named.preprocessing_of`."""
    return named.preprocessing_of(options.preprocess, model, output_of(options), options.model)


def classes_of(options: argparse.Namespace) -> loading.Classes:
    return loading.load_classes(options.classes) if options.classes else loading.Classes()


def output_of(options: argparse.Namespace) -> int | str | None:
    return named.output_of(getattr(options, "output", None))


def needs_bounds(options: argparse.Namespace) -> bool:
    """Whether the preset takes bounds of the input that the command line does not give."""
    return named.needs_bounds(options.composite)


def bounds_of(
    options: argparse.Namespace, model: keras.Model, preprocessing: loading.Preprocessing
) -> dict[str, np.ndarray]:
    """low and high of z^B rules: the values that pixels of 0 and 255 become."""
    return named.bounds_of(model, preprocessing, output_of(options), options.size) if needs_bounds(options) else {}


def explainer_of(
    model: keras.Model,
    options: argparse.Namespace,
    bounds: Mapping[str, object],
    sizes: Mapping[str, tuple[int, ...]] | None = None,
) -> Explainer:
    """The explainer that the options ask for; `bounds`: low and high of z^B; `sizes`: see the Explainer."""
    chosen: dict[str, Any] = {"output": output_of(options), "fast": options.fast}
    chosen |= {"relevance_filter": options.relevance_filter, "zero_bias": options.zero_bias}
    chosen |= {"sizes": sizes} if sizes else {}
    return named.explainer_of(model, options.composite, bounds, **chosen)


def explainers_of(
    model: keras.Model, options: argparse.Namespace, preprocessing: loading.Preprocessing
) -> dict[str, Explainer]:
    """The explainers of `--composites` under the texts that they were asked for by; without it, of all presets
    but those for transformers.

    Raises:
        LoadError: one of them twice; see `explainer_of`, too.
    """
    found: dict[str, Explainer] = {}
    for composite in options.composites or [NamedPreset(name, {}) for name in PRESETS if name not in FOR_TRANSFORMERS]:
        name = composite.text if isinstance(composite, Written) else str(composite)
        if name in found:
            raise LoadError(f"--composites names {name} twice. Expected each once")
        one = argparse.Namespace(**{**vars(options), "composite": composite})
        found[name] = explainer_of(model, one, bounds_of(one, model, preprocessing))
    return found


def written_composite(options: argparse.Namespace) -> composites.Composite | None:
    """The composite that the command line writes out, in a text or a file; None if it names a preset."""
    return named.written_composite(options.composite, options.zero_bias)
