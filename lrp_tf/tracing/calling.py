"""What a layer returns that is called on symbolic tensors, within a `call` that is followed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree

from lrp_tf.core.graph import Step
from lrp_tf.tracing import decompositions
from lrp_tf.tracing.arguments import as_ref, in_inference, output_spec
from lrp_tf.tracing.loops import Found, is_recurrent
from lrp_tf.tracing.substitutes import run
from lrp_tf.tracing.symbolic import NotBuiltError, batch_sizes, renewed
from lrp_tf.tracing.unfollowed import UntraceableError, reason_of, unbuilt, untraceable

# Whether a step stays as it is: rules or flows know it, or looking into it would lead nowhere.
Keep = Callable[[Step], bool]


class Calling:
    """The part of a tracer that is asked while a `call` runs; its other part walks what that recorded.

    Attributes:
        keep: see `follow.trace`.
        found: steps, layers and calls met so far.
        within: the layers whose parts are walked, outermost first.
        remedy: for sizes that the model leaves open; empty where it leaves none.
        calling: path and owners of the `call` that runs; None: none does.
    """

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.found = Found()
        self.within: tuple = ()
        self.remedy = ""
        self.calling: tuple[str, tuple] | None = None

    @contextlib.contextmanager
    def explained(self, owner: Any) -> Iterator[None]:
        """What goes wrong in the `call` of a layer, as an error that names the layer, the line and a remedy."""
        try:
            yield
        except UntraceableError:  # of a layer inside
            raise
        except NotBuiltError as error:
            raise UntraceableError(unbuilt(owner)) from error
        except Exception as error:
            remedy = ", or ".join(filter(None, (self.remedy, getattr(error, "remedy", ""))))
            raise UntraceableError(untraceable(owner, reason_of(error), remedy)) from error

    @contextlib.contextmanager
    def calls_of(self, owner: Any, prefix: str) -> Iterator[None]:
        """While the `call` of `owner` runs on symbolic tensors."""
        outer = self.calling
        above = self.within if outer is None else outer[1]
        self.calling = prefix, above if isinstance(owner, keras.Model) else (*above, owner)
        try:
            yield
        finally:
            self.calling = outer

    def call_inside(self, layer: keras.Layer, args: tuple, kwargs: dict) -> Any:
        """What a layer returns that is called on symbolic tensors, within a `call` that is followed.

        A layer that will be followed too runs its own `call` at once; the walk of the outer one comes back to it.
        """
        if self.calling is None:
            return layer.compute_output_spec(*args, **kwargs)
        prefix, within = self.calling
        path = prefix + layer.name
        refs = tree.map_structure(as_ref, (args, {name: a for name, a in kwargs.items() if name != "training"}))
        step = Step(layer, refs[0], refs[1], (), path, len(self.found.steps), within)
        if not isinstance(layer, keras.Model) and (self.keep(step) or _runs_over_time(layer)):
            return output_spec(layer, args, kwargs)
        call = decompositions.lookup(step) or layer.call
        try:
            like = next((a for a in tree.flatten((args, kwargs)) if isinstance(a, keras.KerasTensor)), None)
            with batch_sizes(like), self.explained(layer), self.calls_of(layer, path + "/"):
                return tree.map_structure(renewed, run(call, args, in_inference(call, kwargs)))
        except UntraceableError:
            try:
                return layer.compute_output_spec(*args, **kwargs)  # it may stay in one piece
            except Exception:
                pass
            raise


def _runs_over_time(layer: keras.Layer) -> bool:
    return decompositions.per_time_step(layer) or is_recurrent(layer)
