"""Models, class names and preprocessing from files: what is wrong with one is said, with its cause."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest
from helpers.pictures import photos
from keras import layers as kl

import lrp_tf
from lrp_tf.files import loading
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import run

# --- class names -------------------------------------------------------------------------------


def wrong_numbers(count):
    return [count - 1, count + 1, 2 * count, 3]


@pytest.mark.parametrize("kind", ["text", "list", "index"])
@pytest.mark.parametrize("number", wrong_numbers(7))
@pytest.mark.parametrize("command", ["explain", "report", "export"])
def test_another_number_of_names_than_of_classes_is_an_error(lrp, saved, tmp_path, command, number, kind):
    names = [f"class {i}" for i in range(number)]
    contents = {
        "text": "\n".join(names),
        "list": json.dumps(names),
        "index": json.dumps({str(i): [f"n{i}", name] for i, name in enumerate(names)}),
    }
    (tmp_path / "names").write_text(contents[kind], encoding="utf-8")
    photos(tmp_path / "in", 1)
    what = {"explain": "in", "report": "in/photo0.png", "export": "served/1"}[command]
    code, _, err = lrp(command, saved, what, "--preprocess", "none", "--classes", "names")
    assert code == 2
    assert f"expected 7, one for each class of the model. Received: {number}" in err
    assert not (tmp_path / "served").exists() or not list((tmp_path / "served").iterdir())
    assert not (tmp_path / "results" / "results.csv").exists()


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "{}"])
def test_a_file_without_names_is_an_error(tmp_path, content):
    (tmp_path / "names").write_text(content, encoding="utf-8")
    with pytest.raises(LoadError, match="holds no name"):
        loading.load_classes(tmp_path / "names")


@pytest.mark.parametrize("content", ["5", '{"0": null}', '{"0": 1.5}', '{"1": "dog"}', '{"0": []}', '{"0": {}}'])
def test_another_layout_of_names_is_an_error(tmp_path, content):
    (tmp_path / "names").write_text(content, encoding="utf-8")
    with pytest.raises(LoadError, match="numbered from 0 without gaps"):
        loading.load_classes(tmp_path / "names")


def test_from_python_the_number_of_names_is_checked_too(saved, tmp_path):
    explainer = lrp_tf.Explainer(keras.models.load_model(saved))
    classes = loading.Classes(("a", "b", "c"))
    with pytest.raises(LoadError, match="expected 7"):
        run.Gallery(explainer, loading.get_preprocessing("none"), tmp_path / "out", classes).run([])
    with pytest.raises(LoadError, match="expected 7"):
        lrp_tf.export(explainer, tmp_path / "1", classes=classes.names, warmup=False)


def test_a_single_unit_has_two_names():
    inputs = keras.Input((4, 4, 3))
    explainer = lrp_tf.Explainer(keras.Model(inputs, kl.Dense(1, activation="sigmoid")(kl.Flatten()(inputs))))
    count = lrp_tf.engine.targets.class_count(explainer.graph)
    loading.Classes(("no", "yes")).check(count)
    with pytest.raises(LoadError, match="expected 2"):
        loading.Classes(("yes",)).check(count)


@pytest.mark.parametrize("content", ["dog\ncat\n", "dog\ncat\n\n", '["dog", "cat"]'])
def test_names_may_begin_with_a_byte_order_mark(tmp_path, content):
    (tmp_path / "names").write_text(content, encoding="utf-8-sig")
    assert loading.load_classes(tmp_path / "names").names == ("dog", "cat")


# --- models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """The bytes of a saved model."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Sequential([keras.Input((8,)), *[kl.Dense(9) for _ in range(9)], kl.Dense(3)]).save(path)
    return path.read_bytes()


def repacked(content, change):
    """A .keras file with `change(name, bytes)` for each of its parts; None leaves one out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            part = change(name, old.read(name))
            if part is not None:
                new.writestr(name, part)
    return file.getvalue()


def with_a_flaw(content):
    changed = bytearray(content)
    changed[content.index(b"model.weights.h5") + 600] ^= 0xFF
    return bytes(changed)


DAMAGED = {
    "text": lambda content: b"this is no model",
    "half": lambda content: content[: len(content) // 2],
    "end cut off": lambda content: content[:-30],
    "zeros": lambda content: bytes(2000),
    "a bit": with_a_flaw,
    "no configuration": lambda content: repacked(content, lambda n, part: None if n == "config.json" else part),
    "half a configuration": lambda content: repacked(content, lambda n, part: part[:100] if "config" in n else part),
    "no weights": lambda content: repacked(content, lambda n, part: None if "weights" in n else part),
    "half the weights": lambda content: repacked(content, lambda n, part: part[:900] if "weights" in n else part),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_model_is_called_damaged(model_file, tmp_path, damage):
    path = tmp_path / "model.keras"
    path.write_bytes(DAMAGED[damage](model_file))
    with pytest.raises(LoadError, match=r"model\.keras: the file is damaged") as caught:
        loading.load_model(path)
    assert "not found" not in str(caught.value)
    assert "Remedy" in str(caught.value)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_damaged_hdf5_and_files_of_another_kind(model_file, tmp_path):
    keras.models.load_model(_written(tmp_path / "model.keras", model_file)).save(tmp_path / "model.h5")
    whole = (tmp_path / "model.h5").read_bytes()
    for name, content, word in (
        ("cut.h5", whole[: len(whole) // 2], "the file is damaged"),
        ("text.h5", b"text", "the file is damaged, or no HDF5"),
        ("text.weights.h5", b"text", "the file is damaged, or no HDF5"),
        ("empty.keras", b"", "the file is empty"),
        ("other.keras", whole, r"is an HDF5 file\. Remedy: rename it to other\.h5"),
        ("other.h5", model_file, r"is a zip archive\. Remedy: rename it to other\.keras"),
    ):
        with pytest.raises(LoadError, match=word):
            loading.load_model(_written(tmp_path / name, content))
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(LoadError, match="is a folder"):
        loading.load_model(tmp_path / "folder.keras")


def test_the_cause_is_shown_however_long_the_error(model_file, tmp_path):
    """Keras writes the cause behind the whole configuration, or the shapes before all weights."""
    misspelt = repacked(
        model_file, lambda n, part: part.replace(b'"units": 3', b'"unats": 3') if "config" in n else part
    )
    with pytest.raises(LoadError, match=r"model\.keras: .*missing 1 required positional argument: 'units'") as caught:
        loading.load_model(_written(tmp_path / "model.keras", misspelt))
    assert len(str(caught.value)) < 700
    wider = repacked(model_file, lambda n, part: part.replace(b'"units": 3', b'"units": 4') if "config" in n else part)
    with pytest.raises(LoadError, match=r"variable\.shape=\(9, 4\), Received: value\.shape=\(9, 3\)"):
        loading.load_model(_written(tmp_path / "model.keras", wider))


def _written(path, content):
    path.write_bytes(content)
    return path


# --- preprocessing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "factor"),
    [("1/255", 1 / 255), ("1/127.5", 1 / 127.5), ("0.5/127.5", 1 / 255), ("0.25", 0.25), ("2", 2), ("1e-2", 0.01)],
)
def test_scale_takes_fractions_of_decimals(text, factor):
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    found = loading.get_preprocessing(f"scale:{text}")(pixels)
    np.testing.assert_array_equal(found, pixels.astype(np.float32) * np.float32(factor))


@pytest.mark.parametrize(
    "text", ["0", "0/255", "0.0", "1/0", "1/0.0", "inf", "nan", "1e400", "1e39", "1e-60", "1/2/3", ""]
)
def test_scale_refuses_what_is_no_factor(text):
    with pytest.raises(LoadError, match=r"scale:.*as in scale:1/255"):
        loading.get_preprocessing(f"scale:{text}")
