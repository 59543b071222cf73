"""`lrp-tf export`: a model and its explanations in a format that runs elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import keras

from lrp_tf import heatmap
from lrp_tf.cli import export_options, given
from lrp_tf.cli.messages import with_options
from lrp_tf.cli.options import MAX_PIXELS
from lrp_tf.explainer import Explainer
from lrp_tf.exporting import export_stablehlo
from lrp_tf.exporting.lite import export_lite
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.serving import saved_model
from lrp_tf.terminal import printable, say

# Of options that belong to some formats alone: what they are where they were not given.
_DEFAULTS = {"resize": "squash", "max_pixels": MAX_PIXELS, "color_gamma": 1.0, "reduce": "sum", "batch": 1}
_DEFAULTS |= {"target": "top1", "no_warmup": False, "no_check": False, "conservation": False}


def export_command(options: argparse.Namespace) -> int:
    """Write a model that explains what it predicts."""
    _refuse_others(options)
    model = given.load_model(options)
    known = options.preprocess is not None or given.needs_bounds(options)
    preprocessing = given.preprocessing_of(options, model) if known else None
    bounds = given.bounds_of(options, model, preprocessing) if preprocessing else {}
    explainer, classes = given.explainer_of(model, options, bounds, _sizes(model, options)), given.classes_of(options)
    FORMATS[options.format](explainer, preprocessing, classes, options)
    return 0


def _sizes(model: keras.Model, options: argparse.Namespace) -> dict[str, tuple[int, ...]] | None:
    """The shape of an image for formats of fixed shapes, where the model leaves its size open."""
    if options.format == "savedmodel" or options.size is None:
        return None
    explainer = Explainer(model, "epsilon", output=given.output_of(options))
    form, graph = form_of(explainer, options.size), explainer.graph
    height, width, channels, first = form
    return {graph.input_names[0]: (channels, height, width) if first else (height, width, channels)}


def _refuse_others(options: argparse.Namespace) -> None:
    """Refuse options of other formats.

    Raises:
        LoadError: one was given.
    """
    own = export_options.FORMATS[options.format]
    for name in sorted({name for names in export_options.FORMATS.values() for name in names} - set(own)):
        if getattr(options, name) != _DEFAULTS.get(name):
            formats = [f"--format {other}" for other, names in export_options.FORMATS.items() if name in names]
            option = "--color-gamma" if name == "color_gamma" else f"--{name.replace('_', '-')}"
            raise LoadError(
                f"{option} is an option of {' and '.join(formats)}. Expected --format {options.format} without it"
            )


def _saved_model(
    explainer: Explainer, preprocessing: Preprocessing | None, classes: Classes, options: argparse.Namespace
) -> None:
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


def _stablehlo(
    explainer: Explainer, preprocessing: Preprocessing | None, classes: Classes, options: argparse.Namespace
) -> None:
    (target,) = given.chosen_targets(argparse.Namespace(target=[options.target]), explainer, classes)
    contrast = given.chosen_contrast(options, explainer, classes, [target])
    path = options.out
    exported = export_stablehlo(explainer, options.batch, path, target=target, contrast=contrast, classes=classes.names)
    for what, parts in (("inputs", exported.inputs), ("outputs", exported.outputs)):
        say(printable(f"{what}: " + ", ".join(f"{name} {dtype} {list(shape)}" for name, shape, dtype in parts)))
    if preprocessing is not None and preprocessing.name != "none":
        say(f"The images that it is given have gone through --preprocess {preprocessing.name} before")
    say(f"Exported to {path}: python {path / 'run.py'} INPUT.npy OUT.npz, with jax alone")


def _lite(
    explainer: Explainer, preprocessing: Preprocessing | None, classes: Classes, options: argparse.Namespace
) -> None:
    contrast = given.chosen_contrast(options, explainer, classes)
    check, shares = not options.no_check, options.conservation
    lite = export_lite(explainer, options.out, contrast=contrast, conservation=shares, check=check)
    for what, parts in (("inputs", lite.inputs), ("outputs", lite.outputs)):
        say(printable(f"{what}: " + ", ".join(f"{name} {dtype} {list(shape)}" for name, shape, dtype in parts)))
    if preprocessing is not None and preprocessing.name != "none":
        say(f"The images that it is given have gone through --preprocess {preprocessing.name} before")
    if lite.error is not None:
        say(f"Checked: {lite.error:.1g} of the maximum away from the explainer's relevance")
    times = lite.size / lite.weights
    say(f"Exported to {lite.path}: {lite.size / 1e6:.1f} MB, {times:.2f} times the weights, builtin operations alone")


Write = Callable[[Explainer, Preprocessing | None, Classes, argparse.Namespace], None]

# Format -> what writes it.
FORMATS: dict[str, Write] = {"savedmodel": _saved_model, "stablehlo": _stablehlo, "tflite": _lite}

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"export": export_command}
