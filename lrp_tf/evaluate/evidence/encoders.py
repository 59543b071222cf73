"""Small transformers that read texts."""

from __future__ import annotations

import keras
from keras import layers as kl

from lrp_tf.evaluate.evidence.texts import LENGTH, VOCABULARY


@keras.saving.register_keras_serializable("evidence")
class Positions(kl.Layer):
    """x plus a learned vector for each position."""

    def build(self, shape: tuple) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table


def blocks(x: keras.KerasTensor, layers: int, heads: int) -> keras.KerasTensor:
    """Transformer blocks that normalise first; their attention is called attention0, attention1, ..."""
    width = x.shape[-1]
    for n in range(layers):
        h = kl.LayerNormalization(epsilon=1e-6)(x)
        x = kl.Add()([x, kl.MultiHeadAttention(heads, width // heads, name=f"attention{n}")(h, h)])
        h = kl.Dense(4 * width, "gelu")(kl.LayerNormalization(epsilon=1e-6)(x))
        x = kl.Add(name=f"block{n}")([x, kl.Dense(width)(h)])
    return kl.LayerNormalization(epsilon=1e-6)(x)


def encoder(classes: int, layers: int = 2, width: int = 64, heads: int = 4) -> keras.Model:
    """Tokens [B, LENGTH] -> probabilities [B, classes], read off the first token as BERT's are."""
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(kl.Embedding(VOCABULARY, width, name="embedding")(tokens))
    return keras.Model(tokens, kl.Dense(classes, "softmax", name="head")(blocks(x, layers, heads)[:, 0]), name="text")
