"""Image files of every kind come in upright RGB, or with a reason; relevance goes back into their geometry."""

import codecs
import io
import os
import sys

import numpy as np
import pytest
from helpers.broken import BROKEN, POSTSCRIPT, encoded
from PIL import EpsImagePlugin, Image

from lrp_tf.files import images
from lrp_tf.files.errors import ImageError
from lrp_tf.files.images import Fit


def corners(height=40, width=60):
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 255, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 255
    pixels[height // 2 :, width // 2 :] = 255, 255, 255
    return pixels


def is_upright(found, height=40, width=60, tolerance=60):
    assert found.dtype == np.uint8
    assert found.shape == (height, width, 3)
    inner = (slice(5, None, 30), slice(5, None, 45))
    np.testing.assert_allclose(found[inner].astype(int), corners(height, width)[inner].astype(int), atol=tolerance)


def written(tmp_path, name, image, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif", "a.JPEG"])
def test_formats(tmp_path, name):
    is_upright(images.read(written(tmp_path, name, Image.fromarray(corners()))))


def test_suffix_may_be_wrong(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded("PNG", corners()))
    is_upright(images.read(path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    stored = Image.fromarray(corners())
    if turn is not None:  # the inverse of what the viewer is asked to do
        inverse = {2: 4, 4: 2}.get(turn, turn)
        stored = stored.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    is_upright(images.read(written(tmp_path, "turned.jpg", stored, exif=exif, quality=95)))


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "L", "1", "LA", "HSV"])
def test_modes(tmp_path, mode):
    path = written(tmp_path, "a.tif" if mode in ("CMYK", "HSV", "LA") else "a.png", _converted(mode))
    found = images.read(path)
    if mode in ("L", "LA", "1"):
        assert (found[..., 0] == found[..., 1]).all()
        assert found.std() > 20
    else:
        is_upright(found)


def _converted(mode):
    image = Image.fromarray(corners())
    return image.convert("RGB").convert(mode) if mode != "HSV" else image


def test_transparency_lies_on_white(tmp_path):
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[:5] = 255, 0, 0, 255
    found = images.read(written(tmp_path, "a.png", Image.fromarray(pixels)))
    assert (found[:5] == (255, 0, 0)).all()
    assert (found[5:] == 255).all()


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(np.repeat([[0, 1]], 4, axis=0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 10, 10])
    found = images.read(written(tmp_path, "a.png", image, transparency=0))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == [200, 10, 10]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_keep_their_brightness(tmp_path, name):
    values = np.array([[0, 257 * 10, 257 * 200, 65535]], np.uint16)
    found = images.read(written(tmp_path, name, Image.fromarray(values)))
    assert found[0, :, 0].tolist() == [0, 10, 200, 255]


def test_floating_point_is_refused_with_a_remedy(tmp_path):
    path = written(tmp_path, "a.tif", Image.fromarray(np.ones((3, 3), np.float32)))
    with pytest.raises(ImageError, match="Remedy"):
        images.read(path)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert images.read(path)[0, 0].tolist() == [255, 0, 0] or images.read(path)[0, 0, 0] > 250


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_have_a_reason(tmp_path, name):
    content, word = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=word) as caught:
        images.read(tmp_path / name)
    assert "\n" not in str(caught.value)


# A document of few bytes for each of Pillow's readers that is no photograph's: it must not even be asked.
OTHERS = {
    "PPM": b"P6 2 2 255\n" + bytes(12),
    "XPM": b'/* XPM */\nstatic char *x[] = {"2 2 1 1", "a c #000000", "aa", "aa"};\n',
    "TGA": b"\0\0\2" + bytes(9) + b"\2\0\2\0\x18\0" + bytes(12),
    "EPS": POSTSCRIPT,
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + bytes([30, 0, 0, 0]) + bytes(22) + POSTSCRIPT,
    "PDF": b"%PDF-1.4\n%%EOF\n",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_only_formats_of_photographs_reach_their_decoder(tmp_path, monkeypatch, kind):
    """PostScript above all: Pillow would start Ghostscript, whatever the file is called."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("Ghostscript was called"))
    Image.init()
    (tmp_path / "photo.jpg").write_bytes(OTHERS[kind])
    with pytest.raises(ImageError, match=r"which is not read|not supported"):
        images.read(tmp_path / "photo.jpg")


def heif(pixels):
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=95)
    return file.getvalue()


def test_heic_needs_its_extra(tmp_path, monkeypatch):
    (tmp_path / "phone.heic").write_bytes(heif(corners(64, 96)))
    is_upright(images.read(tmp_path / "phone.heic"), 64, 96)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r'HEIC.*pip install "lrp_tf\[heif\]"'):
        images.read(tmp_path / "phone.heic")


@pytest.mark.parametrize(
    ("name", "head", "word"),
    [
        ("a.avif", b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF.*heif"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        ("a.jxl", b"\xff\x0a\0\0", "JPEG XL"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, monkeypatch, name, head, word):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / name).write_bytes(head + bytes(40))
    with pytest.raises(ImageError, match=word):
        images.read(tmp_path / name)
    assert [path for path, _ in images.find([tmp_path])] == [str(tmp_path / name)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_a_picture_whose_exif_is_damaged_is_read_as_it_lies(tmp_path, kind):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\1\3\0\1\0\0\0\6"  # 65535 entries, and an end within the first
    (tmp_path / "a").write_bytes(encoded(kind, corners(), **({"exif": exif} if kind != "TIFF" else {})))
    is_upright(images.read(tmp_path / "a"))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name, word in (
        ("nowhere.png", "no such file"),
        ("", "folder"),
        ("pipe.png", "regular"),
        ("dangling.png", "no such"),
    ):
        with pytest.raises(ImageError, match=word):
            images.read(tmp_path / name)


def test_the_limit_is_read_from_the_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    with pytest.raises(ImageError, match="60 x 40 pixels, the limit is 2399"):
        images.read(path, max_pixels=2399)
    assert images.read(path, max_pixels=2400).shape == (40, 60, 3)


def test_pillows_own_limit_does_not_count_and_stays_as_it_was(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.png").write_bytes(BROKEN["bomb.png"][0])
    with pytest.raises(ImageError, match=r"truncated|damaged|broken|unrecognized|not enough"):
        images.read(tmp_path / "bomb.png", max_pixels=10**9)
    assert limit == Image.MAX_IMAGE_PIXELS


# --- finding -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.bmp", "e[1].png", "e1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names, stdin=None):
    return [str(path) for path, _ in images.find(names, stdin)]


def test_folders_are_searched_in_a_stable_order(folder):
    expected = ["a.JPG", "b.png", "e1.png", "e[1].png", "sub/c.webp", "sub/deep/d.bmp"]
    assert [str(relative) for _, relative in images.find([folder])] == expected
    assert found(".") == expected


def test_patterns_files_and_lists(folder):
    assert found("*.png") == ["b.png", "e1.png", "e[1].png"]
    assert found("**/*.bmp") == ["sub/deep/d.bmp"]
    assert found("e[1].png") == ["e[1].png"]  # a file of that name goes before the pattern
    assert found("nowhere.png") == ["nowhere.png"]  # reading it says so
    (folder / "list.txt").write_text("b.png\n\nsub/c.webp\r\n", encoding="utf-8")
    assert found("@list.txt") == ["b.png", "sub/c.webp"]
    assert found("-", stdin=io.BytesIO(b"b.png\na.JPG")) == ["b.png", "a.JPG"]
    assert found("-", stdin=io.BytesIO(b"two\nlines.png\0b.png\0")) == ["two\nlines.png", "b.png"]
    assert found("-", stdin=io.BytesIO("ü\udcff.png".encode("utf-8", "surrogateescape"))) == ["ü\udcff.png"]


@pytest.mark.parametrize(
    ("name", "word"), [("*.xyz", "no file matches"), ("@none.txt", "cannot be read"), ("empty", "no image")]
)
def test_nothing_found_is_an_error(folder, name, word):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=word):
        found(name)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", codecs.BOM_UTF8 + b"\n", b"\0\0"])
def test_a_list_without_a_name_is_an_error(folder, content):
    (folder / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"list 'list.txt' names no image"):
        found("@list.txt")
    with pytest.raises(ValueError, match="standard input names no image"):
        found("-", stdin=io.BytesIO(content))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_may_have_a_byte_order_mark(folder, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (folder / "list.txt").write_bytes(mark + "b.png\r\nsub/ü.webp\r\n".encode(encoding))
    assert found("@list.txt") == ["b.png", "sub/ü.webp"]


def test_what_is_skipped_is_told(folder):
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "t.png").write_bytes(b"x")
    told = {}
    names = [os.path.relpath(path, folder) for path, _ in images.find([folder], skipped=told.__setitem__)]
    assert not any("t.png" in name for name in names)
    assert told == {str(folder / ".thumbnails"): "a hidden folder", str(folder / ".hidden.png"): "a hidden file"}
    told.clear()
    assert len(list(images.find(["*"], skipped=told.__setitem__))) == 5
    assert list(told) == ["sub"]
    assert found(folder / ".thumbnails") == [str(folder / ".thumbnails" / "t.png")]  # named, it is searched


def test_a_folder_that_cannot_be_read_is_a_failure(folder, monkeypatch):
    """By a stand-in: permissions do not bind every user that runs tests."""
    locked = str(folder / "sub" / "deep")
    for name in ("scandir", "listdir"):
        real = getattr(os, name)

        def refuse(path=".", real=real):
            if os.fspath(path) == locked:
                raise PermissionError(13, "Permission denied", locked)
            return real(path)

        monkeypatch.setattr(os, name, refuse)
    names = [relative for _, relative in images.find([folder])]
    assert names == ["a.JPG", "b.png", "e1.png", "e[1].png", "sub/c.webp", "sub/deep"]
    with pytest.raises(ImageError, match="Permission denied"):
        images.read(locked)


# --- geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (1, 1), (1, 500), (7, 3), (8, 8), (9, 200)])
@pytest.mark.parametrize("how", images.FITS)
def test_relevance_returns_to_where_it_came_from(size, how):
    """A bright spot of the picture is a spot of the input, and relevance there falls on the spot again."""
    fit = Fit(8, 10, how)
    image = np.zeros((*size, 3), np.uint8)
    middle = (slice(size[0] * 2 // 5, size[0] * 3 // 5 + 1), slice(size[1] * 2 // 5, size[1] * 3 // 5 + 1))
    image[middle] = 255
    small = fit.apply(image)
    assert small.shape == (8, 10, 3)
    assert small.max() > 0
    relevance = fit.restore(small[..., 0].astype(np.float32), size)
    assert relevance.shape == size
    peak = np.unravel_index(np.argmax(relevance), size)
    assert image[peak].max() == 255 or max(size) > 100


def test_how_the_proportions_go():
    wide = corners(20, 40)
    assert Fit(20, 20, "squash").apply(wide)[0, 0].tolist() == [255, 0, 0]
    cropped = Fit(20, 20, "crop").apply(wide)
    np.testing.assert_array_equal(cropped, wide[:, 10:30])
    padded = Fit(20, 20, "pad").apply(wide)
    assert (padded[:5] == 0).all()
    assert (padded[-5:] == 0).all()
    assert padded[5, 0].tolist() == [255, 0, 0]
    restored = Fit(20, 20, "crop").restore(np.ones((20, 20)), (20, 40))
    assert (restored[:, 10:30] == 1).all()
    assert restored.sum() == 400  # what the model did not see has no relevance
    with pytest.raises(ValueError, match="squash, crop, pad"):
        Fit(20, 20, "stretch")
