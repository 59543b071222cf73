"""Pictures decoded, fitted and drawn in the graph, against the same on files and arrays."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from helpers.pictures import photo
from helpers.served import png
from PIL import Image

from lrp_tf import heatmap
from lrp_tf.files import images
from lrp_tf.heatmap.look import Look
from lrp_tf.serving import tensor_images

decode = tf.function(
    lambda data: tensor_images.decode(data, 10_000), input_signature=[tf.TensorSpec(None, tf.string)], autograph=False
)


def both(data, tmp_path):
    (tmp_path / "picture").write_bytes(data)
    return decode(data).numpy(), images.read(tmp_path / "picture")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_png_of_every_mode(mode, tmp_path):
    pixels = photo(0, 40, 60)
    image = Image.fromarray(pixels)
    if "A" in mode:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(np.ascontiguousarray(pixels[..., 0])))
    else:
        image = image.convert(mode)
    image.save(tmp_path / "picture.png")
    found, wanted = both((tmp_path / "picture.png").read_bytes(), tmp_path)
    np.testing.assert_array_equal(found, wanted)


def test_sixteen_bits_differ_by_one(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (40, 60)).astype(np.uint16)
    found, wanted = both(png(values), tmp_path)
    assert np.abs(found.astype(int) - wanted).max() == 1


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_stands_upright(orientation, big, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", orientation
    exif.endian = ">" if big else "<"
    found, wanted = both(png(photo(0, 40, 60), "JPEG", exif=exif.tobytes()), tmp_path)
    np.testing.assert_array_equal(found, wanted)


def test_a_damaged_exif_turns_a_picture_alike(tmp_path):
    """Every byte of the segment altered, and the segment cut at every length: command and exported model agree."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    whole = png(photo(0, 8, 16), "JPEG", exif=exif.tobytes())
    start = whole.index(b"Exif")
    length = int.from_bytes(whole[start - 2 : start], "big") - 2
    rng = np.random.default_rng(0)
    files = []
    for place in range(start, start + length):
        changed = bytearray(whole)
        changed[place] = rng.integers(256)
        files.append(bytes(changed))
    for kept in range(length):
        size = (kept + 2).to_bytes(2, "big")
        files.append(whole[: start - 2] + size + whole[start : start + kept] + whole[start + length :])
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    files.append(png(photo(0, 8, 16), "JPEG")[:2] + segment + png(photo(0, 8, 16), "JPEG")[2:])
    turned = 0
    for data in files:
        found, wanted = both(data, tmp_path)
        np.testing.assert_array_equal(found, wanted)
        turned += found.shape == (16, 8, 3)
    assert 0 < turned < len(files)


@pytest.mark.parametrize("cut", [2, 3, 11, 20, 30, 100])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_files_are_errors(kind, cut):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(png(photo(0, 40, 60), kind)[:cut])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_limit_of_pixels(kind):
    assert decode(png(photo(0, 100, 100), kind)).shape == (100, 100, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 10000 pixels"):
        decode(png(photo(0, 100, 101), kind))


@pytest.mark.parametrize("how", images.FITS)
@pytest.mark.parametrize("size", [(256, 256), (96, 64), (100, 61), (20, 100), (33, 32), (500, 7)])
def test_fit_is_that_of_files_up_to_one_level(how, size):
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), (3, 3), 1)
    found = tensor_images.fit(tf.constant(pixels), images.Fit(48, 32, how)).numpy()
    wanted = images.Fit(48, 32, how).apply(pixels)
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.2


def test_grey_is_that_of_opencv():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    np.testing.assert_array_equal(tensor_images.grey(pixels)[..., 0], cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize(
    "look", [{}, {"gamma": 0.5}, {"reduce": "absmax"}, {"reduce": "mean", "cmap": "lrp"}, {"scale": 0.5}]
)
def test_pixels_are_those_of_heatmaps(look):
    relevance = np.random.default_rng(0).normal(size=(50, 40, 3)).astype("float32")
    paint = tensor_images.Painter(Look(**look))
    np.testing.assert_array_equal(paint(tf.constant(relevance)), heatmap.to_rgb(relevance, **look))
    np.testing.assert_array_equal(paint(tf.zeros([4, 4, 3])), heatmap.to_rgb(np.zeros((4, 4, 3)), **look))


WRONG = [{"gamma": 0}, {"scale": -1.0}, {"scale": "99%"}, {"reduce": "median"}, {"cmap": "nonsense"}]
WRONG += [{"show": "abs"}, {"smooth": 1.0}, {"smooth": "auto"}]


@pytest.mark.parametrize("wrong", WRONG)
def test_looks_that_do_not_exist(wrong):
    with pytest.raises(ValueError, match="Expected"):
        tensor_images.Painter(Look(**wrong))
