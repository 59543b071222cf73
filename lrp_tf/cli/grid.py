"""`lrp-tf grid`: a picture for each image, with composites in rows and classes in columns."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from lrp_tf.cli import given
from lrp_tf.cli.messages import message_of
from lrp_tf.explainer import Explainer
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.images import Fit
from lrp_tf.gallery.draw import first_stride, sheet
from lrp_tf.gallery.explain import Explaining, Failed
from lrp_tf.gallery.names import Names
from lrp_tf.gallery.stream import Stream
from lrp_tf.heatmap.look import Look
from lrp_tf.terminal import printable, say

SOME_FAILED = 1


def grid_command(options: argparse.Namespace) -> int:
    """Draw composites × classes of each image."""
    look = _look(options)
    files = dict(given.files_of(options))
    model = given.load_model(options)
    given.refuse_arrays(model, options)
    preprocessing, classes = given.preprocessing_of(options, model), given.classes_of(options)
    explainers = given.explainers_of(model, options, preprocessing)
    first = next(iter(explainers.values()))
    form = form_of(first, options.size)
    fit = Fit(form.height, form.width, options.resize)
    chosen = given.chosen_targets(options, first, classes)
    contrast = given.chosen_contrast(options, first, classes, chosen)
    stream = Stream(form, fit, preprocessing, look, 1, options.max_pixels, message_of)
    ways = {name: Explaining(each, chosen, classes, stream, contrast) for name, each in explainers.items()}
    say(f"{printable(model.name)}, {len(ways)} composites, {len(files)} image(s)")
    if not classes.names:
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    names, failed = Names([f".{look.format}"]), 0
    names.spare(options.out, files)
    for path, relative in files.items():
        try:
            target = options.out / f"{names.new(path, relative)}.{look.format}"
            _draw(path, target, ways, explainers, fit, look)
            say(f"{printable(ascii(path)[1:-1])}: {printable(str(target))}")
        except _FileError as error:
            failed += 1
            say(f"failed: {path!a}: {error}", error=True)
    say(f"{len(files) - failed} drawn, {failed} failed. Results in {options.out}")
    return SOME_FAILED if failed else 0


class _FileError(Exception):
    """The reason why a file has no picture."""


def _look(options: argparse.Namespace) -> Look:
    """How pictures look.

    Raises:
        LoadError: one scale for the whole run. ValueError: see `Look.check`.
    """
    options.style = "side-by-side"
    look = given.look_of(options)
    if look.scale == "run":
        raise LoadError("--scale run is an option of explain. Expected a number, 99%, image or image:99%")
    return look


def _draw(
    path: str, target: Path, ways: Mapping[str, Explaining], explainers: Mapping[str, Explainer], fit: Fit, look: Look
) -> None:
    """Write the picture of one image.

    Raises:
        _FileError: it cannot be read, or not be explained.
    """
    rows, shown = [], None
    for name, way in ways.items():
        (found,) = way([path])
        if isinstance(found, Failed):
            raise _FileError(found.reason)
        shown = found.shown.shown
        paint = look.paint(first_stride(explainers[name]))
        maps = [fit.restore(paint.values(relevance), shown.shape[:2]) for relevance in found.maps]
        rows.append((maps, [printable(name), *found.titles]))
    assert shown is not None  # there is a composite
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, shown, target, look=look)


COMMANDS = {"grid": grid_command}
