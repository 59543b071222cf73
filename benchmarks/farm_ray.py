"""`lrp-tf explain --ray` beside the command without it: rows, overhead, kills, memory, parquet.

    python benchmarks/farm_ray.py rows                  # 200 photographs: the same rows? what does Ray cost?
    python benchmarks/farm_ray.py kills --kills 20      # kill -9 of workers and of the driver at random moments
    python benchmarks/farm_ray.py kills --kills 10 --to parquet
    python benchmarks/farm_ray.py memory                # of each worker, over 2,000 photographs
    python benchmarks/farm_ray.py parquet               # 10,000 small images in, relevance out, read back, compared

It needs the extras ray and photos, and Linux, whose /proc tells which processes are workers. Photographs are crops of
those in scikit-image; nets are small, since what is measured is what lies around them.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

NUMBERS = ("logit", "sum_of_relevance", "bias", "stabilizer", "other", "largest_relevance", "top1_logit")
REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "kills", "memory", "parquet"])
    parser.add_argument("--count", type=int, help="of images; default: 200, 600, 2000, 10000")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--to", choices=["pictures", "parquet"], default="pictures", help="of kills")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of rows; the fastest counts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        globals()[f"measure_{options.what}"](options)


# --- images, nets, runs ------------------------------------------------------------------------


def photographs(count: int, side: int = 256) -> Path:
    """A folder of crops."""
    from skimage import data

    rng = np.random.default_rng(0)
    pictures = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    folder = Path("photos")
    folder.mkdir()
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (int(rng.integers(0, size - side + 1)) for size in picture.shape[:2])
        Image.fromarray(picture[top : top + side, left : left + side, :3]).save(folder / f"{i:05}.jpg", quality=90)
    return folder


def net(side: int, filters: int) -> Path:
    """A saved model of convolutions with random weights."""
    import keras
    from keras import layers as kl

    keras.utils.set_random_seed(0)
    stack: list[Any] = [keras.Input((side, side, 3)), kl.Rescaling(1 / 255)]
    for i in range(3):
        stack += [kl.Conv2D(filters * 2**i, 3, activation="relu", padding="same"), kl.MaxPooling2D()]
    model = keras.Sequential([*stack, kl.Flatten(), kl.Dense(10, activation="softmax")])
    model.save("net.keras")
    return Path("net.keras")


def command(model: Path, out: str, *more: object) -> list[str]:
    """A run of the command, in a process that a signal reaches."""
    words = ["-m", "lrp_tf", "explain", model, "--out", out, "--composite", "epsilon_plus", *more]
    return [sys.executable, *map(str, words)]


def environment() -> dict[str, str]:
    """One thread for each process, as on machines where every core has a worker."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    mine = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**mine, **threads, "PYTHONPATH": str(REPOSITORY)}


def run(words: list[str]) -> float:
    """Seconds that a run takes."""
    began = time.perf_counter()
    subprocess.run(words, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def table(out: str) -> list[dict[str, str]]:
    """The rows of a run."""
    with open(Path(out) / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def compare(one: str, other: str) -> float:
    """The largest difference of a number in the rows of two runs, of the largest of its column; names must agree."""
    first, second = ({row["file"]: row for row in table(out)} for out in (one, other))
    assert len(first) == len(table(one)), f"{one}: files twice"
    assert len(second) == len(table(other)), f"{other}: files twice"
    assert first.keys() == second.keys(), f"{len(first.keys() ^ second.keys())} files in one run alone"
    largest = 0.0
    for name in NUMBERS:
        values = [[float(rows[file][name]) for file in first] for rows in (first, second)]
        scale = max(map(abs, values[0])) or 1.0
        largest = max(largest, float(np.abs(np.subtract(*values)).max()) / scale)
    for file, row in first.items():
        assert (row["result"], row["target"]) == (second[file]["result"], second[file]["target"]), file
    return largest


# --- processes ---------------------------------------------------------------------------------


def parents() -> dict[int, tuple[int, str]]:
    """Every process: its parent and its name."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                stat, name = (place / "stat").read_text(), (place / "cmdline").read_bytes()
            except OSError:
                continue
            found[int(place.name)] = (int(stat.rpartition(")")[2].split()[1]), name.decode(errors="replace"))
    return found


def below(pid: int) -> Iterator[tuple[int, str]]:
    """The processes that a process started, and those of these."""
    known = parents()
    for child, (parent, name) in known.items():
        while parent in known and parent != pid:
            parent = known[parent][0]
        if parent == pid:
            yield child, name


def workers_of(pid: int) -> list[int]:
    """The processes that explain."""
    return sorted(child for child, name in below(pid) if name.startswith("ray::MapWorker"))


# --- what is measured --------------------------------------------------------------------------


def measure_rows(options: argparse.Namespace) -> None:
    """Rows and overhead."""
    model, photos = net(64, 16), photographs(options.count or 200)
    alone, spread = [], []
    for _ in range(options.rounds):
        alone.append(run(command(model, "alone", "--overwrite", photos)))
        more = ("--ray", "--workers", options.workers)
        spread.append(run(command(model, "ray", "--overwrite", *more, photos)))
    print(f"rows differ by {compare('alone', 'ray'):.1e} of the largest")
    print(f"the command {min(alone):.1f} s, with --ray {min(spread):.1f} s: {min(spread) - min(alone):.1f} s more")


def measure_kills(options: argparse.Namespace) -> None:
    """Nothing lost and nothing twice."""
    model, photos = net(96, 32), photographs(options.count or 600)
    run(command(model, "alone", photos))
    words = command(model, "ray", "--resume", "--ray", "--workers", options.workers, "--to", options.to, photos)
    killed = {"worker": 0, "driver": 0}
    while sum(killed.values()) < options.kills:  # a run with a share of them after the other
        shutil.rmtree("ray", ignore_errors=True)
        code = killed_run(words, killed, min(options.kills, sum(killed.values()) + 7))
        print(f"{killed} so far, the run ended with {code}")
        print(f"rows differ by {compare('alone', 'ray'):.1e} of the largest")
        assert code == 0
        assert not list(Path("ray").rglob(".tmp-*")), "leftovers"
        files = {row["file"] for row in table("alone")}
        check_pictures() if options.to == "pictures" else check_parts("ray", files)
    print(f"{len(files)} images, {killed}: nothing lost, nothing twice")


def killed_run(words: list[str], killed: dict[str, int], most: int) -> int:
    """A run whose processes are killed at random moments, begun again until it is done; returns its exit code."""
    driver = start(words)
    while sum(killed.values()) < most and driver.poll() is None:
        kind = random.choice(["worker", "worker", "driver"])
        while kind == "worker" and driver.poll() is None and not workers_of(driver.pid):
            time.sleep(0.1)  # else the driver, which is there at once, would be killed far more often
        wait(driver, random.choice([0, 0, 1, 20]), random.uniform(0, 3))
        victims = workers_of(driver.pid) if kind == "worker" else [driver.pid]
        if not victims or driver.poll() is not None:
            continue
        left = [pid for pid, _ in below(driver.pid)]
        os.kill(random.choice(victims), signal.SIGKILL)
        killed[kind] += 1
        print(f"{kind} killed at {len(table_of('ray'))} rows", flush=True)
        if kind == "driver":
            driver.wait()
            if random.random() < 0.5:  # else the next run begins while processes of this one may still live
                print(f"its processes ended after {until_gone(left):.1f} s", flush=True)
            driver = start(words)
    return driver.wait()


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=sys.stderr)


def table_of(out: str) -> list[dict[str, str]]:
    try:
        return table(out)
    except (OSError, ValueError):
        return []


def wait(driver: subprocess.Popen, rows: float, seconds: float) -> None:
    """Wait until a run has some more rows, and for some seconds."""
    begun = len(table_of("ray"))
    while driver.poll() is None and len(table_of("ray")) < begun + rows:
        time.sleep(0.1)
    until = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < until:
        time.sleep(0.1)


def until_gone(pids: list[int]) -> float:
    """Seconds until processes have ended."""
    began = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < began + 300, "processes of a killed driver live on"
        time.sleep(0.1)
    return time.monotonic() - began


def check_pictures() -> None:
    """Every picture is whole, and the one that the command draws."""
    worst = 0.0
    for row in table("alone"):
        one, other = (np.asarray(Image.open(Path(out) / f"{row['result']}.png"), float) for out in ("alone", "ray"))
        worst = max(worst, float(np.abs(one - other).mean()))
    print(f"pictures differ by {worst:.2g} of 255 on average at most")
    assert worst < 1


def check_parts(out: str, files: set[str]) -> Any:
    """The tensors of a run; every file is in one part."""
    import pyarrow.parquet as pq

    found = pq.read_table(Path(out) / "relevance")
    names = found["file"].to_pylist()
    assert len(names) == len(set(names)), f"{len(names) - len(set(names))} images twice"
    assert set(names) == files, f"{len(files - set(names))} images lost"
    print(f"{len(names)} tensors of {found.schema.field('relevance').type}, each once")
    return found


def measure_memory(options: argparse.Namespace) -> None:
    """MiB of each worker, as images are finished."""
    count = options.count or 2000
    model, photos = net(64, 8), photographs(count)
    driver = start(command(model, "ray", "--ray", "--workers", options.workers, photos))
    seen: dict[int, list[tuple[int, float]]] = {}
    while driver.poll() is None:
        done = len(table_of("ray"))
        for pid in workers_of(driver.pid):
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
            seen.setdefault(pid, []).append((done, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
        time.sleep(0.5)
    assert driver.returncode == 0
    for samples in seen.values():
        line = []
        for share in (0.1, 0.25, 0.5, 0.75, 0.95):
            near = min(samples, key=lambda sample: abs(sample[0] - share * count))
            line.append(f"{near[0]}: {near[1]:.0f}")
        print("MiB of a worker, by images finished:", ", ".join(line))


def measure_parquet(options: argparse.Namespace) -> None:
    """Images in parquet -> relevance in parquet, beside what the explainer says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import lrp_tf

    count, rng = options.count or 10_000, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    model = net(32, 4)
    encoded = []
    for one in pixels:
        content = io.BytesIO()
        Image.fromarray(one).save(content, "png")
        encoded.append(content.getvalue())
    for part in range(2):
        half = encoded[part * count // 2 : (part + 1) * count // 2]
        names = [f"image-{part * count // 2 + i}" for i in range(len(half))]
        pq.write_table(pa.table({"name": names, "bytes": half}), f"images{part}.parquet", row_group_size=1000)
    more = ("--ray", "--workers", options.workers, "--to", "parquet", "--id", "name", "--batch", "32")
    seconds = run(command(model, "ray", *more, "images0.parquet", "images1.parquet"))
    names = [f"images{int(i >= count // 2)}.parquet:image-{i}" for i in range(count)]
    found = check_parts("ray", set(names))
    order = np.argsort([int(name.rpartition("-")[2]) for name in found["file"].to_pylist()])
    relevance = found["relevance"].combine_chunks().to_numpy_ndarray()[order]
    logits = np.asarray(found["logit"])[order]
    explainer = lrp_tf.Recipe(str(model), "epsilon_plus").explainer()
    worst, worst_logit = 0.0, 0.0
    for at in range(0, count, 500):
        said = explainer.explain(pixels[at : at + 500].astype("float32"))
        R = said.relevance.numpy()
        worst = max(worst, float(np.abs(R - relevance[at : at + 500]).max() / np.abs(R).max()))
        highest = said.logits.numpy().max(1)
        worst_logit = max(worst_logit, float(np.abs(highest - logits[at : at + 500]).max() / np.abs(highest).max()))
    print(
        f"{count} images in {seconds:.0f} s; of the largest, relevance differs by {worst:.1e}, logits by "
        f"{worst_logit:.1e}"
    )
    assert worst < 1e-5
    assert worst_logit < 1e-5
    size = sum(path.stat().st_size for path in Path("ray/relevance").iterdir())
    print(f"{size / 2**20:.0f} MiB in {len(list(Path('ray/relevance').iterdir()))} parts")


if __name__ == "__main__":
    if shutil.which("true") is None:
        sys.exit("Linux is needed")
    main()
