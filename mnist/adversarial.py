"""Attacks a classifier and follows how far the most relevant pixels move: python mnist/adversarial.py --help."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf.training.options import Parser, number, whole

if TYPE_CHECKING:
    import keras

    from lrp_tf.evaluate.adversarial.study import Part, Study
    from lrp_tf.training.sources import Images

HERE = Path(__file__).resolve().parent
OUT = HERE / "study"
ATTACKS = ("lbfgs", "fgsm", "pgd", "cw")
BOUNDED = ("fgsm", "pgd")  # attacks with a largest change
COMPOSITES = ("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "gradient")
INTERRUPTED = 130
BATCH = 32  # images that are attacked at once, at most
EVERY = 10.0  # seconds between two lines of progress


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        run(arguments)
    except (ImportError, OSError, ValueError, TypeError) as error:
        parser.error(told(error))
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, "\nInterrupted. Finished parts are kept: use --resume to continue.\n")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Attacks a classifier, explains originals and adversarial images by LRP, and compares "
                    "how far the most relevant pixels move with what noise and other images do.")  # fmt: skip
    add = parser.add_argument
    data = "auto|digits|mnist|cifar10|FILE.npz|FOLDER"
    add("--dataset", default="auto", metavar=data, help="pictures whose test part is attacked, as in train.py; FOLDER: "
        "one sub folder for each class; default: auto")  # fmt: skip
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps MNIST")
    add("--classes", type=Path, metavar="FILE", help="names of the classes; default: those of the data, or what "
        "train.py wrote beside the model")  # fmt: skip
    add("--size", type=whole(8, 1024), metavar="N", help="height and width of pictures from a folder; default: those "
        "of the model's input, else 32")  # fmt: skip
    add("--model", type=Path, metavar="FILE", help="saved Keras model; default: what train.py saved for these data, "
        "and if there is none, it is trained")  # fmt: skip
    add("--weights", type=Path, metavar="FILE", help=".h5 of Keras 2 or 3, .weights.h5 or .keras: a whole model, or "
        "weights for the network of --model or train.py")  # fmt: skip
    add("--range", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="what pixels 0 and 255 are "
        "in the model's input; default: 0 1")  # fmt: skip
    add("--attack", nargs="+", choices=ATTACKS, default=["lbfgs"], metavar="|".join(ATTACKS), help="default: lbfgs")
    add("--confidence", type=number(0, 1e6), default=0.0, metavar="K", help="the target's logit must be the largest by "
        "K; default: 0")  # fmt: skip
    add("--epsilon", type=number(0, 1, open_low=True), metavar="E", help="the largest change of a pixel by fgsm and "
        "pgd, as a share of the range; default: 0.3 for digits, 8/255 = 0.0314 for other pictures")  # fmt: skip
    add("--targets", nargs="+", metavar="CLASS", help="classes to attack for, numbers or names; default: all")
    add("--sources", nargs="+", metavar="CLASS", help="classes of the originals; default: all")
    add("--per-target", type=whole(1), default=20, metavar="N", help="originals for each target; default: 20")
    add("--composites", nargs="+", default=list(COMPOSITES), metavar="NAME|TEXT", help="presets or entries of your own "
        f"(docs/composites.md); default: {' '.join(COMPOSITES)}")  # fmt: skip
    add("--by", choices=("pixel", "value"), default="pixel", help="rank pixels, channels summed, or each value")
    add("--top", type=number(0, 100, open_low=True), nargs="+", default=[1, 5, 10], metavar="PERCENT", help="the most "
        "relevant share that is followed; default: 1 5 10")  # fmt: skip
    add("--max-sheets", type=whole(0), default=50, metavar="N", help="pictures of single attacks; default: 50")
    add("--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="of all that is drawn; default: 0")
    add("--out", type=Path, default=OUT, metavar="DIR", help="default: mnist/study")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue a study that was interrupted")
    again.add_argument("--overwrite", action="store_true", help="remove an earlier study in the folder first")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Load, attack, explain, write."""
    if arguments.epsilon is not None and not set(arguments.attack) & set(BOUNDED):
        raise ValueError("--epsilon is for fgsm and pgd. Expected one of them in --attack, or no such option")
    low, high = arguments.range
    if not low < high:
        raise ValueError(f"--range: expected LOW below HIGH. Received: {low:g} {high:g}")
    from lrp_tf.cli import quiet

    quiet.import_tensorflow()
    from lrp_tf.evaluate.adversarial.report import Report
    from lrp_tf.evaluate.adversarial.store import Store

    model, images = model_and_images(arguments)
    study = make_study(arguments, model, images)
    store = Store(arguments.out, study.settings(images.name), resume=arguments.resume, overwrite=arguments.overwrite)
    try:
        unreadable(store, images)
        if (other := other_data(model, images)) is not None:
            say(f"remark: the model was trained on {other}, these pictures are {images.name}")
        chosen = study.choose(store)
        right = float((study.undisturbed.predictions == study.labels).mean())
        say(f"{images.name}: {len(study.labels)} test images, {right:.1%} classified rightly; {len(chosen.all)} "
            f"attacks by each of {', '.join(arguments.attack)}")  # fmt: skip
        for remark in chosen.remarks:
            say(f"remark: {remark}")
        steps = {what: sum(len(part.cases) for part in study.parts(chosen)) for what in ("attack", "explain")}
        study.run(store, chosen, Progress(steps))
        title = f"{images.name}, {len(study.labels)} test images, of which {right:.1%} are classified rightly."
        report = Report(study, store, chosen, images.names, title)
        looked = report.write(arguments.max_sheets)
        for line in report.rates():
            say(line)
        say(f"results: {looked[0]}")
    finally:
        store.close()


# --- what is given -------------------------------------------------------------------------------


def model_and_images(arguments: argparse.Namespace) -> tuple[keras.Model, Images]:
    """The network, trained if there is none, and pictures in its size."""
    from lrp_tf.files import loading
    from lrp_tf.training import digits, sources

    dataset = arguments.dataset
    if dataset == "auto":
        dataset = digits.load("auto", arguments.data_dir).name
    weights, model = arguments.weights, None
    if weights is not None and loading.holds_model(weights) and arguments.model is None:
        model = loading.load_model(weights)
    elif arguments.model is not None:
        model = loading.load_model(arguments.model)
    size = size_of(arguments, model, dataset)
    images = sources.load(dataset, size, arguments.data_dir)  # of a folder the same are for testing as in train.py
    names = arguments.classes
    if model is None:
        path = trained(dataset, images, arguments)
        model = loading.load_model(path)
        names = names or (path.with_name("classes.txt") if path.with_name("classes.txt").exists() else None)
    images = images if names is None else sources.named(images, names)
    if weights is not None and not (loading.holds_model(weights) and arguments.model is None):
        model = loading.load_weights(model, weights)
    check(model, images)
    return model, images


def size_of(arguments: argparse.Namespace, model: keras.Model | None, dataset: str) -> int | None:
    """Height and width that pictures are brought to; None: as they come."""
    if arguments.size is not None:
        return arguments.size
    shape = () if model is None else tuple(model.input_shape)
    if len(shape) == 4 and shape[1] is not None and shape[1] == shape[2]:
        return int(shape[1])
    return 32 if Path(os.path.expanduser(dataset)).is_dir() else None


def trained(dataset: str, images: Images, arguments: argparse.Namespace) -> Path:
    """The model that train.py saved for these data; it is trained now if there is none."""
    import train

    path = train.folder_of(images) / "model.keras"
    if path.is_file():
        return path
    say(f"There is no model in {path.parent}: it is trained first, by the defaults of train.py.")
    words = ["--dataset", dataset]
    if arguments.size is not None:
        words += ["--size", str(arguments.size)]
    if arguments.data_dir and dataset == "mnist":
        words += ["--data-dir", arguments.data_dir]
    chosen = train.make_parser().parse_args(words)
    train.check(chosen)
    return train.run(chosen)


def check(model: keras.Model, images: Images) -> None:
    """Raise ValueError if the model takes other pictures, or has another number of classes."""
    tensors = (*(getattr(model, "inputs", None) or ()), *(getattr(model, "outputs", None) or ()))
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    wanted = [tuple(images.x_test.shape[1:]), (len(images.names),)]
    single = len(images.names) == 2 and shapes == [wanted[0], (1,)]
    if shapes != wanted and not single:
        raise ValueError(
            f"--model: expected a model from pictures {wanted[0]} to {wanted[1]} classes, as the data are. Received: "
            f"{model.name} with {', '.join(map(str, shapes)) or 'no fixed inputs'}. "
            f"Remedy: train.py --dataset with these data, or --size"
        )


def other_data(model: keras.Model, images: Images) -> str | None:
    """The data that train.py trained the model on, if they have another name than these."""
    import train

    name = model.name.removesuffix(".npz")
    own = f"{train.TRAINED_ON}{train.named(images)}".removesuffix(".npz")
    return name.removeprefix(train.TRAINED_ON) if name.startswith(train.TRAINED_ON) and name != own else None


def make_study(arguments: argparse.Namespace, model: keras.Model, images: Images) -> Study:
    """The study that the options ask for."""
    from lrp_tf.evaluate import adversarial
    from lrp_tf.evaluate.adversarial.explained import Ranking
    from lrp_tf.evaluate.adversarial.outcomes import Scale
    from lrp_tf.evaluate.adversarial.study import Plan, Study

    low, high = arguments.range
    plan = Plan(
        targets=classes_of(arguments.targets, images, "--targets"),
        sources=classes_of(arguments.sources, images, "--sources"),
        per_target=arguments.per_target,
        confidence=arguments.confidence,
        seed=arguments.seed,
        how=Ranking(tuple(percent / 100 for percent in arguments.top), arguments.by),
        scale=Scale(low, high),
    )
    options: dict[str, Any] = {"low": low, "high": high, "confidence": arguments.confidence, "seed": arguments.seed}
    # As Madry et al. have it: 0.3 in steps of 0.01 for digits, 8/255 in steps of 2/255 for CIFAR-10.
    share = arguments.epsilon or (0.3 if images.strokes else 8 / 255)
    largest = {"epsilon": share * (high - low)}
    own: dict[str, dict[str, float]] = {"fgsm": largest, "pgd": largest | {"step": min(0.01, share / 4) * (high - low)}}
    attacks = [adversarial.get(name, **options, **own.get(name, {})) for name in dict.fromkeys(arguments.attack)]
    found = {name: composite_of(name, low, high) for name in dict.fromkeys(arguments.composites)}
    batch = min(BATCH, arguments.per_target)  # a batch is of one target, and is filled up
    return Study(model, images.x_test, images.y_test, attacks, found, plan, batch_size=batch)


def classes_of(words: list[str] | None, images: Images, option: str) -> tuple[int, ...]:
    """The classes that an option names, by number or name."""
    from lrp_tf.files.loading import Classes

    if words is None:
        return tuple(range(len(images.names)))
    try:
        found = [Classes(tuple(images.names)).index(word, len(images.names)) for word in words]
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    return tuple(dict.fromkeys(found))


def composite_of(name: str, low: float, high: float) -> Any:
    """The composite of a preset's name, a text or a .toml file; presets with a z^B rule get the range of the input."""
    from lrp_tf import composites

    if name.endswith(".toml"):
        return composites.load(name)
    if ":" in name:
        return composites.parse(name, name=name)
    bounds = {"low": low, "high": high} if name in composites.PRESETS and composites.needs_bounds(name) else {}
    return composites.get(name, **bounds)


# --- what is told --------------------------------------------------------------------------------


def unreadable(store: Any, images: Images) -> None:
    """Tell of files that could not be read, and list them in unreadable.csv."""
    from lrp_tf.evaluate.adversarial.store import write_table

    if not images.failures:
        return
    write_table(store.folder / "unreadable.csv", ["file", "reason"], images.failures)
    say(f"{len(images.failures)} of the files could not be read and are left out: {store.folder / 'unreadable.csv'}")


class Progress:
    """A line every ten seconds: what is done, how fast, and the time left.

    Args:
        steps: how many images there are of each step.
    """

    def __init__(self, steps: dict[str, int]) -> None:
        self.steps, self.done, self.earlier = steps, dict.fromkeys(steps, 0), dict.fromkeys(steps, 0)
        self.spoke = self.last = time.monotonic()
        self.began: dict[str, float] = {}

    def __call__(self, what: str, part: Part, fresh: bool) -> None:
        from lrp_tf.terminal import raise_interrupt

        raise_interrupt()
        begin, self.last = self.last, time.monotonic()
        self.done[what] += len(part.cases)
        if not fresh:  # an earlier run did it, which says nothing of the rate
            self.earlier[what] += len(part.cases)
            return
        took = self.last - self.began.setdefault(what, begin)
        ready = self.done[what] == self.steps[what]
        if self.last - self.spoke < EVERY and not ready:
            return
        self.spoke = self.last
        rate = (self.done[what] - self.earlier[what]) / max(took, 1e-9)
        left = "" if ready else f", {(self.steps[what] - self.done[what]) / rate / 60:.1f} min left"
        verb = {"attack": f"attacked by {part.attack.name}", "explain": "explained"}[what]
        say(f"{verb}: {self.done[what]} of {self.steps[what]} images, {rate:.2f} images/s{left}")


def say(text: str) -> None:
    from lrp_tf.terminal import printable
    from lrp_tf.terminal import say as tell

    tell(printable(text))


def told(error: Exception) -> str:
    """The message of an error in one line, with options in place of arguments."""
    from lrp_tf.cli.messages import message_of

    text = " ".join(message_of(error).split())
    for name in ("resume", "overwrite"):
        text = text.replace(f"`{name}`", f"--{name}")
    return text.replace("out expects", "--out: expected") if text.startswith("out expects") else text


if __name__ == "__main__":
    main()
