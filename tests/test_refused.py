"""Layers of Keras that have no relevance: the error names them and a remedy."""

import keras
import pytest
from keras import layers as kl

import lrp_tf
from lrp_tf.core import unsupported
from lrp_tf.tools.layer_table import classes

LAYERS = {names[0]: cls for cls, names in classes().items()}


def sequence(make, shape=(4, 3)):
    i = keras.Input(shape)
    return keras.Model(i, make()(i))


REFUSED = {
    "Lambda": lambda: sequence(lambda: kl.Lambda(lambda x: x * 2, output_shape=(4, 3))),
    "Discretization": lambda: sequence(lambda: kl.Discretization(bin_boundaries=[0.0, 1.0])),
    "CategoryEncoding": lambda: keras.Model(i := keras.Input((3,), dtype="int32"), kl.CategoryEncoding(4)(i)),
    "Hashing": lambda: sequence(lambda: kl.Hashing(3)),
    "HashedCrossing": lambda: keras.Model(
        i := [keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")], kl.HashedCrossing(3)(i)
    ),
    "IntegerLookup": lambda: keras.Model(i := keras.Input((3,), dtype="int64"), kl.IntegerLookup(vocabulary=[1, 2])(i)),
    "StringLookup": lambda: keras.Model(i := keras.Input((3,), dtype="string"), kl.StringLookup(vocabulary=["a"])(i)),
    "TextVectorization": lambda: keras.Model(
        i := keras.Input((1,), dtype="string"), kl.Embedding(3, 2)(kl.TextVectorization(vocabulary=["a"])(i))
    ),
    "MelSpectrogram": lambda: sequence(lambda: kl.MelSpectrogram(fft_length=64, sequence_stride=16), (200,)),
    "STFTSpectrogram": lambda: sequence(lambda: kl.STFTSpectrogram(frame_length=32, frame_step=16), (200, 1)),
    "AutoContrast": lambda: sequence(lambda: kl.AutoContrast(), (8, 8, 3)),
    "ContrastLimitedAdaptiveHistogramEqualization": lambda: sequence(
        lambda: kl.ContrastLimitedAdaptiveHistogramEqualization(), (8, 8, 3)
    ),
}
ALONE = {"Layer", "Wrapper", "InputSpec", "Equalization"}  # Keras records none of them in a model
FOREIGN = {"TFSMLayer", "FlaxLayer", "JaxLayer", "TorchModuleWrapper"}


def test_every_layer_that_is_refused_has_a_model():
    assert set(REFUSED) | ALONE | FOREIGN == set(unsupported.UNSUPPORTED) | set(unsupported.NOT_APPLICABLE)


@pytest.mark.parametrize("name", [name for name in REFUSED if name in LAYERS])
def test_refused_layer_is_named_with_a_remedy(name):
    model = REFUSED[name]()
    with pytest.raises(lrp_tf.UnsupportedLayerError, match=rf"\({name}\).*Remedy: ") as error:
        lrp_tf.Explainer(model)
    layer = next(layer for layer in model._flatten_layers() if type(layer).__name__ == name)
    assert repr(layer.name) in str(error.value) or f"/{layer.name}'" in str(error.value)


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_layers_of_other_frameworks_have_a_remedy(name):
    """They cannot be made without that framework."""
    assert "Remedy: " in unsupported.remedy(object.__new__(LAYERS[name]))
