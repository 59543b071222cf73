"""Rankings of shards -> those of one run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from lrp_tf.concepts import store
from lrp_tf.concepts.ranking import Ranking


def merged(paths: Sequence[str | os.PathLike], path: Path) -> store.Head:
    """Merge the files of all shards into one; see `Reference.merge`."""
    if not paths:
        raise ValueError("Expected the files of all shards. Received: none")
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(store.opened(one)) for one in paths]
        heads = [store.head_of(file) for file in files]
        whole = _whole(heads, [os.fspath(one) for one in paths])

        def ranking(layer: str, by: str, label: int) -> Ranking:
            best, *others = (
                store.ranking_of(file, head, layer, by, label) for file, head in zip(files, heads, strict=True)
            )
            for other in others:
                best.add(other.score, other.sample, other.place)
            return best

        store.write(path, whole, ranking, store.files_of(files[0]))
    return whole


def _whole(heads: Sequence[store.Head], names: Sequence[str]) -> store.Head:
    """The head of the merged file.

    Raises:
        ValueError: they are not all shards of one run.
    """
    first = heads[0]
    whole = store.Head(first.settings, first.layers, total=first.total)
    for head, name in zip(heads, names, strict=True):
        if head.total < 0:
            raise ValueError(f"Expected finished shards. Received: {name!r}, an unfinished one. Remedy: resume its run")
        one, other = first.compared, head.compared
        differ = sorted(k for k in {**one, **other} if one.get(k) != other.get(k))
        if differ or head.total != first.total:
            what = ", ".join(differ) or "number of batches"
            raise ValueError(f"Expected shards of one run. Received: {names[0]!r} and {name!r}, which differ in {what}")
        if twice := whole.batches.keys() & head.batches.keys():
            raise ValueError(f"Expected each shard once. Received: batch {min(twice)} twice, for {name!r} again")
        whole.batches.update(head.batches)
        whole.stamps.update(head.stamps)
        whole.failures.extend(head.failures)
        for label, count in head.seen.items():
            whole.seen[label] = whole.seen.get(label, 0) + count
    if missing := set(range(whole.total)) - whole.batches.keys():
        raise ValueError(
            f"Expected all shards of the run. Received: {len(names)} of {first.shard[1]}; {len(missing)} of "
            f"{whole.total} batches are missing, the first is batch {min(missing)}"
        )
    return whole
