"""`lrp-tf merge`: shards become one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lrp_tf.cli.explain import SOME_FAILED
from lrp_tf.gallery import ledger
from lrp_tf.gallery.merging import merge
from lrp_tf.gallery.page.write import INDEX
from lrp_tf.terminal import say


def merge_command(options: argparse.Namespace) -> int:
    """Make one run of shards."""
    tell = lambda line: say(line, error=True)  # noqa: E731
    merged = merge(options.outs, options.out, partial=options.partial, tell=tell)
    many = f"{merged.shards} shards merged" if merged.shards else "Merged before"
    missing = f", {merged.missing} missing" if merged.missing else ""
    say(f"{many}: {merged.done} explained, {merged.failed} failed{missing}. Results in {merged.out}")
    if merged.twice:
        say(f"{merged.twice} file(s) had rows in two places of a table; the first ones count", error=True)
    if merged.failed:
        say(f"The failures and their reasons are in {merged.out / ledger.FAILURES}", error=True)
    if merged.pages:
        more = f", {merged.pages} pages" if merged.pages > 1 else ""
        say(f"Gallery: {merged.out / INDEX}{more}")
    return SOME_FAILED if merged.failed or merged.missing else 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"merge": merge_command}
