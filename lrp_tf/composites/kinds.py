"""Matchers of steps without a kernel, by the flow that they have of themselves."""

from __future__ import annotations

from lrp_tf import flows
from lrp_tf.composites.match import Match, pickled_by_name


@pickled_by_name
def max_pooling() -> Match:
    """Max pooling of every kind.

        composites.Composite([(composites.max_pooling(), flows.MaxAsAverage()),
                              (None, rules.Epsilon())])

    Layers, global and adaptive ones, and `keras.ops.max`.
    """
    maxima = lambda s: isinstance(flows.lookup(s), flows.MAXIMA)  # noqa: E731
    return Match(lambda graph: [s for s in graph.steps if maxima(s)], "max_pooling()")


@pickled_by_name
def products() -> Match:
    """Element-wise products.

        composites.Composite([(composites.products(), flows.Product(gates="share")),
                              (None, rules.Epsilon())])

    Multiply and `x * y`; those with a constant count, too.
    """
    return _of(flows.Product, "products()")


@pickled_by_name
def quotients() -> Match:
    """Element-wise quotients.

        composites.Composite([(composites.quotients(), flows.Quotient(gates="held")),
                              (None, rules.Epsilon())])

    `x / y` and `keras.ops.rsqrt`.
    """
    return _of(flows.Quotient, "quotients()")


@pickled_by_name
def contractions() -> Match:
    """Products that sum, of two tensors that depend on the input.

        composites.Composite([(composites.contractions(), flows.Contraction(gates="share")),
                              (None, rules.Epsilon())])

    matmul, einsum and Dot, as in an attention.
    """
    return _of(flows.Contraction, "contractions()")


def _of(kind: type[flows.Flow], text: str) -> Match:
    return Match(lambda graph: [s for s in graph.steps if s.linear is None and type(flows.lookup(s)) is kind], text)
