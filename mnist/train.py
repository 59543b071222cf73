"""Trains a convolutional network on digits or small pictures and saves it: python mnist/train.py --help."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

# Before the import: TensorFlow writes notes on machines without a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf.files.errors import optional
from lrp_tf.training import digits as handwritten
from lrp_tf.training import fitting, nets, options, outcome, reports, sources
from lrp_tf.training.options import INTERRUPTED, Parser, number, whole, writable

OUT = Path(__file__).resolve().parent / "logs"
TRAINED_ON = "trained_on_"  # The name of a saved model is this and the name of the dataset.
NAMED = options.DIGITS
SIZE = 32  # pixels of the pictures of a folder
SCALE = 1 / 255  # networks see pixels from 0 to 1
MANY = 10_000  # training pictures; fewer need larger steps


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        check(arguments)
        run(arguments)
    except (ImportError, OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, "\nInterrupted. Use --resume to continue after the last finished epoch.\n")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Trains a convolutional network on digits or small pictures; mnist/lrp.py and mnist/adversarial.py "
        "take what it saves."
    )
    _add_data(parser)
    _add_network(parser)
    _add_training(parser)
    group = parser.add_argument_group("results")
    group.add_argument("--out", type=Path, metavar="DIR",
                       help="for model.keras, tables and curves; default: mnist/logs, for other pictures than "
                       "digits of 28x28 mnist/logs/ and the name of the data")  # fmt: skip
    group.add_argument("--keep", choices=["last", "best"],
                       help="the epoch that becomes model.keras; best: by the validation pictures; default: last, with "
                       "--schedule constant or --patience best")  # fmt: skip
    group.add_argument("--resume", action="store_true", help="continue the training whose checkpoint is in --out")
    group.add_argument("--tensorboard", action="store_true", help="curves for TensorBoard, too, in --out/tensorboard")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="auto", metavar="auto|mnist|digits|cifar10|FILE.npz|FOLDER",
                       help="auto (default): MNIST if it is there or can be fetched, else scikit-learn's digits; "
                       "FILE.npz: laid out as Keras' mnist.npz or CIFAR-10; FOLDER: one sub folder of pictures for "
                       "each class")  # fmt: skip
    options.add_data(group, "none")
    group.add_argument("--size", type=whole(8, 256), metavar="PIXELS",
                       help="height and width that pictures are scaled to; default: as they are, of a folder "
                       "32")  # fmt: skip


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--net", choices=["digits", "cnn", "mobilenet"],
                       help="digits: two convolutions, for 28x28; cnn: six convolutions, 32 to 128 channels; "
                       "mobilenet: seven blocks of a depthwise and a 1x1 convolution, 32 to 256 channels, with "
                       "BatchNormalization; default: digits for grey pictures of 28x28, else cnn")  # fmt: skip
    group.add_argument("--batch-norm", action="store_true", help="of cnn: between each convolution and its ReLU")
    group.add_argument("--dropout", type=number(0, 0.95), metavar="RATE",
                       help="of cnn: behind each pair of convolutions; of mobilenet: before the Dense layer; default: "
                       "0.25")  # fmt: skip
    group.add_argument("--l2", type=number(0, 1), default=0.0, metavar="F",
                       help="factor on the sum of squares of all kernels in the loss; default: 0")  # fmt: skip
    group.add_argument("--mixed-precision", action="store_true", help="compute in float16: faster on a GPU only")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=whole(1), metavar="N",
                       help="default: 4 for MNIST, more for smaller sets of digits; 30 for cnn and "
                       "mobilenet")  # fmt: skip
    group.add_argument("--batch", type=whole(1), metavar="B",
                       help="pictures of a step; default: 128, of fewer than 10,000 training pictures and for cnn "
                       "and mobilenet 64")  # fmt: skip
    options.add_optimizer(group, clip_norm=0.0)
    group.add_argument("--learning-rate", type=number(0, 10, open_low=True), metavar="RATE",
                       help="its peak; default: 0.05 for sgd, else 0.001, of fewer than 10,000 digits "
                       "0.002")  # fmt: skip
    group.add_argument("--warm-up", type=number(0, 1000), metavar="EPOCHS",
                       help="the learning rate rises over so many epochs; default: 1 for cnn and mobilenet, else "
                       "0")  # fmt: skip
    group.add_argument("--clip-value", type=number(0, 1e6), default=0.0, metavar="N",
                       help="entries of gradients are cut at this absolute value; default: 0, not")  # fmt: skip
    group.add_argument("--patience", type=whole(0, 10_000), default=0, metavar="N",
                       help="the training ends after N epochs without a better one by the validation pictures; "
                       "default: 0, it does not")  # fmt: skip
    group.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="default: 0")


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict one another, or would do nothing.

    Raises:
        ValueError: some do.
    """
    options.check_data(arguments)
    check_size(arguments)
    if arguments.clip_norm and arguments.clip_value:
        raise ValueError("--clip-norm and --clip-value: expected one of them")


def check_size(arguments: argparse.Namespace) -> None:
    """Raise ValueError if --size is given for digits."""
    if arguments.size and arguments.dataset in NAMED:
        raise ValueError("--size is for other pictures. Expected no such option for digits, which are 28x28")


def run(arguments: argparse.Namespace) -> Path:
    """Train and write everything; returns the path of the model."""
    reports.require_metrics()
    if arguments.tensorboard:
        optional("tensorboard", extra="tensorboard", what="which --tensorboard needs")
    keras.utils.set_random_seed(arguments.seed)
    out = None if arguments.out is None else writable(arguments.out, [outcome.MODEL])
    images = pictures(arguments)
    out = out or writable(folder_of(images), [outcome.MODEL])
    net = net_of(arguments, images)
    print(f"dataset: {images.name}, {len(images.x_train)} training and {len(images.x_test)} test images", flush=True)
    outcome.tell_failures(images, out)
    recipe = recipe_of(arguments, images, net)
    model, shape = network(arguments, images, net)
    everything = {"net": net, **shape, **vars(recipe), "data": sources.fingerprint(images)}
    if not arguments.resume:
        clear(out)
    callbacks = [keras.callbacks.TensorBoard(out / "tensorboard")] if arguments.tensorboard else []
    history = fitting.fit(
        model, images, recipe, everything, out,
        resume=arguments.resume, loss_scale=arguments.mixed_precision, callbacks=callbacks, scale=SCALE,
    )  # fmt: skip
    # Where the learning rate has fallen, the last epoch is the better bet than the peak of a noisy curve.
    keep = arguments.keep or ("best" if recipe.schedule == "constant" or recipe.patience else "last")
    kept, report = outcome.judge(model, images, everything, history, out, keep=keep, scale=SCALE)
    print(f"test accuracy: {report['accuracy']:.4f} on {len(images.x_test)} images")
    outcome.save(
        keras.Model(kept.inputs, kept.outputs, name=f"{TRAINED_ON}{named(images)}"), images, report, history, out
    )
    print(f"model: {out / outcome.MODEL}")
    return out / outcome.MODEL


def network(arguments: argparse.Namespace, images: sources.Images, net: str) -> tuple[keras.Model, dict[str, Any]]:
    """The network, untrained, and the options that it was made by."""
    shape: dict[str, Any] = {"l2": arguments.l2, "policy": "mixed_float16" if arguments.mixed_precision else "float32"}
    if net == "digits":
        return nets.digits(len(images.names), channels=images.channels, **shape), shape
    shape["dropout"] = 0.25 if arguments.dropout is None else arguments.dropout
    if net == "cnn":
        shape["batch_norm"] = arguments.batch_norm
    make = {"cnn": nets.cnn, "mobilenet": nets.mobilenet}[net]
    return make(images.x_train.shape[1:], len(images.names), **shape), shape


def clear(out: Path) -> None:
    """Remove what an earlier training left, lest it be taken for this one's. The model stays to the end."""
    for name in (fitting.CHECKPOINT, fitting.BEST, "failures.csv"):
        (out / name).unlink(missing_ok=True)
    for name in ("tensorboard", outcome.EXAMPLES):
        shutil.rmtree(out / name, ignore_errors=True)


def pictures(arguments: argparse.Namespace) -> sources.Images:
    """The pictures that the options ask for.

    Raises:
        DataError: no such data. ImportError: a package of the extra `mnist` is missing.
    """
    dataset = arguments.dataset
    if dataset in NAMED:
        found = handwritten.load(dataset, arguments.data_dir)
        x_train, x_test = (np.rint(255 * x).astype(np.uint8) for x in (found.x_train, found.x_test))
        names = tuple("0123456789")
        return sources.Images(x_train, found.y_train, x_test, found.y_test, names, found.name, strokes=True)
    size = arguments.size or (SIZE if Path(os.path.expanduser(dataset)).is_dir() else None)
    images = sources.load(dataset, size, seed=arguments.seed)
    return images if arguments.classes is None else sources.named(images, arguments.classes)


def net_of(arguments: argparse.Namespace, images: sources.Images) -> str:
    """The network for the pictures: "digits", "cnn" or "mobilenet".

    Raises:
        ValueError: options that do not fit it, or pictures that do not.
    """
    shape = images.x_train.shape[1:]
    net = arguments.net or ("digits" if shape == (28, 28, 1) else "cnn")
    if net == "digits" and shape[:2] != (28, 28):
        raise ValueError(f"--net digits: expected pictures of 28x28. Received: {shape[0]}x{shape[1]}")
    if min(shape[:2]) < 8:
        raise ValueError(f"--net {net}: expected pictures of 8x8 or more. Received: {shape[0]}x{shape[1]}")
    if images.strokes and "flip" in (arguments.augment or ()):
        options.refuse_flip()
    if net == "digits" and (arguments.batch_norm or arguments.dropout is not None):
        raise ValueError("--batch-norm and --dropout are of --net cnn. Expected --net cnn beside them, or neither")
    if net == "mobilenet" and arguments.batch_norm:
        raise ValueError("--batch-norm is of --net cnn. Expected no such option: --net mobilenet always has it")
    return net


def recipe_of(arguments: argparse.Namespace, images: sources.Images, net: str) -> fitting.Recipe:
    """The recipe of the command line, with defaults that fit the data.

    Raises:
        ValueError: more epochs of patience or warm-up than the training has.
    """
    rate, decay, warm_up = arguments.learning_rate, arguments.weight_decay, arguments.warm_up
    count = len(images.x_train)
    few = net == "digits" and count < MANY
    if rate is None:
        rate = 0.05 if arguments.optimizer == "sgd" else 2e-3 if few else 1e-3
    if decay is None:
        decay = options.DECAYS[arguments.optimizer]
    augment = arguments.augment or ([] if images.strokes else ["flip", "shift"])
    epochs = arguments.epochs or (default_epochs(count) if net == "digits" else 30)
    if arguments.patience >= epochs:
        raise ValueError(
            f"--patience: expected fewer epochs than --epochs. Received: {arguments.patience} and {epochs}"
        )
    warm_up = min(0.0 if net == "digits" else 1.0, epochs) if warm_up is None else warm_up
    if warm_up > epochs:
        raise ValueError(f"--warm-up: expected at most the epochs of the training. Received: {warm_up:g} and {epochs}")
    return fitting.Recipe(
        epochs=epochs,
        batch=arguments.batch or (64 if few or net != "digits" else 128),
        optimizer=arguments.optimizer,
        learning_rate=rate,
        schedule=arguments.schedule,
        warm_up=warm_up,
        weight_decay=decay,
        clip_norm=arguments.clip_norm,
        augment=tuple(sorted({*augment} - {"none"})),
        validation_share=arguments.validation_share,
        seed=arguments.seed,
        clip_value=arguments.clip_value,
        patience=arguments.patience,
    )


def default_epochs(images: int) -> int:
    """4 for the 60,000 images of MNIST, more for smaller sets, up to 10."""
    return min(10, max(4, 240_000 // images))


def named(images: sources.Images) -> str:
    """The name of the data as the name of a model may hold it."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in images.name
    )


def folder_of(images: sources.Images) -> Path:
    """Where results go by default: digits of 28x28 into one folder, other pictures into one of their name each."""
    return OUT if images.x_train.shape[1:] == (28, 28, 1) else OUT / named(images).removesuffix(".npz")


if __name__ == "__main__":
    main()
