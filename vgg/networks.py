"""The networks that vgg/video.py knows by name, and their weights. Without TensorFlow until one is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lrp_tf.files.errors import LoadError

if TYPE_CHECKING:
    import keras

    from lrp_tf.files.loading import Preprocessing

# The function of keras.applications that builds it, and how its pixels were prepared.
NETWORKS = {
    "vgg16": ("VGG16", "vgg16"),
    "vgg19": ("VGG19", "vgg19"),
    "mobilenet": ("MobileNet", "mobilenet"),
    "mobilenet_v2": ("MobileNetV2", "mobilenet_v2"),
    "resnet50": ("ResNet50", "resnet"),
    "efficientnet_b0": ("EfficientNetB0", "efficientnet"),
}


def load(chosen: argparse.Namespace) -> tuple[keras.Model, Preprocessing]:
    """The model of --model with --weights, and what its pixels go through.

    Raises:
        LoadError: no such network or file, weights that cannot be downloaded or belong to another.
    """
    import keras

    from lrp_tf.cli import given
    from lrp_tf.files import loading

    name, weights = chosen.model, chosen.weights
    if name not in NETWORKS:
        if not Path(name).exists() and not Path(name).suffix:
            raise LoadError(f"--model {name}: expected {', '.join(NETWORKS)}, or the file of a saved model")
        chosen.model = Path(name)
        model = given.load_model(chosen)
        if weights not in (None, "imagenet"):
            model = loading.load_weights(model, weights, unsafe=chosen.unsafe)
        return model, given.preprocessing_of(chosen, model)
    given.import_modules(chosen)
    function, prepared = NETWORKS[name]
    preprocessing = loading.get_preprocessing(chosen.preprocess or prepared)
    build = getattr(keras.applications, function)
    if weights == "none":
        return build(weights=None), preprocessing
    if name.startswith("vgg"):
        return loading.vgg(name, weights or "imagenet", unsafe=chosen.unsafe), preprocessing
    if weights not in (None, "imagenet"):
        return loading.load_weights(build(weights=None), weights, unsafe=chosen.unsafe), preprocessing
    try:
        return build(weights="imagenet"), preprocessing
    except Exception as error:  # a broken download surfaces as almost any type
        raise LoadError(
            f"The ImageNet weights of {name} cannot be downloaded: {' '.join(str(error).split())[:200]}. Remedy: "
            "a file of them (.keras, .h5, .weights.h5) as `weights`", "weights"
        ) from error  # fmt: skip
