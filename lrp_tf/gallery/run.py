"""A list of image files -> pictures of their relevance, with a table of results and one of failures.

Reading and decoding go on beside the network, drawing beside both; memory does not grow with the list. Every picture
appears whole or not at all, and its line in `results.csv` after it, so that a run that was cut off can be resumed.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from lrp_tf import heatmap
from lrp_tf.engine import diagnosis, targets
from lrp_tf.explainer import Explainer, Explanation
from lrp_tf.files import images
from lrp_tf.files.errors import LoadError
from lrp_tf.files.form import form_of
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.gallery.draw import draw, first_stride, where_it_went
from lrp_tf.gallery.ledger import (
    PATH,
    TEXT,
    Names,
    Table,
    complete_rows,
    from_cell,
    has_rows,
    only_run,
    to_csv,
    write_text,
)
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.photographs import scaled
from lrp_tf.terminal import printable

TOP = 5
RESULTS, FAILURES, SETTINGS, SCALE = "results.csv", "failures.csv", "settings.json", "scale.json"
_SHARES = ("start", "relevance", "bias", "stabilizer", "other", "unexplained")
COLUMNS = (
    *("file", "result"),
    *(f"top{i}{what}" for i in range(1, TOP + 1) for what in ("", "_name", "_probability", "_logit")),
    *("target", "target_name", "logit", "sum_of_relevance", "bias", "stabilizer", "other", "unexplained"),
    *("probability", "arrived", "largest_relevance", "warning"),
)
_NAME = COLUMNS.index("target_name")
_TEXTS = {"file": PATH, "result": PATH, "reason": TEXT} | {name: TEXT for name in COLUMNS if name.endswith("_name")}
_KEPT = 4_000_000  # pixels of a photograph that waits for its overlay; larger ones are read again


@dataclasses.dataclass(frozen=True)
class Gallery:
    """What is done with each image.

    Attributes:
        explainer: of a model with one image as input and classes as output.
        preprocessing: from pixels 0..255 to what the model takes.
        out: folder of the results.
        classes: their names.
        targets: what is explained of every image: ("top1",), ("topK:3",), (281, 282), ("top1", 281).
        size: (height, width), where the model leaves it open.
        how: "squash", "crop" or "pad", see `images.Fit`.
        batch: images that the network gets at once.
        max_pixels: larger files are failures.
        save_relevance: `.npy` files too: float32 [H, W, C] of the model's input, [k, H, W, C] for k targets.
        settings: what has to be the same when a run is resumed; for `settings.json`.
    """

    explainer: Explainer
    preprocessing: Preprocessing
    out: Path
    classes: Classes = Classes()
    targets: tuple = ("top1",)
    size: tuple[int, int] | None = None
    how: str = "squash"
    batch: int = 8
    max_pixels: int = images.MAX_PIXELS
    look: Look = Look()
    save_relevance: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        self.look.check()

    def run(
        self,
        files: Iterable[tuple[str, str]],
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Callable[[int], Any] = lambda done: None,
        tell: Callable[[str], Any] = lambda line: None,
        finished: Callable[[list[tuple]], Any] = lambda rows: None,
        warn: Callable[[str], Any] = lambda line: None,
    ) -> Outcome:
        """Explain `files`, pairs as `images.find` gives them.

        Args:
            resume: continue what an earlier run left in `out`; files that failed are tried again.
            overwrite: begin new tables though those of an earlier run are there; pictures of the same name are
                replaced, all others stay.
            progress: called with the number of files that are finished since the last call; first with those that an
                earlier run finished.
            tell: called with a line for each failure.
            finished: called with the lines of `results.csv` of each image, one for each target; see `COLUMNS`.
            warn: called with a line for each map that is absurd, see `lrp_tf.RelevanceWarning`; it is drawn, titled so,
                and marked in the column "warning".

        Raises:
            LoadError: the model takes no image or gives no classes; settings other than those of the run to resume;
                results of an earlier run, and neither `resume` nor `overwrite`.
            ValueError: another run is writing into `out`.
            OSError: the folder cannot be written, or the disk is full.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise LoadError(f"Expected a folder for the results. Received: {self.out}, a file or below one") from error
        with only_run(self.out):
            return _Run(self, resume, overwrite, progress, tell, finished, warn).run(files)


class Outcome(NamedTuple):
    """What became of the files.

    `skipped` were finished before; `low` and `high` is the range fed to the model; `scale` that of the whole run, if
    `Look.scale` asks for one; `absurd` counts maps that are not to be trusted, see `lrp_tf.RelevanceWarning`.
    """

    done: int
    failed: int
    skipped: int
    low: float
    high: float
    scale: float | None = None
    absurd: int = 0


class _Item(NamedTuple):
    path: str
    base: str  # of the results: a path below `out`, without suffix


class _Picture(NamedTuple):
    """A photograph that waits for its relevance."""

    size: tuple[int, int]
    shown: np.ndarray  # as drawn beside the heatmap
    whole: np.ndarray | None  # None: too large to wait


class _Run:
    def __init__(
        self,
        gallery: Gallery,
        resume: bool,
        overwrite: bool,
        progress: Callable,
        tell: Callable,
        finished: Callable,
        warn: Callable,
    ) -> None:
        self.gallery, self.resume, self.overwrite = gallery, resume, overwrite
        self.progress, self.tell, self.finished, self.warn = progress, tell, finished, warn
        self.absurd = 0
        self.form = form_of(gallery.explainer, gallery.size)
        self.fit = images.Fit(self.form.height, self.form.width, gallery.how)
        gallery.classes.check(targets.class_count(gallery.explainer.graph))
        self.count = len(targets.ranked(gallery.targets, gallery.explainer.graph))
        self.names = Names(self._suffixes())
        self.pictures: dict[int, _Picture] = {}
        self.lock = threading.Lock()
        self.errors: collections.deque[tuple[int, str]] = collections.deque()
        self.low, self.high = np.inf, -np.inf
        self.paint = gallery.look.paint(first_stride(gallery.explainer))
        self.scale: float | None = None  # of the whole run

    def _suffixes(self) -> list[str]:
        look = self.gallery.look
        numbers = [f".{i + 1}" for i in range(self.count)] if self.count > 1 else [""]
        found = [f".{look.format}"] if "side-by-side" in look.styles else []
        found += [
            f".{style}{n}.{look.format}" for style in ("overlay", "heatmap") if style in look.styles for n in numbers
        ]
        return [*found, *([".npy"] if self.gallery.save_relevance else [])]

    def run(self, files: Iterable[tuple[str, str]]) -> Outcome:
        out = self.gallery.out
        finished = self._finished()
        for leftover in out.rglob(f".tmp-{'[0-9a-f]' * 16}*"):
            leftover.unlink(missing_ok=True)
        items, skipped = self._items(files, finished)
        if self.gallery.look.scale == "run":
            self.progress(skipped)
            self.scale = self._scale_of_run(items, finished)
        done = failed = 0
        with (
            Table(out / RESULTS, COLUMNS, _TEXTS, append=self.resume) as results,
            Table(out / FAILURES, ("file", "reason"), _TEXTS) as failures,
            ThreadPoolExecutor(2) as painters,
        ):
            self.progress(skipped)

            def fail(index: int, reason: str) -> None:
                nonlocal failed
                failures.add([(items[index].path, reason)])
                self.tell(f"{items[index].path!r}: {reason}")
                failed += 1
                self.progress(1)

            def settle(index: int, rows: list[tuple], future: Future) -> None:
                nonlocal done
                try:
                    future.result()
                except (OSError, ValueError, cv2.error) as error:
                    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                        raise
                    fail(index, f"no result: {getattr(error, 'strerror', None) or error}")
                    return
                results.add(rows)
                self.finished(rows)
                for row in rows:
                    if row[-1]:
                        self.absurd += 1
                        self.warn(f"{items[index].path!r}, {printable(row[_NAME])}: {row[-1]}")
                done += 1
                self.progress(1)

            pending: collections.deque = collections.deque()
            for index, rows, draw in self._explained(items):
                while self.errors:
                    fail(*self.errors.popleft())
                pending.append((index, rows, painters.submit(draw)))
                while len(pending) > 2 * self.gallery.batch:
                    settle(*pending.popleft())
            while pending:
                settle(*pending.popleft())
            while self.errors:
                fail(*self.errors.popleft())
        return Outcome(done, failed, skipped, float(self.low), float(self.high), self.scale, self.absurd)

    # --- what is to be done --------------------------------------------------------------------

    def _finished(self) -> dict[str, str]:
        """file -> base of its results, of an earlier run; its table is put right where it was cut off."""
        out, settings = self.gallery.out, json.loads(json.dumps(self.gallery.settings))  # as they come back
        if not (self.resume or self.overwrite) and has_rows(out / RESULTS):
            raise LoadError(
                f"{out} holds the results of an earlier run. Expected an empty folder. Remedy: `resume` to finish that "
                "run, `overwrite` to begin anew, or another `out`",
                ("resume", "overwrite", "out"),
            )
        if not self.resume or not (out / RESULTS).exists():
            write_text(out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
            return {}
        try:
            before = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        if before != settings:
            changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
            raise LoadError(
                f"`resume`: {out} was made with other settings: {', '.join(changed)}. Expected the same. Remedy: the "
                "settings of before (settings.json), another `out`, or `overwrite`",
                ("resume", "overwrite", "out"),
            )
        rows = complete_rows(out / RESULTS, len(COLUMNS))
        finished = {from_cell(row[0], PATH): from_cell(row[1], PATH) for row in rows[1:]}
        for file, base in list(finished.items()):
            if not all((out / (base + suffix)).exists() for suffix in self.names.suffixes):
                del finished[file]
        kept = [row for row in rows[1:] if from_cell(row[0], PATH) in finished]
        write_text(out / RESULTS, to_csv([COLUMNS, *kept]))
        return finished

    def _items(self, files: Iterable[tuple[str, str]], finished: dict[str, str]) -> tuple[list[_Item], int]:
        items, skipped = [], 0
        for base in finished.values():
            self.names.take(base)
        seen = set()
        for path, relative in files:
            if path in seen:
                continue
            seen.add(path)
            if path in finished:
                skipped += 1
            else:
                items.append(_Item(path, self.names.new(path, relative)))
        return items, skipped

    def _scale_of_run(self, items: list[_Item], finished: dict[str, str]) -> float:
        """The largest |R| of all images, as drawn, computed before any is drawn; kept for runs that resume this one."""
        path = self.gallery.out / SCALE
        names = sorted([*(item.path for item in items), *finished])
        files = hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()
        if finished:
            self.progress(len(items))
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                before = {}
            if before.get("files") != files:
                raise LoadError(
                    f"`resume`: the scale of the run, {path}, is of another list of files, so that colours would not "
                    "compare. Expected the same files. Remedy: `scale` with the number from there, or `overwrite`",
                    ("resume", "scale", "overwrite"),
                )
            return float(before["scale"])
        largest = 0.0
        counted = 0
        for maps, indices, _ in self._relevance(items, explain=False):
            counted += len(indices)
            self.progress(len(indices))
            for relevance in maps.reshape(-1, *maps.shape[2:]):
                if np.isfinite(relevance).all():  # else drawing it fails, and that is told there
                    largest = max(largest, float(np.abs(self.paint.values(relevance)).max()))
            self.pictures.clear()
        self.progress(len(items) - counted)
        self.errors.clear()  # found again, and told, when the pictures are drawn
        write_text(path, json.dumps({"scale": largest or 1.0, "files": files}))
        return largest or 1.0

    # --- the stream ----------------------------------------------------------------------------

    def _load(self, index: int) -> tuple[np.ndarray, bool]:
        gallery = self.gallery
        try:
            image = images.read(self._files[index], gallery.max_pixels)
        except images.ImageError as error:
            self.errors.append((int(index), str(error)))
            return np.zeros((self.form.height, self.form.width, self.form.channels), np.uint8), False
        height, width = image.shape[:2]
        factor = gallery.look.shown / max(height, width)
        shown = (max(round(height * factor), 1), max(round(width * factor), 1)) if factor < 1 else (height, width)
        keep = "overlay" in gallery.look.styles and height * width <= _KEPT
        picture = _Picture((height, width), scaled(image, shown), image if keep else None)
        with self.lock:
            self.pictures[int(index)] = picture
        return self.form.arrange(self.fit.apply(image)), True

    def _batches(self, items: list[_Item]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches as fed, and the indices of their items. Files are decoded in parallel, ahead of the network."""
        self._files = [item.path for item in items]
        shape = (self.form.height, self.form.width, self.form.channels)

        def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            pixels, fine = tf.numpy_function(self._load, [index], (tf.uint8, tf.bool))
            return tf.ensure_shape(pixels, shape), tf.ensure_shape(fine, []), index

        ahead = min(os.cpu_count() or 1, 16)
        dataset = tf.data.Dataset.range(len(items)).map(load, num_parallel_calls=ahead, deterministic=True)
        dataset = dataset.filter(lambda pixels, fine, index: fine).batch(self.gallery.batch).prefetch(1)
        for pixels, _, indices in dataset.as_numpy_iterator():
            x = self.gallery.preprocessing(pixels)
            self.low, self.high = min(self.low, x.min()), max(self.high, x.max())
            yield self.form.order(x), indices

    def _relevance(self, items: list[_Item], explain: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Batches: relevance [B, k, H, W, C], the indices of its items, and the explanation if asked for."""
        gallery = self.gallery
        graph = gallery.explainer.graph
        target = lambda element: targets.for_all(gallery.targets, graph, len(element[1]))  # noqa: E731
        stream = gallery.explainer.map(self._batches(items), target, full=explain, with_inputs=True)
        for (_, indices), result in stream:
            relevance = np.asarray(result.relevance if explain else result, np.float32)
            relevance = relevance[:, None] if self.count == 1 else relevance
            yield np.moveaxis(relevance, 2, -1) if self.form.channels_first else relevance, indices, result

    def _explained(self, items: list[_Item]) -> Iterator[tuple[int, list[tuple], Callable[[], None]]]:
        for relevance, indices, explanation in self._relevance(items):
            scores = _scores(explanation, bool(self.gallery.explainer.graph.stripped))
            for row, index in enumerate(map(int, indices)):
                item, maps = items[index], relevance[row]
                with self.lock:
                    picture = self.pictures.pop(index)
                rows, titles = self._describe(item, scores, explanation, row, maps)
                yield index, rows, lambda i=item, p=picture, m=maps, t=titles: self._draw(i, p, m, t)

    def _describe(
        self, item: _Item, scores: tuple[np.ndarray, Any], explanation: Explanation, row: int, maps: np.ndarray
    ) -> tuple[list[tuple], list[str]]:
        """The lines of results.csv, and a title for each target."""
        logits, probabilities = scores[0][row], None if scores[1] is None else scores[1][row]
        name = self.gallery.classes.name
        best = np.argsort(-logits, kind="stable")[:TOP]
        chance = lambda c: "" if probabilities is None else f"{probabilities[c]:.6g}"  # noqa: E731
        top = [value for c in best for value in (int(c), name(int(c)), chance(c), f"{logits[c]:.7g}")]
        top += [""] * (4 * (TOP - len(best)))
        shares = [np.atleast_1d(np.asarray(getattr(explanation.conservation, share))[row]) for share in _SHARES]
        unexplained = diagnosis.unexplained(explanation.conservation, explanation.begin).numpy()
        unexplained = np.atleast_1d(unexplained[row])
        largest = np.abs(maps.sum(-1)).max((1, 2))
        rows, titles = [], []
        for k, target in enumerate(np.atleast_1d(np.asarray(explanation.target)[row]).tolist()):
            numbers = [f"{share[k]:.7g}" for share in shares]
            start, arrived = (float(share[k]) for share in shares[:2])
            factor = np.atleast_1d(explanation.amplification.numpy()[row])[k]
            warning = diagnosis.remark(factor, unexplained[k])
            told = (chance(target), f"{arrived / start:.4g}" if start else "", f"{largest[k]:.7g}", warning)
            rows.append((item.path, item.base, *top, target, name(target), *numbers, *told))
            likely = "" if probabilities is None else f", p = {probabilities[target]:.3f}"
            label = name(target) if name(target) != str(target) else f"class {target}"
            went = where_it_went(*(float(share[k]) for share in shares[:5]))
            went = "ABSURD: no explanation" if warning else went
            titles.append(f"{printable(label)}{likely}, logit {logits[target]:.2f}\n{went}")
        return rows, titles

    # --- pictures ------------------------------------------------------------------------------

    def _draw(self, item: _Item, picture: _Picture, relevance: np.ndarray, titles: list[str]) -> None:
        """Write all results of one image; `relevance` [k, H, W, C]."""
        gallery, base = self.gallery, self.gallery.out / item.base
        base.parent.mkdir(parents=True, exist_ok=True)
        maps = [self.paint.values(r) for r in relevance]
        if gallery.save_relevance:
            heatmap.atomic(
                Path(f"{base}.npy"), lambda path: np.save(path, relevance[0] if self.count == 1 else relevance)
            )

        def whole() -> np.ndarray:
            return images.read(item.path, gallery.max_pixels) if picture.whole is None else picture.whole

        photograph = {"size": picture.size, "shown": picture.shown, "whole": whole}
        draw(base, maps, titles, look=gallery.look, fit=self.fit, run=self.scale, **photograph)


def _scores(explanation: Explanation, stripped: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits [B, C], and probabilities where the model gives them; a single unit is two classes."""
    logits = np.asarray(explanation.logits, np.float64)
    output = np.asarray(explanation.output, np.float64)
    logits, output = logits.reshape(len(logits), -1), output.reshape(len(output), -1)
    if logits.shape[1] == 1:
        logits, output = np.concatenate([-logits, logits], 1), np.concatenate([1 - output, output], 1)
    return logits, output if stripped else None
