"""Trains VGG from scratch and leaves a model that vgg/lrp.py and lrp-tf explain: python vgg/train.py --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import settings

from lrp_tf.cli import quiet
from lrp_tf.training.options import INTERRUPTED

if TYPE_CHECKING:
    from lrp_tf.training.fitting import Recipe
    from lrp_tf.training.sources import Images

FEW = 5000  # training pictures; fewer are learned in smaller steps


def main(argv: list[str] | None = None) -> None:
    parser = settings.make_parser()
    arguments = parser.parse_args(argv)
    try:
        settings.check(arguments)
        out = settings.out_of(arguments)
        quiet.import_tensorflow()
        from lrp_tf.training import reports

        reports.require_metrics()
        if arguments.compare_precision:
            import precision

            precision.compare(sys.argv[1:] if argv is None else argv, arguments, out)
        else:
            run(arguments, out)
    except (ImportError, OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, "\nInterrupted. Use --resume to continue after the last finished epoch.\n")


def run(arguments: argparse.Namespace, out: Path) -> None:
    """Train one network and write all of its results."""
    import keras
    import nets
    import results
    import tensorflow as tf

    from lrp_tf.training import fitting, outcome, sources

    if arguments.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(arguments.seed)
    images = sources.load(arguments.dataset, arguments.size, arguments.data_dir, arguments.seed)
    images = images if arguments.classes is None else sources.named(images, arguments.classes)
    outcome.tell(images, out)
    recipe, half = recipe_of(arguments, images), precision_of(arguments.mixed_precision)
    shape = {name: getattr(arguments, name) for name in ("depth", "size", "width", "units", "batch_norm", "dropout")}
    shape |= {"channels": images.channels, "classes": len(images.names), "policy": half}
    model = nets.vgg(**shape)
    print(f"{model.name}: {model.count_params():,} parameters, {half}", flush=True)
    everything = {**shape, **vars(recipe), "data": sources.fingerprint(images)}
    resumes = arguments.resume and (out / fitting.CHECKPOINT).exists()
    logs = [results.logger(arguments.log_relevance, images, out, not resumes)] if arguments.log_relevance else []
    if arguments.overwrite:
        settings.clear(out)
    history = fitting.fit(
        model, images, recipe, everything, out,
        resume=arguments.resume, loss_scale=half == "mixed_float16", callbacks=logs,
    )  # fmt: skip
    # Where the learning rate has fallen, the last epoch is the better bet than the peak of a noisy curve.
    keep = arguments.keep or ("best" if recipe.schedule == "constant" else "last")
    results.finish(model, images, everything, history, out, keep=keep)


def recipe_of(arguments: argparse.Namespace, images: Images) -> Recipe:
    """The recipe of the command line, with defaults that fit the data."""
    from lrp_tf.training import options
    from lrp_tf.training.fitting import Recipe

    rate, decay = arguments.learning_rate, arguments.weight_decay
    if rate is None:
        rate = 0.05 if arguments.optimizer == "sgd" else 1e-3 if arguments.batch_norm else 5e-4
    if decay is None:
        decay = options.DECAYS[arguments.optimizer]
    augment = arguments.augment or (["shift"] if images.strokes else ["flip", "shift"])
    return Recipe(
        epochs=arguments.epochs or (15 if arguments.dataset == "digits" else 30),
        batch=arguments.batch or (32 if len(images.x_train) < FEW else 64),
        optimizer=arguments.optimizer,
        learning_rate=rate,
        schedule=arguments.schedule,
        warm_up=arguments.warm_up,
        weight_decay=decay,
        clip_norm=arguments.clip_norm,
        augment=tuple(sorted({*augment} - {"none"})),
        validation_share=arguments.validation_share,
        seed=arguments.seed,
    )


def precision_of(asked: str | None) -> str:
    """The policy that --mixed-precision asks for: "float32", "mixed_float16" or "mixed_bfloat16"."""
    if asked is None:
        return "float32"
    if asked == "auto":
        import tensorflow as tf

        asked = "float16" if tf.config.list_physical_devices("GPU") else "bfloat16"
    return f"mixed_{asked}"


if __name__ == "__main__":
    main()
