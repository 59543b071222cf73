"""Trains a small convolutional network on handwritten digits and saves it: python mnist/train.py --help."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

# Before the import: TensorFlow writes notes on machines without a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf.training.digits import CLASSES, DataError, Digits, load
from lrp_tf.training.options import Parser

OUT = Path(__file__).resolve().parent / "logs"
TRAINED_ON = "trained_on_"  # The name of a saved model is this and the name of the dataset.


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    keras.utils.set_random_seed(arguments.seed)
    try:
        path = writable(arguments.out) / "model.keras"
        digits = load(arguments.dataset, arguments.data_dir)
    except (DataError, ImportError, OSError) as error:
        parser.error(str(error))
    print(f"dataset: {digits.name}, {len(digits.x_train)} training and {len(digits.x_test)} test images", flush=True)
    model = build(mixed=arguments.mixed_precision)
    train(model, digits, arguments.epochs or default_epochs(len(digits.x_train)), mixed=arguments.mixed_precision)
    _, accuracy = model.evaluate(digits.x_test, digits.y_test, batch_size=512, verbose=0)
    print(f"test accuracy: {accuracy:.4f} on {len(digits.x_test)} images")
    save(model, path, digits.name)
    print(f"model: {path}")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Trains a convolutional network on handwritten digits.")
    parser.add_argument(
        "--dataset",
        default="auto",
        metavar="auto|mnist|digits|FILE.npz",
        help="auto (default): MNIST if it is there or can be fetched, else scikit-learn's digits; "
        "FILE.npz: laid out as Keras' mnist.npz",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps MNIST")
    parser.add_argument("--epochs", type=positive, metavar="N", help="default: 4 for MNIST, more for smaller sets")
    parser.add_argument("--mixed-precision", action="store_true", help="compute in float16: faster on a GPU only")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="default: 0")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="for model.keras; default: mnist/logs")
    return parser


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, received {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number of 32 bits, the range of seeds in NumPy."""
    if not (text.isdecimal() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, received {text!r}")
    return int(text)


def writable(out: Path) -> Path:
    """Make the folder and write to it, so that a mistake shows before the training, not after it.

    Raises:
        OSError: the folder cannot be made or written.
    """
    try:
        out = Path(os.path.expanduser(out))
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise OSError(f"--out: expected a folder that can be written, received {out} ({error.strerror})") from error
    if (out / "model.keras").is_dir():
        raise OSError(f"--out: {out / 'model.keras'} is a folder, which a model file cannot replace")
    return out


def default_epochs(images: int) -> int:
    """4 for the 60,000 images of MNIST, more for smaller sets, up to 10."""
    return min(10, max(4, 240_000 // images))


def build(mixed: bool = False) -> keras.Model:
    """The network: images [B, 28, 28, 1] -> probabilities [B, 10], float32 also under mixed precision."""
    dtype = "mixed_float16" if mixed else "float32"
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu", dtype=dtype, name="conv1"),
            layers.Conv2D(64, 3, activation="relu", dtype=dtype, name="conv2"),
            layers.MaxPooling2D(dtype=dtype, name="pool"),
            layers.Flatten(dtype=dtype, name="flatten"),
            layers.Dense(512, activation="relu", dtype=dtype, name="dense1"),
            layers.Dropout(0.5, dtype=dtype, name="dropout"),
            layers.Dense(CLASSES, activation="softmax", dtype="float32", name="dense2"),
        ],
        name="digits",
    )


def train(model: keras.Model, digits: Digits, epochs: int, mixed: bool = False) -> None:
    """Fit the model with Adam and a learning rate that falls to zero along a cosine."""
    batch, rate = (128, 1e-3) if len(digits.x_train) >= 10_000 else (64, 2e-3)  # fewer steps need a larger rate
    steps = epochs * math.ceil(len(digits.x_train) / batch)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    if mixed:  # small gradients vanish in float16; Keras adds this only if the policy is set globally
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,  # XLA is slower on a CPU
    )
    # Shuffled in each epoch, since a file may be sorted by class.
    model.fit(
        digits.x_train,
        digits.y_train,
        batch_size=batch,
        epochs=epochs,
        shuffle=True,
        verbose=1 if sys.stdout.isatty() else 2,
    )


def save(model: keras.Model, path: Path, dataset: str | None = None) -> None:
    """Write the model without the optimizer. The file appears whole or not at all.

    The name of the model tells lrp.py which data it was trained on.
    """
    name = model.name if dataset is None else f"{TRAINED_ON}{dataset}"
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.keras")
    try:
        keras.Model(model.inputs, model.outputs, name=name).save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
