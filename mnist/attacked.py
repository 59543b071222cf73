"""The network that is attacked, and pictures in its size: given, saved by train.py, or trained now."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import h5py
import keras
import train

from lrp_tf.files import loading
from lrp_tf.terminal import printable, say
from lrp_tf.training import digits, fitting, nets, options, outcome, sources
from lrp_tf.training.sources import Images


def find(arguments: argparse.Namespace) -> tuple[keras.Model | None, Images]:
    """The network, or None if it has to be trained, and pictures in its size, with the names of their classes.

    Raises:
        ValueError: options that do not fit the data, a model of other data or of other pictures.
    """
    train.check_size(arguments)
    options.check_place(arguments)
    dataset = arguments.dataset
    if dataset == "auto":
        dataset = arguments.dataset = digits.load("auto", arguments.data_dir).name
    model, beside = given(arguments)
    images = load(arguments, size_of(model))
    if model is None and arguments.weights is not None:
        model = loading.load_weights(untrained(images, arguments.weights), arguments.weights)
    elif model is None:
        beside = train.folder_of(images)
        if (beside / outcome.MODEL).is_file():
            model = loading.load_model(beside / outcome.MODEL)
            if arguments.size is None and size_of(model) not in (None, images.x_test.shape[1]):
                images = load(arguments, size_of(model))
            same_data(beside, images, dataset)
    images = named(images, arguments.classes, beside)
    if model is not None:
        check(model, images)
    if arguments.model is not None and trained_on(arguments.model.parent) not in (None, sources.fingerprint(images)):
        say(printable(f"remark: {arguments.model} was trained on other pictures, or on another split of these"))
    return model, images


def given(arguments: argparse.Namespace) -> tuple[keras.Model | None, Path | None]:
    """The network of --model or --weights, and the folder that it lies in; None if neither tells one."""
    weights, path = arguments.weights, arguments.model
    if path is None and weights is not None and loading.holds_model(weights):
        return loading.load_model(weights), weights.parent
    if path is None:
        return None, None
    model = loading.load_model(path)
    return (model if weights is None else loading.load_weights(model, weights)), path.parent


def load(arguments: argparse.Namespace, size: int | None) -> Images:
    """The pictures in the size of --size or of the network; those of a folder in 32 x 32 if neither says one."""
    dataset, size = arguments.dataset, arguments.size or size
    if size is None and dataset not in sources.NAMED and Path(os.path.expanduser(dataset)).is_dir():
        size = train.SIZE
    return sources.load(dataset, size, arguments.data_dir)  # of a folder the same are for testing as in train.py


def untrained(images: Images, weights: Path) -> keras.Model:
    """The network of train.py that weights alone are for; with BatchNormalization if the file has such."""
    shape = images.x_test.shape[1:]
    if shape == (28, 28, 1):
        return nets.digits(len(images.names))
    found: list[str] = []
    try:
        with h5py.File(weights, "r") as file:
            file.visit(found.append)
    except OSError as error:
        raise ValueError(f"--weights: expected an HDF5 file. Received: {weights} ({error})") from error
    normalized = any("moving_mean" in name or "norm" in name.lower() for name in found)
    return nets.cnn(shape, len(images.names), batch_norm=normalized)


def same_data(folder: Path, images: Images, dataset: str) -> None:
    """Raise ValueError if train.py trained the model of a folder on other pictures, or on another split of these."""
    told = trained_on(folder)
    if told is None:
        say(printable(f"remark: what the model in {folder} was trained on is not known"))
    elif told != sources.fingerprint(images):
        raise ValueError(
            f"--model: expected {folder / outcome.MODEL} to be trained on these pictures. Received: trained on {told}, "
            f"while --dataset {dataset} is {sources.fingerprint(images)} (data, and what they hold). Remedy: --model "
            f"{folder / outcome.MODEL} to attack it all the same, or train.py --dataset {dataset}"
        )


def trained_on(folder: Path) -> str | None:
    """What train.py reports of its data beside a model: `sources.fingerprint`; None if it reports nothing."""
    try:
        return str(json.loads((folder / "report.json").read_text(encoding="utf-8"))["settings"]["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def named(images: Images, classes: Path | None, beside: Path | None) -> Images:
    """The pictures with the names of --classes; where they have but numbers, with those beside the model."""
    if classes is not None:
        return sources.named(images, classes)
    path = None if beside is None else beside / outcome.CLASSES
    if path is None or not path.is_file() or not all(name.isdecimal() for name in images.names):
        return images
    if len(loading.load_classes(path).names) != len(images.names):
        say(printable(f"remark: {path} does not name {len(images.names)} classes, which are shown as numbers"))
        return images
    return sources.named(images, path)


def trained(images: Images, arguments: argparse.Namespace) -> keras.Model:
    """The network of train.py for these data, trained now; a training that was interrupted is continued by --resume."""
    folder = train.folder_of(images)
    say(printable(f"There is no model in {folder}: it is trained first, by the defaults of train.py."))
    words = ["--dataset", arguments.dataset]
    words += [] if arguments.size is None else ["--size", str(arguments.size)]
    words += ["--data-dir", arguments.data_dir] if arguments.data_dir and arguments.dataset == "mnist" else []
    words += ["--resume"] if arguments.resume and (folder / fitting.CHECKPOINT).exists() else []
    chosen = train.make_parser().parse_args(words)
    train.check(chosen)
    model = loading.load_model(train.run(chosen))
    check(model, images)
    return model


def shapes_of(model: keras.Model) -> list[tuple[int | None, ...]]:
    """Shapes of the inputs and outputs without the batch; none of a model that does not tell them."""
    tensors = (*(getattr(model, "inputs", None) or ()), *(getattr(model, "outputs", None) or ()))
    return [tuple(tensor.shape[1:]) for tensor in tensors]


def size_of(model: keras.Model | None) -> int | None:
    """Height and width of the pictures that a network takes; None if it does not say, or they differ."""
    shape = () if model is None else next(iter(shapes_of(model)), ())
    return shape[0] if len(shape) == 3 and shape[0] == shape[1] else None


def check(model: keras.Model, images: Images) -> None:
    """Raise ValueError if the model takes other pictures, or has another number of classes."""
    shapes, picture = shapes_of(model), tuple(images.x_test.shape[1:])
    outputs = [(len(images.names),), *([(1,)] if len(images.names) == 2 else [])]
    fits = len(shapes) == 2 and len(shapes[0]) == 3 and shapes[1] in outputs
    if not fits or any(side not in (None, own) for side, own in zip(shapes[0], picture, strict=True)):
        raise ValueError(
            f"--model: expected a model from pictures {picture} to {outputs[0]} classes, as the data are. Received: "
            f"{model.name} with {', '.join(map(str, shapes)) or 'no fixed inputs'}. "
            "Remedy: train.py --dataset with these data, or --size"
        )


def other_data(model: keras.Model, images: Images) -> str | None:
    """The data that train.py trained the model on, if they have another name than these."""
    name = model.name.removesuffix(".npz")
    own = f"{train.TRAINED_ON}{train.named(images)}".removesuffix(".npz")
    return name.removeprefix(train.TRAINED_ON) if name.startswith(train.TRAINED_ON) and name != own else None
