"""Layers of one's own that several test files take: what users write, and what lrp_tf follows through `call`."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl
from keras import ops

from helpers.checking import images, randomize

serializable = keras.saving.register_keras_serializable("tests")


@serializable
class Residual(kl.Layer):
    """convolution, BatchNormalization, ReLU, convolution, + x, all times a number."""

    def __init__(self, channels, scale=1.0, **options):
        super().__init__(**options)
        self.channels, self.scale = channels, scale
        self.first = kl.Conv2D(channels, 3, padding="same", use_bias=False, name="first")
        self.norm = kl.BatchNormalization(name="norm")
        self.second = kl.Conv2D(channels, 3, padding="same", name="second")

    def build(self, shape):
        self.first.build(shape)
        shape = (*shape[:-1], self.channels)
        self.norm.build(shape)
        self.second.build(shape)

    def call(self, x, training=None):
        h = ops.relu(self.norm(self.first(x), training=training))
        return (self.second(h) + x) * self.scale

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "scale": self.scale}


@serializable
class Gate(kl.Layer):
    """Squeeze and excitation: x times a sigmoid of what its channels are on average."""

    def build(self, shape):
        self.squeeze = kl.Dense(max(2, shape[-1] // 2), activation="relu", name="squeeze")
        self.excite = kl.Dense(shape[-1], activation="sigmoid", name="excite")
        self.squeeze.build((None, shape[-1]))
        self.excite.build((None, self.squeeze.units))

    def call(self, x):
        weights = self.excite(self.squeeze(ops.mean(x, axis=(1, 2))))
        return x * weights[:, None, None, :]


@serializable
class Scale(kl.Layer):
    """Weights of its own and no sub-layers: x w + b, then tanh."""

    def build(self, shape):
        self.w, self.b = (self.add_weight(shape=(s, 4), name=n) for s, n in ((shape[-1], "w"), (1, "b")))

    def call(self, x):
        return ops.tanh(ops.matmul(x, self.w) + self.b)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


@serializable
class Encoder(kl.Layer):
    """A block of a transformer; it takes and passes on a mask. Keras rounds 1 / sqrt(size); of 4 it is exact."""

    def __init__(self, heads=2, size=4, attention=kl.MultiHeadAttention, inner=None, **options):
        super().__init__(**options)
        self.supports_masking = True
        self.heads, self.size = heads, size
        arguments = (size, 2 * heads, heads) if attention is kl.GroupQueryAttention else (heads, size)
        self.attention = attention(*arguments, dropout=0.3, name="attention")
        self.norms = [kl.LayerNormalization(name="before"), kl.LayerNormalization(name="after")]
        self.drop, self.inner = kl.Dropout(0.3), inner or kl.Identity()

    def build(self, shape):
        self.attention.build(shape, shape)
        for norm in self.norms:
            norm.build(shape)
        self.feed = keras.Sequential(
            [kl.Dense(2 * shape[-1], activation="gelu", name="up"), kl.Dense(shape[-1], name="down")], name="feed"
        )
        self.feed.build(shape)

    def call(self, x, mask=None, training=None):
        together = None if mask is None else ops.logical_and(mask[:, None, :], mask[:, :, None])
        h = self.norms[0](x)
        x = x + self.drop(self.attention(h, h, attention_mask=together, training=training), training=training)
        return x + self.inner(self.feed(self.norms[1](x)))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "size": self.size}


class Followed(kl.Layer):
    """A layer that calls a function of one tensor. lrp_tf has no rule for it, so it follows the call."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x):
        return self.function(x)


@serializable
class Raw(kl.Layer):
    """No Keras operation to follow."""

    def call(self, x):
        return tf.nn.relu(x)


class Around(kl.Layer):
    """Its own call can be followed, that of a layer inside cannot."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.odd = kl.Dense(4), Raw(name="odd")

    def build(self, shape):
        self.first.build(shape)

    def call(self, x):
        return ops.relu(self.odd(self.first(x)))


def gated_net(size=8, channels=3, dtype=None):
    """Residual block and gate, as in SE-ResNet."""
    i = keras.Input((size, size, channels), dtype=dtype)
    h = kl.Conv2D(4, 3, activation="relu", name="stem")(i)
    h = Gate(name="gate")(Residual(4, 0.5, name="residual")(h))
    return keras.Model(i, kl.Dense(3, name="logits")(kl.GlobalAveragePooling2D()(h)))


def transformer(tokens=6, units=4, attention=kl.MultiHeadAttention, blocks=1):
    """Encoder blocks on vectors."""
    i = h = keras.Input((tokens, units))
    for index in range(blocks):
        h = Encoder(attention=attention, name=f"encoder_{index}")(h)
    return keras.Model(i, kl.Dense(3, name="logits")(kl.GlobalAveragePooling1D()(h)))


def token_model(vocabulary=11, tokens=6, units=4, masked=True):
    """Token numbers, 0 for padding, to classes."""
    i = keras.Input((tokens,), dtype="int32")
    h = kl.Embedding(vocabulary, units, mask_zero=masked, name="embedding")(i)
    h = Encoder(name="encoder")(h)
    return keras.Model(i, kl.Dense(3, name="logits")(kl.GlobalAveragePooling1D()(h)))


IMAGES = images(channels=3)
SEQUENCES = np.random.default_rng(3).normal(size=(3, 6, 4))


def tokens(largest=10, seed=0):
    """Numbers of tokens [3, 6]; two samples end in padding, which is 0."""
    x = np.random.default_rng(seed).integers(1, largest + 1, (3, 6)).astype("int32")
    x[0, 4:] = x[1, 2:] = 0
    return x


def pooled(i, h, units=2):
    pool = kl.GlobalAveragePooling2D() if h.ndim == 4 else kl.GlobalAveragePooling1D()
    return randomize(keras.Model(i, kl.Dense(units, name="logits")(pool(h))))
