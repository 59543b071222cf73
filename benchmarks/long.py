"""Memory and time of a long input: a decoder with causal attention, with recomputation and without.

    python benchmarks/long.py                                  # 2,048 tokens, 6 layers, 512 wide, 8 heads
    python benchmarks/long.py --tokens 512 --composite cp_lrp --json long.json

Each way runs in a process of its own, one after the other. Its memory is the peak of its resident set, the model, the
libraries and the first call, which traces and optimises, included. What is explained is the logit of one next token
behind the last one. The last lines compare the relevances.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

WAYS = {"with recomputation": True, "without": False}
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--composite", default="attn_lrp")
    parser.add_argument("--calls", type=int, default=2, help="timed calls behind the first one; default: 2")
    parser.add_argument("--only", choices=WAYS, help="this way alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.result:
        print(json.dumps(measured(options, recompute=WAYS[options.only])))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compared(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(vars(options) | {"json": None, "ways": found}, indent=1))


def compared(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Run each way in a process of its own, and print what it took."""
    found, maps = {}, {}
    sizes = ("tokens", "layers", "width", "heads", "vocabulary", "composite", "calls")
    given = [part for name in sizes for part in (f"--{name}", str(getattr(options, name)))]
    for way in [options.only] if options.only else WAYS:
        print(f"{_available() / GIB:.1f} GiB are free", flush=True)
        result = folder / f"{len(found)}.npy"
        command = [sys.executable, __file__, *given, "--only", way, "--result", str(result)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
        if run.returncode:
            print(f"{way:20s} ended with {run.returncode}: -9 is what a process gets for which there is no memory")
            found[way] = {"returncode": run.returncode}
            continue
        found[way], maps[way] = json.loads(run.stdout.splitlines()[-1]), np.load(result)
        figures = "  ".join(f"{name} {value:.3g}" for name, value in found[way].items())
        print(f"{way:20s} {figures}", flush=True)
    if len(maps) > 1:
        one, other = maps.values()
        print(f"largest difference, of the largest relevance: {np.abs(one - other).max() / np.abs(other).max():.2g}")
    return found


def measured(options: argparse.Namespace, *, recompute: bool) -> dict[str, float]:
    """What one way takes: GiB and seconds."""
    import tensorflow as tf

    import lrp_tf

    model = decoder(options.tokens, options.layers, options.width, options.heads, options.vocabulary)
    rng = np.random.default_rng(0)
    tokens = tf.constant(rng.integers(0, options.vocabulary, (1, options.tokens)), tf.int32)
    explainer = lrp_tf.Explainer(model, options.composite, recompute=recompute, check=False)
    found = {"before GiB": _peak(), "segments": len(explainer.clone.plan.segments)}
    target, times = [[options.tokens - 1, 1]], []
    for _ in range(options.calls + 1):
        begin = time.perf_counter()
        relevance = np.asarray(explainer(tokens, target))
        times.append(time.perf_counter() - begin)
    np.save(options.result, relevance)
    later = {"call s": min(times[1:])} if options.calls else {}
    return found | {"peak GiB": _peak(), "first call s": times[0]} | later


def decoder(tokens: int, layers: int, width: int, heads: int, vocabulary: int) -> keras.Model:
    """A language model: learned positions, and blocks of causal attention and a GELU net, normalised ahead of each."""
    import keras
    from keras import layers as kl

    keras.utils.set_random_seed(0)
    inputs = keras.Input((tokens,), dtype="int32")
    x = kl.Embedding(vocabulary, width)(inputs) + kl.Embedding(tokens, width)(np.arange(tokens))
    for _ in range(layers):
        h = kl.LayerNormalization()(x)
        x = x + kl.MultiHeadAttention(heads, width // heads)(h, h, use_causal_mask=True)
        h = kl.Dense(4 * width, activation="gelu")(kl.LayerNormalization()(x))
        x = x + kl.Dense(width)(h)
    return keras.Model(inputs, kl.Dense(vocabulary)(kl.LayerNormalization()(x)))


def _peak() -> float:
    """The peak of this process' resident set in GiB; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def _available() -> int:
    """Bytes that processes can still get; Linux."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


if __name__ == "__main__":
    main()
