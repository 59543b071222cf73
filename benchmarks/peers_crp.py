"""Concepts against zennit with relevance masked at a layer, on the same weights and images, in float64.

    python benchmarks/peers_crp.py      # needs: pip install torch==2.13.0 zennit

Maps of the k largest channels, of a single position, and under a condition at a second layer. zennit masks what arrives
at the output of a layer and lets pass what goes by on other branches, as `Concepts.maps` and `passed_by` together do.
torch runs in a process of its own (peers_crp_torch.py). Ends with an error if a map differs by more than 5e-6 of its
maximum.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import folding
import keras
import models
import numpy as np
import peers
import tensorflow as tf
import twin

import lrp_tf

TOLERANCE = 5e-6


class Case(NamedTuple):
    """A layer of a net, and the layer of a condition above or below it: names of ours, and of the nodes of the twin."""

    net: str
    preset: str
    layer: str
    node: str
    other: str
    other_node: str


CASES = (
    Case("tiny", "epsilon", "re_lu_1", "add", "re_lu", "conv2d"),
    Case("tiny", "epsilon_alpha2_beta1", "re_lu", "conv2d", "dense", "dense"),
    Case("vgg16", "epsilon_plus_flat", "block5_conv3", "block5_conv3", "block3_conv2", "block3_conv2"),
    Case("vgg16", "epsilon_gamma_box", "block3_conv2", "block3_conv2", "block5_conv3", "block5_conv3"),
    Case("mobilenet", "epsilon_plus", "conv_pw_13_relu", "conv_pw_13", "conv_dw_4_relu", "conv_dw_4"),
    Case(
        "resnet50",
        "epsilon_plus_flat",
        "conv4_block3_2_relu",
        "conv4_block3_2_conv",
        "conv5_block1_out",
        "conv5_block1_add",
    ),
    Case(
        "resnet50",
        "epsilon_alpha2_beta1",
        "conv5_block2_out",
        "conv5_block2_add",
        "conv3_block2_1_relu",
        "conv3_block2_1_conv",
    ),
)


def compared(case: Case, count: int) -> dict[str, float]:
    """What was asked for -> the largest difference of its maps, relative to the maximum of each."""
    keras.utils.clear_session()  # which names the layers of every net from the first number on
    model = models.build(case.net)
    peers.set_biases(model)
    exact = peers.in_float64(model)
    x = tf.cast(models.image(model, 1), tf.float64)
    bounds = {"low": 0.0, "high": 1.0} if case.preset.endswith("_box") else {}
    explainer = lrp_tf.Explainer(exact, case.preset, **bounds)
    top = explainer.concepts(x, layer=case.layer, top=count)
    channels = [int(c) for c in top.channels[0]]
    at = explainer.channel_relevance(x, layers=[case.layer])[case.layer].numpy()[0]
    place = [int(i) for i in np.unravel_index(np.argmax(np.abs(at[..., channels[0]])), at.shape[:-1])]
    held = np.argsort(-np.abs(explainer.concepts(x, layer=case.other, top=1).relevance[0]))[:8].tolist()
    single = explainer.concepts(x, layer=case.layer, channels=channels[:1], positions=[place])
    under = explainer.concepts(x, layer=case.layer, channels=channels[:1], conditions={case.other: held})
    asked = [{case.node: {"channels": [c]}} for c in channels]
    asked.append({case.node: {"channels": channels[:1], "place": place}})
    asked.append({case.node: {"channels": channels[:1]}, case.other_node: {"channels": held}})
    theirs = _zennit(exact, x, int(top.target[0]), case.preset, asked)
    ours = [_whole(top, i) for i in range(len(channels))] + [_whole(single, 0), _whole(under, 0)]
    differ = [peers.deviation(a, b) for a, b in zip(ours, theirs, strict=True)]
    return {"channels": max(differ[:-2]), "a position": differ[-2], "with a condition": differ[-1]}


def _whole(found: Any, i: int) -> np.ndarray:
    """What zennit gives for a concept: its map, and what passed the layer by."""
    return np.asarray(found.maps[0, i]) + (0 if found.passed_by is None else np.asarray(found.passed_by[0]))


def _zennit(model: keras.Model, x: tf.Tensor, target: int, preset: str, asked: list[dict]) -> np.ndarray:
    nodes = twin.describe(model)
    arrays = folding.arrays(nodes, {v.path: keras.ops.convert_to_numpy(v) for v in model.variables})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = {"nodes": nodes, "preset": preset, "target": target, "asked": asked}
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        np.savez(folder / "net.npz", **arrays, x=np.asarray(x))
        script = Path(__file__).with_name("peers_crp_torch.py")
        done = subprocess.run([sys.executable, str(script), name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"The torch process failed:\n{done.stderr.strip()}")
        return np.load(folder / "maps.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted({case.net for case in CASES}), help="this one alone")
    parser.add_argument("--channels", type=int, default=3, help="how many of the largest channels (default 3)")
    options = parser.parse_args()
    if absent := {"torch", "zennit"} & peers.absent():
        raise SystemExit(f"{', '.join(sorted(absent))} cannot be imported. Remedy: pip install torch==2.13.0 zennit")
    worst = 0.0
    for case in [case for case in CASES if options.net in (None, case.net)]:
        found = compared(case, options.channels)
        worst = float(np.max([worst, *found.values()]))  # NaN stays NaN
        about = "   ".join(f"{name} {value:.1e}" for name, value in found.items())
        print(f"{case.net:10s} {case.preset:22s} {case.layer:20s} {about}", flush=True)
    if not worst <= TOLERANCE:
        raise SystemExit(f"Maps differ by {worst:.1e} of the maximum. Expected: at most {TOLERANCE}")


if __name__ == "__main__":
    main()
