"""Matchers by what the presets distinguish: convolutions, and what counts as Dense."""

from __future__ import annotations

import math

from lrp_tf.composites.match import Match, first, last, linear_steps, pickled_by_name
from lrp_tf.core.graph import Graph, Step


@pickled_by_name
def dense_like() -> Match:
    """What the presets treat as Dense.

        composites.Composite([(composites.dense_like(), rules.Epsilon()),
                              (None, rules.ZPlus())])

    Linear steps that are no convolution, the last one whatever its class, and convolutions on a 1x1 map, as MobileNet's
    classifier is one.
    """

    def select(graph: Graph) -> list[Step]:
        found = {s for s in linear_steps(graph) if not s.entry.convolution} | set(last().select(graph))
        return list(found | {s for s in linear_steps(graph) if _on_single_pixel(s)})

    return Match(select, "dense_like()")


def _on_single_pixel(step: Step) -> bool:
    if not step.entry.convolution:
        return False
    shape = list(step.inputs[(step.signals or [0])[0]].shape)
    del shape[step.entry.channel_axis(step.op) - (1 if step.entry.channel_axis(step.op) > 0 else 0)]
    return all(size == 1 for size in shape)


@pickled_by_name
def first_convolution() -> Match:
    """The convolutions among `first()`.

        composites.Composite([(composites.first_convolution(), rules.WSquare()),
                              (None, rules.Epsilon())])

    A first Dense does not match: Flat on it draws a blank picture.
    """
    return Match(lambda graph: [s for s in first().select(graph) if s.entry.convolution], "first_convolution()")


@pickled_by_name
def convolutions() -> Match:
    """Every convolution.

        composites.Composite([(composites.convolutions(), rules.ZPlus()),
                              (None, rules.Epsilon())])

    Transposed, depthwise and separable ones are included.
    """
    return Match(_convolutions, "convolutions()")


@pickled_by_name
def first_half_of_convolutions() -> Match:
    """The first half of the convolutions in execution order.

        composites.Composite([(composites.first_half_of_convolutions(), rules.Gamma()),
                              (None, rules.Epsilon())])

    Of an odd number, the one in the middle too.
    """
    return Match(lambda graph: _part(_convolutions(graph), 2), "first_half_of_convolutions()")


@pickled_by_name
def first_quarter_of_convolutions() -> Match:
    """The first quarter of the convolutions in execution order.

        composites.Composite([(composites.first_quarter_of_convolutions(), rules.WSquare()),
                              (None, rules.Epsilon())])

    Rounded up: at least one.
    """
    return Match(lambda graph: _part(_convolutions(graph), 4), "first_quarter_of_convolutions()")


def _convolutions(graph: Graph) -> list[Step]:
    return [step for step in linear_steps(graph) if step.entry.convolution]


def _part(steps: list[Step], parts: int) -> list[Step]:
    return steps[: math.ceil(len(steps) / parts)]
