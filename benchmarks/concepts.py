"""What k concepts cost, in units of one explanation of the same net, timed in turn with it in CPU time.

    python benchmarks/concepts.py --net vgg16 --layer block5_conv3
    python benchmarks/concepts.py --net mobilenet --layer conv_pw_13_relu --concepts 1 8 32
    python benchmarks/concepts.py --net vgg16 --layer block5_conv3 --targets     # k targets of one image beside them

`--stream` times `channel_relevance`, which ends at the layer.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import models
import numpy as np
import timing

import lrp_tf


def row_of(explainer: lrp_tf.Explainer, x: np.ndarray, what: str, other: Callable[[], Any], runs: int) -> dict:
    """The median ratio of two functions that are called in turn."""
    target = np.zeros(len(x), int)
    begin = time.perf_counter()
    other()
    first = time.perf_counter() - begin
    times = timing.in_turn(lambda: explainer(x, target), other, runs, clock=time.process_time)
    return {"what": what, **timing.ratio(*times), "first_call_s": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=models.MODELS, default="vgg16")
    parser.add_argument("--layer", default="block5_conv3")
    parser.add_argument("--composite", default="epsilon_plus_flat")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--concepts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--targets", action="store_true", help="as many targets of each image, too")
    parser.add_argument("--stream", action="store_true", help="channel_relevance, too")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    model = models.build(options.net)
    x = models.image(model, options.batch).numpy()
    explainer = lrp_tf.Explainer(model, options.composite)
    target = np.zeros(len(x), int)
    explainer(x, target)
    about = {"net": options.net, "layer": options.layer, "composite": options.composite, "batch": options.batch}
    ways: list[tuple[str, Callable[[], Any]]] = []
    for k in options.concepts:
        channels = list(range(k))
        ways.append(
            (
                f"{k} concepts",
                lambda channels=channels: explainer.concepts(x, target, layer=options.layer, channels=channels).maps,
            )
        )
        if options.targets:
            several = np.tile(channels, [len(x), 1])
            ways.append((f"{k} targets", lambda several=several: explainer(x, several)))
    if options.stream:
        layers = [options.layer]
        ways.append(
            ("relevance of the layer", lambda: explainer.channel_relevance(x, target, layers=layers)[layers[0]])
        )
    for what, way in ways:
        row = about | row_of(explainer, x, what, way, options.runs)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
