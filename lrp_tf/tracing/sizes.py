"""Sizes that a model leaves open, such as the length of a text, and what the caller gives for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lrp_tf.core.graph import Shape, shape_text

# Shapes without the batch axis, by name of the model's input; or one shape for the only input.
Sizes: TypeAlias = Mapping[str, Sequence[int | None]] | Sequence[int | None]

_EXAMPLE = 128  # for an open size, in the text of a remedy


def fixed(names: list[str], shapes: list[Shape], sizes: Sizes | None, model: str) -> list[Shape]:
    """The shapes of a model's inputs, where `sizes` fills in what they leave open.

    Args:
        names, shapes: of the inputs; shapes without the batch axis.
        sizes: see `Explainer`.
        model: its name, for messages.

    Raises:
        TypeError: `sizes` holds anything but whole numbers.
        ValueError: the name of no input; another rank or size than the model's; a single shape for several inputs.
    """
    if sizes is None:
        return shapes
    if not isinstance(sizes, Mapping):
        if len(names) != 1:
            raise ValueError(
                f"Model {model!r} has {len(names)} inputs. Expected sizes by their names: "
                f"sizes={as_argument(names, shapes)}. Received: sizes={sizes!r}"
            )
        sizes = {names[0]: sizes}
    if unknown := [name for name in sizes if name not in names]:
        raise ValueError(
            f"Model {model!r} has no input {', '.join(map(repr, unknown))}. Expected names among {names}, as in "
            f"sizes={as_argument(names, shapes)}. Received: sizes={dict(sizes)!r}"
        )
    return [
        _filled(name, shape, sizes[name]) if name in sizes else shape for name, shape in zip(names, shapes, strict=True)
    ]


def kept(sizes: Sizes | None) -> Sizes | None:
    """A copy of its own in tuples and a dict, which nobody changes later."""
    if isinstance(sizes, Mapping):
        return {name: tuple(shape) if isinstance(shape, list) else shape for name, shape in sizes.items()}
    return tuple(sizes) if isinstance(sizes, list) else sizes


def _filled(name: str, shape: Shape, given: Any) -> Shape:
    numbers = [n for n in given if n is not None] if isinstance(given, (tuple, list)) else [given]
    if not isinstance(given, (tuple, list)) or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise TypeError(
            f"sizes expects a tuple of whole numbers for input {name!r}, without the batch axis, as in "
            f"{example(shape)}. Received: {given!r}"
        )
    fits = len(given) == len(shape) and all(
        wanted is None or size is None or wanted == size for wanted, size in zip(shape, given, strict=True)
    )
    if not fits or any(n < 1 for n in numbers):
        raise ValueError(
            f"sizes of input {name!r} do not fit the model, whose input has the shape {shape_text(shape)}. Expected a "
            f"shape without the batch axis, as in {example(shape)}. Received: {tuple(given)}"
        )
    return tuple(size if wanted is None else wanted for wanted, size in zip(shape, given, strict=True))


def example(shape: Shape) -> Shape:
    """The shape with a number for each open size."""
    return tuple(_EXAMPLE if size is None else size for size in shape)


def as_argument(names: Sequence[str], shapes: Sequence[Shape]) -> str:
    """What to pass for `sizes`, as Python text: the inputs that leave a size open, or the only input."""
    if len(names) == 1:
        return str(example(shapes[0]))
    chosen = [i for i, shape in enumerate(shapes) if None in shape] or list(range(len(shapes)))
    return "{" + ", ".join(f'"{names[i]}": {example(shapes[i])}' for i in chosen) + "}"


def remedy(names: Sequence[str], shapes: Sequence[Shape]) -> str:
    """What to do about the sizes that the inputs leave open; empty where they leave none."""
    if not any(None in shape for shape in shapes):
        return ""
    return f"the model leaves sizes open; pass sizes={as_argument(names, shapes)} to the Explainer, with your sizes"
