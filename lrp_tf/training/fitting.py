"""Training that can be killed: optimiser, schedule, and checkpoints that hold all that the rest depends on."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf.atomic import atomic
from lrp_tf.training import batches
from lrp_tf.training.sources import Images, split

CHECKPOINT, BEST = "checkpoint.npz", "best.keras"
DROPS = ((0.5, 0.1), (0.75, 0.01))  # of schedule "step": from this share of the training on, this factor
COLUMNS = ("epoch", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")


class ResumeError(ValueError):
    """A training cannot be resumed; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; what has to be the same when a training is resumed.

    Attributes:
        learning_rate: its peak.
        warm_up: epochs over which it rises.
        clip_norm: length that gradients are scaled down to; 0: not.
        clip_value: largest absolute value that an entry of a gradient keeps; 0: not.
        patience: epochs without a better one, by `merit`, after which the training ends; 0: it does not.
        augment: some of `batches.AUGMENTATIONS`.
        validation_share: of the training pictures, to choose the best epoch by.
    """

    epochs: int
    batch: int
    optimizer: str
    learning_rate: float
    schedule: str
    warm_up: float
    weight_decay: float
    clip_norm: float
    augment: tuple[str, ...]
    validation_share: float
    seed: int
    clip_value: float = 0.0
    patience: int = 0


@keras.saving.register_keras_serializable("lrp_tf_training")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises to `peak` over `warm_up` steps, and then falls as `kind` says until `total` steps.

    Args:
        kind: "constant"; "cosine", to 0; "step", see `DROPS`.
    """

    def __init__(self, peak: float, kind: str, warm_up: int, total: int) -> None:
        super().__init__()
        self.peak, self.kind, self.warm_up, self.total = peak, kind, warm_up, total

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rising = tf.minimum((step + 1) / max(self.warm_up, 1), 1.0) if self.warm_up else 1.0
        if self.kind == "constant":
            return self.peak * rising
        if self.kind == "cosine":
            share = (step - self.warm_up) / max(self.total - self.warm_up, 1)
            return self.peak * rising * 0.5 * (1 + tf.cos(np.pi * tf.clip_by_value(share, 0.0, 1.0)))
        factor = tf.constant(1.0)
        for share, then in DROPS:
            factor = tf.where(step >= share * self.total, then, factor)
        return self.peak * rising * factor

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "kind": self.kind, "warm_up": self.warm_up, "total": self.total}


def optimizer(recipe: Recipe, steps: int, *, loss_scale: bool = False) -> keras.optimizers.Optimizer:
    """The optimiser of a recipe.

    Args:
        steps: of one epoch.
        loss_scale: for float16, where small gradients vanish. Keras adds it only if the policy is set globally.
    """
    rate = Schedule(recipe.learning_rate, recipe.schedule, round(recipe.warm_up * steps), recipe.epochs * steps)
    common = {"weight_decay": recipe.weight_decay or None, "global_clipnorm": recipe.clip_norm or None}
    common |= {"clipvalue": recipe.clip_value or None}
    kinds = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
    if recipe.optimizer == "sgd":
        found = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **common)
    else:
        common |= {"weight_decay": recipe.weight_decay} if recipe.optimizer == "adamw" else {}
        found = kinds[recipe.optimizer](rate, **common)
    if recipe.weight_decay:
        found.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return keras.optimizers.LossScaleOptimizer(found) if loss_scale else found


# --- checkpoints ---------------------------------------------------------------------------------


def variables_of(model: keras.Model) -> list[Any]:
    """The variables of a compiled model and of its optimiser, in a fixed order."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def save_checkpoint(path: Path, model: keras.Model, settings: dict[str, Any], history: list[dict[str, float]]) -> None:
    """Write weights, the optimiser's state, settings and history in one file, which appears whole or not at all."""
    arrays: dict[str, Any] = {f"v{i}": np.asarray(v) for i, v in enumerate(variables_of(model))}
    text = json.dumps({"settings": settings, "history": history})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, text=np.frombuffer(text.encode(), np.uint8), **arrays)

    atomic(path, write)


def load_checkpoint(path: Path, model: keras.Model, settings: dict[str, Any]) -> list[dict[str, float]]:
    """Give a compiled model the state of a checkpoint; returns the history.

    Raises:
        ResumeError: the checkpoint is of a training with other settings, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        state = json.loads(arrays.pop("text").tobytes().decode())
        before, history = state["settings"], state["history"]
    except Exception as error:  # a damaged file surfaces as almost any type
        raise ResumeError(
            f"--resume: {path} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]}). "
            "Remedy: delete it, and train anew"
        ) from error
    wanted = json.loads(json.dumps(settings))
    # What a checkpoint does not name did not exist when it was written, which is what its default does.
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    earlier = {key: before.get(key, defaults.get(key)) for key in wanted}
    if changed := [key for key in wanted if earlier[key] != wanted[key]]:
        told = "; ".join(f"{key}: {earlier[key]}, now {wanted[key]}" for key in changed)
        raise ResumeError(f"--resume: expected the settings of the training in {path.parent}. Received others: {told}")
    variables = variables_of(model)
    if len(arrays) != len(variables):
        raise ResumeError(
            f"--resume: {path} holds {len(arrays)} variables, expected {len(variables)}. Remedy: delete it, and train "
            "anew"
        )
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"v{i}"])
    return history


# --- the training --------------------------------------------------------------------------------


class Keeping(keras.callbacks.Callback):
    """After each epoch: a row of the history, the checkpoint, and the model of the best epoch; an early end.

    Dropout of an epoch depends on the seed and the epoch alone, as the batches do.
    """

    def __init__(
        self, out: Path, settings: dict[str, Any], history: list[dict[str, float]], seed: int, patience: int = 0
    ) -> None:
        super().__init__()
        self.out, self.settings, self.history, self.seed, self.patience = out, settings, history, seed, patience
        self.began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.began = time.perf_counter()
        dropouts = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Dropout) and layer.rate > 0]
        for i, layer in enumerate(dropouts):
            layer.seed_generator.state.assign([(self.seed + 7919 * i) % 2**31, epoch])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "learning_rate": rate, "seconds": time.perf_counter() - self.began}
        row |= {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        earlier = list(self.history)
        self.history.append({column: row[column] for column in COLUMNS})
        # The best model first: a kill between the two files repeats this epoch.
        if not earlier or merit(row) > max(map(merit, earlier)):
            atomic(self.out / BEST, lambda path: plain(self.model).save(path))
        save_checkpoint(self.out / CHECKPOINT, self.model, self.settings, self.history)
        if not np.isfinite(row["loss"]):
            print(f"The loss is {row['loss']} after epoch {epoch + 1}: the training ends. Remedy: a lower "
                  "--learning-rate, or --clip-norm", flush=True)  # fmt: skip
            self.model.stop_training = True
        elif ended(self.history, self.patience):
            print(f"No better epoch in {self.patience} epochs: the training ends after epoch {epoch + 1}", flush=True)
            self.model.stop_training = True


def ended(history: list[dict[str, float]], patience: int) -> bool:
    """Whether a training has had as many epochs without a better one as its patience has."""
    if not patience or not history:
        return False
    best = max(range(len(history)), key=lambda i: (merit(history[i]), -i))
    return len(history) - 1 - best >= patience


def merit(row: dict[str, float]) -> tuple[float, float]:
    """What the best epoch is the best in: accuracy on the validation pictures, of equals the loss."""
    loss = row["val_loss"]
    return row["val_accuracy"], -loss if np.isfinite(loss) else -np.inf


def plain(model: keras.Model) -> keras.Model:
    """The model without its optimiser, on the same layers."""
    return keras.Model(model.input, model.output, name=model.name)  # not of lists: calls would have to pass some


def compile_model(model: keras.Model, recipe: Recipe, count: int, *, loss_scale: bool) -> None:
    """Compile for training on `count` pictures."""
    model.compile(
        optimizer(recipe, batches.steps(count, recipe.batch), loss_scale=loss_scale),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,  # XLA is slower on a CPU
    )


def fit(
    model: keras.Model,
    images: Images,
    recipe: Recipe,
    settings: dict[str, Any],
    out: Path,
    *,
    resume: bool = False,
    loss_scale: bool = False,
    callbacks: list[keras.callbacks.Callback] | None = None,
    scale: float = 1.0,
) -> list[dict[str, float]]:
    """Train, and leave `BEST` and `CHECKPOINT` in `out`; returns the history, a row of `COLUMNS` for each epoch.

    Args:
        settings: all that has to be the same when the training is resumed.
        resume: continue from the checkpoint, if there is one.
        callbacks: further ones.
        scale: factor on the pixels 0..255.

    Raises:
        ResumeError: see `load_checkpoint`.
    """
    kept, held = split(images.y_train, recipe.validation_share, recipe.seed)
    compile_model(model, recipe, len(kept), loss_scale=loss_scale)
    history: list[dict[str, float]] = []
    if resume and (out / CHECKPOINT).exists():
        history = load_checkpoint(out / CHECKPOINT, model, settings)
        print(f"resumed after epoch {len(history)} of {recipe.epochs}", flush=True)
    elif resume:
        print(f"no checkpoint in {out}: the training begins at epoch 1", flush=True)
    broken = bool(history) and not np.isfinite(history[-1]["loss"])
    if broken or len(history) >= recipe.epochs or ended(history, recipe.patience):
        return history
    data = batches.training(
        images.x_train[kept],
        images.y_train[kept],
        batch=recipe.batch,
        first=len(history),
        last=recipe.epochs,
        seed=recipe.seed,
        augment=recipe.augment,
        fill="constant" if images.strokes else "reflect",
        scale=scale,
    )
    model.fit(
        data,
        steps_per_epoch=batches.steps(len(kept), recipe.batch),
        initial_epoch=len(history),
        epochs=recipe.epochs,
        shuffle=False,  # `batches.training` did
        validation_data=batches.plain(images.x_train[held], images.y_train[held], scale=scale),
        callbacks=[*(callbacks or ()), Keeping(out, settings, history, recipe.seed, recipe.patience)],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return history
