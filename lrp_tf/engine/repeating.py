"""A forward pass as if every sample had been given several times, so that loops over time need not run again."""

from __future__ import annotations

import tensorflow as tf

from lrp_tf.core.graph import Ref
from lrp_tf.engine.loop import Recurrence, Run
from lrp_tf.engine.plan import Plan
from lrp_tf.engine.propagate import Forward


def repeated(plan: Plan, forward: Forward, times: tf.Tensor) -> Forward:
    """The pass of [x, x, ...], all samples once, then all again, from that of x.

    Values are repeated, and so is what loops keep. Other steps run again on these values, since only they know what
    they keep; TensorFlow drops what none of them needs.

    Args:
        forward: of a plan with one segment.
        times: an int32 scalar.
    """
    values = {ref: _repeated_value(value, ref, times) for ref, value in forward.values.items()}
    saved = dict[object, object]()
    for step in plan.graph.steps:
        handler = plan.handlers[step]
        if isinstance(handler, Recurrence):
            saved[step] = _repeated_run(forward.saved[step], times)
        elif step.signals:
            _, saved[step] = handler.forward(step, [values[ref] for ref in step.inputs])
    return Forward(values, saved)  # type: ignore[arg-type]


def _repeated_value(value: tf.Tensor, ref: Ref, times: tf.Tensor) -> tf.Tensor:
    return _tiled(value, ref.axis, times) if ref.batched else value


def _repeated_run(run: Run, times: tf.Tensor) -> Run:
    """What a loop keeps; its sequences have the time steps first."""
    given = run.given._replace(
        sequences=[_tiled(x, 1, times) for x in run.given.sequences],
        states=[_tiled(s, 0, times) for s in run.given.states],
        mask=None if run.given.mask is None else _tiled(run.given.mask, 0, times),
    )
    return Run(given, [_repeated_array(states, times) for states in run.states])


def _repeated_array(states: tf.TensorArray, times: tf.Tensor) -> tf.TensorArray:
    tiled = _tiled(states.stack(), 1, times)
    array = tf.TensorArray(tiled.dtype, tf.shape(tiled)[0], element_shape=tiled.shape[1:], clear_after_read=False)
    return array.unstack(tiled)


def _tiled(value: tf.Tensor, axis: int, times: tf.Tensor) -> tf.Tensor:
    """The value, `times` over along an axis."""
    tiled = tf.tile(value, [times if i == axis else 1 for i in range(value.shape.rank)])
    return tf.ensure_shape(tiled, [None if i == axis else size for i, size in enumerate(value.shape)])
