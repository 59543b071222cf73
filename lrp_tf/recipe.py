"""`Recipe`: what is explained and how, as plain data that travels between processes and machines."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from lrp_tf import named
from lrp_tf.arrays.run import ArrayGallery
from lrp_tf.composite_names import Written, composite, name_of
from lrp_tf.explainer import Explainer
from lrp_tf.files import images, loading
from lrp_tf.files.errors import LoadError
from lrp_tf.files.loading import Classes, Preprocessing
from lrp_tf.gallery.run import Gallery
from lrp_tf.heatmap.look import Look
from lrp_tf.heatmap.volumes import Slicing
from lrp_tf.tables.run import TableGallery

if TYPE_CHECKING:
    from lrp_tf.concepts import Atlases

KINDS: dict[str, type[Gallery]] = {"images": Gallery, "arrays": ArrayGallery, "tables": TableGallery}
BATCH = {"images": 8, "arrays": 8, "tables": 256}  # samples at once
ATLAS_TOP = 5  # channels of an atlas
_SAMPLE = 256  # weights of a variable that are compared
# Options of the Explainer whose names are those of the settings of a run.
_ALONE = {"zero_bias": False, "relevance_filter": None, "fast": None, "output": None}


@dataclasses.dataclass(frozen=True, repr=False)
class Recipe:
    """All that a run is made of, as names and numbers: it pickles in some hundred bytes, and prints as what it is.

        recipe = lrp_tf.Recipe("model.keras", "epsilon_plus", preprocess="scale:1/255", targets=("topK:2",))
        R = recipe.explainer()(x)
        outcome = recipe.gallery("pictures").run(images.find(["photos"]))

    Its words are those of `lrp-tf explain`. Nothing is read before `explainer` or `gallery` is called, so that a recipe
    of one machine may be used on another one that sees the same files.

    Attributes:
        model: path of a saved model, .keras or .h5.
        composite: a preset, with options as in "epsilon_gamma_box:gamma=0.5"; entries as in "first: flat; all: zplus";
            or the path of a .toml file, see docs/composites.md.
        preprocess: see `loading.get_preprocessing`. None: nothing, which images of a model that does not scale its
            input itself refuse.
        classes: path of a file with their names, see `loading.load_classes`; or the names.
        targets, contrast: see `Gallery`; classes may be given by name, too.
        look, size, how, batch, max_pixels, save_relevance, layers, save_layers: see `Gallery`; `batch` None: 8, of
            tables 256.
        kind: "images", "arrays" or "tables". None: images where the model takes such, else arrays.
        slicing: see `lrp_tf.arrays.ArrayGallery`.
        atlas: path of a reference, of which each photograph gets an atlas; see `lrp_tf.concepts.Atlases`.
        atlas_layer, atlas_top: its `layer` and `top`. atlas_images: where the images of the reference are now, if they
            were moved.
        options: of the Explainer and of the preset: {"zero_bias": True, "relevance_filter": 0.1}.
        modules: names of Python modules to import first, which register layers or presets.
        unsafe: run Python code that the file of the model carries.

    Raises:
        TypeError: a model that is no path, options that are no mapping, a colour map that has no name.
        ValueError: another kind; a composite that cannot be read; more of atlases without `atlas`.
    """

    model: str
    composite: str = "epsilon_plus_flat"
    preprocess: str | None = None
    classes: str | tuple[str, ...] | None = None
    targets: tuple[str | int, ...] = ("top1",)
    contrast: str | int | None = None
    look: Look = Look()
    size: tuple[int, int] | None = None
    how: str = "squash"
    batch: int | None = None
    max_pixels: int = images.MAX_PIXELS
    save_relevance: bool = False
    layers: tuple[str, ...] = ()
    save_layers: bool = False
    kind: str | None = None
    slicing: Slicing | None = None
    atlas: str | None = None
    atlas_layer: str | None = None
    atlas_top: int = ATLAS_TOP
    atlas_images: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    modules: tuple[str, ...] = ()
    unsafe: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, (str, os.PathLike)):
            raise TypeError(
                "A recipe is plain data. Expected the path of a saved model. Received: "
                f'{type(self.model).__name__}. Remedy: model.save("model.keras"), and that path'
            )
        if not (self.look.cmap is None or isinstance(self.look.cmap, str)):
            raise TypeError(
                f"A recipe is plain data. Expected the name of a colour map. Received: {self.look.cmap!r}. Remedy: "
                "matplotlib.colormaps.register(cmap), in a module that `modules` names, and its name"
            )
        if not isinstance(self.options, Mapping):
            raise TypeError(f"Expected options as a dict. Received: {self.options!r}")
        if self.kind not in (None, *KINDS):
            raise ValueError(f"Expected kind one of {', '.join(KINDS)}, or None. Received: {self.kind!r}")
        if self.atlas is None and (self.atlas_layer, self.atlas_images) != (None, None):
            raise LoadError(
                "`atlas_layer` and `atlas_images` are of atlases. Expected a reference beside them. Received: none. "
                "Remedy: `atlas`, the file of a reference", ("atlas", "atlas_layer", "atlas_images")
            )  # fmt: skip
        plain: dict[str, Any] = {"model": os.fspath(self.model), "options": dict(self.options)}
        for name in ("atlas", "atlas_images"):
            value = getattr(self, name)
            plain[name] = None if value is None else os.fspath(value)
        for name in ("targets", "layers", "modules"):
            value = getattr(self, name)
            plain[name] = (value,) if isinstance(value, (str, int)) else tuple(value)
        plain["size"] = None if self.size is None else tuple(self.size)
        if self.classes is not None:
            paths = isinstance(self.classes, (str, os.PathLike))
            plain["classes"] = os.fspath(self.classes) if paths else tuple(self.classes)  # type: ignore[arg-type]
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        composite(self.composite)

    def __repr__(self) -> str:
        model, *more = (f"{name}={value!r}" for name, value in _given(self).items())
        return f"Recipe({', '.join([model.removeprefix('model='), *more])})"

    def __reduce__(self) -> tuple:
        """What differs from the defaults, so that a recipe is small."""
        given = _given(self)
        look = _given(given.pop("look")) if "look" in given else None
        return _recipe, (given, look)

    # --- what it makes -------------------------------------------------------------------------

    def load(self) -> keras.Model:
        """The model, from its file.

        Raises:
            LoadError: see `loading.load_model`. ImportError: one of `modules` is missing.
        """
        named.import_modules(self.modules)
        named.written_composite(composite(self.composite))  # mistakes in it are told before the model is loaded
        return loading.load_model(self.model, unsafe=self.unsafe)

    def explainer(self, model: keras.Model | None = None) -> Explainer:
        """The explainer, of the model in the file. It pickles as this recipe.

            explainer = lrp_tf.Recipe("model.keras", "epsilon").explainer()

        Args:
            model: the same one, if it is loaded already.

        Raises:
            LoadError: see `load`; z^B rules need bounds, and `preprocess` does not tell them.
            Exception: see `Explainer`.
        """
        return self._explainer(model, None)

    def _explainer(self, model: keras.Model | None, preprocessing: Preprocessing | None) -> Explainer:
        """See `explainer`; `preprocessing`: of a model whose recipe does not tell it."""
        model = self.load() if model is None else model
        found = named.explainer_of(model, self._named, self._bounds(model, preprocessing), **self._options)
        if os.path.isfile(self.model):
            found.come_from(Origin(self, model))
        return found

    def gallery(self, out: str | os.PathLike, *, model: keras.Model | None = None, **more: Any) -> Gallery:
        """What explains files into the folder `out`.

            outcome = lrp_tf.Recipe("model.keras", preprocess="none").gallery("results").run([("a.png", "a.png")])

        Args:
            model: of the file, if it is loaded already.
            more: attributes of `Gallery` that are no part of a recipe, such as `page`, `tiles`, `describe`; of
                `TableGallery` its `tables` and `rows`. `settings` are added to those of the recipe.

        Raises:
            LoadError: see `explainer`; no preprocessing; an unknown class; see `Reference.images` and `Atlases`.
            FileNotFoundError: there is no such reference.
        """
        explainer = self._explainer(model, more.get("preprocessing"))
        kind = self._kind(explainer.model)
        graph = explainer.graph
        classes = more.pop("classes", None) or self._classes()
        preprocessing = more.pop("preprocessing", None) or self.preprocessing(explainer.model)
        chosen = named.targets_of(self.targets, graph, classes)
        contrast = named.contrast_of(self.contrast, graph, classes, chosen)
        given: dict[str, Any] = {"name": name_of(self._named), "batch": self.batch or BATCH[kind]}
        if kind == "images":
            given |= {"size": self.size, "how": self.how, "max_pixels": self.max_pixels}
        if kind == "arrays":
            given["slicing"] = self.slicing
        if self.atlas is not None:
            given["atlas"] = self._atlases(self.atlas, kind, explainer, preprocessing)
        settings = self._settings(explainer, preprocessing, chosen) | {"contrast": contrast}
        settings |= more.pop("settings", {})
        return KINDS[kind](
            explainer=explainer,
            preprocessing=preprocessing,
            out=Path(out),
            classes=classes,
            targets=tuple(chosen),
            contrast=contrast,
            look=self.look,
            save_relevance=self.save_relevance,
            layers=self.layers,
            save_layers=self.save_layers,
            settings=settings,
            **{**given, **more},
        )

    def absolute(self) -> Recipe:
        """The same recipe for processes that run in other folders: its paths begin at the root.

        recipe = lrp_tf.Recipe("model.keras").absolute()
        """
        changed: dict[str, Any] = {"model": os.path.abspath(self.model)}
        for name in ("classes", "atlas", "atlas_images"):
            if isinstance(path := getattr(self, name), str):
                changed[name] = os.path.abspath(path)
        if isinstance(self._named, Written) and self._named.is_file:
            changed["composite"] = os.path.abspath(self.composite)
        return dataclasses.replace(self, **changed)

    def preprocessing(self, model: keras.Model) -> Preprocessing:
        """From what files hold to what the model takes.

            preprocessing = recipe.preprocessing(recipe.load())

        Raises:
            LoadError: see `named.preprocessing_of`.
        """
        if self._kind(model) != "images":
            return loading.get_preprocessing(self.preprocess or "none")
        return named.preprocessing_of(self.preprocess, model, self._options["output"], self.model)

    # --- details -------------------------------------------------------------------------------

    @property
    def _named(self) -> named.Named:
        return composite(self.composite)

    @property
    def _options(self) -> dict[str, Any]:
        found = {"output": None, **self.options}
        return found | {"output": named.output_of(found["output"])}

    def _kind(self, model: keras.Model) -> str:
        inputs = list(getattr(model, "inputs", None) or [])
        arrays = len(inputs) == 1 and len(inputs[0].shape) != 4
        return self.kind or ("arrays" if arrays else "images")

    def _classes(self) -> Classes:
        if self.classes is None:
            return Classes()
        return Classes(self.classes) if isinstance(self.classes, tuple) else loading.load_classes(self.classes)

    def _atlases(self, path: str, kind: str, explainer: Explainer, preprocessing: Preprocessing) -> Atlases:
        """What draws the atlases; see `gallery` for what it raises."""
        if kind != "images":
            raise LoadError(f"An atlas is of photographs alone. Expected none of {kind}. Received: `atlas`", "atlas")
        from lrp_tf.concepts import Atlases, Reference  # it takes a second, and few runs need it

        reference = Reference.load(path)
        try:
            files = reference.images(explainer, preprocessing, self.atlas_images)
            return Atlases(reference, files, layer=self.atlas_layer, top=self.atlas_top)
        except LoadError as error:
            text, names = str(error), {"folder": "atlas_images", "layer": "atlas_layer", "top": "atlas_top"}
            for option in error.options:
                text = text.replace(f"`{option}`", f"`{names.get(option, option)}`")
            raise LoadError(text, [names.get(option, option) for option in error.options]) from error

    def _bounds(self, model: keras.Model, preprocessing: Preprocessing | None) -> dict[str, Any]:
        """low and high of z^B rules, where neither composite nor options give them."""
        if not named.needs_bounds(self._named, self.options):
            return {}
        if self._kind(model) != "images":
            raise LoadError(
                f"{self._named} needs the lowest and highest value of the input, which arrays do not tell. Remedy: "
                f"`composite` {self._named}:low=-1,high=1 with the values of your data",
                "composite",
            )
        preprocessing = preprocessing or self.preprocessing(model)
        return named.bounds_of(model, preprocessing, self._options["output"], self.size)

    def _settings(
        self, explainer: Explainer, preprocessing: Preprocessing, chosen: list[str | int]
    ) -> dict[str, object]:
        """What has to be the same when a run is resumed."""
        output = self.options.get("output")
        more = {name: repr(value) for name, value in sorted(self.options.items()) if name not in _ALONE}
        slicing = self.slicing
        return {name: self.options.get(name, default) for name, default in _ALONE.items()} | {
            "output": None if output is None else str(output),
            "resize": self.how,
            "size": self.size,
            "save_relevance": self.save_relevance,
            "axis": slicing and slicing.axis,
            "slices": slicing and slicing.slices,
            "spacing": slicing and slicing.spacing,
            # None where they are not given: a run of an earlier version, which did not know them, can be resumed.
            "layers": list(self.layers) or None,
            "save_layers": self.save_layers or None,
            "options": more or None,
            "atlas": None if self.atlas is None else [*identity_of(self.atlas), self.atlas_layer, self.atlas_top],
            "composite": str(explainer.composite if isinstance(self._named, Written) else self._named),
            "model": identity_of(self.model),
            "preprocess": preprocessing.name,
            "target": chosen,
            "look": dataclasses.asdict(self.look),
        }


class Origin:
    """Where an explainer comes from: its recipe, and what model and file were when it was built.

    A pickle of the recipe stands for the explainer only as long as both are the same.
    """

    def __init__(self, recipe: Recipe, model: keras.Model) -> None:
        self.recipe, self.model = recipe, model
        self._file, self._weights = identity_of(recipe.model), _sample(model)

    def __reduce__(self) -> tuple:
        """Pickle the explainer as its recipe.

        Raises:
            pickle.PicklingError: the model was trained since, or its file replaced.
        """
        trained = _sample(self.model) != self._weights
        if trained or identity_of(self.recipe.model) != self._file:
            changed = "its weights" if trained else "its file"
            raise pickle.PicklingError(
                f"An Explainer of a recipe pickles as that recipe, {self.recipe!r}. Expected the model as it was "
                f'loaded. Received: {changed} changed since then. Remedy: model.save("other.keras") and a recipe of '
                "that, or Explainer(model, composite), whose pickle holds the weights"
            )
        return Recipe.explainer, (self.recipe,)


def _sample(model: keras.Model) -> list[bytes]:
    """Some weights of each variable. Training changes nearly all, and to read all of a large net takes a second."""
    flat = [tf.reshape(variable.value, [-1]) for variable in model.weights if variable.dtype != "string"]
    return [np.asarray(values[:: max(len(values) // _SAMPLE, 1)]).tobytes() for values in flat]


def identity_of(path: str | os.PathLike) -> list[str | int] | str:
    """What distinguishes the file of a model from others; its name alone, where there is no such file."""
    if not os.path.exists(path):
        return os.fspath(path)
    stat = os.stat(path)
    return [os.fspath(path), stat.st_size, stat.st_mtime_ns]


def _given(data: Any) -> dict[str, Any]:
    """The fields of a dataclass whose values are not the defaults."""
    found = {}
    for field in dataclasses.fields(data):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if (value := getattr(data, field.name)) != default:
            found[field.name] = value
    return found


def _recipe(given: Mapping[str, Any], look: Mapping[str, Any] | None) -> Recipe:
    return Recipe(**given, look=Look(**look or {}))
