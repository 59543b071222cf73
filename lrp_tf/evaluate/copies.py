"""Copies of a model whose layers are randomised one after another (Adebayo et al. 2018)."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from lrp_tf.core.counts import is_whole

ORDERS = ("top_down", "bottom_up", "independent")
_WANTED = "a copy expects a model that Keras can make anew from its config"
_REMEDY = (
    "Remedy: give your layers and models a get_config and register them with keras.saving.register_keras_serializable; "
    "share no layer between a model and one inside it"
)


class _Unit(NamedTuple):
    """What is randomised at once: the weights of a layer; layer is None for those of a model itself."""

    name: str
    layer: keras.Layer | None
    weights: list[keras.Variable]


class _Change(NamedTuple):
    """Weights of a layer before and after."""

    name: str
    weights: list[keras.Variable]
    before: list[np.ndarray]
    after: list[np.ndarray]

    def make(self) -> None:
        for weight, value in zip(self.weights, self.after, strict=True):
            weight.assign(value)

    def undo(self) -> None:
        for weight, value in zip(self.weights, self.before, strict=True):
            weight.assign(value)


def randomized(
    model: keras.Model,
    *,
    order: str = "top_down",
    how: str = "permute",
    layers: Sequence[str] | None = None,
    stages: int | None = None,
    seed: int = 0,
    x: np.ndarray | None = None,
) -> Iterator[tuple[str, keras.Model]]:
    """Randomise a copy of a model layer by layer; the model itself is never changed.

        for name, other in evaluate.randomized(model, order="bottom_up"): ...

    Layers are those of `model.layers`, and of nested models; a layer that is used several times counts once, and a
    layer made of layers (attention, wrappers) as one. Keras sorts them from input to output; those of a subclassed
    model come as they were made, after the weights of the model itself. Left out are Normalization layers, which are
    preprocessing, and layers that would not change, such as a BatchNormalization that never was trained.

    Args:
        order: "top_down", from the output, or "bottom_up", from the input: layers stay random while the next ones
            follow; "independent": one layer at a time, from the top.
        how: "permute", the entries of each weight trade places, so that their distribution stays; vectors of one layer
            do so alike (scale, shift, mean and variance of a BatchNormalization), so that whole channels trade places.
            "initialize", as the layer makes new weights; BatchNormalization then scales by 1.
        layers: names of those to randomise, in nested models "model/layer"; None: all.
        stages: randomise the layers in so many groups of neighbours, about equally large, which saves explanations;
            None: one by one.
        x: samples on which the copy must compute what the model does; the first two are used.

    Yields:
        The name of the layer (of a group its last one), and the copy: the same one each time, with other weights.

    Raises:
        ValueError: a model that cannot be copied or has nothing to randomise; an unknown order, how or layer.
    """
    if order not in ORDERS:
        raise ValueError(f"order expects one of {list(ORDERS)}. Received: {order!r}")
    if how not in ("permute", "initialize"):
        raise ValueError(f"how expects 'permute' or 'initialize'. Received: {how!r}")
    if stages is not None and (not is_whole(stages) or stages < 1):
        raise ValueError(f"stages expects a positive integer. Received: {stages!r}")
    twin = copy_of(model, x)
    # By the model's own names: Keras may give those of copies another number.
    known = [unit.name for unit in _units(model, "", set())]
    units = [unit._replace(name=name) for name, unit in zip(known, _units(twin, "", set()), strict=True)]
    if unknown := sorted(set(layers or ()) - set(known)):
        raise ValueError(f"layers expects names of {known}. Received: {unknown}")
    changes = _changes([unit for unit in units if layers is None or unit.name in layers], how, seed)
    if not changes:
        raise ValueError(f"nothing to randomise in {model.name!r}: {how} changes no weight of the layers {known}")
    changes = changes if order == "bottom_up" else changes[::-1]
    count = len(changes) if stages is None else min(stages, len(changes))
    for places in np.array_split(np.arange(len(changes)), count):
        group = [changes[place] for place in places]
        for change in group:
            change.make()
        yield group[-1].name, twin
        for change in group if order == "independent" else ():
            change.undo()


def copy_of(model: keras.Model, x: np.ndarray | None = None) -> keras.Model:
    """A copy of a model that shares no weight with it.

    Args:
        x: samples on which both must compute the same; the first two are used.

    Raises:
        ValueError: Keras cannot make the model from its config, or what it makes has other outputs.
    """
    try:
        with numbers_of(0):
            twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model), safe_mode=False)
        twin.set_weights(model.get_weights())
        _finalize(twin)
    except Exception as error:  # whatever the code of the user's layers raises
        reason = (str(error).splitlines() or [""])[-1][:300]
        raise ValueError(f"{_WANTED}. Received: {type(error).__name__}: {reason}. {_REMEDY}") from error
    if {id(weight) for weight in model.weights} & {id(weight) for weight in twin.weights}:
        raise ValueError(f"{_WANTED}. Received: a copy of {model.name!r} that shares weights with it. {_REMEDY}")
    if x is not None and not alike(model, x[:2], twin, x[:2], 1e-4):
        raise ValueError(f"{_WANTED}. Received: a copy of {model.name!r} with other outputs. {_REMEDY}")
    return twin


def alike(model: keras.Model, x: np.ndarray, other: keras.Model, y: np.ndarray, tolerance: float) -> bool:
    """Whether all outputs of a model for x are those of another one for y, up to a share of each value."""
    outputs = [keras.tree.flatten(m(inputs, training=False)) for m, inputs in ((model, x), (other, y))]
    pairs = ([keras.ops.convert_to_numpy(v).astype(np.float64) for v in pair] for pair in zip(*outputs, strict=True))
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance / 10 * np.abs(a).max()) for a, b in pairs)


def _finalize(model: keras.Model) -> None:
    """Let preprocessing take the statistics that were set: Normalization keeps tensors made of them."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _finalize(layer)
        elif isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _units(model: keras.Model, prefix: str, seen: set[int]) -> Iterator[_Unit]:
    """From input to output; `seen` holds the ids of layers and weights that others hold already."""

    def new(weights: list[keras.Variable]) -> list[keras.Variable]:
        found = [w for w in weights if keras.backend.is_float_dtype(w.dtype) and id(w) not in seen]
        seen.update(map(id, found))
        return found

    inside = {id(weight) for layer in model.layers for weight in layer.weights}
    if own := new([weight for weight in model.weights if id(weight) not in inside]):
        yield _Unit(f"{prefix}{model.name}", None, own)
    for layer in model.layers:
        if id(layer) in seen or isinstance(layer, keras.layers.Normalization):
            continue
        seen.add(id(layer))
        if isinstance(layer, keras.Model):
            yield from _units(layer, f"{prefix}{layer.name}/", seen)
        elif weights := new(layer.weights):
            yield _Unit(f"{prefix}{layer.name}", layer, weights)


def _changes(units: list[_Unit], how: str, seed: int) -> list[_Change]:
    """What randomising each layer changes; without those where it changes nothing."""
    found = []
    for unit in units:
        before = [weight.numpy() for weight in unit.weights]
        after = _permuted(unit, before, seed) if how == "permute" else _initialized(unit, seed)
        if not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
            found.append(_Change(unit.name, unit.weights, before, after))
    return found


def _permuted(unit: _Unit, before: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Other orders of the entries; the vectors of a layer that are equally long in the same order."""
    found = []
    for index, values in enumerate(before):
        numbers = np.random.default_rng([seed, _number(unit.name), 0 if values.ndim == 1 else index + 1])
        found.append(numbers.permutation(values.ravel()).reshape(values.shape))
    return found


def _initialized(unit: _Unit, seed: int) -> list[np.ndarray]:
    """New weights, as a new layer of the same settings makes them."""
    if unit.layer is None:
        raise ValueError(
            f"how='initialize' expects weights that belong to layers. Received: weights of the model {unit.name!r} "
            "itself. Remedy: how='permute'"
        )
    with numbers_of(int(np.random.default_rng([seed, _number(unit.name)]).integers(2**31))):
        fresh = type(unit.layer).from_config(unit.layer.get_config())
        fresh.build_from_config(unit.layer.get_build_config())
    places = {id(weight): index for index, weight in enumerate(unit.layer.weights)}
    found = [fresh.weights[places[id(weight)]].numpy() for weight in unit.weights]
    if [values.shape for values in found] != [tuple(weight.shape) for weight in unit.weights]:
        raise ValueError(
            f"how='initialize' expects a layer that can be built anew. Received: other weights from {unit.name!r}. "
            "Remedy: how='permute'"
        )
    return found


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


@contextlib.contextmanager
def numbers_of(seed: int) -> Iterator[None]:
    """Python's random numbers, from which Keras' initializers draw their seeds, from a seed; as before afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
