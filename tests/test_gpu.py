"""Ready for GPUs, proven without one: every operation has a GPU kernel at its dtypes, and the whole lowers to XLA."""

import keras
import pytest
import tensorflow as tf
from helpers.checking import randomize
from keras import layers as kl
from tensorflow.python.framework import kernels

import lrp_tf
from lrp_tf import composites

# What TensorFlow places by itself, whatever its kernels are: arguments, results, calls, constants of the host.
STRUCTURE = {"_Arg", "_Retval", "Placeholder", "PartitionedCall", "StatefulPartitionedCall", "NoOp"}
# Sizes of tensors, which live on the host whatever device computes: several targets are vectorized with them.
SIZES = {("Split", "int32")}


def digits():
    stack = [kl.Conv2D(8, 3, activation="relu"), kl.Conv2D(8, 3, activation="relu"), kl.MaxPooling2D(), kl.Flatten()]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack, kl.Dense(10, activation="softmax")])


NETWORKS = {
    "digits": digits,
    "ResNet50": lambda: keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10),
    "MobileNet": lambda: keras.applications.MobileNet(weights=None, input_shape=(64, 64, 3), classes=10),
    "EfficientNetB0": lambda: keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3), classes=10),
}
LOWERED = {"epsilon_plus_flat", "epsilon_alpha2_beta1"}
QUICK = {("digits", "epsilon_plus_flat")}
CASES = [
    pytest.param(network, preset, marks=[] if (network, preset) in QUICK else [pytest.mark.slow])
    for network in NETWORKS
    for preset in composites.PRESETS
]
_BUILT = {}


def explain(network, preset):
    """The explainer, and the graph of one call with all that belongs to it."""
    if network not in _BUILT:
        _BUILT[network] = randomize(NETWORKS[network]())
    bounds = {"low": -1.0, "high": 1.0} if composites.needs_bounds(preset) else {}
    return lrp_tf.Explainer(_BUILT[network], composites.get(preset, **bounds))


def without_gpu_kernel(graph):
    """Operations, with their dtypes, that no GPU kernel of this TensorFlow takes."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    missing = set()
    for node in nodes:
        if node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum:
            continue  # the message of an assertion, which is read on the host
        if node.op in STRUCTURE or node.op.startswith(("While", "StatelessWhile", "If", "StatelessIf")):
            continue
        registered = [
            k for k in kernels.get_registered_kernels_for_op(node.op).kernel if k.device_type in ("GPU", "DEFAULT")
        ]
        if not any(all(_allows(limit, node) for limit in kernel.constraint) for kernel in registered):
            dtypes = sorted({tf.as_dtype(a.type).name for a in node.attr.values() if a.WhichOneof("value") == "type"})
            missing.add((node.op, *dtypes))
    return missing - SIZES


def _allows(limit, node):
    attribute = node.attr.get(limit.name)
    return attribute is None or attribute.type == 0 or attribute.type in limit.allowed_values.list.type


@pytest.mark.parametrize(("network", "preset"), CASES)
def test_every_operation_has_a_gpu_kernel(network, preset):
    explainer = explain(network, preset)
    shape = explainer.graph.inputs[0].shape

    @tf.function(input_signature=[tf.TensorSpec([None, *shape])], autograph=False)
    def function(x):
        found = explainer.explain(x, "topK:2")
        return found.relevance, found.output, found.conservation.unexplained

    assert without_gpu_kernel(function.get_concrete_function().graph) == set()


def test_the_check_finds_what_has_none():
    """Strings have no place on a GPU."""

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def function(x):
        return tf.strings.as_string(x)

    assert {op for op, *_ in without_gpu_kernel(function.get_concrete_function().graph)} == {"AsString"}


@pytest.mark.parametrize(("network", "preset"), [case for case in CASES if case.values[1] in LOWERED])
def test_the_whole_lowers_to_xla(network, preset):
    explainer = explain(network, preset)
    x = tf.zeros([2, *explainer.graph.inputs[0].shape])
    function = tf.function(lambda x: explainer(x), jit_compile=True, autograph=False)
    text = function.experimental_get_compiler_ir(x)(stage="hlo")
    assert "ENTRY" in text
    assert "custom-call" not in text
