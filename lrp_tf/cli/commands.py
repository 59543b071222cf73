"""What the commands of `lrp-tf` do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import keras
import numpy as np

from lrp_tf import composites, heatmap, rules
from lrp_tf.cli.messages import message_of, with_options
from lrp_tf.cli.options import RelativeFactor, Written
from lrp_tf.cli.progress import ProgressBar
from lrp_tf.engine import contrast as contrasts
from lrp_tf.engine import targets
from lrp_tf.engine.contrast import KINDS
from lrp_tf.engine.diagnosis import ADVICE, RelevanceWarning
from lrp_tf.explainer import Explainer
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import begins_with_scaling, form_of
from lrp_tf.gallery import ledger
from lrp_tf.gallery.run import Gallery, Outcome
from lrp_tf.heatmap.look import STYLES, Look
from lrp_tf.serving import saved_model
from lrp_tf.terminal import printable, say

SOME_FAILED = 1
_EACH = 25  # With at most this many images, each gets a line on the console.


def explain_command(options: argparse.Namespace) -> int:
    """Explain images with a saved model."""
    model = _load(options)
    return explain_images(model, options, _preprocessing(options, model), _classes(options), _identity(options.model))


def summary_command(options: argparse.Namespace) -> int:
    """Print the layers of a model and their rules."""
    model = _load(options)
    bounds = {"low": 0.0, "high": 1.0} if _needs_bounds(options) else {}  # any: the table does not show them
    _explainer(model, options, bounds).summary(say)
    return 0


def report_command(options: argparse.Namespace) -> int:
    """Print what each layer received, passed on and absorbed for one image."""
    explainer, x = _fed(options)
    classes = _classes(options)
    chosen = _targets(options, explainer, classes)
    contrast = _contrast(options, explainer, classes, chosen)
    explainer.report(x, targets.for_all(chosen, explainer.graph, batch=1), contrast=contrast, print_fn=say)
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Check that explanations of a model hold."""
    explainer, x = _fed(options)
    return 0 if explainer.check(x, print_fn=say) else SOME_FAILED


def _fed(options: argparse.Namespace) -> tuple[Explainer, np.ndarray]:
    """The explainer of a command that takes one image, and that image as fed to the model, [1, ...]."""
    model = _load(options)
    preprocessing = _preprocessing(options, model)
    explainer = _explainer(model, options, _bounds(options, model, preprocessing))
    form = form_of(explainer, options.size)
    try:
        image = images.read(options.image, options.max_pixels)
    except images.ImageError as error:
        raise LoadError(f"{options.image}: {error}", error.options) from error
    pixels = images.Fit(form.height, form.width, options.resize).apply(image)
    x = preprocessing(form.arrange(pixels)[None])
    say(f"fed to the model: {x.min():.4g} to {x.max():.4g} (--preprocess {preprocessing.name})")
    return explainer, form.order(x)


def export_command(options: argparse.Namespace) -> int:
    """Write a SavedModel that explains what it predicts."""
    model = _load(options)
    known = options.preprocess is not None or _needs_bounds(options)
    preprocessing = _preprocessing(options, model) if known else None
    bounds = _bounds(options, model, preprocessing) if preprocessing else {}
    explainer, classes = _explainer(model, options, bounds), _classes(options)
    exported = saved_model.export(
        explainer,
        options.out,
        contrast=_contrast(options, explainer, classes),
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
    _import_modules(options)
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
    skipped = lambda path, reason: say(f"skipped: {path!a}: {reason}", error=True)  # noqa: E731
    files = list(images.find(_image_names(options), skipped=skipped))
    explainer = _explainer(model, options, _bounds(options, model, preprocessing))
    look = _look(options)
    chosen = _targets(options, explainer, classes)
    contrast = _contrast(options, explainer, classes, chosen)
    job = Gallery(
        explainer=explainer,
        preprocessing=preprocessing,
        out=options.out,
        classes=classes,
        targets=tuple(chosen),
        contrast=contrast,
        size=options.size,
        how=options.resize,
        batch=options.batch,
        max_pixels=options.max_pixels,
        look=look,
        save_relevance=options.save_relevance,
        settings=_settings(options, explainer, identity, preprocessing, chosen, look) | {"contrast": contrast},
        describe=message_of,
    )
    say(f"{printable(model.name)}, composite {explainer.composite.name}, {len(files)} image(s)")
    if not classes.names:
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    if look.scale == "run":
        say("--scale run: all relevance is computed twice, first for the scale, then for the pictures.")
    began = time.perf_counter()
    outcome = _run(job, files, options)
    _tell(outcome, time.perf_counter() - began, options.out, preprocessing)
    return SOME_FAILED if outcome.failed or outcome.absurd else 0


def _look(options: argparse.Namespace) -> Look:
    """How pictures look.

    Raises:
        ValueError: see `Look.check`.
    """
    styles = STYLES if options.style == "all" else (options.style,)
    display = ("cmap", "reduce", "scale", "show", "smooth", "colorbar", "dpi", "format")
    look = Look(styles, gamma=options.color_gamma, **{name: getattr(options, name) for name in display})
    look.check()
    return look


def _settings(
    options: argparse.Namespace,
    explainer: Explainer,
    identity: object,
    preprocessing: loading.Preprocessing,
    chosen: list[str | int],
    look: Look,
) -> dict[str, object]:
    """What has to be the same when a run is resumed."""
    kept = ("zero_bias", "relevance_filter", "fast", "output", "resize", "size", "save_relevance")
    return {name: getattr(options, name, None) for name in kept} | {
        "composite": str(explainer.composite if isinstance(options.composite, Written) else options.composite),
        "model": identity,
        "preprocess": preprocessing.name,
        "target": chosen,
        "look": dataclasses.asdict(look),
    }


def _run(job: Gallery, files: list[tuple[str, str]], options: argparse.Namespace) -> Outcome:
    """Run the job with a progress bar."""
    passes = 2 if job.look.scale == "run" else 1
    with ProgressBar(passes * len(files)) as bar, warnings.catch_warnings(), _single_threaded_opencv():
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


def _tell(outcome: Outcome, seconds: float, out: Path, preprocessing: loading.Preprocessing) -> None:
    """Say what became of the files."""
    say(
        f"{outcome.done} explained in {seconds:.1f} s ({outcome.done / seconds:.2f} images/s), "
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


def _image_names(options: argparse.Namespace) -> list[str]:
    """The images. In `--target topK:3 cat.jpg` argparse takes the file for a target; here it becomes an image."""
    names = list(options.images)
    if not names:
        while len(options.target) > 1 and _is_file(options.target[-1]):
            names.insert(0, options.target.pop())
    if not names:
        raise LoadError("expected IMAGE: a file, a folder, a glob pattern, - or @list.txt")
    return names


def _is_file(text: str) -> bool:
    return text == "-" or text.startswith("@") or os.path.lexists(text) or any(c in text for c in "*?[")


def _targets(options: argparse.Namespace, explainer: Explainer, classes: loading.Classes) -> list[str | int]:
    """The targets of the command line, with classes as numbers.

    Raises:
        LoadError: an unknown class, not as many names as classes.
        ValueError: see `targets.ranked`.
    """
    count = targets.class_count(explainer.graph)
    classes.check(count)
    count = count or np.iinfo(np.int32).max
    tops = lambda text: text.lower().startswith("topk:") or text.lower() == "top1"  # noqa: E731
    wanted = [text if tops(text) else classes.index(text, count) for text in options.target]
    targets.ranked(wanted, explainer.graph)
    return wanted


def _contrast(
    options: argparse.Namespace, explainer: Explainer, classes: loading.Classes, chosen: Sequence[str | int] = ()
) -> str | int | None:
    """What the targets are set against, with a class as a number.

    Raises:
        LoadError: an unknown class, or one that is a target itself. ValueError: the model has a single output unit.
    """
    text = options.contrast
    if text is None:
        return None
    count = targets.class_count(explainer.graph) or np.iinfo(np.int32).max
    contrast = text if text in KINDS else classes.index(text, count)
    contrasts.checked(explainer.graph, contrast, np.zeros(1))
    if contrast in chosen:
        raise LoadError(f"--contrast {text} is a target itself. Expected another class than --target {contrast}")
    return contrast


def _load(options: argparse.Namespace) -> keras.Model:
    _import_modules(options)
    _written(options)  # mistakes in it are told before the model is loaded, which takes longer
    return loading.load_model(options.model, unsafe=options.unsafe)


def _import_modules(options: argparse.Namespace) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not search the current folder
    for module in options.modules:
        importlib.import_module(module)


def _identity(path: Path) -> list[str | int]:
    """What distinguishes the file of a model from others."""
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _preprocessing(options: argparse.Namespace, model: keras.Model) -> loading.Preprocessing:
    """The preprocessing that was asked for, or "none" for a model that scales its input itself.

    Raises:
        LoadError: neither; lrp_tf does not guess.
    """
    if options.preprocess is not None:
        return loading.get_preprocessing(options.preprocess)
    if begins_with_scaling(Explainer(model, "epsilon", output=_output(options)).graph):
        return loading.get_preprocessing("none")
    raise LoadError(
        f"--preprocess is missing, and {options.model} does not scale its input itself: a model that is fed other "
        f"numbers than in training is confidently wrong. {loading.choices()}"
    )


def _classes(options: argparse.Namespace) -> loading.Classes:
    return loading.load_classes(options.classes) if options.classes else loading.Classes()


def _output(options: argparse.Namespace) -> int | str | None:
    text = getattr(options, "output", None)
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def _needs_bounds(options: argparse.Namespace) -> bool:
    """Whether the preset takes bounds of the input that the command line does not give."""
    if isinstance(options.composite, Written):
        return False
    name, given = options.composite
    return name in composites.PRESETS and composites.needs_bounds(name) and not {"low", "high"} <= set(given)


def _bounds(
    options: argparse.Namespace, model: keras.Model, preprocessing: loading.Preprocessing
) -> dict[str, np.ndarray]:
    """low and high of z^B rules: the values that pixels of 0 and 255 become."""
    if not _needs_bounds(options):
        return {}
    form = form_of(Explainer(model, "epsilon", output=_output(options)), options.size)
    low, high = preprocessing.bounds(form.channels)
    return {"low": low, "high": high}


def _explainer(model: keras.Model, options: argparse.Namespace, bounds: Mapping[str, object]) -> Explainer:
    chosen = {"output": _output(options), "relevance_filter": options.relevance_filter, "fast": options.fast}
    if (composite := _written(options)) is not None:
        return Explainer(model, composite, **chosen)
    name, given = options.composite
    if options.zero_bias and given.get("zero_bias", True) is not True:
        raise LoadError(f"--zero-bias and --composite {options.composite} contradict one another. Expected one of them")
    given = {key: rules.Relative(value) if isinstance(value, RelativeFactor) else value for key, value in given.items()}
    zero_bias = {"zero_bias": True} if options.zero_bias else {}
    return Explainer(model, name, **chosen, **{**bounds, **given, **zero_bias})


def _written(options: argparse.Namespace) -> composites.Composite | None:
    """The composite that the command line writes out, in a text or a file; None if it names a preset."""
    if not isinstance(options.composite, Written):
        return None
    if options.zero_bias:
        raise LoadError(
            "--zero-bias is an option of presets. Expected one of them beside it. Received: --composite "
            f"{options.composite.text}. Remedy: zero_bias=true behind its rules, as in 'all: epsilon zero_bias=true'"
        )
    text = options.composite.text
    return composites.load(text) if options.composite.is_file else composites.parse(text, name=text)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "explain": explain_command,
    "summary": summary_command,
    "report": report_command,
    "check": check_command,
    "export": export_command,
    "composites": composites_command,
}
