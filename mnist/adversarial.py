"""Attacks a classifier and follows how far the most relevant pixels move: python mnist/adversarial.py --help."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import lrp_tf  # noqa: F401
except ImportError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lrp_tf.training.options import Parser, add_again, as_command, number, whole

if TYPE_CHECKING:
    from lrp_tf.evaluate.adversarial.attack import Attack
    from lrp_tf.evaluate.adversarial.study import Part, Plan
    from lrp_tf.training.sources import Images

HERE = Path(__file__).resolve().parent
OUT = HERE / "study"
ATTACKS = ("lbfgs", "fgsm", "pgd", "cw")
BOUNDED = ("fgsm", "pgd")  # attacks with a largest change
COMPOSITES = ("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "gradient")
BATCH = 32  # images that are attacked at once, at most
EVERY = 10.0  # seconds between two lines of progress


def main(argv: list[str] | None = None) -> None:
    as_command(make_parser(), argv, run, told, "parts")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Attacks a classifier, explains originals and adversarial images by LRP, and compares "
                    "how far the most relevant pixels move with what noise and other images do.")  # fmt: skip
    add = parser.add_argument
    data = "auto|digits|mnist|cifar10|FILE.npz|FOLDER"
    add("--dataset", default="auto", metavar=data, help="pictures whose test part is attacked, as in train.py; FOLDER: "
        "one sub folder for each class; default: auto")  # fmt: skip
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps MNIST")
    add("--classes", type=Path, metavar="FILE", help="names of the classes; default: what train.py wrote beside "
        "the model, or those of the data")  # fmt: skip
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
    add("--targets", nargs="+", metavar="CLASS", help="classes to attack for, names or numbers; default: all")
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
    add_again(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Load, attack, explain, write."""
    if arguments.epsilon is not None and not set(arguments.attack) & set(BOUNDED):
        raise ValueError("--epsilon is for fgsm and pgd. Expected one of them in --attack, or no such option")
    low, high = arguments.range
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"--range: expected finite numbers, LOW below HIGH. Received: {low:g} {high:g}")
    from lrp_tf.cli import quiet

    quiet.import_tensorflow()
    import attacked

    from lrp_tf.evaluate.adversarial.report import Report
    from lrp_tf.evaluate.adversarial.store import Store, held
    from lrp_tf.evaluate.adversarial.study import Study

    # Before a network is trained: what the folder holds.
    if arguments.out.is_file():
        raise ValueError(f"--out: expected a folder. Received: {arguments.out}, which is a file")
    if arguments.out.is_dir() and held(arguments.out) and not (arguments.resume or arguments.overwrite):
        raise ValueError(f"--out: {arguments.out} holds a study. Remedy: --resume, --overwrite, or another --out")
    model, images = attacked.find(arguments)
    plan, attacks, found = make_plan(arguments, images)
    model = attacked.trained(images, arguments) if model is None else model
    batch = min(BATCH, arguments.per_target)  # a batch is of one target, and is filled up
    study = Study(model, images.x_test, images.y_test, attacks, found, plan, batch_size=batch)
    store = Store(arguments.out, study.settings(images.name), resume=arguments.resume, overwrite=arguments.overwrite)
    try:
        unreadable(store, images)
        if (other := attacked.other_data(model, images)) is not None:
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


def make_plan(arguments: argparse.Namespace, images: Images) -> tuple[Plan, list[Attack], dict[str, Any]]:
    """What the options ask for: the plan, attacks, and composites by name. Needs no network: mistakes show early.

    Raises:
        ValueError: options out of range; each is named.
    """
    from lrp_tf.evaluate import adversarial
    from lrp_tf.evaluate.adversarial.explained import Ranking
    from lrp_tf.evaluate.adversarial.outcomes import Scale
    from lrp_tf.evaluate.adversarial.study import Plan

    low, high = arguments.range
    targets = classes_of(arguments.targets, images, "--targets")
    classes = classes_of(arguments.sources, images, "--sources")
    if len({*targets, *classes}) < 2:
        raise ValueError(
            f"--targets and --sources: expected originals of other classes than the target. Received: class "
            f"{targets[0]} alone for both"
        )
    if len({f"{percent:.4g}" for percent in arguments.top}) < len(arguments.top):
        raise ValueError(f"--top: expected shares that differ. Received: {' '.join(map(str, arguments.top))}")
    plan = Plan(
        targets=targets,
        sources=classes,
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
    return plan, attacks, {name: composite_of(name, low, high) for name in dict.fromkeys(arguments.composites)}


def classes_of(words: list[str] | None, images: Images, option: str) -> tuple[int, ...]:
    """The classes that an option names: by name, else by number."""
    names = list(images.names)
    if words is None:
        return tuple(range(len(names)))
    found = []
    for word in words:
        if word not in names and not (word.isascii() and word.isdecimal() and int(word) < len(names)):
            close = difflib.get_close_matches(word, names, 1)
            raise ValueError(
                f"{option}: expected the name of a class, or a number below {len(names)}. Received: {word!r}"
                + (f". Did you mean {close[0]!r}?" if close else "")
            )
        found.append(names.index(word) if word in names else int(word))
    return tuple(dict.fromkeys(found))


def composite_of(name: str, low: float, high: float) -> Any:
    """The composite of a preset's name, a text or a .toml file; presets with a z^B rule get the range of the input."""
    from lrp_tf import composites

    try:
        if name.endswith(".toml"):
            return composites.load(name)
        if ":" in name:
            return composites.parse(name, name=name)
        bounds = {"low": low, "high": high} if name in composites.PRESETS and composites.needs_bounds(name) else {}
        return composites.get(name, **bounds)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--composites {name}: {error}") from error


# --- what is told --------------------------------------------------------------------------------


def unreadable(store: Any, images: Images) -> None:
    """Tell of files that could not be read, and list them in unreadable.csv."""
    from lrp_tf.evaluate.tables import write_csv

    if not images.failures:
        return
    write_csv(store.folder / "unreadable.csv", ["file", "reason"], images.failures)
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
