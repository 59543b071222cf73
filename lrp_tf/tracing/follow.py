"""Keras model -> graph of steps. Touches private Keras."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from lrp_tf.core import linear
from lrp_tf.core.graph import Call, Graph, Ref, Step, check_model, symbol, untracked
from lrp_tf.core.operations import ActivationFunction, Constants
from lrp_tf.tracing import decompositions, loops
from lrp_tf.tracing import sizes as open_sizes
from lrp_tf.tracing.arguments import (
    cast_symbol,
    in_inference,
    made_ref,
    masks_for,
    output_spec,
    refs_in,
    sized,
)
from lrp_tf.tracing.calling import Calling, Keep
from lrp_tf.tracing.changes import refuse_quantized
from lrp_tf.tracing.inputs import as_function, built_inputs, by_name, plain
from lrp_tf.tracing.loops import Constant, Found
from lrp_tf.tracing.probes import MixedSamplesError
from lrp_tf.tracing.samples import places_behind, samples_first
from lrp_tf.tracing.sizes import Sizes
from lrp_tf.tracing.substitutes import of_tensorflow, run
from lrp_tf.tracing.symbolic import (
    NotFollowedError,
    batch_sizes,
    distinct_names,
    in_full_precision,
    names_kept,
    one_thread,
    own_calls,
    plain_indices,
    recorded,
    run_through,
    sizes_followed,
    sublayers,
    untouched,
    used,
    variables_give_way,
)
from lrp_tf.tracing.unfollowed import UntraceableError, otherwise, unsized


def trace(model: keras.Model, keep: Keep = lambda step: True, sizes: Sizes | None = None) -> Graph:
    """Flatten `model` into steps. Never changes the model.

    Args:
        keep: which layers stay one step; the others are replaced by what their `call` computes.
        sizes: those that the model leaves open, see `Explainer`.

    Raises:
        TypeError: not a Keras 3 model; `sizes` of another type.
        ValueError: a model that was never built, or whose `call` cannot be followed symbolically; `sizes` that do not
            fit the model.
        UnsupportedLayerError: a quantized layer.
    """
    check_model(model)
    refuse_quantized(sublayers(model, itself=True))
    graph = []

    def build() -> list[tf.Tensor]:
        tracer = _Tracer(model, keep)
        with own_calls(tracer.call_inside):
            graph.append(_trace(model, tracer, sizes))
        return [constant.tensor for constant in tracer.found.constants.values()]

    replaced = variables_give_way(), plain_indices(), sizes_followed(), of_tensorflow(), loops.as_in_keras()
    with one_thread(), names_kept(), warnings.catch_warnings(), contextlib.ExitStack() as stack:
        # Keras says it whenever the model itself runs.
        warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask attached", UserWarning)
        for context in replaced:
            stack.enter_context(context)
        # What a `call` computes from variables alone belongs into this function, or it would freeze.
        compute = tf.function(build, autograph=False).get_concrete_function()
    (found,) = graph
    for step in found.steps:
        if isinstance(step.op, Constants):
            step.op.compute = compute
    return found


def _trace(model: keras.Model, tracer: _Tracer, sizes: Sizes | None) -> Graph:
    function = as_function(model)
    arguments = built_inputs(model) if function is None else function._inputs_struct
    tensors = tree.flatten(arguments)
    input_names = [t.name for t in tensors]
    if function is None and isinstance(arguments[0], dict):  # of tensors that Keras numbers
        input_names = [".".join(map(str, keys[1:])) for keys, _ in tree.flatten_with_path(arguments)]
    open_shapes = [tuple(t.shape[1:]) for t in tensors]
    shapes = open_sizes.fixed(input_names, open_shapes, sizes, model.name)
    tracer.remedy = open_sizes.remedy(input_names, shapes)
    inputs = [Ref(shape, t.dtype) for shape, t in zip(shapes, tensors, strict=True)]
    if function is None:
        (structure,) = tree.pack_sequence_as(arguments, inputs)
        found = tracer.expand(model, model.call, (structure,), {}, "")
        tracer.found.followed.append(model.name)
    else:
        tracer.batch = next((t.shape[0] for t in tensors if t.shape[0] is not None), None)
        structure = plain(function._inputs_struct, inputs)
        found = tree.pack_sequence_as(untracked(function._outputs_struct), tracer.run(function, inputs, ""))
    outputs = tree.flatten(found)
    names = list(getattr(model, "output_names", None) or [])
    keys = [".".join(map(str, keys)) for keys, _ in tree.flatten_with_path(found)]
    graph = Graph(
        model=model,
        inputs=inputs,
        outputs=outputs,
        input_structure=structure,
        input_names=input_names,
        output_names=names if len(names) == len(outputs) else [f"output_{i}" for i in range(len(outputs))],
        output_keys=keys if isinstance(found, dict) else [],
        steps=tracer.finish(),
        dtype=tracer.dtype(inputs),
        layers=tracer.found.layers,
        calls=tracer.found.calls,
        followed=tracer.found.followed,
        sizes={
            name: shape for name, shape, left in zip(input_names, shapes, open_shapes, strict=True) if shape != left
        },
    )
    loops.settle(graph)
    return graph


class _Tracer(Calling):
    """Collects the steps while the recorded graphs of a model and its sub-models are walked."""

    def __init__(self, model: keras.Model, keep: Keep) -> None:
        super().__init__(keep)
        self.batch: int | None = None  # size of the batch, where the model fixes it
        self.model = model
        self.named: dict[str, list] | None = None  # operations met in the `call` that is followed
        self.dtypes: set[str] = set()  # that layers compute in

    def finish(self) -> list[Step]:
        """The steps, with one ahead of them that makes the constants."""
        if not self.found.constants:
            return self.found.steps
        refs = tuple(constant.ref for constant in self.found.constants.values())
        return [Step(Constants(list), (), {}, refs, "constants", -1), *self.found.steps]

    def dtype(self, inputs: list[Ref]) -> str:
        return "float64" if "float64" in (self.dtypes or {ref.dtype for ref in inputs}) else "float32"

    def constant(self, value: Any) -> Any:
        """A ref instead of a variable or array among the arguments of an operation."""
        if not (tf.is_tensor(value) or isinstance(value, (np.ndarray, keras.Variable))):
            return value
        known = self.found.constants
        if id(value) not in known:
            tensor = tf.convert_to_tensor(value)
            known[id(value)] = Constant(value, tensor, Ref(tensor.shape, tensor.dtype.name, batched=False))
        return known[id(value)].ref

    @contextlib.contextmanager
    def apart(self) -> Iterator[Found]:
        """What is found meanwhile belongs to the body of a loop."""
        outer = self.found
        self.found = Found()
        try:
            yield self.found
        finally:
            self.found = outer

    def run(self, function: Any, inputs: list[Ref], prefix: str) -> list[Ref]:
        """Walk the recorded graph of `function` with refs instead of tensors."""

        def visit(op: Any, args: tuple, kwargs: dict, count: int) -> list:
            found = tree.flatten(self.visit(op, args, kwargs, prefix))
            constants = {id(constant.ref) for constant in self.found.constants.values()}
            # A `call` that was followed may have returned None, and what it made of variables alone, beside tensors.
            tensors = [leaf for leaf in found if isinstance(leaf, Ref)]
            for outputs in (found, tensors, [ref for ref in tensors if id(ref) not in constants]):
                if len(outputs) == count:
                    return outputs
            raise UntraceableError(otherwise(prefix + op.name, op, count, len(found)))

        return run_through(function, inputs, visit)

    def name(self, op: Any) -> str:
        """The operation's name; Keras numbers those in a `call` anew at every trace, so they are numbered here."""
        if self.named is None:
            return op.name
        plain = op.name if isinstance(op, keras.Layer) else re.sub(r"_\d+$", "", op.name)
        same = self.named.setdefault(plain, [])  # the user may have given one name to two layers
        if not any(known is op for known in same):
            same.append(op)
        number = next(i for i, known in enumerate(same) if known is op)
        return f"{plain}_{number}" if number else plain

    def sized(self, op: Any, args: tuple, path: str) -> Any:
        """See `arguments.sized`."""
        try:
            return sized(op, args)
        except NotFollowedError as error:
            raise UntraceableError(unsized(path, op, error, self.remedy or error.remedy)) from error

    def visit(self, op: Any, args: tuple, kwargs: dict, prefix: str) -> Any:
        path = prefix + self.name(op)
        args, kwargs = tree.map_structure(self.constant, (args, dict(kwargs)))
        kwargs.pop("training", None)  # a model may have recorded it for a layer that does not take it
        own = op if isinstance(op, keras.Layer) else self.sized(op, args, path)
        if isinstance(op, keras.Layer):
            self.dtypes.add(op.compute_dtype)
            op = in_full_precision(op)
            kwargs |= masks_for(op, args, kwargs)
        given = [a for a in tree.flatten((args, kwargs)) if isinstance(a, Ref)]
        masks = {ref: ref.mask for ref in given if ref.mask is not None}
        outputs = self.unfold(op, args, kwargs, path)
        refs, followed = refs_in(outputs), path in self.found.followed
        if followed or not isinstance(op, keras.Model):  # of other models only its layers are called
            self.found.calls.append(Call(path, own, args, kwargs, tuple(refs), followed, masks))
        self.found.layers.setdefault(path, []).append(tuple(refs))
        if isinstance(op, keras.Layer):
            self.pass_mask_on(op, args, kwargs, refs)
        return outputs

    def unfold(self, op: Any, args: tuple, kwargs: dict, path: str) -> Any:
        """The outputs of one call of `op`, as one step or as the steps that it consists of."""
        if isinstance(op, keras.Model):
            function = as_function(op)
            if function is None:
                outputs = self.expand(op, op.call, args, kwargs, path + "/")
                self.found.followed.append(path)
                return outputs
            refs = [a for a in tree.flatten((args, kwargs)) if isinstance(a, Ref)]
            outputs = self.run(function, by_name(function, args, refs)[: len(function.inputs)], path + "/")
            return tree.pack_sequence_as(untracked(function._outputs_struct), outputs)
        step = Step(self.sized(op, args, path), args, kwargs, (), path, len(self.found.steps), self.within)
        if (moved := samples_first(step)) is not None:
            return self.expand(op, moved, args, kwargs, path + "/")
        if self.keep(step):
            return self.with_activation(step)
        if decompositions.per_time_step(op):
            return loops.each_time_step(self, step)
        call, loop = decompositions.lookup(step), loops.lookup(step)
        if call is None and loop is None and not isinstance(op, keras.Layer):  # the composite will say so
            return self.whole(dataclasses.replace(step, why=loops.REFUSED.get(str(step.kind), "")))
        try:
            with self.undone_on_error():
                if loop is not None and call is None:
                    with self.explained(op):
                        return loop(self, step)
                outputs = self.expand(op, call or op.call, args, kwargs, path + "/")
        except ValueError as error:
            return self.whole(dataclasses.replace(step, why=str(error)))
        if isinstance(op, keras.Layer):
            self.found.followed.append(path)
        return outputs

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Steps and calls that were found before an error are forgotten."""
        known = {name: len(calls) for name, calls in self.found.layers.items()}
        lists = [(found, len(found)) for found in (self.found.steps, self.found.calls, self.found.followed)]
        try:
            yield
        except ValueError:
            for found, length in lists:
                del found[length:]
            self.found.layers = {
                name: calls[: known[name]] for name, calls in self.found.layers.items() if name in known
            }
            raise

    def with_activation(self, step: Step) -> Any:
        """The outputs of a step that stays whole, but for an activation that nobody knows: its function is followed."""
        function = getattr(step.op, "activation", None)
        holds = linear.lookup(step.op) is not None or type(step.op) is keras.layers.Activation
        if not holds or not callable(function) or isinstance(function, keras.Layer):
            return self.whole(step)
        split = ActivationFunction(function, step.name)
        if self.keep(dataclasses.replace(step, op=split, args=step.inputs[:1], kwargs={})):
            return self.whole(step)
        try:
            with self.undone_on_error():
                alone = type(step.op) is keras.layers.Activation
                inner = step.inputs[0] if alone else self.whole(dataclasses.replace(step, bare=True))
                outputs = self.expand(step.op, function, (inner,), {}, f"{step.path}:{split.label}/")
        except ValueError:  # the composite says what to do
            return self.whole(step)
        self.found.followed.append(step.path)
        return outputs

    def whole(self, step: Step) -> Any:
        """Keep the step in one piece; its outputs."""
        args, kwargs = tree.map_structure(lambda a: cast_symbol(step.op, a), (step.args, step.kwargs))
        kwargs.pop("mask", None)
        try:
            spec = output_spec(step.op, args, kwargs)
        except Exception as error:
            raise UntraceableError(step.why or unsized(step.path, step.op, error, self.remedy)) from error
        made = [t for t in tree.flatten(spec) if isinstance(t, keras.KerasTensor)]
        try:
            places = iter(places_behind(step, made, self.batch))
        except MixedSamplesError as error:
            mixes = f"{step.path!r} ({step.operation}) {error.what}. Remedy: {error.remedy}."
            step, places = dataclasses.replace(step, mixes=mixes), iter([None] * len(made))
        outputs = tree.map_structure(
            lambda t: made_ref(t, next(places)) if isinstance(t, keras.KerasTensor) else t, spec
        )
        self.found.steps.append(dataclasses.replace(step, outputs=tuple(refs_in(outputs))))
        return outputs

    @contextlib.contextmanager
    def inside(self, owner: Any) -> Iterator[None]:
        """While the parts of `owner` are walked."""
        outer = self.within, self.named
        self.within = self.within if isinstance(owner, keras.Model) else (*self.within, owner)
        self.named = {}
        try:
            yield
        finally:
            self.within, self.named = outer

    def expand(self, owner: Any, call: Callable, args: tuple, kwargs: dict, prefix: str) -> Any:
        """The outputs of `call`, recorded on symbolic inputs and walked.

        Keras records the run on the user's layers; these records are removed.
        """
        kwargs = in_inference(call, kwargs)
        refs = list(dict.fromkeys(a for a in tree.flatten((args, kwargs)) if isinstance(a, Ref)))
        refs = list(dict.fromkeys([*refs, *(ref.mask for ref in refs if ref.mask is not None)]))
        symbols = {ref: cast_symbol(owner, ref) for ref in refs}
        masks = {ref: ref.mask for ref in refs if ref.mask is not None}
        for ref, mask in masks.items():
            set_keras_mask(symbols[ref], symbols[mask])
        spec_args, spec_kwargs = tree.map_structure(
            lambda a: symbols.get(a, a) if isinstance(a, Ref) else a, (args, kwargs)
        )
        like = next((symbols[ref] for ref in refs if ref.batched), None)
        layers = sublayers(owner, itself=True)
        with untouched(layers), batch_sizes(like), self.explained(owner):
            with keras.StatelessScope(), self.calls_of(owner, prefix):  # what a call assigns stays without effect
                found = run(call, spec_args, spec_kwargs)
            with distinct_names(layers):
                function = recorded(symbols, found)
        for ref in masks:
            if get_keras_mask(symbols[ref]) is None:  # as attention layers do
                ref.mask = None
        with self.inside(owner):
            return self.replay(function, symbols, found, prefix)

    def replay(self, function: Any, symbols: dict[Ref, Any], found: Any, prefix: str) -> Any:
        """Refs instead of the tensors `found`, which `function` makes from `symbols`."""
        known = {id(symbol): ref for ref, symbol in symbols.items()}
        if function is not None:
            outputs = self.run(function, used(symbols), prefix)
            known |= {id(t): ref for t, ref in zip(function.outputs, outputs, strict=True)}
        return tree.map_structure(lambda t: known.get(id(t), self.constant(t)), found)

    def pass_mask_on(self, op: keras.Layer, args: tuple, kwargs: dict, outputs: list[Ref]) -> None:
        """Give the outputs the mask that Keras would attach to them."""
        if isinstance(op, keras.Model) or not op.supports_masking or all(ref.mask is not None for ref in outputs):
            return
        first = args[0] if args else next(iter(kwargs.values()))
        previous = kwargs.get("mask")
        if previous is None:
            previous = tree.map_structure(lambda a: a.mask if isinstance(a, Ref) else None, first)
        refs = list(dict.fromkeys(a for a in tree.flatten((first, previous)) if isinstance(a, Ref)))
        symbols = {ref: symbol(ref) for ref in refs}
        masks = op.compute_mask(
            *tree.map_structure(lambda a: symbols.get(a) if isinstance(a, Ref) else a, (first, previous))
        )
        masks = self.replay(recorded(symbols, masks), symbols, masks, f"{op.name}/mask/")
        for ref, mask in zip(outputs, tree.flatten(masks), strict=False):
            ref.mask = ref.mask or mask
