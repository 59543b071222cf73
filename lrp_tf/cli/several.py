"""Several composites in one folder: what is refused before the first of them runs, and which ones the page shows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.gallery.page.results import ABOUT
from lrp_tf.gallery.run import Gallery
from lrp_tf.terminal import say

COMPOSITES = "composites.json"  # the folders of the composites of a page, below the folder of the page


def make_way(out: Path, *, overwrite: bool) -> None:
    """Before a run of one composite: the folder must not hold a page of several, or is to be overwritten.

    Raises:
        LoadError: it holds one, and is not to be overwritten.
    """
    if not (out / COMPOSITES).exists():
        return
    if not overwrite:
        raise LoadError(
            f"{out} holds a page of several composites. Expected an empty folder, or one of a single composite. "
            "Remedy: another --out, or --overwrite"
        )
    with ledger.only_run(out):
        (out / COMPOSITES).unlink(missing_ok=True)


def check(options: argparse.Namespace, jobs: Sequence[Gallery]) -> list[str]:
    """Find what would end the run of any composite, before the first one runs.

    Returns:
        The folders of earlier composites that the page shows as well, with `--resume`.

    Raises:
        LoadError: results of one composite lie in the folder; a folder of a composite holds results that are neither
            to be resumed nor overwritten, or were made with other settings; the list of earlier ones is damaged.
    """
    out = options.out
    if ledger.has_rows(out / ledger.RESULTS) and not options.overwrite:
        raise LoadError(
            f"{out} holds the results of a run of one composite. Expected an empty folder, or one of several "
            "composites. Remedy: another --out, or --overwrite"
        )
    for job in jobs:
        ledger.check(job.out, job.settings, resume=options.resume, overwrite=options.overwrite)
    if not (options.resume and options.gallery):
        return []
    earlier = _earlier(out)
    for name in earlier:
        if name not in {job.out.name for job in jobs}:
            _refuse_others(out / name, jobs[0])
    return earlier


def begin_anew(out: Path) -> None:
    """With `--overwrite`: remove the tables of a run of one composite, whose folder several composites take over."""
    for name in (ledger.RESULTS, ledger.FAILURES, ledger.SETTINGS):
        (out / name).unlink(missing_ok=True)


def keep(out: Path, names: Iterable[str]) -> list[Path]:
    """Note the folders of the composites of a page, for the next run; returns their paths, each once."""
    names = list(dict.fromkeys(names))
    ledger.write_text(out / COMPOSITES, json.dumps(names))
    return [out / name for name in names]


def _refuse_others(folder: Path, job: Gallery) -> None:
    """Refuse a composite of an earlier run that explains something else than `job`: a page compares them."""
    ours = {name: value for name, value in job.settings.items() if name != "composite"}
    if names := [name for name in ledger.changed(folder, ours) if name != "composite"]:
        raise LoadError(
            f"--resume: the page would show {folder} beside this run. Expected the same settings but for --composite. "
            f"Received: others for {', '.join(names)}. Remedy: the earlier settings ({folder / ledger.SETTINGS}), "
            "another --out, or --overwrite"
        )


def _earlier(out: Path) -> list[str]:
    """The folders that the page of an earlier run showed, and that still hold results for a page.

    Raises:
        LoadError: the list of them is damaged.
    """
    path = out / COMPOSITES
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_bytes())
    except ValueError:  # no JSON, or no UTF-8
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise LoadError(
            f"--resume: {path} is damaged. Expected a list of folders beside it. Remedy: remove it, and the page shows "
            "the composites of this run alone"
        )
    found = [name for name in names if (out / name / ledger.RESULTS).exists() and (out / name / ABOUT).exists()]
    for name in sorted({*names} - {*found}):
        say(f"The page leaves out {out / name}: it holds no results for a page any more", error=True)
    return found


def _is_plain(name: str) -> bool:
    """Whether a name is that of a folder, and no path to another place."""
    return name not in ("", ".", "..") and not any(sign in name for sign in "/\\:\0")
