"""A film on its way: read, explained, drawn and written, each in a thread of its own."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from explaining import Explaining, Shot, batches
from filming import Picture, write
from films import Camera, CutError, Frame, Newest, Source, constant, looped, opened, paced, require_av, writable
from live import Page, listening, require_flask
from networks import NETWORKS, load
from views import Rate, Scale, shown_size, view

from lrp_tf.cli import given
from lrp_tf.engine.explanation import Explanation
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.images import Fit
from lrp_tf.gallery import first_stride
from lrp_tf.gallery.ahead import ahead
from lrp_tf.heatmap.colours import Paint
from lrp_tf.terminal import printable, say

IMAGENET = 1000  # classes
ENDED_EARLY = 1
_AHEAD = 2  # batches
T = TypeVar("T")


@dataclasses.dataclass
class Job:
    """What becomes of the frames of a source.

    Attributes:
        size: (H, W) of a frame in the film.
        out: the film to write, or None.
        fps: its constant rate; None: the source's times.
        batch: frames that are explained at once.
        most: frames to explain, at most; None: all.
        live: the newest frame is explained, and older ones are dropped.
        stop: set by whoever wants the job to end soon.
        count: frames explained so far.
    """

    explaining: Explaining
    source: Source
    scale: Scale
    size: tuple[int, int]
    style: str = "side-by-side"
    out: Path | None = None
    fps: Fraction | None = None
    batch: int = 1
    most: int | None = None
    live: bool = False
    page: Page | None = None

    def __post_init__(self) -> None:
        self.stop, self.count, self.seconds = threading.Event(), 0, 0.0
        self._resting = self.page.paused if self.page else threading.Event()
        self._newest: Newest | None = None

    @property
    def dropped(self) -> int:
        """How many frames were dropped because newer ones had come."""
        return self._newest.dropped if self._newest else 0

    def run(self) -> BaseException | None:
        """Do it all; returns what ended it early, after which the film so far plays.

        Raises:
            LoadError: nothing came out of it.
        """
        began, ended = time.perf_counter(), None
        with closed(self._pictures()) as pictures:
            if self.out is not None:
                _, ended = write(self.out, pictures, self.fps, self.source.rate)
            else:
                try:
                    for _ in pictures:
                        pass
                except CutError as error:
                    ended = error
        self.seconds = time.perf_counter() - began
        return ended

    def _pictures(self) -> Iterator[Picture]:
        rate, told = Rate(), 0
        with closed(ahead(self._explained())) as results:
            for batch, explanation in results:
                speed = rate(len(batch))
                for shot, finding in zip(batch, self.explaining.findings(explanation), strict=True):
                    scale, told = self.scale(finding.values, shot.time), told + 1
                    shown = view(shot, finding, scale, speed, self.explaining, self.style)
                    if self.page is not None:
                        self.page.show(shown, shot, finding, scale, speed, told)
                    pixels = shown.picture() if self.out is not None else shot.shown
                    yield Picture(pixels, shot.time, shot.pictures)

    def _explained(self) -> Iterator[tuple[list[Shot], Explanation]]:
        """Batches with what the model says of them."""
        with closed(self._prepared()) as prepared:
            while not self.stop.is_set():
                while self._resting.is_set() and not self.stop.wait(0.02):
                    pass  # before the next frame is taken, so that it is a new one
                if self.stop.is_set() or (entry := next(prepared, None)) is None:
                    return
                batch, x = entry
                explanation = self.explaining.explained(x)
                self.count += len(batch)
                yield batch, explanation

    def _prepared(self) -> Iterator[tuple[list[Shot], np.ndarray]]:
        """Batches with what the model is fed, made while the network computes, or at once where they must be new."""
        frames = itertools.islice(until(self.stop, self._frames()), self.most)
        shots = (self.explaining.shot(frame, self.size) for frame in frames)
        made = ((batch, self.explaining.fed([s.fitted for s in batch])) for batch in batches(shots, self.batch))
        return iter(made) if self.live else ahead(made, _AHEAD)

    def _frames(self) -> Iterable[Frame]:
        frames: Iterable[Frame]
        if self.live:
            given_ = self.source.frames()
            if not isinstance(self.source, Camera):
                given_ = paced(looped(self.source), self.stop, self._resting)
            frames = self._newest = Newest(given_, self.stop, self._resting)
        else:
            frames = self.source.frames()
        return constant(frames, self.fps, self.source.rate) if self.fps and self.out is not None else frames


@contextlib.contextmanager
def closed(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The items; behind them their threads have ended, whether or not all were taken."""
    try:
        yield items
    finally:
        if isinstance(items, Generator):
            items.close()


def until(stop: threading.Event, frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames until `stop` is set."""
    for frame in frames:
        if stop.is_set():
            return
        yield frame


def stoppable(work: Callable[[], BaseException | None], stop: threading.Event) -> BaseException | None:
    """`work` in a thread; Ctrl-C sets `stop` and waits until it has ended well.

    Raises:
        BaseException: what `work` raises; KeyboardInterrupt after Ctrl-C.
    """
    found: list[BaseException | None] = []
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            found.append(work())
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    # Not `join`: Python before 3.13 takes a thread for ended when Ctrl-C interrupts that.
    done = threading.Event()
    threading.Thread(target=guarded, name="film").start()
    try:
        while not done.wait(0.2):
            pass
    except KeyboardInterrupt:
        stop.set()
        done.wait()
        raise
    if raised:
        raise raised[0]
    return found[0]


# --- the command -------------------------------------------------------------------------------


def run(chosen: argparse.Namespace) -> int:
    """What vgg/video.py does; returns the exit code."""
    source = _checked(chosen)
    with contextlib.ExitStack() as closing:
        listener = None
        if chosen.serve is not None:
            listener = closing.enter_context(listening(chosen.serve))
        explaining = explaining_of(chosen)
        live = isinstance(source, Camera) or (listener is not None and chosen.out is None)
        job = Job(
            *(explaining, source, Scale(chosen.scale), shown_size(source.size, chosen.height), chosen.style),
            *(chosen.out, chosen.fps, 1 if live else chosen.batch, chosen.max_frames, live),
        )
        if listener is not None:
            job = _with_page(job)
        _warm_up(job)
        if listener is not None and job.page is not None:
            say(f"Open {job.page.start(listener)} in a browser on this machine. Ctrl-C ends it.")
            closing.callback(job.page.close)
        cv2.setNumThreads(1)  # frames are drawn beside the network already
        return _finish(job, chosen)


def _checked(chosen: argparse.Namespace) -> Source:
    """The source, once the options are known to make sense; that takes no time."""
    if chosen.out is None and chosen.serve is None:
        raise LoadError("Expected --out FILE.mp4, --serve PORT, or both")
    if chosen.fps is not None and chosen.out is None:
        raise LoadError("--fps is the rate of --out. Expected --out FILE.mp4 beside it")
    if chosen.serve is not None:
        require_flask()
    Scale(chosen.scale)
    if chosen.out is not None:
        require_av()
        writable(chosen.out, chosen.source, overwrite=chosen.overwrite)
    return opened(chosen.source, chosen.max_pixels)


def _with_page(job: Job) -> Job:
    height, width = job.size
    page = Page(job.explaining, job.source.name, width / height, lambda: made.dropped)
    made = dataclasses.replace(job, page=page)
    return made


def _warm_up(job: Job) -> None:
    """The first call compiles, which a camera should not wait for."""
    began, form = time.perf_counter(), job.explaining.form
    nothing = np.zeros((form.height, form.width, 3), np.uint8)
    job.explaining(job.explaining.fed([nothing] * job.batch))
    job.explaining.absurd = 0
    model = job.explaining.explainer
    say(
        f"{printable(model.model.name)}, composite {model.composite.name}, {printable(job.source.name)}: "
        f"{job.source.size[1]}x{job.source.size[0]}, {job.source.rate:.4g} frames/s; "
        f"ready after {time.perf_counter() - began:.1f} s"
    )


def _finish(job: Job, chosen: argparse.Namespace) -> int:
    """Run the job and say what came of it."""
    try:
        ended = stoppable(job.run, job.stop)
    except KeyboardInterrupt:
        _tell(job, None)
        raise
    _tell(job, ended)
    if job.page is not None:
        job.page.end(str(ended) if ended else f"after {job.count} frames")
        say("The page stays until Ctrl-C.")
        threading.Event().wait()
    return ENDED_EARLY if ended else 0


def _tell(job: Job, ended: BaseException | None) -> None:
    if ended is not None and not isinstance(ended, CutError):
        say(f"{type(ended).__name__}: {printable(ended)}", error=True)
    elif ended is not None:
        say(printable(ended), error=True)
    if not job.count:
        return
    speed = f" in {job.seconds:.1f} s ({job.count / job.seconds:.2f} frames/s)" if job.seconds else ""
    more = f", {job.dropped} dropped for newer ones" if job.live else ""
    more += f", {job.source.lost} damaged" if job.source.lost else ""
    say(f"{job.count} frames explained{speed}{more}.")
    if job.explaining.absurd:
        say(f"{job.explaining.absurd} map(s) are absurd, as written below them.", error=True)
    if job.out is not None and job.out.exists():
        so_far = " so far; it plays" if ended is not None or job.stop.is_set() else ""
        say(f"{job.out} holds the film{so_far}.")


def explaining_of(chosen: argparse.Namespace) -> Explaining:
    """Model, explainer and looks that the options ask for."""
    model, preprocessing = load(chosen)
    explainer = given.explainer_of(model, chosen, given.bounds_of(chosen, model, preprocessing))
    form = form_of(explainer, chosen.size)
    classes = given.classes_of(chosen)
    if not classes.names and chosen.model in NETWORKS and model.output_shape[-1] == IMAGENET:
        classes = loading.imagenet_classes()
    if not classes.names:
        say("The names of the classes are not known, numbers are shown instead (--classes FILE).")
    targets = given.chosen_targets(chosen, explainer, classes)
    if targets[0] != "top1" and not isinstance(targets[0], int):
        raise LoadError(f"--target {targets[0]}: a film explains one class of each frame. Expected top1 or a class")
    paint = Paint(None, chosen.cmap, chosen.reduce, chosen.color_gamma, True, chosen.show, chosen.smooth,
                  first_stride(explainer))  # fmt: skip
    fit = Fit(form.height, form.width, chosen.resize)
    made = Explaining(explainer, preprocessing, classes, form, fit, paint, targets[0])
    paint.values(np.zeros((8, 8))), paint.palette()  # what is wrong with the looks is told at once
    return made
