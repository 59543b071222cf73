"""Files that are no pictures, in the ways that files are broken; name -> content, and a word of the reason."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image


def encoded(format, pixels=None, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8) if pixels is None else pixels
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=format, **options)
    return file.getvalue()


def png(width, height, body=b""):
    """A PNG with that header; with an empty body a bomb of a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a.txt", "hello")
    return file.getvalue()


def with_a_flaw():
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 20
%%EndComments
0 0 20 20 rectfill
showpage
%%EOF
"""
BROKEN = {
    "empty.jpg": (b"", "empty"),
    "truncated.jpg": (encoded("JPEG")[:-700], "truncated"),
    "header.jpg": (encoded("JPEG")[:20], "."),
    "text.jpg": (b"this is no picture", "not an image"),
    "script.jpg": (POSTSCRIPT, "PostScript, which is not read"),
    "page.png": (b"<html><body>404 not found</body></html>", "not an image"),
    "archive.png": (archive(), "not an image"),
    "flawed.png": (with_a_flaw(), "."),
    "bomb.png": (png(30_000, 30_000), "too large: 30000 x 30000"),
    "truncated.png": (encoded("PNG")[:300], "."),
    "truncated.webp": (encoded("WEBP")[:200], "."),
    "truncated.tif": (encoded("TIFF")[:100], "."),
    "zeros.gif": (b"GIF89a" + bytes(100), "."),
}
