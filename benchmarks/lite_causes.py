"""Which inner values make a file for LiteRT differ from TensorFlow: the file's are put in their place. --help."""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import numpy as np
import tensorflow as tf

import lrp_tf
from lrp_tf.exporting.lite import flatbuffer, verify
from lrp_tf.exporting.lite.nodes import Node, Value, order, run
from lrp_tf.exporting.lite.program import OUTPUTS, program
from lrp_tf.exporting.lite.rewrite import Rewritten

FORWARD = {"Conv2D", "DepthwiseConv2dNative", "BiasAdd", "AddV2", "Sigmoid", "Mean", "Mul", "Relu", "MatMul", "MaxPool"}
RELEVANCE, LOGITS = OUTPUTS.index("relevance"), OUTPUTS.index("logits")


class Probed:
    """A file whose inner values of the forward pass are outputs, and the same operations in TensorFlow."""

    def __init__(self, explainer: lrp_tf.Explainer) -> None:
        room = int(5 * explainer.model.count_params())
        self.file = Rewritten(program(explainer, None), list(OUTPUTS), room)
        self.outputs = list(self.file._outputs)
        self.forward = [node for node in order([self.outputs[LOGITS]]) if node.type in FORWARD]
        self.names = [f"inner{i:04d}" for i in range(len(self.forward))]
        self.file.names = [*sorted([*OUTPUTS, *self.names], key=lambda n: (n in self.names, n))]
        self.file._outputs = self.outputs + [Value(node) for node in self.forward]
        function, kernels = self.file.trace()
        order_of = sorted(self.file.names)  # as tf.function returns a dict
        content = flatbuffer.finished(flatbuffer.converted(function), kernels, "explain", order_of, "probed")
        self.run_file = verify.interpreter(content).get_signature_runner("explain")
        self.inputs = {id(node): name for name, node in self.file._nodes.placeholders.items()}

    def tensorflow(self, feed: dict, given: dict[int, tuple] | None = None) -> np.ndarray:
        """The relevance; `given`: node -> (choice, values that it has there)."""
        made: dict[int, list[tf.Tensor]] = {}

        def value(v: Value) -> tf.Tensor:
            return tf.constant(v.array) if v.constant else made[id(v.node)][v.index]

        for node in order([self.outputs[RELEVANCE]]):
            if node.type == "Placeholder":
                made[id(node)] = [tf.constant(feed[self.inputs[id(node)]])]
                continue
            made[id(node)] = run(node.type, node.attributes, [value(v) for v in node.inputs])
            if given and id(node) in given:
                choose, mine = given[id(node)]
                there = made[id(node)][0].numpy()
                made[id(node)] = [tf.constant(np.where(choose(there, mine), mine, there))]
        return value(self.outputs[RELEVANCE]).numpy()

    def explained(self, feed: dict, got: dict, nodes: list[Node], choose: object) -> float:
        """What is left of the difference if TensorFlow's values of these nodes are the file's where `choose` says."""
        mine = {id(n): (choose, got[name]) for n, name in zip(self.forward, self.names, strict=True) if n in nodes}
        return _apart(got["relevance"], self.tensorflow(feed, mine))


def _apart(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def rows(net: str, composite: str, images: int) -> list[list[float]]:
    """For each image: the difference, what is left with near-zero sums, with flipped signs, with the forward pass."""
    model = models.build(net)
    options = {"low": 0.0, "high": 1.0} if composite.endswith("box") else {}
    explainer = lrp_tf.Explainer(model, composite, **options)
    probed = Probed(explainer)
    # A sum of two branches: relevance is divided by it.
    sums = [n for n in probed.forward if n.type == "AddV2" and not any(v.constant for v in n.inputs)]
    found = []
    for i in range(images):
        x = tf.random.stateless_uniform([1, *model.input_shape[1:]], seed=(1, 2 + i)).numpy()
        feed = {"x": x, "target": np.array([-1], np.int32)}
        got = probed.run_file(**feed)
        row = [
            _apart(got["relevance"], probed.tensorflow(feed)),
            probed.explained(feed, got, sums, lambda a, b: np.abs(a) < 1e-4 * np.abs(a).max()),
            probed.explained(feed, got, sums, lambda a, b: (a > 0) != (b > 0)),
            probed.explained(feed, got, probed.forward, lambda a, b: np.ones(a.shape, bool)),
        ]
        print(f"| {net} | `{composite}` | " + " | ".join(f"{part:.1e}" for part in row) + " |", flush=True)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="efficientnetb0", choices=models.MODELS)
    parser.add_argument("--composite", default="epsilon_plus_flat")
    parser.add_argument("--images", type=int, default=5, help="random ones")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    print("| net | composite | difference | near-zero sums | flipped sums | all forward |")
    found = np.array(rows(options.net, options.composite, options.images))
    print("median", *(f"{v:.1e}" for v in np.median(found, axis=0)), "worst", *(f"{v:.1e}" for v in found.max(axis=0)))


if __name__ == "__main__":
    main()
