"""25 composites of one net at once, against one explanation, and whether they are the same.

    python benchmarks/many.py --net vgg16 --batch 4 --grid lower-upper

The unit is one call of the Explainer of the same net under gamma everywhere, timed in turn with it, in CPU time, which
other processes disturb least.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import numpy as np
import timing

import lrp_tf
from lrp_tf import composites
from lrp_tf.engine.many import Many

GAMMAS = (0.0, 0.05, 0.1, 0.25, 1.0)
EPSILONS = (1e-6, 1e-3, 0.01, 0.1, 1.0)


def grid(kind: str, half: int) -> list[composites.Composite]:
    """25 composites: gamma below and above the middle, or gamma and the epsilon of Dense."""
    if kind == "lower-upper":
        text = "first convolution: flat; dense: epsilon; first {half}: gamma {a}; convolutions: gamma {b}; all: epsilon"
        pairs = itertools.product(GAMMAS, GAMMAS)
    else:
        text = "first convolution: flat; dense: epsilon {b}; convolutions: gamma {a}; all: epsilon {b}"
        pairs = itertools.product(GAMMAS, EPSILONS)
    return [composites.parse(text.format(half=half, a=a, b=b)) for a, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=models.MODELS, default="vgg16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--grid", choices=("lower-upper", "gamma-epsilon"), default="lower-upper")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    model = models.build(options.net)
    x = models.image(model, options.batch).numpy()
    linear = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)]
    ways = grid(options.grid, len(linear) // 2)
    target = np.zeros(options.batch, int)
    explainer = lrp_tf.Explainer(model, ways[-7])
    many = Many(model, ways)
    begin = time.perf_counter()
    explainer(x, target)
    alone = time.perf_counter() - begin
    begin = time.perf_counter()
    found = many(x, target)
    first = time.perf_counter() - begin
    picks = (0, 7, 13, 24)
    differ = []
    for pick in picks:
        own = np.asarray(lrp_tf.Explainer(model, ways[pick])(x, target))
        differ.append(float(np.abs(own - found[pick]).max() / np.abs(own).max()))
    del found
    times = timing.in_turn(
        lambda: explainer(x, target),
        lambda: many(x, target),
        options.runs,
        wait=lambda found: np.asarray(found[-1]),
        clock=time.process_time,
    )
    row = {"net": options.net, "batch": options.batch, "grid": options.grid, **timing.ratio(*times)}
    row |= {"first_call_s": first, "first_call_alone_s": alone, "differences": dict(zip(picks, differ, strict=True))}
    print(json.dumps({k: round(v, 9) if isinstance(v, float) else v for k, v in row.items()}))


if __name__ == "__main__":
    main()
