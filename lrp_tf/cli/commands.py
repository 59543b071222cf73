"""What the commands of `lrp-tf` do."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import keras
import numpy as np

from lrp_tf import composites
from lrp_tf.arrays.form import array_form
from lrp_tf.arrays.stream import ArrayStream
from lrp_tf.cli import given, tables
from lrp_tf.cli.explain import SOME_FAILED, explain_command
from lrp_tf.cli.messages import message_of
from lrp_tf.composites import remarks
from lrp_tf.engine import targets
from lrp_tf.explainer import Explainer
from lrp_tf.files import images
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.terminal import printable, say


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


def composites_command(options: argparse.Namespace) -> int:
    """Print the presets as text, and what was measured against them."""
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
        for remark in remarks.of_preset(name):
            say(printable(f"    # {remark}"))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "explain": explain_command,
    "summary": summary_command,
    "report": report_command,
    "check": check_command,
    "composites": composites_command,
}
