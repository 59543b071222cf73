"""Matchers of steps without a kernel, by the flow that they have of themselves."""

from __future__ import annotations

from lrp_tf import flows
from lrp_tf.composites.match import Match, pickled_by_name


@pickled_by_name
def max_pooling() -> Match:
    """Max pooling of every kind: layers, global and adaptive ones, and `keras.ops.max`."""
    maxima = lambda s: isinstance(flows.lookup(s), flows.MAXIMA)  # noqa: E731
    return Match(lambda graph: [s for s in graph.steps if maxima(s)], "max_pooling()")


@pickled_by_name
def products() -> Match:
    """Element-wise products: Multiply, `x * y`. Those with a constant count, too."""
    return _of(flows.Product, "products()")


@pickled_by_name
def quotients() -> Match:
    """Element-wise quotients: `x / y`, `keras.ops.rsqrt`."""
    return _of(flows.Quotient, "quotients()")


@pickled_by_name
def contractions() -> Match:
    """Products that sum, of two tensors that depend on the input: matmul, einsum, Dot, as in an attention."""
    return _of(flows.Contraction, "contractions()")


def _of(kind: type[flows.Flow], text: str) -> Match:
    return Match(lambda graph: [s for s in graph.steps if s.linear is None and type(flows.lookup(s)) is kind], text)
