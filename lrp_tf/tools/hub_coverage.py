"""Explains two samples with tiny models of KerasHub, and tells what became of relevance.

    python -m lrp_tf.tools.hub_coverage --models BertBackbone LlamaBackbone

Weights are random: nothing is downloaded. Needs KerasHub, `pip install lrp_tf[hub]`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import lrp_tf
from lrp_tf.atomic import atomic
from lrp_tf.tools import hub_models
from lrp_tf.tools.hub_models import MODELS, PADDED

CLONE, UNEXPLAINED = 1e-6, 1e-5  # limits


def keras_hub() -> Any:
    """The package.

    Raises:
        ImportError: it is missing; names the extra.
    """
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise ImportError(f"KerasHub is missing: pip install lrp_tf[hub]. The reason was: {error}") from error


def build(name: str, seed: int = 0) -> keras.Model:
    """A model of `hub_models.MODELS`; noise on its weights gives biases and scales values that matter."""
    keras.utils.set_random_seed(seed)
    model = MODELS[name].make(keras_hub())
    rng = np.random.default_rng(seed + 1)
    for weight in model.weights:
        if weight.dtype.startswith("float"):
            weight.assign_add(rng.normal(0, 0.05, weight.shape).astype(weight.dtype))
    return model


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a model.

    Attributes:
        steps: of the canonized graph.
        clone: largest difference to the output of the model, relative to its largest value.
        unexplained: of the conservation, the larger one of the two samples.
        padding: largest |relevance| of a padding token; NaN where the model takes no padding mask.
        static: whether the same model with its sizes fixed has the same relevance, bit for bit; None: it leaves none.
        error: why it was refused.
    """

    model: str
    steps: int = 0
    clone: float = math.nan
    unexplained: float = math.nan
    padding: float = math.nan
    static: bool | None = None
    error: str = ""

    @property
    def passed(self) -> bool:
        sound = self.clone <= CLONE and self.unexplained <= UNEXPLAINED and not self.padding > 0
        return not self.error and sound and self.static is not False


def explained(name: str, model: keras.Model, composite: str, sizes: dict | None) -> tuple[lrp_tf.Explainer, Any]:
    """The explainer, and its explanation of the largest value at the last token, or in the last corner of the map."""
    explainer = lrp_tf.Explainer(model, composite, sizes=sizes, output=MODELS[name].output, check=False)
    x = hub_models.inputs(model)
    tensors = [tf.cast(a, ref.dtype) for a, ref in zip(keras.tree.flatten(x), explainer.graph.inputs, strict=True)]
    logits = np.asarray(explainer.clone.output(explainer.clone.forward(tensors)))
    at = [min(size - 1, hub_models.LENGTH - PADDED - 1) for size in logits.shape[1:-1]]
    target = [[*at, int(np.abs(row[tuple(at)]).argmax())] for row in logits]
    return explainer, explainer.explain(x, target if at else [row[0] for row in target])


def static(model: keras.Model, sizes: dict[str, tuple[int, ...]]) -> keras.Model:
    """The same model behind inputs of fixed sizes, with its weights."""
    flat = keras.tree.flatten(model.input)
    made = [keras.Input(sizes.get(t.name, t.shape[1:]), dtype=t.dtype, name=t.name) for t in flat]
    inputs = keras.tree.pack_sequence_as(model.input, made)
    return keras.Model(inputs, model(inputs))


def check(name: str, composite: str = "epsilon") -> Row:
    """The row of one model; errors of lrp_tf are part of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its layers destroy masks, and say so
        return _row(name, build(name), composite)


def _row(name: str, model: keras.Model, composite: str) -> Row:
    sizes = hub_models.sizes(model)
    try:
        explainer, found = explained(name, model, composite, sizes or None)
    except (ValueError, TypeError) as error:
        return Row(name, error=f"{type(error).__name__}: {error}".splitlines()[0])
    x = hub_models.inputs(model)
    output = np.asarray(keras.tree.flatten(model(x, training=False))[explainer.graph.output_index])
    names = [t.name for t in keras.tree.flatten(model.input)]
    parts = dict(zip(names, keras.tree.flatten(found.relevance), strict=True))
    masked = [name for name in names if "token_ids" in name and name.replace("token_ids", "padding_mask") in names]
    padding = max((float(np.abs(parts[name][1, -PADDED:]).max()) for name in masked), default=math.nan)
    same = None
    if sizes:
        _, fixed = explained(name, static(model, sizes), composite, None)
        pairs = zip(parts.values(), keras.tree.flatten(fixed.relevance), strict=True)
        same = all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)
    return Row(
        name,
        steps=len(explainer.graph.steps),
        clone=float(np.abs(np.asarray(found.output) - output).max() / np.abs(output).max()),
        unexplained=float(np.abs(found.conservation.unexplained).max()),
        padding=padding,
        static=same,
    )


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Nothing is compiled, which is faster for one call of each model."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def rows(names: Iterable[str], composite: str = "epsilon") -> Iterator[Row]:
    """A row for each model, as soon as it is computed."""
    for name in names:
        keras.backend.clear_session()
        with _eager():
            yield check(name, composite)


_HEAD = ("model", "steps", "clone", "unexplained", "padding", "as static", "result")
_LEGEND = f"""`clone`: largest difference to the model's own output, relative to its largest value, at most {CLONE:g}.
`unexplained`: relevance that no share of the books explains, relative to the start, at most {UNEXPLAINED:g}. `padding`:
largest relevance of a padding token; – where the model takes no padding mask. `as static`: with `sizes=`, relevance is
that of the model built with these sizes, bit for bit; – where the model leaves no size open. Models are tiny and have
random weights; the target is the largest value at the last token."""


def cells(row: Row) -> list[str]:
    """The row as text, in the order of the columns."""
    number = lambda value: "–" if math.isnan(value) else f"{value:.1e}" if value else "0"  # noqa: E731
    static = {None: "–", True: "yes", False: "NO"}[row.static]
    numbers = [number(value) for value in (row.clone, row.unexplained, row.padding)]
    result = f"refused: {row.error}" if row.error else "ok" if row.passed else "FAILED"
    return [row.model, str(row.steps or "–"), *numbers, static, result]


def markdown(found: list[Row], made: str) -> str:
    """The page of the documentation."""
    lines = [_HEAD, ["---"] * len(_HEAD), *([cell.replace("|", "\\|") for cell in cells(row)] for row in found)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Coverage of KerasHub\n\n{made}\n\n{_LEGEND}\n\n{table}\n"


def main(argv: list[str] | None = None) -> int:
    """The command; 1 if a row failed, though not where a model was refused with a reason that is right for it."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m lrp_tf.tools.hub_coverage", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--composite", default="epsilon", help="a preset")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(argv)
    found = []
    for row in rows(options.models, options.composite):
        found.append(row)
        print("  ".join(cells(row)), flush=True)
    passed, alike = (sum(1 for row in found if test(row)) for test in (lambda r: r.passed, lambda r: r.static))
    versions = f"KerasHub {keras_hub().__version__}, Keras {keras.__version__}, TensorFlow {tf.__version__}"
    command = " ".join(["python -m lrp_tf.tools.hub_coverage", *argv])
    made = f"`{command}`, {versions}: {passed} of {len(found)} models run, {alike} with `sizes=` as the static model."
    print(made)
    plain = [{k: None if v != v else v for k, v in vars(row).items()} for row in found]  # JSON has no NaN
    data = json.dumps({"made": made, "rows": plain}, indent=1) + "\n"
    for path, text in ((options.markdown, markdown(found, made)), (options.json, data)):
        if path:
            atomic(path, functools.partial(Path.write_text, data=text, encoding="utf-8"))
    return int(any(not row.passed and not _rightly_refused(row) for row in found))


def _rightly_refused(row: Row) -> bool:
    words = MODELS[row.model].refused
    return bool(words) and words in row.error


if __name__ == "__main__":
    sys.exit(main())
