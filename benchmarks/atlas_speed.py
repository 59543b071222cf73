"""How long an atlas of a photograph takes in a gallery: crops of channels kept from one to the next, or made anew.

    python benchmarks/atlas_speed.py --count 40

A small convolutional net with random weights over random pictures; both ways by turns, the best of three.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from keras import layers as kl

import lrp_tf
from lrp_tf.concepts import Atlases, ImageFiles, build_reference
from lrp_tf.concepts.kept import BYTES, Kept
from lrp_tf.files import images, loading
from lrp_tf.heatmap import save

SIDE, CHANNELS = 96, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="photographs; default: %(default)s")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    stack = [kl.Conv2D(16, 3, activation="relu"), kl.Conv2D(CHANNELS, 3, strides=2, activation="relu", name="last")]
    net = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *stack, kl.GlobalAveragePooling2D(), kl.Dense(10)])
    explainer, preprocessing = lrp_tf.Explainer(net, "epsilon_plus"), loading.get_preprocessing("scale:1/255")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for i in range(options.count):
            save(folder / f"{i}.png", rng.normal(size=(SIDE, SIDE)))
        files = ImageFiles(explainer, list(images.find([str(folder)])), preprocessing)
        reference = build_reference(explainer, files, "last", path=folder / "reference.h5", target=None)
        taken = [(limit, milliseconds(explainer, reference, files, limit)) for _ in range(3) for limit in (BYTES, 0)]
        best = {limit: min(ms for way, ms in taken if way == limit) for limit in (BYTES, 0)}
    print(f"{options.count} photographs, ms for an atlas: kept {best[BYTES]:.0f}, made anew {best[0]:.0f}")


def milliseconds(
    explainer: lrp_tf.Explainer, reference: lrp_tf.concepts.Reference, files: ImageFiles, limit: int
) -> float:
    """Milliseconds for an atlas, in the middle of all photographs."""
    atlases = Atlases(reference, files)
    object.__setattr__(atlases, "_kept", Kept(limit))
    begun = time.perf_counter()
    for i in range(len(files.files)):
        sample, path = files.sample(i), reference.path.with_name("atlas.png")
        target = int(explainer.model(sample.x[None]).numpy().argmax())
        atlases.draw(explainer, sample.x, sample.picture, target, path, contrast=None, names=None, dpi=100)
    return 1000 * (time.perf_counter() - begun) / len(files.files)


if __name__ == "__main__":
    main()
