"""A reference over all of MNIST: does memory stay flat, and does a killed run resume to the same file?

    python benchmarks/reference_build.py --data mnist.npz --out reference

OUT gets the file of a run in one piece. Its resident memory is read twice a second; the last half of it is set against
the first quarter behind the first thousand samples. Then the same run is killed (SIGKILL) at a third and at two thirds,
resumed each time, and compared with the first one bit for bit; so are four shards after they are merged. The net has
random weights: what is measured does not depend on them.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LAYERS = ("conv1", "conv2", "dense")
WARM = 1000  # samples until the pass is compiled and the allocators are filled


def main() -> None:
    """Run the child in all ways, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--child", nargs=3, metavar=("FILE", "I", "N"), help="what a run of its own does")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.child:
        build(options, Path(options.child[0]), (int(options.child[1]), int(options.child[2])))
        return
    whole, killed, merged = (options.out / f"{name}.h5" for name in ("whole", "killed", "merged"))
    for path in options.out.glob("*.h5*"):
        path.unlink()
    begun = time.monotonic()
    memory(run(options, whole))
    print(f"one piece: {time.monotonic() - begun:.0f} s, {whole.stat().st_size / 2**20:.1f} MiB", flush=True)
    for share in (1 / 3, 2 / 3):
        seen = run(options, killed, kill_at=share * options.samples)
        print(
            f"killed after {seen[-1][0]} samples; {'' if killed.exists() else 'no '}file under the final name",
            flush=True,
        )
    run(options, killed)
    print(f"resumed: {same(whole, killed)}", flush=True)
    parts = [options.out / f"part{i}.h5" for i in range(4)]
    for i, part in enumerate(parts):
        run(options, part, shard=(i, 4))
    from lrp_tf.concepts import Reference

    Reference.merge(parts, merged)
    print(f"four shards, merged: {same(whole, merged)}")


def same(one: Path, other: Path) -> str:
    """Whether two files are equal, in words."""
    return "the same file bit for bit" if filecmp.cmp(one, other, shallow=False) else "another file"


def run(
    options: argparse.Namespace, path: Path, kill_at: float | None = None, shard: tuple[int, int] = (0, 1)
) -> list[tuple[int, float]]:
    """Run a child; gives (samples seen, MiB resident) as it goes along."""
    command = [sys.executable, __file__, "--data", str(options.data), "--out", str(options.out)]
    command += ["--samples", str(options.samples), "--child", str(path), *map(str, shard)]
    found = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None  # as asked for
        for line in child.stdout:
            seen, resident = line.split()
            found.append((int(seen), float(resident)))
            if kill_at is not None and found[-1][0] >= kill_at:
                child.send_signal(signal.SIGKILL)
                break
    if kill_at is None and child.returncode:
        raise SystemExit(f"the run failed with code {child.returncode}")
    return found


def memory(found: list[tuple[int, float]]) -> None:
    """Print how much memory grew."""
    seen, resident = (np.array(column) for column in zip(*found, strict=True))
    warm = (seen > WARM) & (seen <= WARM + seen.max() / 4)
    first, last = np.median(resident[warm]), np.median(resident[seen > seen.max() / 2])
    print(
        f"resident memory: {first:.0f} MiB in the first quarter, {last:.0f} MiB in the last half (medians), at most "
        f"{resident.max():.0f} MiB; {resident[0]:.0f} MiB after the first batch",
        flush=True,
    )


def build(options: argparse.Namespace, path: Path, shard: tuple[int, int]) -> None:
    """What a child does: one reference, and a line on its way twice a second."""
    import keras
    from keras import layers as kl

    import lrp_tf
    from lrp_tf.concepts import build_reference

    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        kl.Rescaling(1 / 255),
        kl.Conv2D(16, 5, activation="relu", name="conv1"),
        kl.MaxPooling2D(),
        kl.Conv2D(32, 3, activation="relu", name="conv2"),
        kl.MaxPooling2D(),
        kl.Flatten(),
        kl.Dense(64, activation="relu", name="dense"),
        kl.Dense(10, activation="softmax", name="digit"),
    ])  # fmt: skip
    with np.load(options.data) as file:
        x, y = file["x_train"][: options.samples, ..., None], file["y_train"][: options.samples]
    told = 0.0

    def tell(seen: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            print(seen, resident_memory(), flush=True)

    explainer = lrp_tf.Explainer(model, "epsilon_plus")
    build_reference(explainer, (x, y), LAYERS, path=path, batch=64, shard=shard, seconds=1.0, progress=tell)


def resident_memory() -> float:
    """Of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
