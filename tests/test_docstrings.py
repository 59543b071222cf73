"""Every public name has an example in its docstring, and the examples run."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import REPOSITORY
from helpers.pictures import photos
from test_docs import network

import lrp_tf
from lrp_tf import composites, evaluate, flows, gallery, heatmap, rules
from lrp_tf.core import linear
from lrp_tf.files import images, loading
from lrp_tf.tools.examples import examples, fenced
from lrp_tf.tracing import decompositions

# What an example would say nothing about: errors and warnings, what a user gets and never makes, what an operator or
# a matcher of one's own is written against, and flows, which docs/extending.md has a table of.
WITHOUT = {
    *("RelevanceWarning", "CheckError", "CheckWarning", "UnsupportedLayerError", "SaveError"),
    *("Match", "linear_steps", "Term", "Operator", "LinearLayer"),
    *("Share", "Affine", "Product", "Quotient", "Contraction", "Winner", "LayerNorm", "GroupNorm", "WinnerTakesAll"),
}
METHODS = (
    "__call__",
    "with_model",
    "save",
    "load",
    "explain",
    "map",
    "summary",
    "report",
    "check",
    "concepts",
    "channel_relevance",
)


def face() -> dict[str, Any]:
    """The documented names, and the methods of the Explainer."""
    found: dict[str, Any] = {}
    for page in sorted((REPOSITORY / "docs/api").glob("*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, name = path.rpartition(".")
            found[path] = getattr(importlib.import_module(module), name)
    home = "lrp_tf.explainer.Explainer"
    return found | {f"{home}.{name}": inspect.getattr_static(lrp_tf.Explainer, name) for name in METHODS}


FACE = face()


def examples_of(documented: Any) -> list[str]:
    return examples(documented.__doc__ or "")


DOCSTRING = '''Does.

        one = 1

        def two():
            return 2

    Text, whose line
        is continued.

        R_i = x_i w / (

    Args:
        three: 3

        four = 4
    """
'''


def test_examples_are_found() -> None:
    assert examples(DOCSTRING) == ["one = 1\n\ndef two():\n    return 2"]
    shown = fenced(DOCSTRING)
    assert "```python\none = 1\n\ndef two():\n    return 2\n```\n\nText, whose line\n    is continued." in shown
    assert shown.count("```") == 2
    assert fenced("Does.\n\nTwice.") == "Does.\n\nTwice."


def test_every_public_name_is_documented() -> None:
    """What packages export is on a page, but for what few people need; what pages show is exported."""
    shown = {path.rpartition(".")[2] for path in FACE}
    exported = set(lrp_tf.__all__) | {n for m in (composites, rules, heatmap, lrp_tf.gradients) for n in m.__all__}
    modules = {name for name in exported if isinstance(getattr(lrp_tf, name, None), ModuleType)}
    few = {"FOR_TRANSFORMERS", "PRESETS", "Handler", "InputZBox", "needs_bounds", "Jacobian", "Magnitude", "Method"}
    few |= {"negative", "positive", "MAGNITUDE_CMAP", "PALETTES", "RELEVANCE_CMAP", "Bar", "Page", "Word", "words"}
    few |= {"atomic"}
    assert exported - modules - shown - few == set()
    assert few & shown == set()


@pytest.mark.parametrize("path", FACE)
def test_every_public_name_has_an_example(path: str) -> None:
    name = path.rpartition(".")[2]
    assert bool(examples_of(FACE[path])) is (name not in WITHOUT)


# --- what examples speak of ---------------------------------------------------------------------


def series(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def features(shape: tuple[int, ...], name: str) -> keras.Model:
    """[B, 28, 28, 1] -> a layer `name` with outputs of a shape -> 10 classes."""
    kl = keras.layers
    stack = [kl.Conv2D(2, 2, strides=2), kl.Reshape(shape), kl.Dense(3, activation="relu", name=name), kl.Flatten()]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack, kl.Dense(10, activation="softmax")])


def blocks_of_attention() -> dict:
    dense = keras.Sequential([keras.layers.Dense(3, name="attention")], name="block_3")
    stack = [keras.layers.Conv2D(2, 4, strides=4), keras.layers.Reshape((9, 2)), dense, keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((12, 12, 1)), *stack, keras.layers.Dense(3)])
    return {"explainer": lrp_tf.Explainer(model, "epsilon")}


def texts() -> dict:
    Path("vocab.txt").write_text("[PAD]\n[UNK]\na\nfilm\n", encoding="utf-8")
    stack = [keras.layers.Embedding(4, 3), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
    explainer = lrp_tf.Explainer(keras.Sequential([keras.Input((None,), dtype="int32"), *stack]), "epsilon")
    return {"explainer": explainer, "tokenizer": importlib.import_module("lrp_tf.texts").get_tokenizer("vocab.txt")}


def arrays() -> dict:
    np.save("a.npy", series((20, 2)))
    stack = [keras.layers.Conv1D(2, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(3)]
    return {"explainer": lrp_tf.Explainer(keras.Sequential([keras.Input((20, 2)), *stack]))}


def patients(features: int) -> dict:
    x = series((4, features))
    np.savetxt("patients.csv", x, delimiter=",", header=",".join(f"f{i}" for i in range(features)), comments="")
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(3, activation="softmax")])
    return {"explainer": lrp_tf.Explainer(model, "epsilon"), "x": x}


def diagnosed() -> dict:
    header = ["diagnosis", *(f"f{i}" for i in range(30))]
    np.savetxt("patients.csv", series((4, 31)), delimiter=",", header=",".join(header), comments="")
    return {}


def colours() -> dict:
    photos(Path("photos"), 2)
    stack = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    explainer = lrp_tf.Explainer(keras.Sequential([keras.Input((16, 16, 3)), *stack]), "epsilon")
    gallery = lrp_tf.gallery.Gallery(explainer, loading.get_preprocessing("none"), Path("before"))
    return {"explainer": explainer, "gallery": gallery}


def runs() -> dict:
    """The results of two composites, for a page."""
    explainer, as_it_is = colours()["explainer"], loading.get_preprocessing("none")
    for name in ("epsilon", "epsilon_plus"):
        run = lrp_tf.gallery.Gallery(explainer, as_it_is, Path("results") / name, tiles=True)
        run.run(images.find(["photos"]))
    return {}


def parts() -> dict:
    """A gallery and what it explains, the model in a file, and the shards of a run."""
    names = colours()
    names["explainer"].model.save("model.keras")
    for index in range(2):
        gallery = lrp_tf.gallery.Gallery(names["explainer"], loading.get_preprocessing("none"), Path("results"))
        gallery.run(images.find(["photos"]), shard=(index, 2))
    return names | {"files": list(images.find(["photos"])), "x": series((1, 16, 16, 3))}


def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython, ipython.display = lambda: SimpleNamespace(kernel=1), display
    display.Image, display.display = lambda data: data, lambda shown: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)


def attacked(names: dict) -> dict:
    """A network, and for each image a class that it does not see."""
    network = importlib.import_module("lrp_tf.evaluate.adversarial").Network(names["model"], batch_size=4)
    x = names["x"][:2]
    target = (network.logits(x).argmax(axis=1) + 1) % 10
    attack = importlib.import_module("lrp_tf.evaluate.adversarial").get("fgsm")
    return {"network": network, "x": x, "target": target, "attack": attack}


def clustered(names: dict) -> dict:
    """Maps and concept vectors of twelve samples, what is found among them, a layer's outputs, a report."""
    concepts, x = importlib.import_module("lrp_tf.concepts"), series((12, 12, 12, 1))
    labels, vectors = np.repeat([3, 5], 6), series((12, 4))
    report = concepts.Correction((concepts.Accuracy("after", "with the artefact", 12, 0.9, 0.8, 1.0, 0.0),))
    path = names["path"]
    found = concepts.spectral(x) if "cluster" in path or "embed" in path else concepts.prototypes(vectors, labels, 2)
    own = {"concepts": concepts, "x": x, "maps": x[..., 0], "labels": labels, "vectors": vectors, "found": found}
    own |= {"predicted": labels, "outputs": series((12, 8)), "marked": labels == 3, "report": report}
    own |= {"points": np.random.default_rng(0).random((12, 2)), "corrected": names["model"]}
    return own | {"add_mark": lambda x: x + np.float32(0.1)}


def compiled() -> dict:
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    return {"model": model}


def referenced(names: dict) -> dict:
    """A reference, and the same in two parts."""
    concepts = importlib.import_module("lrp_tf.concepts")
    build, data = functools.partial(concepts.build_reference, names["explainer"]), (names["x"], np.array([7, 8, 7, 8]))
    reference = build(data, ["conv2"], path="reference.h5")
    for i in range(2):
        build(data, ["conv2"], path=f"part{i}.h5", batch=2, shard=(i, 2))
    return {"reference": reference, "y_train": data[1], **{name: getattr(concepts, name) for name in concepts.__all__}}


def photographed(names: dict) -> dict:
    """A reference of the files of a folder."""
    concepts, preprocessing = importlib.import_module("lrp_tf.concepts"), loading.get_preprocessing("scale:1/255")
    photos(Path("photos"), 2)
    files = list(images.find(["photos"]))
    data = concepts.ImageFiles(names["explainer"], files, preprocessing)
    reference = concepts.build_reference(names["explainer"], data, "conv2", path="photos.h5", target=None)
    own = {"reference": reference, "preprocessing": preprocessing, "Gallery": gallery.Gallery, "atlas": concepts.atlas}
    own |= {"Atlases": concepts.Atlases, "ImageFiles": concepts.ImageFiles, "loading": loading, "images": images}
    return own | {"files": files, "build_reference": concepts.build_reference, "concept_sheet": concepts.concept_sheet}


class MyDense(keras.layers.Dense):
    pass


class MySwish(keras.layers.Layer):
    pass


SPECIAL: dict[str, Callable[[dict], dict]] = {
    "clone_with_rules": lambda names: {"x": tf.constant(names["x"]), "start": tf.one_hot(names["target"], 10)},
    "heatmap.figures.save": lambda names: {"scans": series((1, 8, 9, 10, 1)), "R_of_scans": series((1, 8, 9, 10, 1))},
    "signal": lambda names: {"R": series((1, 30, 2)), "ecg": series((1, 30, 2))},
    "table": lambda names: {"R": series((4, 2)), "x": series((4, 2))},
    "beeswarm": lambda names: patients(2),
    "TableGallery": lambda names: patients(30),
    "tables.files.read": lambda names: diagnosed(),
    "text": lambda names: {"R": series((1, 3))},
    "patches": lambda names: blocks_of_attention(),
    "GradCAM": lambda names: {
        "model": features((14, 14, 2), "block5_conv3"),
        "vit": features((196, 2), "block_11_norm1"),
        "x": series((2, 28, 28, 1)),
    },
    "Occlusion": lambda names: {"model": features((14, 14, 2), "last"), "x": series((2, 28, 28, 1))},
    "similarity": lambda names: {"maps": series((2, 12, 12)), "others": series((2, 12, 12))},
    "Gallery": lambda names: colours(),
    "Outcome": lambda names: colours(),
    **dict.fromkeys(("Finished", "Recording", "Recipe", "Shard", "merging.merge", "Merged"), lambda names: parts()),
    "write_page": lambda names: runs(),
    "ArrayGallery": lambda names: arrays(),
    "TextGallery": lambda names: texts(),
    "get_tokenizer": lambda names: texts(),
    "export": lambda names: colours(),
    "RelevanceLogger": lambda names: compiled(),
    "find": lambda names: colours(),
    **dict.fromkeys(
        ("relevance_penalty", "RelevancePenalty"),
        lambda names: {"labels": names["target"], "masks": np.ones((4, 12, 12), bool)},
    ),
    **dict.fromkeys(("build_reference", "Reference", "Samples", "concept_sheet", "atlas"), referenced),
    **dict.fromkeys(("Atlases", "ImageFiles"), photographed),
    **dict.fromkeys(
        ("concept_vectors", "shares", "prototypes.prototypes", "Prototypes", "ClassPrototypes", "spectral", "Clusters",
         "embed", "thumbnails", "suppress", "concept_direction", "correction", "Correction", "Accuracy"),
        clustered,
    ),
    **dict.fromkeys(("Network", "LBFGS", "FGSM", "PGD", "CarliniWagner", "Attack", "Attempt"), attacked),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> dict:
    """What most examples speak of: `model`, `x`, `explainer`, `R`, `e` ..."""
    keras.utils.set_random_seed(0)
    model = network()
    x = np.random.default_rng(0).uniform(size=(4, 12, 12, 1)).astype("float32")
    explainer = lrp_tf.Explainer(model, "epsilon_plus_flat")
    e = explainer.explain(x)
    own = {"model": model, "x": x, "x_train": x, "y": np.array([3, 8, 1, 0]), "target": np.array([3, 8, 1, 0])}
    own |= {"explainer": explainer, "e": e, "R": e.relevance, "relevance": e.relevance}
    own |= {"predict": evaluate.Predictor(model), "dataset": tf.data.Dataset.from_tensor_slices(x)}
    modules = {"lrp_tf": lrp_tf, "rules": rules, "composites": composites, "flows": flows, "evaluate": evaluate}
    modules |= {"heatmap": heatmap, "loading": loading, "images": images, "keras": keras, "np": np, "tf": tf}
    return own | modules | {"Path": Path, "MyDense": MyDense, "MySwish": MySwish}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the files that examples name, and registries that forget."""
    monkeypatch.chdir(tmp_path)
    for module in (linear, flows.base, decompositions):
        monkeypatch.setattr(module, "_REGISTRY", dict(module._REGISTRY))
    monkeypatch.setattr(composites.presets, "PRESETS", dict(composites.PRESETS))
    metrics = importlib.import_module("lrp_tf.evaluate.metric")
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))
    Path("mine.toml").write_text('[[entry]]\nmatch = "all"\nrule = "epsilon"\n', encoding="utf-8")
    Path("classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    cv2.imwrite("cat.jpg", np.full((8, 8, 3), 128, np.uint8))
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


# Those of Ray start processes, which the slow tests of Ray do.
EXAMPLES = [path for path in FACE if examples_of(FACE[path]) and not path.startswith("lrp_tf.ray.")]


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_run(
    path: str, shared: dict, prepared: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    name = path.rpartition(".")[2]
    names = dict(shared) | {"path": path}
    names |= next((make(names) for end, make in SPECIAL.items() if f".{path}".endswith(f".{end}")), {})
    if name in (
        "save",
        "load",
        "export",
        "export_lite",
        "export_stablehlo",
        "RelevanceLogger",
        "LBFGS",
        "CarliniWagner",
    ):  # what is written or fitted is compiled
        tf.config.run_functions_eagerly(False)
    if name == "load_model":
        names["model"].save("model.keras")
    if name == "show":
        notebook(monkeypatch)
    for code in examples_of(FACE[path]):
        tree = ast.parse(code)
        *_, last = tree.body
        if isinstance(last, ast.Expr):
            tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("shown", ast.Store())], last.value), last)
        exec(compile(ast.fix_missing_locations(tree), path, "exec"), names)
        if isinstance(shown := names.pop("shown", None), composites.Composite):
            shown.assign(shared["explainer"].graph)
