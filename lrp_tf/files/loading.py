"""Models, class names and preprocessing, from files or by name."""

from __future__ import annotations

import dataclasses
import difflib
import fractions
import functools
import importlib
import json
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
from numpy.typing import ArrayLike

from lrp_tf.files import keras2
from lrp_tf.files.downloads import CLASS_INDEX, IMAGENET, time_limit
from lrp_tf.files.errors import LoadError

_AGAIN = "Remedy: save, download or copy it again"
_REMEDIES = ("unsafe", "import")  # the options that the remedies in `_why` name

# --- models ------------------------------------------------------------------------------------


def load_model(path: str | os.PathLike, *, unsafe: bool = False) -> keras.Model:
    """A saved model, `.keras` or legacy `.h5`, without its optimiser.

        model = loading.load_model("model.keras")

    Args:
        unsafe: run Python code that the file carries (Lambda layers). Only for files that you trust.

    Raises:
        LoadError: no such file, no model, a damaged file, Python code in it, custom layers that are not registered.
    """
    path = _file(path, "model")
    if path.name.endswith(".weights.h5") or (_is_hdf5(path) and "model_config" not in _attributes(path)):
        raise LoadError(f"{path}: holds weights, not a model. Expected a file of model.save(...), .keras or .h5")
    try:
        if _is_hdf5(path) and keras2.is_keras2(path):
            return keras2.load(path, unsafe=unsafe)
        return keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    except LoadError as error:
        raise LoadError(f"{path}: {error}", error.options) from error
    except Exception as error:  # a damaged file surfaces as almost any type
        raise LoadError(f"{path}: {_why(error)}", _REMEDIES) from error


def load_weights(model: keras.Model, path: str | os.PathLike, *, unsafe: bool = False) -> keras.Model:
    """`model` with the weights of a file: `.weights.h5`, `.h5` of either kind, or the model in a `.keras` file.

    Raises:
        LoadError: no such file, weights of another architecture, a model with other inputs or outputs.
    """
    path = _file(path, "weights")
    if holds_model(path):
        loaded = load_model(path, unsafe=unsafe)
        for what in ("input_shape", "output_shape"):
            if getattr(loaded, what, None) != getattr(model, what):
                raise LoadError(
                    f"{path}: expected a model of {what.replace('_', ' ')} {getattr(model, what)}. "
                    f"Received: {getattr(loaded, what, None)}"
                )
        return loaded
    try:
        with warnings.catch_warnings():
            # Keras tells of weights that it could not set in a warning, and sets the others.
            warnings.filterwarnings("error", message=".*could not be loaded")
            with h5py.File(path, "r") as file:
                if keras2.is_layered(file):
                    keras2.set_weights(model, file)
                    return model
            model.load_weights(path)
    except LoadError as error:
        raise LoadError(f"{path}: no weights of {model.name}: {error}", error.options) from error
    except Exception as error:
        raise LoadError(f"{path}: no weights of {model.name}: {_why(error)}", _REMEDIES) from error
    return model


def holds_model(path: str | os.PathLike) -> bool:
    """Whether a file holds a whole model, not its weights alone.

    Raises:
        LoadError: no such file, or a damaged one.
    """
    path = _file(path, "weights")
    return path.suffix == ".keras" or (_is_hdf5(path) and "model_config" in _attributes(path))


def _file(path: str | os.PathLike, what: str) -> Path:
    """The path of a file that can be read and whose content fits its suffix.

    Raises:
        LoadError: no such file, not readable, empty, damaged, in another format than its suffix says.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise LoadError(f"{path}: {found}. Expected a {what} file, .keras or .h5")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise LoadError(f"{path}: the file is empty. Remedy: save or copy it again")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        if h5py.is_hdf5(path):
            raise LoadError(f"{path}: is an HDF5 file. Remedy: rename it to {path.with_suffix('.h5').name}")
        raise LoadError(
            f"{path}: the file is damaged or cut off: a .keras file is a zip archive, and this is not a complete one. "
            f"It begins with {head!r}. {_AGAIN}"
        )
    if path.suffix in (".h5", ".hdf5") and not h5py.is_hdf5(path):
        if zipfile.is_zipfile(path):
            raise LoadError(f"{path}: is a zip archive. Remedy: rename it to {path.with_suffix('.keras').name}")
        raise LoadError(f"{path}: the file is damaged, or no HDF5 file: it begins with {head!r}. {_AGAIN}")
    return path


def _is_hdf5(path: Path) -> bool:
    return path.suffix in (".h5", ".hdf5") and h5py.is_hdf5(path)


def _attributes(path: Path) -> set[str]:
    try:
        with h5py.File(path, "r") as file:
            return set(file.attrs)
    except Exception as error:  # a damaged file surfaces as almost any type
        raise LoadError(f"{path}: {_why(error)}", _REMEDIES) from error


def _why(error: Exception) -> str:
    """The cause of an error of Keras, whose messages begin with whole configurations and arrays of weights."""
    whole = " ".join(str(error).split()) or type(error).__name__
    text = whole.rpartition("Exception encountered:")[2].strip() or whole
    if "Lambda" in text or "safe_mode" in text or "unsafe" in text:
        return f"it carries Python code, which is not run. Remedy: `unsafe`, if you trust the file ({text[:160]})"
    if "Could not locate" in text or "register_keras_serializable" in text:
        return f"{text[:300]} Remedy: `import` the Python module that defines and registers it"
    text = text if len(text) <= 500 else f"{text[:300]} … {text[-200:]}"
    if _is_damage(error, text):
        return f"the file is damaged: {text}. {_AGAIN}"
    return text


def _is_damage(error: Exception, text: str) -> bool:
    """Whether Keras failed because the file is damaged, not because it holds another model."""
    if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError, json.JSONDecodeError, UnicodeDecodeError)):
        return True
    lacking = "no item named" in text or "Expected a model.weights" in text  # the archive of a .keras file
    return lacking or (isinstance(error, (OSError, KeyError, RuntimeError)) and text.startswith("Unable to"))


def vgg(name: str, weights: str, *, unsafe: bool = False) -> keras.Model:
    """VGG16 or VGG19 with the weights of ImageNet or of a file.

    Args:
        name: "vgg16" or "vgg19".
        weights: "imagenet" or a file, see `load_weights`.

    Raises:
        LoadError: the weights cannot be downloaded; the message says which file to put where.
    """
    build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[name]
    if weights != "imagenet":
        return load_weights(build(weights=None), weights, unsafe=unsafe)
    download = IMAGENET[name]
    try:
        download.check()
        with time_limit():
            return build(weights="imagenet")
    except Exception as error:  # a broken download surfaces as almost any type
        raise LoadError(
            f"The ImageNet weights of {name} cannot be downloaded: {_why(error)}. Remedy: fetch {download.url} on a "
            f"machine that is online and put it at {download.cached}, or pass a file (.keras, .h5, .weights.h5) as "
            "`weights`.",
            ("weights", *_REMEDIES),
        ) from error


# --- class names -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Classes:
    """Names of the classes, by index; `others` are second names (WordNet ids)."""

    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """The name of a class, or its number if it has none."""
        return self.names[index] if index < len(self.names) else str(index)

    def check(self, count: int | None) -> None:
        """Compare the number of names with that of the classes.

        Raises:
            LoadError: there are names, but not `count`, so that they belong to another model.
        """
        if self.names and count is not None and len(self.names) != count:
            raise LoadError(
                f"class names: expected {count}, one for each class of the model. Received: {len(self.names)}. "
                "Remedy: the names that the model was trained with, in the order of its outputs"
            )

    def index(self, text: str, count: int) -> int:
        """The class that `text` means: a number below `count`, or a name in any case, with "_" or " ".

        Raises:
            LoadError: out of range, unknown, or the name of several classes.
        """
        if text.lstrip("-").isdigit():
            if not 0 <= int(text) < count:
                raise LoadError(f"class {text} is out of range. Expected 0 to {count - 1}")
            return int(text)
        plain = [_plain(name) for name in self.names]
        found = [i for i, name in enumerate(plain) if name == _plain(text)]
        found = found or [i for i, other in enumerate(self.others) if other == text]
        if len(found) == 1:
            return found[0]
        if found:
            raise LoadError(f"class {text!r} is the name of several: {found}. Remedy: give the number")
        if not self.names:
            raise LoadError(
                f"class {text!r}: the names of the classes are not known. Remedy: `classes`, or a number", "classes"
            )
        close = difflib.get_close_matches(_plain(text), plain, 3, 0.5)
        hint = f" Similar names: {', '.join(self.names[plain.index(c)] for c in close)}" if close else ""
        raise LoadError(
            f"class {text!r}: no class has this name. Expected a name, a number below {count}, top1 or topK:3.{hint}"
        )


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").casefold().strip()


def load_classes(path: str | os.PathLike) -> Classes:
    """Class names from a file: ImageNet's index `{"0": ["n01440764", "tench"], ...}`, `{"0": "tench", ...}`,
    `{"tench": 0, ...}`, a JSON list, or text with one name per line.

        classes = loading.load_classes("classes.txt")

    Raises:
        LoadError: no such file, no name in it, another layout, or gaps in the numbers.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"class names {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        content = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith(("{", "[")):
            raise LoadError(f"class names {path}: damaged JSON: {error}") from error
        content = text.rstrip().splitlines()
    if isinstance(content, (list, dict)) and not content:
        raise LoadError(f"class names {path}: the file holds no name. Expected one for each class of the model")
    try:
        return _classes(content)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise LoadError(
            f'class names {path}: expected {{"0": ["n01440764", "tench"], ...}}, {{"0": "tench"}}, {{"tench": 0}}, a '
            f"JSON list or one name per line, numbered from 0 without gaps. Received: {type(error).__name__}: {error}"
        ) from error


def _classes(content: object) -> Classes:
    """The names in the content of a file, see `load_classes`; other layouts raise almost any type."""
    if isinstance(content, list):
        return Classes(tuple(map(str, content)))
    if not isinstance(content, dict):
        raise TypeError(f"{content!r} is neither a list nor an object")
    if all(isinstance(value, int) for value in content.values()):
        content = {str(index): name for name, index in content.items()}
    entries = [content[str(i)] for i in range(len(content))]
    if all(isinstance(entry, str) for entry in entries):
        return Classes(tuple(entries))
    return Classes(tuple(str(entry[1]) for entry in entries), tuple(str(entry[0]) for entry in entries))


def imagenet_classes() -> Classes:
    """ImageNet's class names from Keras' index file, downloaded if necessary; no names if that fails."""
    try:
        return load_classes(CLASS_INDEX.fetch())
    except Exception:  # the caller shows numbers and says so
        return Classes()


# --- preprocessing -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What pixels 0..255 go through before the model.

    Attributes:
        name: as `get_preprocessing` takes it.
        function: float32 [B, H, W, C] pixels 0..255 -> the model's input [B, H, W, C].
    """

    name: str
    function: Callable[[np.ndarray], ArrayLike]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, C] -> float32 of the same shape.

        Raises:
            LoadError: the function fails, or changes the shape.
        """
        try:
            # A copy: Keras' own functions change their argument.
            found = np.asarray(self.function(np.array(pixels, dtype=np.float32)), dtype=np.float32)
        except Exception as error:
            raise LoadError(f"preprocessing {self.name}: {type(error).__name__}: {error}") from error
        if found.shape != pixels.shape:
            raise LoadError(f"preprocessing {self.name}: expected shape {pixels.shape}. Received: {found.shape}")
        return found

    def bounds(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and highest value of each channel, [C] each: what pixels of 0 and 255 become."""
        ends = [self(np.full((1, 1, 1, channels), value, np.uint8))[0, 0, 0] for value in (0, 255)]
        return np.minimum(*ends), np.maximum(*ends)


def applications() -> list[str]:
    """The modules of keras.applications with a `preprocess_input`."""
    modules = [
        name for name in dir(keras.applications) if hasattr(getattr(keras.applications, name), "preprocess_input")
    ]
    return sorted(name for name in modules if name != "imagenet_utils")


def get_preprocessing(text: str) -> Preprocessing:
    """NAME of an architecture of keras.applications, `scale:1/255`, `none`, or `module:function`.

        preprocessing = loading.get_preprocessing("mobilenet")

    Raises:
        LoadError: none of these; the message lists the choices.
    """
    if text == "none":
        return Preprocessing(text, np.asarray)
    if text in applications():
        return Preprocessing(text, getattr(keras.applications, text).preprocess_input)
    if text.startswith("scale:"):
        factor = _factor(text)
        return Preprocessing(text, functools.partial(np.multiply, factor))
    module, colon, name = text.partition(":")
    if colon:
        try:
            if "" not in sys.path:
                sys.path.insert(0, "")  # a console script does not search the current folder
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise LoadError(f"`preprocess` {text}: {error}", "preprocess") from error
        return Preprocessing(text, function)
    raise LoadError(f"`preprocess` {text}: unknown. {choices()}", "preprocess")


def _factor(text: str) -> np.float32:
    """The number in `scale:1/255`, `scale:1/127.5` or `scale:0.5`."""
    parts = text.removeprefix("scale:").split("/")
    try:
        above, below = parts if len(parts) == 2 else ("/".join(parts), "1")
        exact = fractions.Fraction(above) / fractions.Fraction(below)
        with np.errstate(over="ignore", under="ignore"):
            factor = np.float32(float(exact))
    except (ValueError, ArithmeticError) as error:
        raise LoadError(
            f"`preprocess` {text}: expected a number, as in scale:1/255. Received: {error}", "preprocess"
        ) from error
    if not np.isfinite(factor) or factor == 0:
        raise LoadError(
            f"`preprocess` {text}: expected a factor that is finite and not 0, as in scale:1/255: others make every "
            f"picture the same. Received: {factor}",
            "preprocess",
        )
    return factor


def choices() -> str:
    """The names that `get_preprocessing` takes, in a sentence."""
    return (
        f"Expected one of: {', '.join(applications())} (as keras.applications trained them); scale:1/255, or another "
        "factor; none (pixels 0 to 255 as they are); module:function, your own, pixels 0 to 255 [B, H, W, C] -> the "
        "same shape"
    )
