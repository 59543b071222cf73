"""Every layer class of keras.layers and what becomes of relevance there: `python -m lrp_tf.tools.layer_table`."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from lrp_tf import flows
from lrp_tf.core import linear, unsupported
from lrp_tf.engine.tables import Table
from lrp_tf.tools import page


def classes() -> dict[type, list[str]]:
    """The classes of keras.layers with their names: the name of the class first, then the aliases."""
    found: dict[type, list[str]] = {}
    for name in sorted(dir(keras.layers)):
        value = getattr(keras.layers, name)
        if isinstance(value, type):
            found.setdefault(value, []).append(name)
    return {cls: sorted(names, key=lambda name: name != cls.__name__) for cls, names in found.items()}


def supported(cls: type, names: list[str]) -> str | None:
    """How relevance passes a layer of exactly this class, or None."""
    if (entry := linear.entry(cls)) is not None:
        return "affine step under Epsilon, unless it folds into a neighbour" if entry.elementwise else "rule"
    if (flow := flows.entry(cls)) is not None:
        return f"flow {flow!r}"
    return next((f"followed: {unsupported.FOLLOWED[name]}" for name in names if name in unsupported.FOLLOWED), None)


def _rows() -> Iterator[tuple[str, str, str]]:
    for cls, names in classes().items():
        label = names[0] + (f" ({', '.join(names[1:])})" if names[1:] else "")
        for name in names:
            if name in unsupported.UNSUPPORTED:
                yield label, "not supported", unsupported.UNSUPPORTED[name].format(function="function")
                break
            if name in unsupported.NOT_APPLICABLE:
                yield label, "not applicable", unsupported.NOT_APPLICABLE[name]
                break
        else:
            how = supported(cls, names)
            yield label, "supported" if how else "unknown", how or "no entry"


def table() -> Table:
    """One row for each class: name and aliases, status, how relevance passes or why it does not."""
    return Table(f"Layers of Keras {keras.__version__}", ("layer", "status", "relevance"), list(_rows()))


def markdown() -> str:
    """The table as a page of the documentation."""
    order = {"supported": 0, "not supported": 1, "not applicable": 2, "unknown": 3}
    rows = sorted(table().rows, key=lambda row: (order[row[1]], row[0]))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = [
        "# Layers",
        "",
        f"Every class of `keras.layers` (Keras {keras.__version__}). Made by",
        "`python -m lrp_tf.tools.layer_table --markdown docs/layers.md`; `tests/test_docs.py` holds it to Keras and to "
        "the code.",
        "",
        "A layer of your own needs no entry where its `call` consists of these and of `keras.ops`: it is followed.",
        "",
        "| layer | status | relevance |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def main() -> None:
    """The command."""
    page.command("python -m lrp_tf.tools.layer_table", __doc__, table, markdown)


if __name__ == "__main__":
    main()
