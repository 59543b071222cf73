"""`Explainer`, the face of the library: calls, streams, tables and checks around compiled passes."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from lrp_tf import __version__
from lrp_tf.composites import Composite
from lrp_tf.conditional import Conditional
from lrp_tf.engine import check as checks
from lrp_tf.engine import diagnosis, tables, targets
from lrp_tf.engine.check import Check
from lrp_tf.engine.clone import clone_with_rules
from lrp_tf.engine.contrast import Contrast
from lrp_tf.engine.explanation import Conservation, Explanation
from lrp_tf.engine.passes import Request
from lrp_tf.engine.savings import bfloat16
from lrp_tf.engine.tables import Table
from lrp_tf.engine.targets import Initial, Inputs, Targets
from lrp_tf.rules import Rule
from lrp_tf.saved import archive
from lrp_tf.tracing import sizes as open_sizes
from lrp_tf.tracing.sizes import Sizes

__all__ = ["Conservation", "Explainer", "Explanation", "clone_with_rules"]


class Explainer(Conditional):
    """Explains a Keras model by Layer-wise Relevance Propagation (Bach et al. 2015).

        explainer = lrp_tf.Explainer(model, composite="epsilon_plus_flat")
        R = explainer(x)    # of each sample's top class, shaped like x

    Built once, it follows a model while that trains. Each kind of call is compiled once, for any batch size; after
    `tf.config.run_functions_eagerly(True)` nothing is compiled, as with every tf.function. If a layer changes what it
    computes (`enable_lora`, another `activation`, other variables), the next call builds the explainer anew. Of the
    settings of your own layers only flags are watched: after changing a number, a string or a list, build a new
    Explainer. A pickle or copy holds model, composite and options, and builds the explainer anew when it is opened;
    that of `Recipe.explainer()` holds the recipe alone.

    Args:
        model: a Keras 3 model on TensorFlow, built; it is never changed.
        composite: a preset's name, a `Composite`, or one `Rule` for every linear step.
        output: name or index of the output to explain, for models with several.
        jit_compile: compile with XLA; "auto": if there is a GPU. On CPUs XLA is slower (docs/speed.md). XLA compiles
            once for each batch size. Of models that interpolate bilinearly calls then raise ValueError, since XLA gets
            that wrong.
        relevance_filter: keep only this fraction of the largest |R| of each sample at the outputs of every linear
            layer but the last (0.1: a tenth), for crisper maps. What it drops counts as "other" in the conservation;
            `report` gives it a column.
        nonnegative: no input is ever below zero, as with images from 0 to 1: rules then leave out what only negative
            inputs need. An input below zero raises ValueError.
        fast: "bfloat16" computes the rules' own convolutions in it where that is faster, and is refused where none is;
            "auto" means float32 there. `summary` says which are chosen, and docs/speed.md what accuracy is lost.
        recompute: keep the values of the forward pass only where the model is narrow, and compute the others again part
            by part while relevance comes down: memory grows with the square root of the depth, for up to one more
            forward pass. For long inputs. It saves nothing where functions run eagerly, and XLA may merge
            what is computed again with the forward pass.
        positions: what becomes of relevance that enters positions, as learned embeddings of them or relative biases.
            None: it is booked as "positions". "token": it is given to the token at that place, as is half of what
            arrives at a product with rotary factors (PA-LRP, Bakish et al. 2025); see docs/conservation.md.
        max_batch: split larger batches into parts of at most this size, explained one after another.
        check: run `check` on the first batch: True, False, or None: if layers were followed, other than separable
            convolutions of Keras, or registered. It costs about three eager passes of two samples, once. It raises
            `CheckError` if the clone is not the model, and warns (`CheckWarning`) if the books of a step do not close.
        sizes: of inputs that the model leaves open, as the length of a text: shapes without the batch axis by name of
            the input, `sizes={"token_ids": (128,), "padding_mask": (128,)}`, or one shape for the only input. Calls
            then take inputs of these sizes. Attention wants to know them.
        **options: of the preset that `composite` names: `Explainer(model, "epsilon_gamma_box", low=0.0, high=1.0)`;
            see `composites.get`.

    Raises:
        TypeError: not a Keras 3 model; an option that the preset does not take, or any option with an instance;
            `sizes` that hold no whole numbers.
        ValueError: an unbuilt or untraceable model, an unknown composite or output, an unsupported layer
            (`UnsupportedLayerError`), `sizes` that do not fit the model.
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
        recompute: bool = False,
        positions: str | None = None,
        max_batch: int | None = None,
        check: bool | None = None,
        sizes: Sizes | None = None,
        **options: Any,
    ) -> None:
        self._chosen: dict[str, Any] = {"output": output, "jit_compile": jit_compile, "nonnegative": nonnegative}
        self._chosen |= {"relevance_filter": relevance_filter, "fast": fast, "recompute": bool(recompute)}
        self._chosen["positions"] = positions
        self._chosen |= {"max_batch": max_batch, "check": check, "sizes": open_sizes.kept(sizes)}
        self._begin(model, functools.partial(clone_with_rules, model, composite, **options))

    def __repr__(self) -> str:
        fast = self._chosen["fast"]
        more = "" if fast is None else bfloat16.counted(self.graph, fast)
        return f"Explainer({self.model.name!r}, composite={self.composite.name!r}{more})"

    def __reduce__(self) -> tuple:
        """Pickle the recipe: that which it was built from, or else model, composite and options."""
        if self._origin is not None:
            return self._origin.__reduce__()
        build = functools.partial(type(self), **self._chosen)
        return operator.call, (build, self.model, self.composite)

    def __copy__(self) -> Explainer:
        copied = self.with_model(self.model)
        copied.come_from(self._origin)
        return copied

    @property
    def sizes(self) -> Sizes | None:
        """Those that it was built with."""
        return self._chosen["sizes"]

    def with_model(self, model: keras.Model) -> Explainer:
        """The same explainer of another model.

            other = explainer.with_model(keras.models.clone_model(model))

        The other model may be a copy with other weights, for example.
        """
        return type(self)(model, self.composite, **self._chosen)

    # --- files ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write the compiled passes to a file, so that another process need not trace and optimise them.

            explainer.save("model.lrp")
            explainer = lrp_tf.Explainer.load("model.lrp", model)

        Written are the kinds of calls made so far; before any call, those of `explainer(x)` and `explainer.explain(x)`.
        The file holds no weights. See docs/speed.md.

        Raises:
            ValueError: `SaveError`, where nobody could tell later whether the file fits: code other than Keras' own in
                model or composite. And where nothing is compiled before it runs: with XLA, or eagerly.
            OSError: the file cannot be written.
            RuntimeError: the model leaves sizes open, and was not called before.
        """
        self.renew()
        loaded = {} if self._saved is None else self._saved.passes
        made = self._compiled | loaded
        archive.write(path, __version__, self._chosen, self.clone, self._unchecked, made, self._shapes)

    @classmethod
    def load(cls, path: str | os.PathLike, model: keras.Model) -> Explainer:
        """The explainer that `save` wrote, of a model of the same structure; its weights may have other values.

            explainer.save("model.lrp")
            explainer = lrp_tf.Explainer.load("model.lrp", model)

        Calls of kinds that were not saved are compiled at their first time, as ever.

        Raises:
            ValueError: `SaveError`: the file is of another model, of other versions or of another kind of machine.
            OSError: the file cannot be read.
        """
        saved = archive.read(path, model, __version__)
        explainer = cls.__new__(cls)
        explainer._chosen = saved.options
        explainer._begin(model, functools.partial(clone_with_rules, model, saved.composite), saved)
        return explainer

    # --- calls ---------------------------------------------------------------------------------

    def __call__(
        self,
        x: Inputs,
        target: Targets = None,
        *,
        start: Initial = "output",
        contrast: Contrast = None,
        max_batch: int | None = None,
    ) -> Any:
        """Relevance of the inputs for a target.

            R = explainer(x, target=3, contrast="softmax")     # [B, ...]
            R = explainer(x, target="topK:3")                  # [B, 3, ...]

        Args:
            x: a batch, [B, ...], in the structure of the model's inputs; arrays or tensors.
            target: None, each sample's top class; an int for all; [B] ints; [B, k] ints, k classes for each sample
                that share one forward pass; "topK:3", each sample's three top classes; a list that holds a rank, such
                as ["top1", 281], several for all. With a single output unit: 1 explains the value, 0 its negative, None
                whichever is positive. For outputs [B, d1, ..., C]: [B, rank - 1], an index tuple for each sample.
            start: "output", relevance starts as the target's pre-softmax value; "one", as 1; or a tensor of the
                output's shape, or k of them for each sample ([B, k, C]), then without target.
            contrast: what speaks for the target rather than for other classes, which start with the opposite sign:
                "softmax", weighted by their probabilities without the target; "mean", all alike; or one class, an int
                for all samples or [B] ints.
            max_batch: as the Explainer's, for this call.

        Returns:
            Tensors in the structure and shapes of the inputs and in their float dtype, [B, ...]; [B, k, ...] for
            [B, k] targets. None for an integer input that relevance does not reach.

        Raises:
            ValueError: wrong shapes, an empty batch, a target out of range, NaN or Inf (names where it began).
            TypeError: targets that are no integers.

        Warns:
            RelevanceWarning: the sum of |relevance| is more than a million times that of |start|, and of |relevance|
                below the last layer; sound maps stay far below. Not inside a tf.function: see `explain` there.
        """
        found = self._run(x, target, start, Request(), contrast=contrast, max_batch=max_batch)
        return self._structured(found.relevance)

    def explain(
        self,
        x: Inputs,
        target: Targets = None,
        *,
        start: Initial = "output",
        contrast: Contrast = None,
        layers: Iterable[str] = (),
        max_batch: int | None = None,
    ) -> Explanation:
        """Relevance with output, layers and conservation. See `__call__` for the other arguments and for errors.

            e = explainer.explain(x, layers=["conv2"])
            e.relevance, e.layers["conv2"], e.conservation.bias

        Args:
            layers: names or paths of layers whose output relevance is wanted too.
        """
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        found = self._run(x, target, start, Request(layers, account=True), contrast=contrast, max_batch=max_batch)
        assert found.conservation is not None  # as asked for
        return Explanation(
            relevance=self._structured(found.relevance),
            output=found.output,
            logits=found.logits,
            target=found.target,
            layers={name: r[0] if len(r) == 1 else list(r) for name, r in found.layers.items()},
            conservation=found.conservation,
            amplification=found.amplification,
            begin=found.begin,
        )

    def map(
        self,
        dataset: Iterable,
        target: Targets | Callable[[Any], Targets] = None,
        *,
        batch: int | None = None,
        start: str = "output",
        contrast: Contrast = None,
        full: bool = False,
        layers: Iterable[str] = (),
        with_inputs: bool = False,
        explain: bool | None = None,
    ) -> Iterator:
        """Explain a stream of any length with constant memory, while `tf.data` prepares the next batches.

            for R in explainer.map(dataset, batch=32): ...

        Args:
            dataset: a `tf.data.Dataset`, or anything that can be iterated, of inputs in the structure of the model's.
                Of tuples (x, y, ...) x is explained, as in `keras.Model.fit`.
            target: as in `__call__`, the same for all samples; or a function of a batch as the dataset gave it, such as
                `lambda element: element[1]` for the labels.
            batch: the elements are single samples, and this is the size of batches to make; None: they are batches.
            start: "output" or "one". contrast: as in `__call__`.
            full: give `Explanation`s instead of relevance.
            layers: for the explanations, see `explain`.
            with_inputs: give pairs (batch as the dataset gave it, result).
            explain: the former name of `full`.

        Yields:
            For each batch, in order, relevance [B, ...] as `__call__` returns it, or an `Explanation`.

        Raises:
            ValueError, TypeError: as `__call__`; the stream ends there. ValueError: `batch` for elements that are
                batches already.

        Warns:
            DeprecationWarning: `explain` is used.
        """
        if explain is not None:
            warnings.warn("map(explain=...) is now map(full=...)", DeprecationWarning, stacklevel=2)
            full = explain
        if not isinstance(start, str):
            raise ValueError(f'map expects start="output" or "one". Received: {type(start).__name__}')
        batches = targets.batches(self._outline, dataset, batch)
        run = functools.partial(self.explain, layers=tuple(layers)) if full else self
        run = functools.partial(run, start=start, contrast=contrast)
        return self._mapped(batches, target, run, with_inputs)

    def _mapped(self, batches: Iterable, target: Targets | Callable, run: Callable, with_inputs: bool) -> Iterator:
        for element in batches:
            x = targets.without_labels(self._outline, element)
            found = run(x, target(element) if callable(target) else target)
            yield (element, found) if with_inputs else found

    def summary(self, print_fn: Callable[[str], object] | None = print) -> Table:
        """The table layer -> operation -> rule, printed by `print_fn`.

            explainer.summary()

        With `fast` it also says what each step computes in. `notes` of the table say which activation was stripped, and
        where the composite is a preset that measured worse than a Sobel filter on nets of this kind (docs/which.md).
        """
        self.renew()
        return tables.rule_table(self.graph, self.clone.handlers, self.composite).show(print_fn)

    def report(
        self,
        x: Inputs,
        target: Targets = None,
        *,
        start: Initial = "output",
        contrast: Contrast = None,
        print_fn: Callable[[str], object] | None = print,
    ) -> Table:
        """What each step did with its relevance, from the output down, summed over the batch and all targets.

            explainer.report(x, target=3)

        Columns: relevance that reached the step's outputs ("relevance out") and that left for its inputs
        ("relevance in"), what bias, stabilizer and other absorbed by their closed forms, what positions took
        ("positions", if there are any), what the relevance filter dropped ("filter", if there is one), the rest
        relative to the sum of |start| ("unexplained"), and how many entries are NaN or Inf. The last row is the whole
        model. If relevance is out of proportion to the start, a note below says so, see `RelevanceWarning`.
        """
        found = self._run(x, target, start, Request(account=True, steps=True), check=False, contrast=contrast)
        assert found.shares is not None  # as asked for
        assert found.steps is not None
        table = tables.report_table(
            *(self.graph, self.clone.plan.every_step(), self.composite.name, found.shares, found.steps.numpy()),
            filtered=self.clone.relevance_filter is not None,
            positions=bool(self.clone.plan.positions.places),
        )
        if tf.executing_eagerly() and (text := diagnosis.remark(float(tf.reduce_max(found.amplification)))):
            table = dataclasses.replace(table, notes=(*table.notes, f"Absurd: {text}. {diagnosis.ADVICE}"))
        return table.show(print_fn)

    def check(self, x: Inputs, *, print_fn: Callable[[str], object] | None = print) -> Check:
        """Whether explanations of this model can be trusted, judged by the first two samples of a batch.

            assert explainer.check(x)

        It compares the clone's output with the model's and finds the first layer that differs; looks for NaN and Inf;
        checks that the books of every step close, that no sample depends on another, and that layers registered with
        `linear.register` are linear. See docs/check.md.

        Args:
            x: a batch, as in `__call__`; a second sample is made from a single one.

        Returns:
            A `Check`, printed by `print_fn` unless that is None; true when all holds.

        Raises:
            ValueError: wrong shapes, an empty batch. RuntimeError: called inside a tf.function.
        """
        if not tf.executing_eagerly():
            raise RuntimeError("check runs step by step. Expected a call outside of tf.function. Received: a graph.")
        self.renew()
        inputs = checks.judged(self.graph, targets.inputs(self.graph, x))
        rank = len(self.graph.outputs[0].shape)
        chosen = targets.checked(self.graph, None if rank <= 1 else [0] * rank, "output", inputs[0])
        unchecked, self._unchecked = self._unchecked, False
        try:
            logits = self._run_whole(inputs, chosen, Request(), False, None).logits
        finally:
            self._unchecked = unchecked
        found = checks.check(self.clone, inputs, logits, self.composite.name)
        if print_fn is not None:
            print_fn(str(found))
        return found
