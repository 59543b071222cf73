"""`lrp-tf benchmark`: nets trained on problems whose evidence is known, and how well methods find it."""

from __future__ import annotations

import argparse
import itertools
import time

from lrp_tf import composites, evaluate, named
from lrp_tf.cli import given, records
from lrp_tf.cli.composite_option import NamedPreset, Written, name_of
from lrp_tf.evaluate.benchmark import Cell, names
from lrp_tf.evaluate.benchmark.methods import Named, Wanted
from lrp_tf.evaluate.benchmark.tuned import NAME as TUNED
from lrp_tf.evaluate.benchmark.tuned import Tuned
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import ledger
from lrp_tf.terminal import raise_interrupt, say

_CELLS = "nets"  # the folder, below that of the results, which a resumed run reads


def benchmark_command(options: argparse.Namespace) -> int:
    """Train, explain, measure; write the tables."""
    given.import_modules(options)  # which may register presets
    if options.methods is not None and [name_of(one) for one in options.methods] == ["list"]:
        for name in [*names(), TUNED]:
            say(name)
        return 0
    methods = None if options.methods is None else _methods(options.methods, options.grid)
    if options.grid is not None and not any(isinstance(one, Tuned) for one in (methods or {}).values()):
        raise LoadError("--grid is of the method tuned. Remedy: --methods all,tuned")
    with ledger.only_run(options.out):
        began = time.perf_counter()
        found = evaluate.benchmark(
            options.problems,
            options.backgrounds,
            size=options.size,
            nets=options.nets,
            seeds=options.seeds,
            first_seed=options.first_seed,
            samples=options.samples,
            methods=methods,
            inputs=options.inputs,
            contrast=options.contrast,
            training=options.training,
            epochs=options.epochs,
            resume=records.folder_of(options, _CELLS, "a benchmark"),
            progress=_told,
        )
        found.save(options.out)
    say(found.markdown())
    say(f"{len(found.cells)} nets in {time.perf_counter() - began:.0f} s. Results in {options.out}: table.md, "
        "summary.csv, seeds.csv, nets.csv, pictures")  # fmt: skip
    return 0


def _told(cell: Cell, done: int, of: int) -> None:
    raise_interrupt()
    short = "" if cell.learnt else ", below 0.8"
    say(f"{done}/{of} {cell.place}: accuracy {cell.accuracy:.3f}{short}, {cell.explained} explained", error=True)


def _methods(asked: list[NamedPreset | Written], grid: list[str] | None) -> dict[str, Wanted]:
    """Methods under the names that they were asked for by.

    Args:
        grid: of the method `tuned`.
    """
    found: dict[str, Wanted] = {}
    every = [NamedPreset(name, {}) for name in names()]
    for one in itertools.chain(*(every if name_of(each) == "all" else [each] for each in asked)):
        name = name_of(one)
        if name in found:
            raise LoadError(f"--methods: {name} comes twice. Expected each once")
        if isinstance(one, Written):
            found[name] = composites.load(one.text) if one.is_file else composites.parse(one.text)
        elif name == TUNED:
            found[name] = Tuned(None if grid is None else tuple(grid))
        elif one.name not in [*names(), "gradient", "centre", *composites.PRESETS]:
            raise LoadError(f"--methods expects some of all, {', '.join([*names(), TUNED])}. Received: {one.name}")
        else:
            found[name] = Named(one.name, named.relative_factors(one.options)) if one.options else one.name
    return found


COMMANDS = {"benchmark": benchmark_command}
