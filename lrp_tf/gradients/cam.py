"""Grad-CAM and Grad-CAM++: the maps of a layer, weighted by gradients and summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from lrp_tf import composites
from lrp_tf.core.graph import Ref
from lrp_tf.engine import canonize
from lrp_tf.engine.passes import Verdict
from lrp_tf.engine.targets import Target
from lrp_tf.explainer import Explainer
from lrp_tf.gradients.method import Method
from lrp_tf.gradients.occlusion import positions
from lrp_tf.gradients.options import at_least

# Folded, BatchNormalization would change the maps of the layer that it is folded into.
_PASSES = [p for p in canonize.PASSES if p not in (canonize.fold_addends, canonize.fold_behind, canonize.fold_ahead)]


class Layer(NamedTuple):
    """The layer whose maps are weighted.

    Attributes:
        path: its name. ref: its output, [B, ...].
        axes: of the output, where its positions lie. channels: the axis of its maps.
        grid: where its output is [B, tokens, C], the sizes that the last tokens are arranged in; axes and channels are
            those of the arranged output, [B, *grid, C].
    """

    path: str
    ref: Ref
    axes: list[int]
    channels: int
    grid: tuple[int, ...] = ()

    def arranged(self, output: tf.Tensor) -> tf.Tensor:
        """The output, [B, tokens, C] as [B, *grid, C]: a class token ahead has no position."""
        if not self.grid:
            return output
        patches = output[:, -math.prod(self.grid) :]
        return tf.reshape(patches, [-1, *self.grid, output.shape[-1]])


class GradCAM(Method):
    """relu(sum_k w_k A_k), with A_k the maps of a layer and w_k the mean gradient of map k (Selvaraju et al. 2017).

        R = lrp_tf.gradients.GradCAM(model, layer="block5_conv3")(x)

    The map is resized to the input by linear interpolation, and each channel of the input gets an equal share, so that
    the sum over channels is the map. Costs two forward passes, and a backward pass as far as the layer.

    The patches of a transformer for images are positions, too, once `grid` says how they lie:

        R = lrp_tf.gradients.GradCAM(vit, layer="block_11_norm1", grid=(14, 14))(x)

    Take a layer ahead of the last attention: where the class token alone is read, patches behind that have no gradient.

    Args:
        model, output, max_batch: see `Method`. Of an Explainer model, output and sizes alone are used.
        layer: name or path of the layer, see `Explainer.explain`; None: the last one whose output has positions.
        grid: (rows, columns) of the patches, of a named layer whose output is [B, tokens, C]: row by row, behind a
            class token or without one, which is left out.
        relu: leave out what speaks against the target; False keeps the sign.

    Raises:
        ValueError: no such layer, one whose output has no positions or does not fit the grid, or that is called several
            times; no input with as many axes of positions, or several.
    """

    def __init__(
        self,
        model: keras.Model | Explainer,
        *,
        layer: str | None = None,
        grid: Sequence[int] | None = None,
        relu: bool = True,
        output: int | str | None = None,
        max_batch: int | None = None,
    ) -> None:
        sizes = None
        if isinstance(model, Explainer):
            sizes = model.sizes
            model, output = model.model, model.graph.output_index if output is None else output
        plain = composites.get("gradient")
        unfolded = composites.Composite(plain.entries, plain.name, canonizers=_PASSES)
        super().__init__(Explainer(model, unfolded, output=output, sizes=sizes), max_batch=max_batch)
        self.start = "one"
        self.relu = bool(relu)
        self._options = {"layer": layer, "grid": grid, "relu": relu}
        self._find()

    def _find(self) -> None:
        """The layer and the input, in the graph as it is now."""
        name, grid = self._options["layer"], self._options["grid"]
        if grid is not None:
            self.layer = self._of_patches(name, grid)
        else:
            self.layer = self._last() if name is None else self._named(name)
        self.input, self._found_in = self._input(self.layer), self.graph

    def explained(self, inputs: list[tf.Tensor], wanted: Target, beside: list[tf.Tensor]) -> list[tf.Tensor | None]:
        if self._found_in is not self.graph:  # which is another once a layer has changed
            self._find()
        weights, clone, layer = self.source.weights(inputs, wanted), self.source.clone, self.layer

        def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, Verdict]:
            flat, values = list(tensors[:-1]), tensors[-1]
            forward = clone.forward(flat)
            if weights.times_output:
                z = clone.output(forward)
                values = values * (z[:, None] if weights.several else z)
            shared = clone.propagators(forward) if weights.several else None

            def gradient(initial: tf.Tensor) -> tf.Tensor:
                kept = clone.propagate(forward, initial, keep=[layer.ref], propagators=shared).relevance
                return layer.arranged(kept[layer.ref])

            maps, by = layer.arranged(forward.values[layer.ref]), 1 if weights.several else 0
            if weights.several:
                maps, back = maps[:, None], lambda t: tf.transpose(t, [1, 0, *range(2, t.shape.rank)])
                found = back(tf.map_fn(gradient, back(values), fn_output_signature=values.dtype))
            else:
                found = gradient(values)
            axes, channels = [axis + by for axis in layer.axes], layer.channels + by
            total = tf.reduce_sum(self.map_weights(found, maps, axes) * maps, channels)
            total = tf.nn.relu(total) if self.relu else total
            return self._spread(total, flat[self.input], by), self.source.verdict(flat, forward, [total])

        more = [(weights.values, weights.spec(self.graph))]
        key = (weights.target, *inputs[self.input].shape[1:])
        found = self.source.run(key, run, inputs, more, weights)
        return [found if i == self.input else None for i in range(len(inputs))]

    def map_weights(self, gradient: tf.Tensor, maps: tf.Tensor, axes: list[int]) -> tf.Tensor:
        """The weight of each map, with axes of size 1 for `axes`, those of positions."""
        return tf.reduce_mean(gradient, axes, keepdims=True)

    def _spread(self, total: tf.Tensor, x: tf.Tensor, by: int) -> tf.Tensor:
        """A map over the layer's positions as relevance of x."""
        places = positions(self.graph, x.shape.rank - 1)
        for axis, place in enumerate(places, start=1 + by):
            total = resized(total, axis, tf.shape(x)[place])
        (channel,) = {*range(1, x.shape.rank)} - {*places}
        total = tf.expand_dims(total, channel + by)
        sizes = [tf.shape(x)[channel] if i == channel + by else 1 for i in range(total.shape.rank)]
        return tf.tile(total, tf.stack(sizes)) / tf.cast(tf.shape(x)[channel], total.dtype)

    def _called_once(self, name: str) -> Ref:
        """The output of a layer in the canonized graph."""
        calls = self.graph.find_layer(name)
        if len(calls) != 1 or len(calls[0]) != 1:
            raise ValueError(
                f"{type(self).__name__} expects a layer that is called once and has one output. Received: {name!r}, "
                f"called {len(calls)} times, {sum(map(len, calls))} outputs"
            )
        ref, _ = self.graph.resolve(calls[0][0])
        if ref not in self.source.clone.plan.reached:
            raise ValueError(f"Layer {name!r} does not lie on a way to the output that is explained.")
        return ref

    def _named(self, name: str) -> Layer:
        ref = self._called_once(name)
        if (found := self._layer(name, ref)) is None:
            raise ValueError(
                f"{type(self).__name__} needs a layer whose output has positions and channels, [B, ..., C]. Received: "
                f"{name!r}, whose output is {(None, *ref.shape)}. Remedy: the last convolution or pooling before it"
            )
        return found

    def _of_patches(self, name: str | None, grid: Sequence[int]) -> Layer:
        """The layer with its tokens arranged in a grid."""
        if not isinstance(grid, Sequence) or isinstance(grid, str):
            raise ValueError(f"grid expects sizes, as in (14, 14). Received: {grid!r}")
        sizes = tuple(int(at_least(1, size, "grid")) for size in grid)
        if name is None:
            raise ValueError(f"grid={sizes} arranges the tokens of a layer. Expected its name, layer=...")
        ref, count = self._called_once(name), math.prod(sizes)
        if len(ref.shape) != 2 or ref.shape[1] is None or ref.shape[0] not in (count, count + 1):
            raise ValueError(
                f"grid={sizes} needs a layer whose output is [B, {count}, C], or [B, {count + 1}, C] behind a class "
                f"token. Received: {name!r}, whose output is {(None, *ref.shape)}"
            )
        axes = list(range(1, len(sizes) + 1))
        return Layer(name, ref, axes, len(sizes) + 1, sizes)

    def _last(self) -> Layer:
        ranks = {len(ref.shape) for ref in self._candidates()}
        for path, calls in reversed(self.graph.layers.items()):
            refs = [self.graph.resolve(ref)[0] for call in calls for ref in call]
            if len(refs) != 1 or len(refs[0].shape) not in ranks or refs[0] in self.graph.outputs:
                continue
            found = self._layer(path, refs[0]) if refs[0] in self.source.clone.plan.reached else None
            if found is not None and any(found.ref.shape[axis - 1] != 1 for axis in found.axes):
                return found
        raise ValueError(
            f"{type(self).__name__} needs a layer whose output has positions, as that of a convolution. Received: "
            f"{self.model.name!r}, which has none of as many axes as an input. Remedy: layer=..., or Gradient"
        )

    def _layer(self, path: str, ref: Ref) -> Layer | None:
        rank = len(ref.shape)
        if rank < 2 or not tf.as_dtype(ref.dtype).is_floating:
            return None
        axes = positions(self.graph, rank)
        (channels,) = {*range(1, rank + 1)} - {*axes}
        return Layer(path, ref, axes, channels)

    def _candidates(self) -> list[Ref]:
        return [ref for ref in self.graph.inputs if len(ref.shape) > 1 and tf.as_dtype(ref.dtype) != tf.bool]

    def _input(self, layer: Layer) -> int:
        """The position of the input that has as many axes of positions as the layer."""
        found = [ref for ref in self._candidates() if len(ref.shape) == len(layer.axes) + 1]
        if len(found) != 1:
            raise ValueError(
                f"{type(self).__name__} needs one input with {len(layer.axes)} axes of positions, as layer "
                f"{layer.path!r}. Received: {len(found)} of {[(None, *ref.shape) for ref in self.graph.inputs]}. "
                "Remedy for a layer of patches: grid=(rows, columns)"
            )
        return self.graph.inputs.index(found[0])


class GradCAMPlusPlus(GradCAM):
    """Grad-CAM with w_k = sum a_k relu(g_k), a_k = g_k^2 / (2 g_k^2 + g_k^3 sum A_k) (Chattopadhay et al. 2018).

        R = lrp_tf.gradients.GradCAMPlusPlus(model, layer="conv2")(x)

    The gradients g are those of the value itself. The paper's exp of it would scale the map of a sample by a constant.
    See `GradCAM` for the arguments.
    """

    def map_weights(self, gradient: tf.Tensor, maps: tf.Tensor, axes: list[int]) -> tf.Tensor:
        square, whole = tf.square(gradient), tf.reduce_sum(maps, axes, keepdims=True)
        shares = tf.math.divide_no_nan(square, 2 * square + whole * square * gradient)
        return tf.reduce_sum(shares * tf.nn.relu(gradient), axes, keepdims=True)


def resized(values: tf.Tensor, axis: int, size: tf.Tensor) -> tf.Tensor:
    """Linear interpolation along one axis, as `tf.image.resize` of its rows."""
    shape = tf.shape(values)
    rows = tf.reshape(values, tf.stack([tf.reduce_prod(shape[:axis]), shape[axis], -1, 1]))
    found = tf.image.resize(rows, tf.stack([size, tf.shape(rows)[2]]))
    return tf.cast(tf.reshape(found, tf.concat([shape[:axis], [size], shape[axis + 1 :]], 0)), values.dtype)
