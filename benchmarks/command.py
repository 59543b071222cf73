"""Pictures per second of `lrp-tf explain` of two checkouts, in turn and in one run, beside `explain` itself.

    python benchmarks/command.py BEFORE AFTER --photos FOLDER --weights mobilenet075.weights.h5
    python benchmarks/command.py AFTER --count 3000 --styles heatmap --memory       # is the memory flat?

The command runs as a process of its own over photographs of 256 x 256 with a MobileNet (alpha 0.75). Its rate counts
from the first tenth of the pictures to the last, so that imports and the first call do not: the script watches
results.csv grow. `explain(x)` and `explainer(x)` of the same checkout are measured in each round, at the same batch,
with the input at hand. Where other processes disturb, CPU times tell more than rates: shares are given by both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

STYLES = ("side-by-side", "overlay", "heatmap")
SIDE = 256
DISTINCT = 1000  # Further photographs are links to these.
TICKS = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """What was seen of a process: seconds, pictures so far, seconds of CPU time, MiB resident."""

    time: float
    pictures: int
    cpu: float
    memory: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="*", help="one or two folders that hold the repository")
    parser.add_argument("--photos", type=Path, help="folder of photographs to crop and flip; default: generated ones")
    parser.add_argument("--weights", type=Path, help="of MobileNet 0.75; default: random ones")
    parser.add_argument("--count", type=int, default=500, help="photographs; default: 500")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=STYLES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", help="of the pictures, where every checkout knows it")
    parser.add_argument("--memory", action="store_true", help="print the memory of the command as it goes on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_model(options.make, options.weights)
    elif options.serve:
        serve(options.serve, options.batch)
    elif options.checkouts:
        with tempfile.TemporaryDirectory() as folder:
            compare(options, Path(folder))
    else:
        parser.error("a folder that holds the repository is missing")


def compare(options: argparse.Namespace, place: Path) -> None:
    """Run all rounds and print the table."""
    photographs(place / "photos", options.photos, options.count)
    model = place / "mobilenet.keras"
    made = [*child(options.checkouts[-1]), "--make", str(model)]
    made += ["--weights", str(options.weights.resolve())] if options.weights else []
    subprocess.run(made, env=environment(options.checkouts[-1]), check=True, stderr=subprocess.DEVNULL)
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds):
        order = list(enumerate(options.checkouts))
        for side, checkout in order if number % 2 == 0 else order[::-1]:
            own = own_rates(checkout, model, options.batch)
            for style in options.styles:
                samples = explained(checkout, place, style, options)
                row = rates(samples, options.count) | own
                found.setdefault(f"{style} {side}", []).append(row)
                figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
                print(f"round {number + 1}  {checkout}  {style}  {figures}", flush=True)
                if options.memory:
                    tell_memory(samples)
    tell(found, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def tell(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Medians over the rounds."""
    shares = {
        "rate of explain(x)": ("pictures/s", "explain(x)/s"),
        "rate of explainer(x)": ("pictures/s", "explainer(x)/s"),
    }
    shares |= {"CPU time of explain(x)": ("explain(x) CPU ms", "CPU ms")}
    print(f"\nmedians: pictures/s (CPU ms of a picture); shares: {', '.join(shares)}")
    for style in options.styles:
        cells = []
        sides = [found[f"{style} {side}"] for side in range(len(options.checkouts))]
        for rows in sides:
            rate, cpu = (statistics.median(row[name] for row in rows) for name in ("pictures/s", "CPU ms"))
            medians = [statistics.median(row[a] / row[b] for row in rows) for a, b in shares.values()]
            cells.append(f"{rate:.1f} ({cpu:.1f} ms) " + " ".join(f"{share:.2f}" for share in medians))
        line = f"{style:13s} {' -> '.join(cells)}"
        if len(sides) > 1:
            pairs = list(zip(*sides, strict=True))
            rate = statistics.median(b["pictures/s"] / a["pictures/s"] for a, b in pairs)
            cpu = statistics.median(a["CPU ms"] / b["CPU ms"] for a, b in pairs)
            line += f"; times as many pictures/s {rate:.2f}, for each CPU second {cpu:.2f}"
        print(line)


def tell_memory(samples: list[Sample]) -> None:
    """The resident memory at every tenth of the pictures."""
    last = samples[-1].pictures
    marks = [next(s for s in samples if s.pictures >= last * tenth / 10) for tenth in range(1, 11)]
    print("    pictures: MiB  " + "  ".join(f"{s.pictures}: {s.memory:.0f}" for s in marks), flush=True)


# --- what is explained -------------------------------------------------------------------------


def photographs(folder: Path, source: Path | None, count: int) -> None:
    """Write `count` JPEG files: random crops and flips of the photographs of a folder, or smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".png")) if source else []
    originals = [cv2.imread(str(path)) for path in files]
    for i in range(min(count, DISTINCT)):
        if originals:
            pixels = originals[i % len(originals)]
            side = int(min(pixels.shape[:2]) * rng.uniform(0.7, 1.0))
            top, left = (rng.integers(0, length - side + 1) for length in pixels.shape[:2])
            pixels = pixels[top : top + side, left : left + side, :][:, :: rng.choice((-1, 1))]
        else:
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:06d}.jpg"), pixels)
    for i in range(DISTINCT, count):
        os.link(folder / f"{i % DISTINCT:06d}.jpg", folder / f"{i:06d}.jpg")


def make_model(path: Path, weights: Path | None) -> None:
    """Write the network to a Keras file."""
    import keras

    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    if weights:
        model.load_weights(weights)
    model.save(path)


# --- the processes -----------------------------------------------------------------------------


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout.resolve()), "TF_CPP_MIN_LOG_LEVEL": "3"}


def child(checkout: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), str(checkout)]


def own_rates(checkout: Path, model: Path, batch: int) -> dict[str, float]:
    """Images/s and CPU time of an image of `explain(x)` and `explainer(x)`, in a process of its own."""
    command = [*child(checkout), "--serve", str(model), "--batch", str(batch)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    run = subprocess.run(command, env=environment(checkout), check=True, **pipes)
    return json.loads(run.stdout.splitlines()[-1])


def serve(path: Path, batch: int, calls: int = 12) -> None:
    """Print rates and CPU times of a network, the two calls in turn."""
    import keras

    import lrp_tf

    model = keras.models.load_model(path)
    explainer = lrp_tf.Explainer(model)
    x = np.random.default_rng(0).uniform(-1, 1, (batch, *model.input_shape[1:])).astype(np.float32)
    ways = {"explain(x)": lambda: explainer.explain(x).relevance.numpy(), "explainer(x)": lambda: explainer(x).numpy()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(calls + 2):
        for name, way in ways.items():
            begin = time.perf_counter(), time.process_time()
            way()
            spent[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    found = {}
    for name, times in spent.items():
        wall, cpu = (statistics.median(column) for column in zip(*times[2:], strict=True))
        found |= {f"{name}/s": batch / wall, f"{name} CPU ms": 1000 * cpu / batch}
    print(json.dumps(found))


def explained(checkout: Path, place: Path, style: str, options: argparse.Namespace) -> list[Sample]:
    """Run the command and watch it."""
    out = Path(tempfile.mkdtemp(dir=place))
    command = [sys.executable, "-m", "lrp_tf", "explain", str(place / "mobilenet.keras"), str(place / "photos")]
    command += ["--preprocess", "mobilenet", "--batch", str(options.batch), "--style", style, "--out", str(out)]
    command += ["--format", options.format] if options.format else []
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment(checkout), cwd=place, stdout=said, stderr=said)
        table = out / "results.csv"
        read, pictures = 0, -1  # the first line is the header
        while process.poll() is None:
            time.sleep(0.02)
            if table.exists():
                with open(table, "rb") as file:
                    file.seek(read)
                    new = file.read()
                read, pictures = read + len(new), pictures + new.count(b"\n")
                samples += [seen] if (seen := _seen(process.pid, max(pictures, 0))) else []
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{said.read()}")
    return samples


def _seen(process: int, pictures: int) -> Sample | None:
    """Linux. None if the process has ended."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
    cpu = (int(stat[11]) + int(stat[12])) / TICKS
    return Sample(time.perf_counter(), pictures, cpu, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def rates(samples: list[Sample], count: int) -> dict[str, float]:
    """Pictures/s and CPU milliseconds of a picture, from the first tenth to the last picture."""
    first = next(sample for sample in samples if sample.pictures >= max(count // 10, 1))
    last = next(sample for sample in samples if sample.pictures == samples[-1].pictures)
    pictures = last.pictures - first.pictures
    return {
        "pictures/s": pictures / (last.time - first.time),
        "CPU ms": 1000 * (last.cpu - first.cpu) / pictures,
        "MiB": max(sample.memory for sample in samples),
    }


if __name__ == "__main__":
    main()
