"""The tables of docs/scale.md, from measured figures and stated assumptions: put in your own.

python benchmarks/scale.py                                          # print all tables
python benchmarks/scale.py --set core_hour=0.02 between_deaths_h=6  # other assumptions
python benchmarks/scale.py --measured nets.json                     # `rates.py nets --json nets.json` of your machine
python benchmarks/scale.py --write docs/scale.md                    # replace the tables of the page
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

BILLION = 10**9


class Net(NamedTuple):
    """What `rates.py nets` says of a network.

    Attributes:
        cpu: CPU seconds of `explain` for an image.
        start: seconds of imports, loading and first call.
        mib: of its weights.
    """

    cpu: float
    start: float
    mib: float


# rates.py nets: one thread, an AMD EPYC with avx512_bf16, TensorFlow 2.21, epsilon_plus_flat, batch 8
NETS = {"VGG16": Net(0.365, 13.4, 528), "ResNet50": Net(0.123, 7.7, 98), "MobileNet": Net(0.0229, 5.2, 16)}
# rates.py pictures, CPU seconds of an image
READ = {"256 x 256": 0.00062, "500 x 375": 0.00135, "1280 x 960": 0.0069, "4000 x 3000": 0.119}
# rates.py tables, CPU seconds and bytes of memory of a file
ROW, MERGED, NAME, NAME_BYTES = 22e-6, 15e-6, 8e-6, 600
# rates.py sizes, bytes of an image
STORED = {
    "row as CSV": 353,
    "row in Parquet": 191,
    "28 x 28 int8 in Parquet": 413,
    "56 x 56 int8 in Parquet": 1_340,
    "1 % of the pixels in Parquet": 1_400,
    "224 x 224 int8 in Parquet": 12_050,
    "heatmap, PNG 256 x 256": 36_400,
    "224 x 224 float16 in Parquet": 91_000,
    "`--save-relevance`, .npy": 602_000,
}

ASSUMED = {
    "core_hour": 0.04,  # dollars of a core for an hour, on demand
    "gpu_hour": 2.50,  # dollars of a GPU for an hour
    "gb_month": 0.023,  # dollars of a GB of object storage for a month
    "thousand_puts": 0.005,  # dollars of 1,000 requests that write an object
    "writes_s": 3_500,  # objects or files that a store creates in a second: what S3 states for a prefix
    "gb_s": 10.0,  # GB that the store of the models gives in a second
    "workers": 10_000,  # of one core each
    "between_deaths_h": 20.0,  # hours between two deaths of a worker: 5 % of spot machines go in an hour
    "container_s": 20.0,  # seconds until a container runs: scheduling, pulling
    "in_flight": 40,  # images that a worker has begun and not recorded: five batches of eight
    "unreadable": 1e-3,  # share of files that cannot be read
    "poison": 1e-7,  # share of files that kill the process
}
Assumed = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"one of {', '.join(ASSUMED)}")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="networks, as rates.py nets --json wrote them")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the tables there")
    options = parser.parse_args()
    assumed = dict(ASSUMED)
    for pair in options.set:
        name, _, value = pair.partition("=")
        if name not in assumed:
            parser.error(f"Expected one of {', '.join(assumed)}. Received: {name!r}")
        assumed[name] = float(value)
    nets = measured(options.measured) if options.measured else NETS
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(replaced(page, assumed, nets), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"{name}\n\n{table(assumed, nets)}\n")


def measured(path: Path) -> dict[str, Net]:
    """Networks from a file of `rates.py nets`."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    starts = ("import s", "load s", "first call s")
    return {
        name: Net(row["CPU s of an image"], sum(row[key] for key in starts), row["MiB of weights"])
        for name, row in rows.items()
    }


def replaced(page: str, assumed: Assumed, nets: dict[str, Net]) -> str:
    """The page with the tables of today: each stands between `<!-- table NAME -->` and `<!-- end -->`."""

    def table(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n\n{TABLES[match[1]](assumed, nets)}\n\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


# --- formulas ----------------------------------------------------------------------------------


def dies(seconds: float, between_deaths: float) -> float:
    """The probability that a worker dies within a time, if deaths come at random."""
    return 1 - math.exp(-seconds / between_deaths)


def whole_shard(seconds: float, start: float, between_deaths: float) -> float:
    """Expected seconds until a shard is done that begins anew after each death: M (e^((s + T) / M) - 1)."""
    return between_deaths * math.expm1((start + seconds) / between_deaths)


def young(start: float, between_deaths: float) -> float:
    """The shard length with the least expected loss, if a death loses the shard: Young's sqrt(2 s M)."""
    return math.sqrt(2 * start * between_deaths)


def daly(start: float, between_deaths: float) -> float:
    """The same to higher order (Daly 2006), exact where `whole_shard` over T is least up to a percent."""
    x = math.sqrt(start / (2 * between_deaths))
    return young(start, between_deaths) * (1 + x / 3 + x * x / 9) - start if x < 1 else between_deaths


def with_tail(start: float, work: float, workers: float) -> float:
    """The length with the least loss where a death costs no shard: starts against waiting at the end.

    The last shards end at random, so that a worker waits for half of one: s / T + W T / (2 work) is least.
    """
    return math.sqrt(2 * start * work / workers)


def hoeffding(error: float, miss: float = 0.05) -> int:
    """Samples for a mean of values in [0, 1] that errs by more than `error` with probability `miss` at most."""
    return math.ceil(math.log(2 / miss) / (2 * error**2))


def wilson(share: float, error: float, z: float = 1.959964) -> int:
    """Samples from which on Wilson's interval of a share has half the width `error`."""

    def half(n: int) -> float:
        return z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))

    low, high = 1, 2
    while half(high) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if half(middle) > error else (low, middle)
    return high


def to_find(share: float, sure: float = 0.95) -> int:
    """Samples that hold one of a kind of which there is this share, with probability `sure`."""
    return math.ceil(math.log(1 - sure) / math.log1p(-share))


# --- tables ------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def dollars(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def compute(assumed: Assumed, nets: dict[str, Net]) -> str:
    head = ["network", "explain, CPU ms", "core hours of 10⁶", "$ of 10⁶", "$ of 10⁹"]
    head += [f"hours of 10⁹ on {assumed['workers']:,.0f} cores", "a GPU pays from, images/s"]
    rows = []
    for name, net in nets.items():
        beside = READ["500 x 375"] + ROW
        hours = (net.cpu + beside) * 1e6 / 3600
        price = hours * assumed["core_hour"]
        gpu = assumed["gpu_hour"] / 3600 / (price / 1e6)
        cells = [name, f"{1000 * net.cpu:.0f}", f"{hours:.1f}", dollars(price)]
        rows.append([*cells, dollars(1000 * price), f"{1000 * hours / assumed['workers']:.1f}", f"{gpu:,.0f}"])
    return markdown(head, rows)


def storage(assumed: Assumed, nets: dict[str, Net]) -> str:
    rows = []
    for name, size in STORED.items():
        tera = size * BILLION / 1e12
        rows.append([name, f"{size:,}", f"{tera:,.2f}", dollars(1000 * tera * assumed["gb_month"])])
    return markdown(["of an image", "bytes", "TB of 10⁹", "$ a month"], rows)


def objects(assumed: Assumed, nets: dict[str, Net]) -> str:
    """Requests, and how long a store takes for them."""
    rows = []
    for name, count in (("a picture for each image", 1), ("1,000 images in an object", 1000), ("100,000", 100_000)):
        puts = BILLION / count
        rows.append(
            [name, f"{puts:,.0f}", dollars(puts / 1000 * assumed["thousand_puts"]), _span(puts / assumed["writes_s"])]
        )
    return markdown(["objects", "of 10⁹ images", "$ to write", f"at {assumed['writes_s']:,.0f} writes a second"], rows)


def failures(assumed: Assumed, nets: dict[str, Net]) -> str:
    """A death loses the shard."""
    rows = []
    between = 3600 * assumed["between_deaths_h"]
    for name, net in nets.items():
        start = net.start + assumed["container_s"]
        length = daly(start, between)
        loss = whole_shard(length, start, between) / length - 1
        cells = [name, f"{start:.0f} s", f"{length / 60:.0f} min", f"{length / net.cpu:,.0f}"]
        rows.append([*cells, _percent(dies(length, between)), _percent(loss)])
    return markdown(["network", "start", "best length", "images", "shards that a death hits", "lost time"], rows)


def resumed(assumed: Assumed, nets: dict[str, Net]) -> str:
    """A death loses what was in flight."""
    rows = []
    between, workers = 3600 * assumed["between_deaths_h"], assumed["workers"]
    for name, net in nets.items():
        start, work = net.start + assumed["container_s"], BILLION * net.cpu
        length = with_tail(start, work, workers)
        parts = start / length, (start + assumed["in_flight"] / 2 * net.cpu) / between, workers * length / (2 * work)
        cells = [name, f"{length / 60:.0f} min", f"{length / net.cpu:,.0f}"]
        rows.append([*cells, *(_percent(part) for part in (*parts, sum(parts)))])
    head = ["network", "best length", "images", "starts", "deaths", f"the end, {workers:,.0f} workers", "lost time"]
    return markdown(head, rows)


def letters(assumed: Assumed, nets: dict[str, Net]) -> str:
    """Unreadable files, files that kill, shards that have one."""
    rows = []
    poison, size = assumed["poison"], 10_000
    for images in (10**6, 10**7, 10**8, BILLION):
        hit = images / size * -math.expm1(size * math.log1p(-poison))
        cells = [f"{images:,}", f"{images * assumed['unreadable']:,.0f}", f"{images * poison:,.1f}"]
        rows.append([*cells, f"{hit:,.1f} of {images // size:,}"])
    return markdown(["images", "unreadable", "that kill", "shards of 10,000 that never end"], rows)


def reading(assumed: Assumed, nets: dict[str, Net]) -> str:
    """Decoding and resizing, beside the cheapest network."""
    name, net = min(nets.items(), key=lambda pair: pair[1].cpu)
    rows = []
    for size, seconds in READ.items():
        hours = seconds * 1e6 / 3600
        rows.append([size, f"{1000 * seconds:.1f}", f"{hours:.1f}", f"{seconds / net.cpu:.2f}"])
    return markdown(["JPEG", "CPU ms", "core hours of 10⁶", f"of {name}'s explanation"], rows)


def loading(assumed: Assumed, nets: dict[str, Net]) -> str:
    """All workers load the model at once."""
    rows = []
    for name, net in nets.items():
        size = net.mib * 2**20 * assumed["workers"]
        rows.append([name, f"{net.mib:.0f}", f"{size / 1e12:.2f}", _span(size / 1e9 / assumed["gb_s"])])
    return markdown(["network", "MiB", "TB for all workers", f"at {assumed['gb_s']:g} GB/s"], rows)


def drivers(assumed: Assumed, nets: dict[str, Net]) -> str:
    """How far one process that plans and records reaches."""
    rows = [[name, f"{1 / net.cpu:,.1f}", f"{net.cpu / ROW:,.0f}"] for name, net in nets.items()]
    head = ["network", "images/s of a core", f"cores that one driver records, at {1 / ROW:,.0f} rows/s"]
    return markdown(head, rows)


def names(assumed: Assumed, nets: dict[str, Net]) -> str:
    """A list in one process."""
    counts = [10**5, 10**6, 10**7, 10**8, BILLION]
    rows = [[f"{n:,}", f"{n * NAME_BYTES / 1e9:,.2f} GB", _span(n * NAME)] for n in counts]
    return markdown(["files in one list", "memory of the plan", "CPU time"], rows)


def sampling(assumed: Assumed, nets: dict[str, Net]) -> str:
    rows = []
    for share, error in ((0.5, 0.01), (0.1, 0.01), (0.01, 0.001), (0.001, 0.0001)):
        n = wilson(share, error)
        hours = (n * (nets[next(iter(nets))].cpu)) / 3600
        rows.append([f"{100 * share:g} %", f"± {100 * error:g} %", f"{n:,}", f"{hoeffding(error):,}", f"{hours:,.1f}"])
    first = next(iter(nets))
    return markdown(
        ["share", "error", "Wilson, samples", "Hoeffding, whatever the share", f"core hours, {first}"], rows
    )


def rare(assumed: Assumed, nets: dict[str, Net]) -> str:
    first = next(iter(nets))
    rows = []
    for share in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        n = to_find(share)
        rows.append(
            [f"1 in {1 / share:,.0f}", f"{n:,}", f"{to_find(share, 0.99):,}", f"{n * nets[first].cpu / 3600:,.1f}"]
        )
    return markdown(["artefact", "samples, 95 %", "99 %", f"core hours at 95 %, {first}"], rows)


def prices(assumed: Assumed, nets: dict[str, Net]) -> str:
    said = {
        "core_hour": "$ of a core for an hour",
        "gpu_hour": "$ of a GPU for an hour",
        "gb_month": "$ of a GB of object storage for a month",
        "thousand_puts": "$ of 1,000 requests that write an object",
        "writes_s": "objects that a store creates in a second (what S3 states for a prefix)",
        "gb_s": "GB that the store of the models gives in a second",
        "workers": "workers, of one core each",
        "between_deaths_h": "hours between two deaths of a worker (5 % of spot machines go in an hour)",
        "container_s": "seconds until a container runs",
        "in_flight": "images that a worker has begun and not recorded",
        "unreadable": "share of files that cannot be read",
        "poison": "share of files that kill the process that reads them",
    }
    return markdown(["name", "assumption", "value"], [[f"`{k}`", said[k], f"{v:,g}"] for k, v in assumed.items()])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


TABLES: dict[str, Callable[[Assumed, dict[str, Net]], str]] = {
    function.__name__: function
    for function in (
        prices,
        compute,
        reading,
        loading,
        storage,
        objects,
        failures,
        resumed,
        letters,
        drivers,
        names,
        sampling,
        rare,
    )
}


if __name__ == "__main__":
    main()
