"""Explainers that several threads build at once, and threads that use Keras meanwhile."""

import sys
import threading

import keras
import numpy as np
import pytest
from helpers.checking import randomize
from keras import layers as kl
from keras import ops
from keras.src import backend

import lrp_tf

X = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


class Followed(kl.Layer):
    """Uses all that a trace replaces: an operator of variables, zeros, broadcast_to, add_loss, a name twice."""

    def build(self, shape):
        self.w = self.add_weight(shape=(4,), name="w", initializer="ones")
        self.parts = [kl.Dense(4, name="part"), kl.Dense(4, name="part")]
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        self.add_loss(ops.mean(x))
        h = self.w * x + ops.zeros(ops.shape(x))
        return h + ops.broadcast_to(self.w[None], ops.shape(x)) + self.parts[0](h) + self.parts[1](h)


def net():
    return randomize(keras.Sequential([keras.Input((4,)), Followed(name="followed"), kl.Dense(2)]))


def replaced(model):
    """All that the process and the layers have of what a trace replaces."""
    functions = {name: value for name, value in vars(backend.numpy).items() if callable(value)}
    members = [(cls, name, value) for cls in keras.Variable.__mro__ for name, value in vars(cls).items()]
    operators = {(cls, name): value for cls, name, value in members if callable(value)}
    layers = [
        (x.name, *(vars(x).get(k) for k in ("add_loss", "build")), len(x._inbound_nodes), len(x._outbound_nodes))
        for x in model._flatten_layers()
    ]
    return functions, operators, layers


@pytest.fixture(autouse=True)
def _switch_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def run(*functions):
    """Each in a thread of its own; what they raised."""
    raised, begin = [], threading.Barrier(len(functions))

    def guarded(function):
        try:
            begin.wait()
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "models that share nothing"])
def test_two_threads_build_100_explainers(shared):
    models = [net()] * 2 if shared else [net(), net()]
    for model in models:
        model(X)
    before = [replaced(model) for model in models]
    expected = lrp_tf.Explainer(models[0], "epsilon").explain(X, 0)
    built = [[], []]

    def build(k):
        for _ in range(25):
            built[k].append(lrp_tf.clone_with_rules(models[k], "epsilon"))

    assert run(lambda: build(0), lambda: build(1)) == []
    assert [len(found) for found in built] == [25, 25]
    assert [replaced(model) for model in models] == before
    again = lrp_tf.Explainer(models[0], "epsilon").explain(X, 0)
    np.testing.assert_array_equal(again.relevance, expected.relevance)


class Waiting(Followed):
    """Its `call`, while it is followed, waits until another thread has done its work."""

    wait = staticmethod(lambda: None)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            self.wait()
        return super().call(x)


def times(variable):
    """The error of Keras' own operator, which the trace replaces."""
    try:
        variable * keras.KerasTensor((None, 4))
    except Exception as error:
        return type(error)


def test_a_thread_that_uses_keras_while_a_trace_is_on_notices_nothing():
    model = randomize(keras.Sequential([keras.Input((4,)), Waiting(name="followed"), kl.Dense(2)]))
    layer = model.layers[0]
    entered, used = threading.Event(), threading.Event()
    layer.wait = lambda: (entered.set(), used.wait(60))
    found = {}

    def use():
        assert entered.wait(60)
        try:
            i = keras.Input((3,))
            model(X)
            found["losses"] = len(model.losses)
            found["names"] = [part.name for part in layer.parts]
            found["zeros"] = ops.zeros((2, 3)).shape
            found["arange"] = ops.arange(0, 3).shape
            found["times"] = times(layer.w)
            found["built"] = kl.Dense(2)(i).shape
        finally:
            used.set()

    model(X)
    losses, plain = len(model.losses), times(layer.w)
    assert run(lambda: lrp_tf.Explainer(model, "epsilon"), use) == []
    assert found["losses"] == losses > 0
    assert found["names"] == ["part", "part"]
    assert (found["zeros"], found["arange"], found["built"]) == ((2, 3), (3,), (None, 2))
    assert found["times"] is plain is not None


def test_a_thread_that_trains_meanwhile():
    """Keras' own functions, used all the time while explainers are built."""
    model, other, stop = net(), net(), threading.Event()
    other.compile("sgd", "mse")
    rounds = [0]

    def train():
        while not stop.is_set() or rounds[0] < 3:
            other.train_on_batch(X, np.zeros((2, 2)))
            np.testing.assert_array_equal(ops.tile(ops.arange(2), (2,)), [0, 1, 0, 1])
            np.testing.assert_array_equal(ops.repeat(X, 2, axis=0), np.repeat(X, 2, 0))
            assert len(other.losses) == 1
            rounds[0] += 1

    def build():
        try:
            for _ in range(10):
                lrp_tf.Explainer(model, "epsilon")
        finally:
            stop.set()

    assert run(build, train) == []
    assert rounds[0] >= 3


def test_an_explainer_inside_a_call_that_is_followed():
    """The lock is re-entrant."""
    inner = net()

    class Curious(kl.Layer):
        def call(self, x):
            lrp_tf.Explainer(inner, "epsilon")
            return ops.relu(x) * 2

    model = randomize(keras.Sequential([keras.Input((4,)), Curious(), kl.Dense(2)]))
    assert run(lambda: lrp_tf.Explainer(model, "epsilon")(X)) == []
