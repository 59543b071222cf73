"""The recorded graph of a model, or symbolic arguments for its `call` where it has none. Touches private Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional

from lrp_tf.core.graph import Ref, untracked
from lrp_tf.tracing.symbolic import HALF, sublayers
from lrp_tf.tracing.unfollowed import unbuilt, untraceable


def plain(structure: Any, leaves: list) -> Any:
    """`structure` with `leaves`; a list of one is that one, as Keras returns it."""
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    return tree.pack_sequence_as(untracked(structure), leaves)


def as_function(model: keras.Model) -> Any | None:
    """The recorded graph of a functional or sequential model; None where its `call` was overridden or is opaque."""
    if isinstance(model, keras.Sequential):
        if type(model).call is keras.Sequential.call:
            if model._functional is None:
                raise ValueError(
                    f"Sequential model {model.name!r} has no input shape yet. Expected a built model. Remedy: begin "
                    "it with keras.Input(shape), call model.build(input_shape), or call it once on data."
                )
            return model._functional
        return None
    return model if isinstance(model, Functional) and type(model).call is Functional.call else None


def built_inputs(model: keras.Model) -> list[Any]:
    """Symbolic arguments for the `call` of a subclassed model, from the shapes it was built with."""
    recorded = model if isinstance(model, Functional) else getattr(model, "_functional", None)
    if recorded is not None:
        return [plain(recorded._inputs_struct, [keras.KerasTensor(t.shape, t.dtype) for t in recorded.inputs])]
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes or len(shapes) != 1:
        called = model.built and all(layer.built for layer in sublayers(model))
        # Keras records no shapes where its own symbolic run of `call` failed.
        raise ValueError(untraceable(model, "Keras knows no input shapes") if called else unbuilt(model))
    # Not in half precision: rules compute in float32 whatever the model casts to, and token numbers must stay whole.
    dtype = "float32" if model.input_dtype in HALF else model.input_dtype
    make = lambda s: keras.KerasTensor((None, *s[1:]), dtype=dtype)  # noqa: E731
    return [tree.map_shape_structure(make, untracked(next(iter(shapes.values()))))]


def by_name(function: Any, args: tuple, refs: list[Ref]) -> list[Ref]:
    """The inputs of a recorded graph in its own order, where the call passed a dict to inputs that are none."""
    if args and isinstance(args[0], dict) and not isinstance(function._inputs_struct, dict):
        return [args[0][t.name] for t in function.inputs]
    return refs
