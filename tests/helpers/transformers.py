"""A vision transformer and a Llama-type decoder in plain Keras, small, as their papers describe them."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from helpers.checking import randomize


@contextlib.contextmanager
def policy(name: str | None) -> Iterator[None]:
    """Layers made inside have this policy, float64 included; None: the global one."""
    floatx, before = keras.config.floatx(), keras.config.dtype_policy()
    if name is not None:
        keras.config.set_floatx("float64" if name == "float64" else "float32")
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(before)


@keras.saving.register_keras_serializable("lrp_tf_tests")
class ClassToken(kl.Layer):
    """Puts a learnt token ahead of the others, and adds learnt positions."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[-1]), name="positions")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1) + self.positions


def vision_transformer(size=8, patch=4, width=8, heads=2, depth=2, classes=3, dtype=None):
    """ViT (Dosovitskiy et al. 2021): pre-normalised blocks of multi-head attention and a GELU MLP."""
    with policy(dtype):
        image = keras.Input((size, size, 3))
        x = kl.Conv2D(width, patch, strides=patch, name="patches")(image)
        x = ClassToken(name="tokens")(kl.Reshape((-1, width))(x))
        for i in range(depth):
            h = kl.LayerNormalization(epsilon=1e-6, name=f"norm_a{i}")(x)
            x = kl.Add(name=f"add_a{i}")([x, kl.MultiHeadAttention(heads, width // heads, name=f"attention{i}")(h, h)])
            h = kl.LayerNormalization(epsilon=1e-6, name=f"norm_b{i}")(x)
            h = kl.Dense(2 * width, activation="gelu", name=f"up{i}")(h)
            x = kl.Add(name=f"add_b{i}")([x, kl.Dense(width, name=f"down{i}")(h)])
        x = kl.LayerNormalization(epsilon=1e-6, name="norm")(x)
        return randomize(keras.Model(image, kl.Dense(classes, name="head")(x[:, 0])))


def rms_norm(x, scale):
    """By hand, in keras.ops."""
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6) * scale


def rotated(x):
    """RoPE (Su et al. 2021) of [B, T, heads, size]: pairs (i, i + size / 2) turn by an angle that grows with T."""
    time, size = x.shape[1], x.shape[-1]
    frequencies = 10000.0 ** (-np.arange(0, size, 2) / size)
    angles = np.arange(time)[:, None] * frequencies[None]
    angles = ops.convert_to_tensor(np.concatenate([angles, angles], -1)[None, :, None], x.dtype)
    first, second = ops.split(x, 2, axis=-1)
    return x * ops.cos(angles) + ops.concatenate([-second, first], axis=-1) * ops.sin(angles)


@keras.saving.register_keras_serializable("lrp_tf_tests")
class DecoderBlock(kl.Layer):
    """Of Llama (Touvron et al. 2023): RMSNorm, rotary grouped-query attention with a causal mask, SwiGLU."""

    def __init__(self, heads=4, groups=2, hidden=12, **options):
        super().__init__(**options)
        self.heads, self.groups, self.hidden = heads, groups, hidden

    def build(self, shape):
        width = shape[-1]
        self.size = width // self.heads
        self.scale_a = self.add_weight(shape=(width,), initializer="ones", name="a_gamma")
        self.scale_b = self.add_weight(shape=(width,), initializer="ones", name="b_gamma")
        sizes = {"q": width, "k": self.size * self.groups, "v": self.size * self.groups, "o": width}
        sizes |= {"gate": self.hidden, "up": self.hidden, "down": width}
        for name, units in sizes.items():
            layer = kl.Dense(units, use_bias=False, name=name, dtype=self.dtype_policy)
            layer.build((*shape[:-1], self.hidden if name == "down" else width))
            setattr(self, name, layer)

    def call(self, x, padding=None):
        h = rms_norm(x, self.scale_a)
        time = x.shape[1]
        heads = lambda layer: ops.reshape(layer(h), (-1, time, layer.units // self.size, self.size))  # noqa: E731
        q, k, v = heads(self.q), heads(self.k), heads(self.v)
        k, v = (ops.repeat(t, self.heads // self.groups, axis=2) for t in (rotated(k), v))
        scores = ops.einsum("btnh,bsnh->bnts", rotated(q), k) / self.size**0.5
        seen = ops.convert_to_tensor(np.tril(np.ones((1, 1, time, time), bool)))
        if padding is not None:
            seen = ops.logical_and(seen, ops.cast(padding, "bool")[:, None, None])
        weights = ops.softmax(ops.where(seen, scores, -1e9), axis=-1)
        attended = ops.reshape(ops.einsum("bnts,bsnh->btnh", weights, v), (-1, time, x.shape[-1]))
        x = x + self.o(attended)
        h = rms_norm(x, self.scale_b)
        return x + self.down(ops.silu(self.gate(h)) * self.up(h))


def decoder(time=6, vocabulary=11, width=16, depth=2, padded=False, dtype=None, **options):
    """A causal language model without any bias: tokens (and a padding mask) -> logits [B, T, vocabulary]."""
    with policy(dtype):
        tokens = keras.Input((time,), dtype="int32", name="tokens")
        mask = keras.Input((time,), dtype="int32", name="mask") if padded else None
        x = kl.Embedding(vocabulary, width, name="embedding")(tokens)
        for i in range(depth):
            x = DecoderBlock(name=f"block{i}", **options)(x, padding=mask)
        x = kl.RMSNormalization(epsilon=1e-6, name="norm")(x)
        logits = kl.Dense(vocabulary, use_bias=False, name="head")(x)
        return randomize(keras.Model([tokens, mask] if padded else tokens, logits))
