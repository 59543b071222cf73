"""Layers of keras.layers that have no relevance: not supported, with a remedy, or not applicable, with the reason.

All others are supported, by an entry in linear.py or flows/entries.py or by following their `call`.
"""

from __future__ import annotations

import keras

_FOREIGN = (
    "it runs code of another framework, which has no Keras steps to follow. Remedy: write it with keras.layers, or "
    "register how relevance passes it"
)
_TOKENS = (
    "it turns its input into categories, and relevance of a float cannot pass. Remedy: put it ahead of the model, and "
    "explain the model that takes its output"
)
_SIGNAL = (
    "it is preprocessing that mixes the signal non-linearly. Remedy: put it ahead of the model, and explain from there"
)

# Supported without an entry, since the operations that they are made of have one.
FOLLOWED: dict[str, str] = {
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), "its two convolutions"),
    **dict.fromkeys(("MultiHeadAttention", "GroupQueryAttention"), "its projections; attention weights held constant"),
    **dict.fromkeys(("Attention", "AdditiveAttention"), "its products; attention weights held constant"),
    "TimeDistributed": "its layer, with the time steps among the samples",
    **dict.fromkeys(("SpectralNormalization", "Pipeline"), "what it wraps"),
    **dict.fromkeys(("SimpleRNNCell", "GRUCell", "LSTMCell"), "its products; gates held constant"),
    "StackedRNNCells": "its cells",
    **dict.fromkeys(("SimpleRNN", "GRU", "LSTM", "RNN"), "its cell, for each time step"),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), "its cell, for each time step"),
    "Bidirectional": "its two layers",
    "ReversibleEmbedding": "a look-up, or a product with the transposed table",
    "Activation": "element-wise functions of Keras pass R; others by registration",
    "InputLayer": "the input",
}

UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(("TFSMLayer", "FlaxLayer", "JaxLayer", "TorchModuleWrapper"), _FOREIGN),
    "Lambda": (
        "it runs a Python function of which nothing is known. Remedy: lrp_tf.flows.register_activation({function}) if "
        "it is element-wise, or give its step a flow: Composite([(composites.named('name of the layer'), flow), ...])"
    ),
}

NOT_APPLICABLE: dict[str, str] = {
    **dict.fromkeys(("Layer", "Wrapper", "InputSpec"), "base class or helper"),
    **dict.fromkeys(("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing"), _TOKENS),
    **dict.fromkeys(("Discretization", "CategoryEncoding"), _TOKENS),
    **dict.fromkeys(("MelSpectrogram", "STFTSpectrogram"), _SIGNAL),
    **dict.fromkeys(("AutoContrast", "Equalization", "ContrastLimitedAdaptiveHistogramEqualization"), _SIGNAL),
}


def remedy(op: object) -> str | None:
    """Why a layer of Keras has no relevance and what to do about it; None for any other."""
    for cls in type(op).__mro__:
        if cls in (keras.layers.Layer, keras.layers.Wrapper):  # of which the user's own are made
            return None
        if cls.__module__.startswith("keras.") and (text := (UNSUPPORTED | NOT_APPLICABLE).get(cls.__name__)):
            return text
    return None
