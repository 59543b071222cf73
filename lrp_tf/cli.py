"""The command `lrp-tf`: explains the images that any saved Keras model classifies."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lrp_tf import __version__, arguments, composites, gallery, heatmap, images, loading, serving
from lrp_tf.explainer import Explainer
from lrp_tf.gallery import Gallery, Look
from lrp_tf.loading import LoadError

SOME_FAILED, USAGE, INTERRUPTED = 1, 2, 130
_EACH = 25  # up to so many images each gets a line on the console


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lrp-tf`; returns the exit code: 0, 1 some images failed, 2 wrong use, 130 interrupted."""
    parser = argparse.ArgumentParser("lrp-tf", description=__doc__.partition("`: ")[2])
    parser.add_argument("--version", action="version", version=f"lrp_tf {__version__}, Keras {keras.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    explain = commands.add_parser("explain", help="pictures of what speaks for and against a class in images")
    add_model_options(explain)
    add_images(explain)
    add_preprocessing(explain)
    add_rule_options(explain)
    add_picture_options(explain, Path("results"))
    explain.set_defaults(run=explain_command)

    summary = commands.add_parser("summary", help="table of a model: layer, operation, rule")
    add_model_options(summary)
    add_rule_options(summary)
    summary.set_defaults(run=summary_command)

    report = commands.add_parser("report", help="table of one image: what each layer received, passed on and absorbed")
    add_model_options(report)
    report.add_argument("image", metavar="IMAGE")
    add_preprocessing(report)
    add_rule_options(report)
    add_fit(report)
    add_target(report)
    report.set_defaults(run=report_command)

    export = commands.add_parser("export", help="a SavedModel for TensorFlow Serving that explains what it predicts")
    add_model_options(export)
    export.add_argument("out", type=Path, metavar="OUT", help="version folder, served/1: its name is an integer")
    add_preprocessing(export)
    add_rule_options(export)
    add_fit(export)
    add_colours(export)
    export.add_argument("--top-k", type=_count, metavar="K", help="explain_top_k too: the K top classes of a sample")
    export.add_argument("--no-warmup", action="store_true", help="write no warm-up requests (extra: serving)")
    export.set_defaults(run=export_command)

    presets = commands.add_parser("composites", help="the presets and their rules")
    presets.set_defaults(run=composites_command)
    return guarded(parser, argv)


def guarded(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, run, and turn what a user can mend into a message without a traceback."""
    options = parser.parse_args(argv)
    try:
        return options.run(options)
    except (LoadError, OSError, ValueError, TypeError, ImportError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nInterrupted. The results so far are whole; --resume goes on.", file=sys.stderr)
        return INTERRUPTED


# --- options, shared with vgg/lrp.py -----------------------------------------------------------


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="saved Keras model, .keras or .h5")
    parser.add_argument("--output", help="name or index of the output to explain, of a model with several")
    parser.add_argument("--unsafe", action="store_true", help="run Python code that the file carries (Lambda layers)")
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE",
                        help="Python module that registers the model's own layers; may be repeated")  # fmt: skip


def add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE",
                        help="file, folder, glob pattern, - (list on standard input) or @list.txt")  # fmt: skip


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preprocess", metavar="NAME|scale:1/255|none|module:function",
                        help="what the model's pixels went through in training; none: they stay 0 to 255")  # fmt: skip
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names: JSON, or one a line")


def add_rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--composite", default="epsilon_plus_flat", metavar="NAME",
                        help=f"{', '.join(composites.PRESETS)}; default: %(default)s")  # fmt: skip
    parser.add_argument("--zero-bias", action="store_true", help="let biases absorb no relevance")
    parser.add_argument("--relevance-filter", type=float, metavar="F",
                        help="keep the largest fraction F of |R| in each layer, 0.1 say: crisper maps")  # fmt: skip


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", nargs="+", default=["top1"], metavar="top1|topK:N|CLASS",
                        help="classes to explain, by number or name, several at once; default: top1")  # fmt: skip


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resize", choices=images.FITS, default="squash",
                        help="how a picture becomes the model's size; default: squash")  # fmt: skip
    parser.add_argument("--size", type=_size, metavar="HxW", help="of the input, where the model leaves it open")
    parser.add_argument("--max-pixels", type=_count, default=images.MAX_PIXELS, metavar="N",
                        help="larger pictures are failures; default: 50 million")  # fmt: skip


def add_picture_options(parser: argparse.ArgumentParser, out: Path) -> None:
    add_target(parser)
    add_fit(parser)
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--batch", type=_count, default=8, metavar="N", help="images at once; default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="skip what an earlier run with --out finished")
    parser.add_argument("--style", choices=[*gallery.STYLES, "all"], default="side-by-side")
    add_colours(parser)
    parser.add_argument("--save-relevance", action="store_true", help="write .npy files, too")


def add_colours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cmap", default="seismic", metavar="NAME",
                        help=f"{', '.join(heatmap.PALETTES)}, any of matplotlib; default: %(default)s")  # fmt: skip
    parser.add_argument("--gamma", type=float, default=1.0, metavar="G", help="below 1 shows faint relevance")
    parser.add_argument("--reduce", choices=["sum", "mean", "absmax"], default="sum", help="over the channels")
    parser.add_argument("--scale", type=float, metavar="R", help="|R| of full colour; default: each map's own maximum")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {text}")
    return number


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(_count, text.lower().split("x"))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, as in 224x224, received {text}") from error
    return height, width


# --- commands ----------------------------------------------------------------------------------


def explain_command(options: argparse.Namespace) -> int:
    model = _load(options)
    return explain_images(model, options, _preprocessing(options, model), _classes(options), _identity(options.model))


def summary_command(options: argparse.Namespace) -> int:
    model = _load(options)
    bounds = {"low": 0.0, "high": 1.0} if _needs_bounds(options) else {}  # they do not show
    _explainer(model, options, bounds).summary()
    return 0


def report_command(options: argparse.Namespace) -> int:
    model = _load(options)
    preprocessing = _preprocessing(options, model)
    explainer = _explainer(model, options, _bounds(options, model, preprocessing))
    form = gallery.form(explainer, options.size)
    try:
        image = images.read(options.image, options.max_pixels)
    except images.ImageError as error:
        raise LoadError(f"{options.image}: {error}") from error
    pixels = images.Fit(form.height, form.width, options.resize).apply(image)
    x = preprocessing(form.arrange(pixels)[None])
    print(f"fed to the model: {x.min():.4g} to {x.max():.4g} (--preprocess {preprocessing.name})")
    explainer.report(form.order(x), _targets(options, explainer, _classes(options)))
    return 0


def export_command(options: argparse.Namespace) -> int:
    model = _load(options)
    known = options.preprocess is not None or _needs_bounds(options)
    preprocessing = _preprocessing(options, model) if known else None
    bounds = _bounds(options, model, preprocessing) if preprocessing else {}
    exported = serving.export(
        _explainer(model, options, bounds),
        options.out,
        preprocess=preprocessing,
        classes=_classes(options),
        size=options.size,
        resize=options.resize,
        max_pixels=options.max_pixels,
        top_k=options.top_k,
        cmap=options.cmap,
        gamma=options.gamma,
        reduce=options.reduce,
        scale=options.scale,
        warmup=not options.no_warmup,
    )
    for name, (inputs, outputs) in exported.signatures.items():
        print(f"{name}: {', '.join(inputs)} -> {', '.join(outputs)}")
    print(f"Exported to {exported.path}")
    return 0


def composites_command(options: argparse.Namespace) -> int:
    for name in composites.PRESETS:
        bounds = {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}
        print(f"{name}")
        for match, rule in composites.get(name, **bounds).entries:
            print(f"    {_match_text(match)}: {rule!r}")
    return 0


def _match_text(match: Any) -> str:
    return "every other linear step" if match is None else getattr(match, "__name__", None) or repr(match)


def explain_images(
    model: keras.Model,
    options: argparse.Namespace,
    preprocessing: loading.Preprocessing,
    classes: loading.Classes,
    identity: Any,
) -> int:
    """Explain the images of the command line; returns the exit code.

    Args:
        identity: what tells the model from others, for `--resume`.
    """
    files = list(images.find(_image_names(options)))
    explainer = _explainer(model, options, _bounds(options, model, preprocessing))
    styles = gallery.STYLES if options.style == "all" else (options.style,)
    look = Look(styles, options.cmap, options.gamma, options.reduce, options.scale)
    look.check()
    targets = _targets(options, explainer, classes)
    shown = ("composite", "zero_bias", "relevance_filter", "output", "resize", "size", "save_relevance")
    settings = {name: getattr(options, name, None) for name in shown}
    settings |= {
        "model": identity,
        "preprocess": preprocessing.name,
        "target": targets,
        "look": dataclasses.asdict(look),
    }
    job = Gallery(
        explainer=explainer,
        preprocessing=preprocessing,
        out=options.out,
        classes=classes,
        targets=tuple(targets),
        size=options.size,
        how=options.resize,
        batch=options.batch,
        max_pixels=options.max_pixels,
        look=look,
        save_relevance=options.save_relevance,
        settings=settings,
    )
    print(f"{model.name}, composite {explainer.composite.name}, {len(files)} image(s)")
    if not classes.names:
        print("The names of the classes are not known: numbers stand in their place (--classes FILE).")
    began = time.perf_counter()
    with _Bar(len(files)) as bar:
        each = bar.tell_result if len(files) <= _EACH else (lambda rows: None)
        outcome = job.run(files, resume=options.resume, progress=bar.advance, tell=bar.tell_failure, finished=each)
    seconds = time.perf_counter() - began
    print(
        f"{outcome.done} explained in {seconds:.1f} s ({outcome.done / seconds:.2f} images/s), "
        f"{outcome.failed} failed, {outcome.skipped} finished before. Results in {options.out}"
    )
    if outcome.done:
        print(f"Fed to the model: {outcome.low:.4g} to {outcome.high:.4g} (--preprocess {preprocessing.name})")
    if outcome.failed:
        print(f"The failures and their reasons are in {options.out / gallery.FAILURES}", file=sys.stderr)
    return SOME_FAILED if outcome.failed else 0


def _image_names(options: argparse.Namespace) -> list[str]:
    """The images; `--target topK:3 cat.jpg` takes the file for a target, which is put right here."""
    names = list(options.images)
    if not names:
        while len(options.target) > 1 and _is_file(options.target[-1]):
            names.insert(0, options.target.pop())
    if not names:
        raise LoadError("expected IMAGE: a file, a folder, a glob pattern, - or @list.txt")
    return names


def _is_file(text: str) -> bool:
    return text == "-" or text.startswith("@") or os.path.lexists(text) or any(c in text for c in "*?[")


def _targets(options: argparse.Namespace, explainer: Explainer, classes: loading.Classes) -> list:
    count = arguments.class_count(explainer.graph) or np.iinfo(np.int32).max
    tops = lambda text: text.lower().startswith("topk:") or text.lower() == "top1"  # noqa: E731
    targets = [text if tops(text) else classes.index(text, count) for text in options.target]
    arguments.ranked(targets, explainer.graph)
    return targets


def _load(options: argparse.Namespace) -> keras.Model:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not see the folder where it is called
    for module in options.modules:
        importlib.import_module(module)
    return loading.load_model(options.model, unsafe=options.unsafe)


def _identity(path: Path) -> list:
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _preprocessing(options: argparse.Namespace, model: keras.Model) -> loading.Preprocessing:
    """What was asked for; "none" where the model scales its input itself; never a guess."""
    if options.preprocess is not None:
        return loading.get_preprocessing(options.preprocess)
    if gallery.begins_with_scaling(Explainer(model, "epsilon", output=_output(options)).graph):
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
    return options.composite in composites.PRESETS and composites.needs_bounds(options.composite)


def _bounds(options: argparse.Namespace, model: keras.Model, preprocessing: loading.Preprocessing) -> dict:
    """low and high of z^B rules: what becomes of pixels 0 and 255."""
    if not _needs_bounds(options):
        return {}
    form = gallery.form(Explainer(model, "epsilon", output=_output(options)), options.size)
    low, high = preprocessing.bounds(form.channels)
    return {"low": low, "high": high}


def _explainer(model: keras.Model, options: argparse.Namespace, bounds: dict) -> Explainer:
    zero_bias = {"zero_bias": True} if options.zero_bias else {}
    composite = composites.get(options.composite, **bounds, **zero_bias)
    return Explainer(model, composite, output=_output(options), relevance_filter=options.relevance_filter)


class _Bar:
    """Progress with images per second and the time that is left; lines every half minute where no terminal is."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.told = total, 0, time.perf_counter()
        self.before: int | None = None  # finished by an earlier run, and no measure of speed
        self.console = Console(stderr=True, highlight=False, markup=False)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeElapsedColumn())
        columns += (TextColumn("left:"), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.task = self.progress.add_task("", total=total, speed="")

    def __enter__(self) -> _Bar:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    def advance(self, count: int) -> None:
        self.count += count
        now = time.perf_counter()
        if self.before is None:
            self.before, self.began = count, now
        speed = (self.count - self.before) / max(now - self.began, 1e-9)
        self.progress.update(self.task, advance=count, speed=f"{speed:.2f} images/s")
        if not self.console.is_terminal and now - self.told > 30:
            self.told = now
            left = (self.total - self.count) / speed if speed else 0
            self._print(f"{self.count} of {self.total}, {speed:.2f} images/s, {left / 60:.1f} min left")

    def tell_failure(self, line: str) -> None:
        self._print(f"failed: {line}")

    def tell_result(self, rows: list[tuple]) -> None:
        for row in rows:
            cells = dict(zip(gallery.COLUMNS, row, strict=True))
            name, chance = cells["top1_name"], cells["top1_probability"]
            top = f"{name} {float(chance):.3f}" if chance else name
            logit, total = float(cells["logit"]), float(cells["sum_of_relevance"])
            file = ascii(Path(cells["file"]).name)[1:-1]
            print(f"{file}: {top}; {cells['target_name']}: logit {logit:.4g}, ΣR {total:.4g}")

    def _print(self, line: str) -> None:
        self.console.print(line.encode("utf-8", "backslashreplace").decode(), soft_wrap=True)
