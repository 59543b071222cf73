"""Models around every supported layer of Keras: what each one is built with, and the cases of each class."""

import functools

import keras
import numpy as np
from keras import layers as kl

from helpers.checking import randomize
from lrp_tf.tools.layer_table import classes

# By one name each, so that Convolution2D is Conv2D; younger Keras has more.
LAYERS = {names[0]: cls for cls, names in classes().items()}


def values(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(3, *shape))


def tokens(*shape, limit=7):
    return np.random.default_rng(3).integers(0, limit, (3, *shape)).astype("int32")


# --- a model around one layer ------------------------------------------------------------------


def ending(i, h, x):
    return randomize(keras.Model(i, kl.Dense(2)(kl.Reshape((-1,))(h)))), x


def behind(make, shape, x=None):
    """Dense -> layer -> Dense."""
    i = keras.Input(shape)
    return ending(i, make()(kl.Dense(shape[-1])(i)), values(*shape) if x is None else x)


def ahead(make, shape):
    """layer -> Dense: for what stands at the input."""
    i = keras.Input(shape)
    return ending(i, make()(i), 127 + 60 * values(*shape))


def masked(make, shape, dense=None):
    """Masking -> Dense -> layer: the mask travels."""
    i, x = keras.Input(shape), values(*shape)
    x[..., -1, :] = x[0, ..., -2, :] = 0
    h = make()((dense() if dense else kl.Dense(shape[-1]))(kl.Masking()(i)))
    return ending(i, h, x)


def merging(make, *shapes):
    """A Dense for each tensor that is merged."""
    inputs = [keras.Input(shape) for shape in shapes]
    h = make()([kl.Dense(shape[-1])(i) for i, shape in zip(inputs, shapes, strict=True)])
    return ending(inputs, h, [values(*shape, seed=k) for k, shape in enumerate(shapes)])


def embedded(make, call=lambda layer, h: layer(h), mask=False):
    """An Embedding, with a mask or not, -> what `call` makes of the layer."""
    i = keras.Input((5,), dtype="int32")
    return ending(i, call(make(), kl.Embedding(7, 4, mask_zero=mask)(i)), tokens(5))


def attending(make, *shapes, **arguments):
    """query, value and key; the arguments of the call that are shapes are masks."""
    inputs = [keras.Input(shape) for shape in shapes]
    x = [values(*shape, seed=k) for k, shape in enumerate(shapes)]
    projected = [kl.Dense(shape[-1])(i) for i, shape in zip(inputs, shapes, strict=True)]
    for name, shape in arguments.items():
        if isinstance(shape, tuple):
            arguments[name] = keras.Input(shape, dtype="bool")
            inputs.append(arguments[name])
            x.append(np.ones((3, *shape), bool))
            x[-1][1:, ..., -1] = False
    layer = make()
    together = isinstance(layer, (kl.Attention, kl.AdditiveAttention))
    h = layer(projected, **arguments) if together else layer(*projected, **arguments)
    return ending(inputs, h, x)


# --- the cases ---------------------------------------------------------------------------------

# class -> what builds (model, x), the most telling one first
CASES = {}
SPECIMENS = {}  # class -> shape of an input and arguments, for both data formats


def case(name, build, *arguments, layer=dict, **options):
    """One more case of the class: `build` gets what makes the layer. Nothing is looked up before the test runs."""
    make = lambda: LAYERS[name](**layer())  # noqa: E731
    CASES.setdefault(name, []).append(functools.partial(build, make, *arguments, **options))


def add(names, *variants, shape=(6, 6, 4), build=behind):
    for name in names.split():
        for options in variants or ({},):
            SPECIMENS.setdefault(name, (shape, options))
            case(name, build, shape, layer=lambda options=options: dict(options))


def ranks(names, shape, *variants, build=behind):
    """For 1, 2 and 3 spatial dimensions, "{}" in the names being their number; numbers in a list are cut to them."""
    for rank in (1, 2, 3):
        cut = lambda v, rank=rank: v if not isinstance(v, list) else tuple(v[:rank]) if rank > 1 else v[0]  # noqa: E731
        for options in variants:
            add(names.format(rank), {k: cut(v) for k, v in options.items()}, shape=(*shape[:rank], 4), build=build)


def linear_layers():
    conv = {"filters": 4, "kernel_size": 3}
    ranks(
        "Conv{}D",
        (6, 5, 4),
        conv | {"padding": "same", "strides": 2},
        conv | {"kernel_size": [3, 2, 1], "use_bias": False, "activation": "relu"},
        conv | {"padding": "same", "dilation_rate": 2},
        conv | {"kernel_size": 2, "strides": [2, 1, 2], "filters": 3},
    )
    add("Conv1D", conv | {"padding": "causal", "dilation_rate": 2}, conv | {"groups": 2}, shape=(6, 4))
    add("Conv2D", conv | {"groups": 2, "padding": "same", "strides": 2})
    for rank in (1, 2):
        for options in (
            {"padding": "same", "strides": 2, "depth_multiplier": 2},
            {"padding": "valid", "use_bias": False, "activation": "relu"},
            {"padding": "same", "dilation_rate": 2},
            {"padding": "valid", "depth_multiplier": 2},
        ):
            add(f"DepthwiseConv{rank}D", {"kernel_size": 2, **options}, shape=(6, 6, 4)[-rank - 1 :])
            add(f"SeparableConv{rank}D", {"kernel_size": 2, "filters": 3, **options}, shape=(6, 6, 4)[-rank - 1 :])
    ranks(
        "Conv{}DTranspose",
        (3, 4, 2),
        conv | {"padding": "same", "strides": 2},
        conv | {"use_bias": False, "activation": "relu", "strides": [1, 2, 1]},
        conv | {"strides": 3, "output_padding": 1},
    )
    add("Dense", {"units": 3, "activation": "relu"}, {"units": 3, "use_bias": False})
    add("Dense", {"units": 3, "activation": "softmax"}, shape=(4,))
    add(
        "EinsumDense",
        {"equation": "abc,cde->abde", "output_shape": (5, 2, 3), "bias_axes": "e", "activation": "relu"},
        {"equation": "abc,bd->adc", "output_shape": (3, 4)},
        {"equation": "...x,xy->...y", "output_shape": (3,), "bias_axes": "y"},
        shape=(5, 4),
    )
    case("BatchNormalization", masked, (5, 4), dense=kl.Identity)
    add("BatchNormalization", {}, {"axis": 1}, {"scale": False, "axis": 2}, {"center": False})
    case("BatchNormalization", masked, (5, 4))


def pooling():
    for kind in ("Max", "Average"):
        ranks(
            f"{kind}Pooling{{}}D",
            (7, 6, 5),
            {"pool_size": 3, "strides": 2, "padding": "same"},
            {"pool_size": [2, 3, 2]},
            {"pool_size": 2, "strides": [1, 2, 3], "padding": "same"},
        )
        ranks(f"Global{kind}Pooling{{}}D", (4, 3, 2), {}, {"keepdims": True})
        ranks(
            f"Adaptive{kind}Pooling{{}}D",
            (7, 6, 5),
            {"output_size": [3, 4, 2]},
            {"output_size": 2},
            {"output_size": [8, 6, 2]},
        )
    case("GlobalAveragePooling1D", masked, (5, 4))
    case("GlobalAveragePooling1D", masked, (5, 4), layer=lambda: {"keepdims": True})


def merges():
    for name in ("Add", "Average", "Maximum", "Minimum", "Multiply"):
        case(name, merging, (4,), (4,), (4,))
        case(name, merging, (3, 4), (1, 4))
        case(name, merging, (3, 4), (4,))
    case("Subtract", merging, (3, 4), (3, 4))
    case("Subtract", merging, (3, 4), (1, 4))
    case("Concatenate", merging, (3, 4), (3, 2), (3, 1))
    case("Concatenate", merging, (3, 4), (2, 4), layer=lambda: {"axis": 1})
    for normalize in (True, False):
        for axes, *shapes in (
            (1, (4,), (4,)),
            ((2, 1), (3, 4), (4, 2)),
            (-1, (3, 4), (2, 4)),
            ((1, 3), (4, 2), (3, 2, 4)),
        ):
            case("Dot", merging, *shapes, layer=lambda a=axes, n=normalize: {"axes": a, "normalize": n})


def activations():
    add("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}, {})
    add("LeakyReLU PReLU ELU Softmax Identity Flatten UnitNormalization RMSNormalization")
    add("PReLU", {"shared_axes": [1, 2]})
    add("Softmax UnitNormalization", {"axis": 1}, {"axis": [1, 2]})
    case("Softmax", attending, (5, 4), layer=lambda: {"axis": 1}, mask=(5, 4))
    names = {name for name in dir(keras.activations) if name.islower() and not name.startswith("_")} - {"glu"}
    for name in sorted(names - {"get", "serialize", "deserialize", "threshold"}):
        add("Activation", {"activation": name}, shape=(4,))
    add("Dropout GaussianDropout AlphaDropout", {"rate": 0.5})
    add("GaussianNoise", {"stddev": 1.0})
    ranks("SpatialDropout{}D", (4, 3, 2), {"rate": 0.5})
    add("ActivityRegularization", {"l2": 0.1})
    case("Masking", masked, (5, 4))
    add("Masking", shape=(5, 4))
    case(
        "InputLayer",
        lambda make: ending((i := make()).output, kl.Dense(3)(i.output), values(4)),
        layer=lambda: {"shape": (4,)},
    )


def moves():
    ranks("Cropping{}D", (5, 6, 5), {"cropping": [(1, 2), (0, 1), (2, 1)]}, {"cropping": 1})
    ranks("ZeroPadding{}D", (3, 4, 2), {"padding": [(1, 2), (0, 1), (2, 1)]}, {"padding": 1})
    ranks("UpSampling{}D", (3, 4, 2), {"size": 2}, {"size": [3, 2, 1]})
    add("UpSampling2D", *({"size": (2, 3), "interpolation": k} for k in ("bilinear", "nearest", "bicubic", "lanczos3")))
    add("Reshape", {"target_shape": (-1, 2)})
    add("Permute", {"dims": (3, 1, 2)})
    add("RepeatVector", {"n": 3}, shape=(4,))
    add("CenterCrop", {"height": 3, "width": 4})
    add("CenterCrop", {"height": 7, "width": 8})  # beyond the image it resizes
    size = {"height": 4, "width": 9}
    add(
        "Resizing",
        *(size | {"pad_to_aspect_ratio": True, "fill_value": 1.5, "interpolation": k} for k in ("bilinear", "nearest")),
    )
    add(
        "Resizing",
        *(size | {"interpolation": k} for k in ("bilinear", "nearest", "bicubic")),
        size | {"antialias": True},
    )
    add("Resizing", size | {"crop_to_aspect_ratio": True})
    case("Resizing", ahead, (6, 5, 3), layer=lambda: size)


def normalizations():
    add("LayerNormalization", {}, {"axis": [1, 2, 3]}, {"axis": 1, "scale": False}, {"axis": (2, 3), "center": False})
    add(
        "GroupNormalization",
        {"groups": 2},
        {"groups": 1, "axis": 1},
        {"groups": -1, "scale": False},
        {"groups": 4, "center": False},
    )
    for build in (ahead, behind):
        add("Rescaling", {"scale": 1 / 255, "offset": -0.5}, {"scale": [2.0, 1.0, -0.5]}, shape=(4, 3), build=build)
        fixed = {"mean": [1.0, -2.0, 100.0], "variance": [4.0, 1.0, 9.0]}
        add(
            "Normalization",
            fixed,
            fixed | {"invert": True},
            {"axis": None, "mean": 2.0, "variance": 3.0},
            shape=(4, 3),
            build=build,
        )


AUGMENTATION = {
    "AugMix CutMix MixUp RandAugment RandomColorJitter RandomElasticTransform": {},
    "RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomInvert RandomPerspective Solarization": {},
    "RandomBrightness RandomColorDegeneration RandomContrast RandomHue RandomRotation RandomSaturation": {
        "factor": 0.5
    },
    "RandomPosterization": {"factor": 4},
    "RandomSharpness": {"factor": 0.5},
    "RandomShear": {"x_factor": 0.5, "y_factor": 0.5},
    "RandomTranslation RandomZoom": {"height_factor": 0.5, "width_factor": 0.5},
    "MaxNumBoundingBoxes": {"max_number": 3},
}


def augmentations():
    for names, options in AUGMENTATION.items():
        for name in names.split():
            add(name, options, shape=(6, 6, 3), build=ahead)
    add("RandomCrop", {"height": 6, "width": 6}, shape=(6, 6, 3), build=ahead)  # Keras crops none but in training


def sequences():
    case(
        "Embedding",
        lambda make: ending(i := keras.Input((5,), dtype="int32"), make()(i), tokens(5)),
        layer=lambda: EMBEDDING,
    )
    case("Embedding", embedded, lambda layer, h: kl.GlobalAveragePooling1D()(h), True, layer=lambda: EMBEDDING)
    for mask in (True, False):
        case(
            "ReversibleEmbedding",
            reversible,
            layer=lambda m=mask: {**EMBEDDING, "mask_zero": m, "logit_soft_cap": None if m else 3.0},
        )
    case("ReversibleEmbedding", reversible, layer=lambda: {**EMBEDDING, "tie_weights": False})
    case(
        "ReversibleEmbedding",
        lambda make: ending(i := keras.Input((5,), dtype="int32"), make()(i), tokens(5)),
        layer=lambda: EMBEDDING,
    )
    inner = (
        lambda: keras.Sequential(
            [kl.Conv2D(3, 3, padding="same"), kl.BatchNormalization(), kl.ReLU(), kl.MaxPooling2D()]
        ),
        lambda: kl.Dense(3, activation="relu"),
        lambda: kl.MaxPooling2D(),
        lambda: kl.SeparableConv2D(3, 3, strides=2),
        lambda: kl.TimeDistributed(kl.Dense(3)),
        lambda: kl.Dropout(0.5),
    )
    for make in inner:
        case("TimeDistributed", behind, (2, 4, 4, 3), layer=lambda make=make: {"layer": make()})
    case("TimeDistributed", masked, (5, 4), layer=lambda: {"layer": kl.Dense(3)})
    case("TimeDistributed", masked, (5, 4, 3), layer=lambda: {"layer": kl.GlobalAveragePooling1D()})
    case("SpectralNormalization", behind, (6, 6, 3), layer=lambda: {"layer": kl.Conv2D(3, 3, activation="relu")})
    case("SpectralNormalization", behind, (4,), layer=lambda: {"layer": kl.Dense(3)})
    case(
        "Pipeline", ahead, (6, 6, 3), layer=lambda: {"layers": [kl.Rescaling(0.01), kl.RandomFlip(), kl.Resizing(4, 4)]}
    )
    case("Pipeline", masked, (5, 4), layer=lambda: {"layers": [kl.Dense(3), kl.BatchNormalization()]})


EMBEDDING = {"input_dim": 7, "output_dim": 4}


def reversible(make):
    """Tokens -> vectors -> logits of tokens, by the same layer."""
    layer, i = make(), keras.Input((5,), dtype="int32")
    return ending(i, layer(kl.Dense(4, activation="relu")(layer(i)), reverse=True), tokens(5))


def stepping(make, states=1, nested=False):
    """One time step of a cell: its output and its last new state."""
    inputs = [keras.Input((3,)) for _ in range(states + 1)]
    x, *before = [kl.Dense(3)(i) for i in inputs]
    y, new = make()(x, [before[:1], before[1:]] if nested else before)
    return ending(
        inputs, kl.Concatenate()([y, keras.tree.flatten(new)[-1]]), [values(3, seed=k) for k in range(states + 1)]
    )


def cells():
    case("SimpleRNNCell", stepping, layer=lambda: {"units": 3})
    case("SimpleRNNCell", stepping, layer=lambda: {"units": 3, "use_bias": False, "activation": "relu"})
    case("LSTMCell", stepping, 2, layer=lambda: {"units": 3})
    for options in ({}, {"reset_after": False}):
        case("GRUCell", stepping, layer=lambda o=options: {"units": 3, **o})
    case("StackedRNNCells", stepping, 2, True, layer=lambda: {"cells": [kl.GRUCell(3), kl.SimpleRNNCell(3)]})


def recurrent():
    for options in ({}, {"return_sequences": True, "go_backwards": True}):
        add("SimpleRNN LSTM GRU", {"units": 3, **options}, shape=(5, 4))
        case("RNN", masked, (5, 4), layer=lambda o=options: {"cell": [kl.LSTMCell(3), kl.GRUCell(2)], **o})
    add("GRU", {"units": 3, "reset_after": False}, shape=(5, 4))
    for name in ("LSTM", "GRU"):
        case(name, embedded, lambda layer, h: layer(h), True, layer=lambda: {"units": 3, "return_sequences": True})
        add(name, {"units": 3, "dropout": 0.2}, shape=(5, 4))
    for rank in (1, 2, 3):
        frames = (3, *(4, 3, 2)[:rank], 2)
        for options in ({"padding": "same", "return_sequences": True}, {"strides": 2, "dropout": 0.2}):
            case(f"ConvLSTM{rank}D", behind, frames, layer=lambda o=options: {"filters": 2, "kernel_size": 2, **o})
    for mode in ("concat", "mul", "ave", "sum"):
        layer = lambda m=mode: {"layer": kl.LSTM(3, return_sequences=m != "ave"), "merge_mode": m}  # noqa: E731
        case("Bidirectional", masked if mode == "mul" else behind, (5, 4), layer=layer)


def attention():
    q, v = (5, 4), (3, 4)
    for name, variants in (
        ("Attention", ({"use_scale": True}, {"score_mode": "concat", "use_scale": True}, {"dropout": 0.5})),
        ("AdditiveAttention", ({}, {"use_scale": False, "dropout": 0.5})),
    ):
        for options in variants:
            case(name, attending, q, v, v, layer=lambda o=options: o)
        case(name, attending, q, v, use_causal_mask=True)
        both = lambda layer, h: layer([kl.Dense(4)(h), kl.Dense(4)(h)])  # noqa: E731
        case(name, embedded, both, True)
        case(name, embedded, lambda layer, h: layer([h, h], return_attention_scores=True)[0], True)
    heads = {"num_heads": 2, "key_dim": 3}
    groups = {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": 3}
    for name, base in (("MultiHeadAttention", heads), ("GroupQueryAttention", groups)):
        make = lambda base=base, **more: lambda: {**base, **more}  # noqa: E731
        case(name, attending, q, v, attention_mask=(5, 3), layer=make())
        case(name, attending, q, v, v, layer=make(dropout=0.5, use_bias=False))
        case(name, attending, q, q, use_causal_mask=True, layer=make())
        case(name, attending, q, q, use_causal_mask=True, attention_mask=(5, 5), layer=make())
        case(name, attending, q, v, query_mask=(5,), value_mask=(3,), layer=make())
        case(name, embedded, lambda layer, h: layer(h, h), True, layer=make())
        case(name, embedded, lambda layer, h: layer(h, h, use_causal_mask=True), True, layer=make(dropout=0.1))
        case(name, embedded, lambda layer, h: layer(h, h, return_attention_scores=True)[0], layer=make())
    case("MultiHeadAttention", attending, (2, 3, 4), (2, 3, 4), layer=lambda: {**heads, "attention_axes": (2,)})
    case("MultiHeadAttention", attending, q, v, layer=lambda: {**heads, "value_dim": 5, "output_shape": 7})


for fill in (linear_layers, pooling, merges, activations, moves, normalizations, augmentations):
    fill()
for fill in (sequences, cells, recurrent, attention):
    fill()
