"""`compare`: explainers × metrics, over samples of any number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras

from lrp_tf.engine import streams
from lrp_tf.evaluate.comparison import Comparison
from lrp_tf.evaluate.methods import methods_of, predictor
from lrp_tf.evaluate.metric import Metric, get
from lrp_tf.evaluate.protocol import Array, Explain, Predict
from lrp_tf.evaluate.run import Run
from lrp_tf.evaluate.samples import Given, batches, digests


def compare(
    explainers: Mapping[str, Explain | str],
    x: Array | Iterable,
    target: Given = None,
    *,
    predict: Predict | None = None,
    model: keras.Model | None = None,
    metrics: Sequence[str | Metric] | Mapping[str, str | Metric] = ("srg",),
    masks: Given = None,
    channel_axis: int | None = -1,
    batch_size: int = 32,
    seed: int = 0,
    reference: str | None = None,
    confidence: float = 0.95,
    resume: str | os.PathLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Judge explainers by metrics on the same samples.

        found = evaluate.compare({"epsilon": explainer, "edges": "sobel"}, x, target, metrics=["srg"])
        print(found); found.save("results")

    Each explainer runs once for each batch, whatever the number of metrics. A sample, explainer or metric that fails is
    NaN, with its reason in `Comparison.failures`.

    Args:
        explainers: name -> any explain(x, target), or the name of a baseline: "absolute", "sobel", "laplace",
            "centre", "random".
        x: samples [n, ...]; or a stream, such as a `tf.data.Dataset`, of batches, or of tuples that begin with them.
        target: the classes to explain, one for all or [n]; a function of a batch as the stream gave it, such as
            `lambda element: element[1]`; None: the predicted ones.
        predict: the classifier, x -> scores [B, C]. None: that of `model`, or of the model that the explainers tell.
        model: the Keras model, for metrics that need it, where explainers tell none.
        metrics: names or metrics with options, see `get`; a dict gives them names of their own.
        masks: where the object is, [n, *positions], or a function like `target`.
        channel_axis: of x. confidence: of the intervals. seed: the same one gives the same numbers.
        batch_size: at most this many samples at once. It does not change random numbers.
        reference: the explainer that others are set against; None: for each metric the best one.
        resume: a folder that keeps what is finished. A run that was killed continues there, and ends with the same
            numbers, bit for bit; other settings, samples or weights are refused.
        progress: called after each batch of each explainer, with the number of samples.

    Raises:
        ValueError: unknown names, a metric that an explainer cannot have or that fails for all of them on the whole
            first batch, targets out of range, settings that `resume` does not share. TypeError: no numbers.
    """
    if batch_size is None or streams.checked_size(batch_size, "batch_size") is None:
        raise ValueError("batch_size expects a number of samples. Received: None")
    if reference is not None and reference not in explainers:
        raise ValueError(f"reference expects one of {list(explainers)}. Received: {reference!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence expects a share between 0 and 1. Received: {confidence!r}")
    methods = methods_of(explainers, model, channel_axis, seed)
    classify = predictor(predict, model, methods, batch_size)
    run = Run(methods, _metrics(metrics), classify, channel_axis, seed, progress or (lambda count: None))
    settings = {} if resume is None else run.settings(batch_size, predict, model, digests(x, target, masks))
    values, targets, failures = run.whole(batches(x, target, masks, batch_size), resume, settings)
    names = tuple(method.name for method in methods)
    return Comparison(names, run.metrics, values, targets, failures, seed, reference, confidence)


def _metrics(metrics: Sequence[str | Metric] | Mapping[str, str | Metric]) -> dict[str, Metric]:
    """Metrics under their names."""
    if isinstance(metrics, (str, Metric)):
        metrics = [metrics]
    if isinstance(metrics, Mapping):
        found = {name: get(given) for name, given in metrics.items()}
    else:
        listed = [get(given) for given in metrics]
        found = {m.name: m for m in listed}
        if len(found) < len(listed):
            names = [m.name for m in listed]
            raise ValueError(f"metrics of one name need names of their own: pass a dict. Received: {names}")
    if not found:
        raise ValueError("compare expects at least one metric. Received: none")
    return found
