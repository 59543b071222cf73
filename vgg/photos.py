"""Writes the photographs that scikit-image and scikit-learn ship into vgg/photos: no download needed."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

OUT = Path(__file__).resolve().parent / "photos"


def main() -> None:
    try:
        from skimage import data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        sys.exit(f"{error}. Remedy: pip install 'lrp_tf[photos]'")
    OUT.mkdir(exist_ok=True)
    photos = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    photos |= {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    for name, pixels in photos.items():
        Image.fromarray(pixels).save(OUT / f"{name}.png")
    print(f"{len(photos)} photographs in {OUT}")


if __name__ == "__main__":
    main()
