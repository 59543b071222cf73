"""Nets whose evidence is known, explained by all methods."""

from lrp_tf.evaluate.benchmark.cells import Cell, Place
from lrp_tf.evaluate.benchmark.methods import names
from lrp_tf.evaluate.benchmark.results import Row
from lrp_tf.evaluate.benchmark.run import benchmark, metrics_of
from lrp_tf.evaluate.benchmark.summary import Benchmark

__all__ = ["Benchmark", "Cell", "Place", "Row", "benchmark", "metrics_of", "names"]
