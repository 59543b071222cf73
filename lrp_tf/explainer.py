"""Explainer: targets, compilation, intermediate relevance, conservation."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import tree

from lrp_tf import composites, flows
from lrp_tf.composites import Composite
from lrp_tf.core.account import Account
from lrp_tf.core.graph import Graph, Ref, Step
from lrp_tf.core.numerics import sample_sum
from lrp_tf.core.sealing import sealed
from lrp_tf.engine import check as checks
from lrp_tf.engine import diagnosis, streams, tables, targets
from lrp_tf.engine.canonize import canonize, choose_output
from lrp_tf.engine.check import Check
from lrp_tf.engine.clone import BELOW_ZERO, Clone, Forward
from lrp_tf.engine.tables import Table
from lrp_tf.rules import Rule
from lrp_tf.tracing.changes import Snapshot
from lrp_tf.tracing.follow import trace


class Conservation(NamedTuple):
    """Where the start relevance went, per sample: start = relevance + bias + stabilizer + other + the rest.

    Each is a float64 tensor of shape [B], or [B, k] for k targets.

    Attributes:
        start: sum of the start relevance.
        relevance: sum of the relevance of all inputs.
        bias: absorbed by biases, folded BatchNormalization included: sum of R b / s(z).
        stabilizer: absorbed by stabilisers: sum of R epsilon sign(z) / s(z).
        other: named mechanisms only: an empty denominator part, Gamma at z = 0, relevance that lands on padding.
        unexplained: the rest, relative to the sum of |start relevance|; more than rounding is a bug.
    """

    start: tf.Tensor
    relevance: tf.Tensor
    bias: tf.Tensor
    stabilizer: tf.Tensor
    other: tf.Tensor
    unexplained: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `Explainer.explain` returns.

    Attributes:
        relevance: as the model's inputs; [B, ...], or [B, k, ...] for k targets. None for an integer input that
            relevance does not reach.
        output: the model's output, softmax included, [B, ...].
        logits: what is explained: the pre-softmax values, [B, ...].
        target: int tensor [B], [B, k] or [B, rank - 1]; None if the start relevance was given.
        layers: layer name -> relevance of its output; a list, in the order of its calls, for a layer called
            several times.
        conservation: see `Conservation`.
        amplification: float64, sum of |relevance| over `begin`, for each sample and target. Of a million or more a
            `RelevanceWarning` tells; inside a tf.function nothing does, so look at it there.
        begin: float64, what relevance grew from: the sum of |start relevance|, or of |relevance| below the last layer,
            where that is more. It is much more where the output is nearly 0, since its contributions cancel.
    """

    relevance: Any
    output: tf.Tensor
    logits: tf.Tensor
    target: tf.Tensor | None
    layers: dict[str, Any]
    conservation: Conservation
    amplification: tf.Tensor
    begin: tf.Tensor


def clone_with_rules(
    model: keras.Model,
    composite: str | Composite | Rule = "epsilon_plus_flat",
    *,
    output: int | str | None = None,
    relevance_filter: float | None = None,
    nonnegative: bool = False,
    fast: str | None = None,
    **options: Any,
) -> Clone:
    """A callable with the pre-softmax values of `model`, whose gradient is the relevance.

        with tf.GradientTape() as tape:
            tape.watch(x)
            z = clone(x)
        R = tape.gradient(z, x, output_gradients=R_out)

    Args:
        model: a Keras 3 model; it is left untouched and its weights are read at every call.
        composite: see `composites.get`.
        output: name or index of the output, for models with several.
        relevance_filter, nonnegative, fast: see `Explainer`.
        **options: of the preset that `composite` names, see `composites.get`.

    Raises:
        TypeError, ValueError: as `Explainer`.
    """
    chosen = {"output": output, "relevance_filter": relevance_filter, "nonnegative": nonnegative, "fast": fast}
    composite = composites.get(composite, **options)  # before the model is walked: the cheaper mistake first
    recipe = functools.partial(clone_with_rules, model, composite, **chosen)
    graph = trace(model, lambda step: flows.keeps(step) or composite.claims(step))
    snapshot = Snapshot(model)
    nonnegative = bool(nonnegative)
    graph = canonize(graph, [choose_output(graph, output)], nonnegative, composite.canonizers)
    clone = Clone(graph, composite, relevance_filter, nonnegative=nonnegative, fast=fast)
    return clone.made_by(recipe, snapshot)


def _checked_size(value: Any, name: str) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} expects a number of samples, at least 1, or None. Received: {value!r}")
    return value


def _xla(jit_compile: bool | str) -> bool:
    if jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    if not isinstance(jit_compile, bool):
        raise ValueError(f'jit_compile expects True, False or "auto". Received: {jit_compile!r}')
    return jit_compile


class _Want(NamedTuple):
    """What a compiled function gives beside the relevance."""

    layers: tuple[str, ...] = ()
    account: bool = False
    steps: bool = False
    each: bool = False  # "finite" for each sample, [B], and not for the batch
    books: tf.DType = tf.float64  # of the account


class Explainer:
    """Explains a Keras model by Layer-wise Relevance Propagation (Bach et al. 2015).

    Built once, it follows a model that goes on training. Every kind of call is compiled once, for any batch size;
    after `tf.config.run_functions_eagerly(True)` none is, as for every tf.function. Where a layer changes what it
    computes (`enable_lora`, another `activation`, other variables), the next call builds the explainer anew. Of the
    settings of your own layers flags alone are watched: where a number, a string or a list changes, call
    `clone_with_rules` or `Explainer` again.
    It pickles and copies as its recipe and is built anew where it is opened, in another process, say.

    Args:
        model: a Keras 3 model on TensorFlow, built; it is never changed.
        composite: a preset's name, a `Composite`, or one `Rule` for every linear step.
        output: name or index of the output to explain, for models with several.
        jit_compile: compile with XLA; "auto": if there is a GPU. On CPUs XLA is slower (docs/speed.md). A batch size
            that is new to XLA compiles anew.
        relevance_filter: keep only this fraction of the largest |R| of each sample at the outputs of every linear
            layer but the last (0.1: a tenth), for crisper maps. What it drops counts as "other" in the conservation
            and has a column of its own in `report`.
        nonnegative: no input is ever below zero, as images from 0 to 1: rules leave out what negative inputs would
            need. An input that breaks the promise is an error.
        fast: "bfloat16" computes the convolutions of ZPlus in it, on machines where that pays; the model's own values
            and every Epsilon stay in float32. See docs/speed.md for what it costs in accuracy.
        max_batch: split larger batches into parts of at most this size, which are explained one after another.
        check: run `check` on the first batch: True, False, or None, where the model has layers that were followed or
            registered. It costs about three eager passes of two samples, once. Where something else than the model is
            explained it raises `CheckError`; where a step's books do not close it warns (`CheckWarning`).
        **options: of the preset that `composite` names: `Explainer(model, "epsilon_gamma_box", low=0.0, high=1.0)`;
            see `composites.get`.

    Raises:
        TypeError: not a Keras 3 model; an option that the preset does not take, or any beside an instance.
        ValueError: an unbuilt or untraceable model, an unknown composite or output, an unsupported layer
            (`UnsupportedLayerError`).
        RuntimeError: Keras runs on another backend than TensorFlow.
    """

    def __init__(
        self,
        model: keras.Model,
        composite: str | Composite | Rule = "epsilon_plus_flat",
        *,
        output: int | str | None = None,
        jit_compile: bool | str = False,
        relevance_filter: float | None = None,
        nonnegative: bool = False,
        fast: str | None = None,
        max_batch: int | None = None,
        check: bool | None = None,
        **options: Any,
    ) -> None:
        self._chosen = {"output": output, "jit_compile": jit_compile, "relevance_filter": relevance_filter}
        self._chosen |= {"nonnegative": nonnegative, "fast": fast, "max_batch": max_batch, "check": check}
        self.model = model
        self.max_batch = _checked_size(max_batch, "max_batch")
        self._jit_compile = _xla(jit_compile)
        self.clone = clone_with_rules(
            model,
            composite,
            output=output,
            relevance_filter=relevance_filter,
            nonnegative=nonnegative,
            fast=fast,
            **options,
        )
        self._compiled: dict[tuple, Callable] = {}
        self._compiled_of: Graph | None = None
        self._check, self._unchecked = check, False
        self.renew()

    def __repr__(self) -> str:
        return f"Explainer({self.model.name!r}, composite={self.clone.composite.name!r})"

    def __reduce__(self) -> tuple:
        """Pickled and copied as its recipe, the model, the composite and the options: built anew where it is opened."""
        build = functools.partial(type(self), **self._chosen)
        return operator.call, (build, self.model, self.composite)

    @property
    def graph(self) -> Any:
        """The canonized graph."""
        return self.clone.graph

    @property
    def composite(self) -> Composite:
        return self.clone.composite

    def renew(self) -> None:
        """Build anew if a layer of the model changed what it computes: LoRA, another activation, other weights.

        Every call does this. It takes well under a millisecond where nothing changed.
        """
        self.clone.renew()
        if self._compiled_of is not self.clone.graph:
            self._compiled, self._compiled_of = {}, self.clone.graph
            self._unchecked = checks.concerns(self.graph) if self._check is None else bool(self._check)

    # --- calls ---------------------------------------------------------------------------------

    def __call__(self, x: Any, target: Any = None, *, start: Any = "output", max_batch: int | None = None) -> Any:
        """Relevance of the inputs for a target.

        Args:
            x: a batch, [B, ...], in the structure of the model's inputs; arrays or tensors.
            target: None, each sample's top class; an int for all; [B] ints; [B, k] ints, k classes a sample that
                share one forward pass; "topK:3", each sample's three top classes; a list with a rank in it such as
                ["top1", 281], several for all. With a single output unit: 1 explains the value, 0 its negative, None
                whichever is positive. For outputs [B, d1, ..., C]: [B, rank - 1] indices, one index tuple a sample.
            start: "output", relevance starts as the target's pre-softmax value; "one", as 1; or a tensor of the
                output's shape, then without target.
            max_batch: as the Explainer's, for this call.

        Returns:
            Tensors in the structure and shapes of the inputs and in their float dtype, [B, ...]; [B, k, ...] for
            [B, k] targets. None for an integer input that relevance does not reach.

        Raises:
            ValueError: wrong shapes, an empty batch, a target out of range, NaN or Inf (names where it began).
            TypeError: targets that are no integers.

        Warns:
            RelevanceWarning: the sum of |relevance| is more than a million times that of |start|, and of what the last
                layer makes of it, which no sound map comes near. Not inside a tf.function; `explain` gives the factor
                there.
        """
        found = self._run(x, target, start, _Want(), max_batch=max_batch)
        return self._structured(found["relevance"])

    def explain(
        self,
        x: Any,
        target: Any = None,
        *,
        start: Any = "output",
        layers: Iterable[str] = (),
        max_batch: int | None = None,
    ) -> Explanation:
        """Relevance with all that belongs to it. See `__call__` for x, target, start, max_batch and the errors.

        Args:
            layers: names or paths of layers whose output relevance is wanted too.
        """
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        found = self._run(x, target, start, _Want(layers, account=True), max_batch=max_batch)
        return Explanation(
            relevance=self._structured(found["relevance"]),
            output=found["output"],
            logits=found["logits"],
            target=found["target"],
            layers={name: r[0] if len(r) == 1 else list(r) for name, r in found["layers"].items()},
            conservation=found["conservation"],
            amplification=found["amplification"],
            begin=found["begin"],
        )

    def map(
        self,
        dataset: Iterable,
        target: Any = None,
        *,
        batch: int | None = None,
        start: str = "output",
        explain: bool = False,
        layers: Iterable[str] = (),
        with_inputs: bool = False,
    ) -> Iterator:
        """Explains a stream of any length with constant memory; what feeds it works ahead meanwhile.

            for R in explainer.map(dataset, batch=32): ...

        Args:
            dataset: a `tf.data.Dataset`, or anything that can be iterated, of inputs in the structure of the model's.
                Of tuples (x, y, ...) x is explained, as in `keras.Model.fit`.
            target: as in `__call__`, what holds for all samples; or a function of a batch as the dataset gave it,
                `lambda element: element[1]` for the labels, say.
            batch: the elements are single samples, to be put together to batches of this size; None: they are batches.
            start: "output" or "one".
            explain: give `Explanation`s instead of relevance.
            layers: for the explanations, see `explain`.
            with_inputs: give pairs (batch as the dataset gave it, result).

        Yields:
            For each batch, in order, relevance [B, ...] as `__call__` returns it.

        Raises:
            ValueError, TypeError: as `__call__`; the stream ends there. ValueError: `batch` for elements that are
                batches already.
        """
        if not isinstance(start, str):
            raise ValueError(f'map expects start="output" or "one". Received: {type(start).__name__}')
        if not isinstance(dataset, Iterable):
            raise TypeError(f"map expects a tf.data.Dataset or an iterable. Received: {type(dataset).__name__}")
        if _checked_size(batch, "batch") is not None:
            dataset = streams.checked(dataset, functools.partial(targets.refuse_batches, self.graph, batch))
        batches = streams.batches(dataset, batch)
        run = functools.partial(self.explain, layers=tuple(layers)) if explain else self
        return self._mapped(batches, target, start, run, with_inputs)

    def _mapped(self, batches: Iterable, target: Any, start: str, run: Callable, with_inputs: bool) -> Iterator:
        for element in batches:
            x = targets.without_labels(self.graph, element)
            found = run(x, target(element) if callable(target) else target, start=start)
            yield (element, found) if with_inputs else found

    def summary(self, print_fn: Callable[[str], Any] | None = print) -> Table:
        """The table layer -> operation -> rule; printed by `print_fn` unless None, and returned."""
        self.renew()
        return tables.rule_table(self.graph, self.clone.handlers, self.composite.name).show(print_fn)

    def report(
        self, x: Any, target: Any = None, *, start: Any = "output", print_fn: Callable[[str], Any] | None = print
    ) -> Table:
        """What each step did with its relevance, from the output down, summed over the batch and all targets.

        Columns: relevance that reached the step's outputs ("relevance out") and that left for its inputs
        ("relevance in"), what bias, stabilizer and other absorbed by their closed forms, what the relevance filter
        dropped ("filter", if there is one), the rest relative to the sum of |start| ("unexplained"), and how many
        entries are NaN or Inf. The last row is the whole model. A note below says so where relevance is out of all
        proportion to the start, see `RelevanceWarning`.
        """
        found = self._run(x, target, start, _Want(account=True, steps=True), check=False)
        names = ("start", "relevance", "bias", "stabilizer", "other")
        totals = {name: float(tf.reduce_sum(getattr(found["conservation"], name))) for name in names}
        totals["size"] = float(tf.reduce_sum(found["shares"][..., 0]))
        if self.clone.relevance_filter is not None:
            totals["filter"] = float(tf.reduce_sum(found["shares"][..., -1]))
        table = tables.report_table(
            self.graph, self.clone.handlers, self.composite.name, len(found["logits"]), totals, found["steps"].numpy()
        )
        if tf.executing_eagerly() and (text := diagnosis.remark(float(tf.reduce_max(found["amplification"])))):
            table = dataclasses.replace(table, notes=(*table.notes, f"Absurd: {text}. {diagnosis.ADVICE}"))
        return table.show(print_fn)

    def check(self, x: Any, *, print_fn: Callable[[str], Any] | None = print) -> Check:
        """Whether explanations of this model can be trusted, told from the first two samples of a batch.

            assert explainer.check(x)

        It compares the clone's output with the model's own and, layer by layer, where they first differ; looks for NaN
        and Inf; closes the books of every step; sees that samples do not explain one another; and that layers
        registered with `linear.register` are linear. See docs/check.md.

        Args:
            x: a batch, as in `__call__`; of a single sample a second one is made.

        Returns:
            A `Check`, printed by `print_fn` unless that is None; true when all holds.

        Raises:
            ValueError: wrong shapes, an empty batch. RuntimeError: called inside a tf.function.
        """
        if not tf.executing_eagerly():
            raise RuntimeError("check runs step by step. Expected a call outside of tf.function. Received: a graph.")
        self.renew()
        inputs = [value[:2] for value in targets.inputs(self.graph, x)]
        rank = len(self.graph.outputs[0].shape)
        begin = targets.start(self.graph, None if rank <= 1 else [0] * rank, "output", inputs[0])
        unchecked, self._unchecked = self._unchecked, False
        try:
            logits = self._run_whole(inputs, begin, _Want(), False, None)["logits"]
        finally:
            self._unchecked = unchecked
        found = checks.check(self.clone, inputs, logits, self.composite.name)
        if print_fn is not None:
            print_fn(str(found))
        return found

    def _check_once(self, inputs: list[tf.Tensor], logits: tf.Tensor) -> None:
        if self._unchecked and tf.executing_eagerly():
            self._unchecked = False
            checks.raise_unless_sound(checks.check(self.clone, inputs, logits, self.composite.name))

    # --- one compiled function for each kind of call -------------------------------------------

    @tf.autograph.experimental.do_not_convert  # in a function of the user: nothing to translate, and slow
    def _run(
        self, x: Any, target: Any, start: Any, want: _Want, *, check: bool = True, max_batch: int | None = None
    ) -> dict[str, Any]:
        self.renew()
        inputs = targets.inputs(self.graph, x)
        begin = targets.start(self.graph, target, start, inputs[0])
        size, samples = _checked_size(max_batch, "max_batch") or self.max_batch, inputs[0].shape[0]
        if size is None or samples is None or samples <= size:
            return self._advised(self._run_whole(inputs, begin, want, check, target), check)
        parts = [slice(first, first + size) for first in range(0, samples, size)]
        found = [self._run_whole([x[p] for x in inputs], begin.part(p), want, check, target) for p in parts]
        steps = {"steps": tf.add_n([part.pop("steps") for part in found])} if want.steps else {}
        whole = tf.nest.map_structure(lambda *v: None if v[0] is None else tf.concat(v, axis=0), *found)
        return self._advised(whole | steps, check)

    def _advised(self, found: dict[str, Any], check: bool) -> dict[str, Any]:
        if check and tf.executing_eagerly():
            diagnosis.advise(found, self.composite.name)
        return found

    def _run_whole(
        self, inputs: list[tf.Tensor], begin: targets.Start, want: _Want, check: bool, target: Any
    ) -> dict[str, Any]:
        key = (begin.mode, begin.kind, want, tf.config.functions_run_eagerly())
        if key not in self._compiled:
            self._compiled[key] = self._compile(*key[:3])
        function, tensors = self._compiled[key], [*inputs, *([] if begin.tensor is None else [begin.tensor])]
        found = function(*tensors)
        message = "target out of range"
        if not tf.executing_eagerly():
            tf.debugging.Assert(found["declared"], [BELOW_ZERO])
            tf.debugging.Assert(found["in_range"], [message])
            tf.debugging.Assert(found["finite"], ["NaN or Inf in the relevance: call report() on the same batch"])
        elif not found["declared"]:
            raise ValueError(BELOW_ZERO)
        elif not found["in_range"]:
            raise ValueError(f"{message}. Expected: below {tuple(found['logits'].shape[1:])}. Received: {target}")
        elif check and not found["finite"]:
            _, starts, _ = targets.start_relevance(begin, found["logits"])
            start = starts[0] if begin.many else starts
            diagnosis.raise_where_it_began(self.clone, inputs, start, found["relevance"])
        self._check_once(inputs, found["logits"])
        read = getattr(function, "captured_inputs", None)  # variables; unknown where functions run eagerly
        seal = functools.partial(sealed, sources=None if read is None else [*tensors, *read])
        for name in ("relevance", "layers", "conservation", "amplification", "begin"):
            if name in found:
                found[name] = tf.nest.map_structure(seal, found[name])
        return {name: value for name, value in found.items() if name not in ("declared", "in_range", "finite")}

    def _compile(self, mode: str, kind: str, want: _Want) -> Callable:
        graph = self.graph
        signature = [tf.TensorSpec([None, *ref.shape], ref.dtype) for ref in graph.inputs]
        if mode == "given":
            signature.append(tf.TensorSpec([None, *graph.outputs[0].shape], graph.dtype))
        elif mode != "top":
            signature.append(tf.TensorSpec([None] * (1 if mode == "class" else 2), tf.int32))
        function = self._function(mode, kind, want)
        if tf.config.functions_run_eagerly():
            return function
        # There is no Python control flow on tensors for autograph to translate; without it tracing is faster.
        compiled = tf.function(function, input_signature=signature, autograph=False, jit_compile=self._jit_compile)
        # The concrete function: TensorFlow would count explainers of one program as retraces of one function.
        return compiled.get_concrete_function()

    def _function(self, mode: str, kind: str, want: _Want) -> Callable:
        """A plain function of the flat inputs and, but for "top", a target or start relevance."""
        graph, clone = self.graph, self.clone
        keep = {name: self._tensors_of(name) for name in want.layers}

        def function(*tensors: tf.Tensor) -> dict[str, Any]:
            inputs = tensors[: len(graph.inputs)]
            tensor = None if mode == "top" else tensors[-1]
            forward = clone.forward(inputs)
            logits = clone.output(forward)
            target, starts, in_range = targets.start_relevance(targets.Start(mode, kind, tensor), logits)
            backward = functools.partial(_backward, clone, forward, keep=keep, want=want)
            if targets.Start(mode, kind, tensor).many:
                backward = functools.partial(backward, propagators=clone.propagators(forward))
                found = _each_target(backward, starts, keep, want, clone)
            else:
                found = backward(starts)
            finite = _finite(clone, inputs, forward, found, want.each)
            found |= {"logits": logits, "in_range": in_range, "finite": finite}
            if not want.each:  # no signature has it, and LiteRT would trip over its float64
                many = targets.Start(mode, kind, tensor).many
                grown = diagnosis.amplification(found["relevance"], starts, found.pop("below"), many)
                found["amplification"], found["begin"] = grown
            found["declared"] = tf.constant(True) & clone.as_declared(inputs)
            if want.account:
                found |= {
                    "output": clone.finish(logits, forward),
                    "conservation": _balance(found["shares"]),
                    "target": target,
                }
            return found

        return function

    def _tensors_of(self, name: str) -> list[tuple[Ref, list[Step]]]:
        found = [self.graph.resolve(ref) for call in self.graph.find_layer(name) for ref in call]
        known = {*self.graph.inputs, *(ref for step in self.graph.steps for ref in step.outputs)}
        if not known.issuperset(ref for ref, _ in found):
            raise ValueError(f"Layer {name!r} does not lie on a way to the output that is explained.")
        return found

    def _structured(self, relevances: list[tf.Tensor]) -> Any:
        by_ref = dict(zip(self.graph.inputs, relevances, strict=True))

        def pick(ref: Ref) -> tf.Tensor | None:
            if tf.as_dtype(ref.dtype).is_floating:
                return tf.cast(by_ref[ref], ref.dtype)
            return by_ref[ref] if ref in self.clone.reached else None

        return tree.map_structure(pick, self.graph.input_structure)


def _backward(
    clone: Clone,
    forward: Forward,
    start: tf.Tensor,
    *,
    keep: dict[str, list[tuple[Ref, list[Step]]]],
    want: _Want,
    propagators: Any = None,
) -> dict[str, Any]:
    """Relevance of inputs and layers; with `want.account` shares [B, 7], with `want.steps` a row for each step."""
    graph = clone.graph
    shares = {name: tf.zeros([tf.shape(start)[0]], want.books) for name in Account.NAMES}
    rows: dict[Step, tf.Tensor] = {}

    def observe(step: Step, arrived: list[tf.Tensor], sent: list[tf.Tensor | None], account: Account) -> None:
        for name, share in account.shares.items():
            shares[name] += share
        if want.steps:
            sent = [r for r in sent if r is not None]
            numbers = [_total(arrived), _total(sent)]
            numbers += [tf.reduce_sum(account.shares.get(name, tf.zeros([], tf.float64))) for name in Account.NAMES]
            bad = [tf.reduce_sum(tf.cast(~tf.math.is_finite(r), tf.float64)) for r in (*sent, *_values(step))]
            rows[step] = tf.stack([*numbers, tf.add_n([tf.zeros([], tf.float64), *bad])])

    def _values(step: Step) -> list[tf.Tensor]:
        return [forward.values[ref] for ref in step.outputs if forward.values[ref].dtype.is_floating]

    refs = [ref for pairs in keep.values() for ref, _ in pairs]
    below: list[tf.Tensor] = []
    relevances = clone.relevance(
        forward,
        start,
        keep=refs,
        propagators=propagators,
        observe=observe if want.account else None,
        books=want.books,
        below_heads=None if want.each else below,
    )
    found: dict[str, Any] = {
        "relevance": [relevances[ref] for ref in graph.inputs],
        "layers": {name: [_padded(relevances[ref], steps) for ref, steps in pairs] for name, pairs in keep.items()},
    }
    if not want.each:  # a sample may have several rows there, of time steps
        samples = tf.shape(start)[0]
        sizes = [tf.reduce_sum(tf.abs(tf.reshape(r, tf.stack([samples, -1]))), axis=1) for r in below]
        found["below"] = tf.add_n([tf.zeros([samples], clone.graph.dtype), *sizes])
    if want.account:
        summed = functools.partial(sample_sum, dtype=want.books)
        reached = tf.add_n([summed(r) for r in found["relevance"]])
        found["shares"] = tf.stack([summed(tf.abs(start)), summed(start), reached, *shares.values()], axis=-1)
    if want.steps:
        columns = 3 + len(Account.NAMES)
        found["steps"] = tf.stack([rows.get(step, tf.zeros([columns], tf.float64)) for step in reversed(graph.steps)])
    return found


def _padded(relevance: tf.Tensor, steps: list[Step]) -> tf.Tensor:
    """Relevance behind padding that a convolution absorbed: the padding itself has none."""
    for step in steps:
        relevance = step.call(relevance)
    return relevance


def _total(tensors: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.zeros([], tf.float64), *[tf.reduce_sum(tf.cast(t, tf.float64)) for t in tensors]])


def _each_target(backward: Callable, starts: tf.Tensor, keep: dict, want: _Want, clone: Clone) -> dict[str, Any]:
    """`backward` for each of starts [k, B, ...]: the forward pass and the denominators are shared. [B, k, ...]."""
    dtype = tf.as_dtype(clone.graph.dtype)
    signature: dict[str, Any] = {
        "relevance": [dtype] * len(clone.graph.inputs),
        "layers": {name: [dtype] * len(pairs) for name, pairs in keep.items()},
    }
    signature |= {} if want.each else {"below": dtype}
    signature |= {"shares": want.books} if want.account else {}
    signature |= {"steps": tf.float64} if want.steps else {}
    found = tf.map_fn(backward, starts, fn_output_signature=signature)
    steps = {"steps": tf.reduce_sum(found.pop("steps"), axis=0)} if want.steps else {}
    return tf.nest.map_structure(_targets_behind_batch, found) | steps


def _targets_behind_batch(value: tf.Tensor) -> tf.Tensor:
    return tf.transpose(value, [1, 0, *range(2, value.shape.rank)])


def _balance(shares: tf.Tensor) -> Conservation:
    size, *parts, dropped = tf.unstack(shares, axis=-1)
    parts[-1] += dropped
    return Conservation(*parts, tf.math.divide_no_nan(parts[0] - tf.add_n(parts[1:]), size))


def _finite(clone: Clone, inputs: list[tf.Tensor], forward: Forward, found: dict[str, Any], each: bool) -> tf.Tensor:
    """Whether all values are finite, judged by sums: max pooling hides a NaN, so the logits alone do not tell."""
    tensors = [*inputs, *found["relevance"], clone.output(forward), *[forward.values[ref] for ref in clone.hidden]]
    kernels = {ref for step in clone.graph.steps if step.linear is not None for ref in step.inputs}
    values = {w: forward.values[w] for w in clone.hidden_weights if isinstance(w, Ref)}
    values |= {w: _without_infinity(value) for w, value in values.items() if w not in kernels}  # masks
    weights = [values[w] if isinstance(w, Ref) else w for w in clone.hidden_weights]
    weights = [tf.reshape(w, [-1]) if len(w.shape) != 1 else tf.convert_to_tensor(w) for w in weights]
    sizes = {dtype: [w for w in weights if w.dtype == dtype] for dtype in {w.dtype for w in weights}}
    weights = [tf.concat(same, axis=0) for same in sizes.values()]  # one sum for all: there are hundreds
    if each:
        constants = [forward.values[ref] for ref in clone.graph.constants if ref in forward.values]
        rows = tf.stack([tf.shape(inputs[0])[0], -1])  # the first axis may hold time steps, too
        tensors = [t for t in tensors if t.dtype.is_floating and not any(t is c for c in constants)]
        whole = [tf.math.is_finite(tf.reduce_sum(tf.reshape(t, rows), axis=1)) for t in tensors]
        return tf.reduce_all(tf.stack(whole), axis=0) & (_all_finite(weights) if weights else True)
    return _all_finite([*tensors, *weights])


def _without_infinity(value: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_inf(value), tf.zeros_like(value), value)


def _all_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    tensors = [t for t in tensors if t.dtype.is_floating]
    wide = [tf.cast(t, tf.float32) if t.dtype.size < 4 else t for t in tensors]  # sums of halves would overflow
    return tf.reduce_all(tf.stack([tf.math.is_finite(tf.reduce_sum(t)) for t in wide]))
