"""Makes pictures of the documentation anew: python docs/pictures.py --help.

    python docs/pictures.py rules --digits digits/model.keras
    python docs/pictures.py presets reading --weights mobilenet075.weights.h5 --classes imagenet_class_index.json
    python docs/pictures.py concepts depthwise --weights mobilenet075.weights.h5

The first needs a model that `python mnist/train.py --dataset digits --out digits` trains in seconds; the others
MobileNet's ImageNet weights (alpha 0.75). Photographs come with scikit-image, digits with scikit-learn.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import lrp_tf
from lrp_tf import cli, composites, gallery, gradients, heatmap, rules
from lrp_tf.files import images

HERE = Path(__file__).resolve().parent
SHOWN = (3, 5, 8)  # digits
CONCEPTS_LAYER, CONCEPTS_COMPOSITE = "conv_pw_11_relu", "epsilon_plus_flat"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Makes pictures of the documentation anew.")
    parser.add_argument("pictures", nargs="+", choices=sorted(PICTURES))
    parser.add_argument("--digits", type=Path, metavar="FILE", help="model.keras of mnist/train.py --dataset digits")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of MobileNet, alpha 0.75, ImageNet")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="imagenet_class_index.json")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: docs")
    options = parser.parse_args(argv)
    for name in options.pictures:
        print(PICTURES[name](options))


def _given(options: argparse.Namespace, name: str) -> Path:
    path = getattr(options, name)
    if path is None or not path.exists():
        sys.exit(f"docs/pictures.py: expected --{name} FILE, see --help. Received: {path}")
    return path


# --- rules -------------------------------------------------------------------------------------


def rule_composites() -> dict[str, composites.Composite]:
    """A rule on all convolutions, or where it is made for the first layer on that one, with ZPlus on the others."""
    everywhere = [rules.Zero(), rules.Epsilon(0.25), rules.ZPlus(), rules.AlphaBeta(2, 1), rules.Gamma(0.25)]
    first = [rules.Flat(), rules.WSquare(), rules.ZBox(0.0, 1.0)]
    dense = (composites.dense_like(), rules.Epsilon())
    found = {repr(rule): composites.Composite([dense, (None, rule)]) for rule in everywhere}
    for rule in first:
        entries = [dense, (composites.first_convolution(), rule), (None, rules.ZPlus())]
        found[f"first: {rule!r}"] = composites.Composite(entries)
    return found


def rules_picture(options: argparse.Namespace) -> Path:
    """Every rule on the same digits."""
    from sklearn.datasets import load_digits

    model = keras.models.load_model(_given(options, "digits"))
    size = model.input_shape[1:3]
    data = load_digits()
    chosen = [data.images[-360:][data.target[-360:] == digit][0] / 16 for digit in SHOWN]
    x = np.stack([heatmap.resize(image, size) for image in chosen]).astype("float32")[..., None]
    explainers = {name: lrp_tf.Explainer(model, composite) for name, composite in rule_composites().items()}
    relevance = {name: explainer(x).numpy() for name, explainer in explainers.items()}
    columns = [("digit", [heatmap.image_to_rgb(image) for image in x])]
    columns += [(name, [heatmap.to_rgb(r) for r in maps]) for name, maps in relevance.items()]
    rows = [[drawn[row] for _, drawn in columns] for row in range(len(SHOWN))]
    titles = [[name.replace(": ", ":\n") for name, _ in columns], *[[""] * len(columns)] * (len(SHOWN) - 1)]
    return heatmap.grid(options.out / "rules.png", rows, titles=titles, tile_inches=1.25)


# --- photographs -------------------------------------------------------------------------------


def mobilenet(options: argparse.Namespace) -> keras.Model:
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(_given(options, "weights"))
    return model


def photograph(name: str) -> Path:
    """A file that scikit-image ships."""
    import skimage

    return Path(skimage.__file__).parent / "data" / name


def presets_picture(options: argparse.Namespace) -> Path:
    """Presets × two classes of one photograph, as `lrp-tf grid` draws them."""
    with tempfile.TemporaryDirectory() as folder:
        mobilenet(options).save(Path(folder) / "mobilenet.keras")
        code = cli.main([
            "grid", f"{folder}/mobilenet.keras", str(photograph("chelsea.png")), "--preprocess", "mobilenet",
            "--classes", str(_given(options, "classes")), "--target", "tabby", "lynx", "--smooth", "auto",
            "--format", "jpg", "--dpi", "60", "--out", folder,
        ])  # fmt: skip
        if code:
            sys.exit("docs/pictures.py: lrp-tf grid failed")
        return Path(shutil.copy(f"{folder}/chelsea.jpg", options.out / "presets.jpg"))


def reading_picture(options: argparse.Namespace) -> Path:
    """How the same explanation can look: four ways to be misled, each beside what helps."""
    model = mobilenet(options)
    cat = images.read(photograph("chelsea.png"))
    pixels = images.Fit(224, 224, "crop").apply(cat)
    x = keras.applications.mobilenet.preprocess_input(pixels[None].astype("float32"))
    flat, tutorial = lrp_tf.Explainer(model), lrp_tf.Explainer(model, "tutorial", low=-1.0, high=1.0)
    stride = gallery.first_stride(flat)
    best, second = flat(x, "topK:2")[0]
    rather = flat(x, contrast="softmax")[0]
    signed = tutorial(x)[0]
    noise = np.random.default_rng(0).uniform(-1, 1, x.shape).astype("float32")
    of_noise = flat(noise)[0]
    calm = {"smooth": 1.0}
    shown = heatmap.image_to_rgb(pixels)
    largest = float(np.abs(heatmap.smooth(heatmap.reduce_channels(best), 1.0)).max())
    rows = [
        {"photograph": shown, "the lattice of Flat at stride 2": heatmap.to_rgb(best),
         "smooth='auto'": heatmap.to_rgb(best, smooth="auto", stride=stride)},
        {"top class": heatmap.to_rgb(best, **calm), "second class": heatmap.to_rgb(second, **calm),
         "top class, contrast='softmax'": heatmap.to_rgb(rather, **calm)},
        {"photograph": shown, "tutorial: signs cancel": heatmap.to_rgb(signed, **calm),
         "tutorial, show='abs'": heatmap.to_rgb(signed, show="abs", **calm)},
        {"noise": heatmap.image_to_rgb(noise[0]), "its map, on its own scale": heatmap.to_rgb(of_noise, **calm),
         "its map, on the cat's scale": heatmap.to_rgb(of_noise, scale=largest, **calm)},
    ]  # fmt: skip
    pictures = [list(row.values()) for row in rows]
    return heatmap.grid(options.out / "reading.jpg", pictures, titles=[list(row) for row in rows], tile_inches=2.4)


def concepts_picture(options: argparse.Namespace) -> Path:
    """Photographs, their maps, and those of the channels of a layer with the largest share of relevance."""
    model = mobilenet(options)
    explainer = lrp_tf.Explainer(model, CONCEPTS_COMPOSITE)
    rows, titles = [], []
    for name in ("chelsea.png", "coffee.png"):
        pixels = images.Fit(224, 224, "crop").apply(images.read(photograph(name)))
        x = keras.applications.mobilenet.preprocess_input(pixels[None].astype("float32"))
        found = explainer.concepts(x, layer=CONCEPTS_LAYER, top=5)
        looks = {"smooth": 2.0}
        maps = [heatmap.to_rgb(r, **looks) for r in found.maps.numpy()[0]]
        rows.append([heatmap.image_to_rgb(pixels), heatmap.to_rgb(explainer(x).numpy()[0], **looks), *maps])
        numbers = zip(found.channels.numpy()[0], found.share.numpy()[0], strict=True)
        titles.append(["photograph", "all relevance", *(f"channel {c}: {100 * s:.0f} %" for c, s in numbers)])
    return heatmap.grid(options.out / "concepts.jpg", rows, titles=titles, tile_inches=1.7)


def depthwise_picture(options: argparse.Namespace) -> Path:
    """Photographs by the default and the preset for depthwise nets, both with a contrast, SmoothGrad and Grad-CAM."""
    model = mobilenet(options)
    presets = ("epsilon_plus_flat", "epsilon_gamma_wsquare")
    methods = {
        **{name: functools.partial(lrp_tf.Explainer(model, name), contrast="softmax") for name in presets},
        "SmoothGrad²": gradients.SmoothGrad(model, reduce="mean_square"),
        "Grad-CAM": gradients.GradCAM(model),
    }
    rows = []
    for name in ("chelsea.png", "rocket.jpg", "coffee.png"):
        pixels = images.Fit(224, 224, "crop").apply(images.read(photograph(name)))
        x = keras.applications.mobilenet.preprocess_input(pixels[None].astype("float32"))
        target = model.predict(x, verbose=0).argmax(1)
        maps = [np.asarray(explain(x, target))[0] for explain in methods.values()]
        rows.append([heatmap.image_to_rgb(pixels), *(heatmap.to_rgb(r, smooth=2.0, scale="99%") for r in maps)])
    return heatmap.grid(
        options.out / "depthwise.jpg", rows, titles=[["photograph", *methods]] * len(rows), tile_inches=1.7
    )


PICTURES: dict[str, Callable[[argparse.Namespace], Path]] = {
    "rules": rules_picture,
    "presets": presets_picture,
    "reading": reading_picture,
    "concepts": concepts_picture,
    "depthwise": depthwise_picture,
}

if __name__ == "__main__":
    main()
