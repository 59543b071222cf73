"""docs/scale.md: its tables are today's, its formulas hold, and the simulated farm counts what is wrong."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.extras import need
from scipy import optimize, stats

PAGE = REPOSITORY / "docs/scale.md"


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    """Its modules can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        yield


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    return importlib.import_module("scale")


@pytest.fixture(scope="module")
def farm() -> ModuleType:
    need("simpy", extra="test")
    return importlib.import_module("farm")


# --- arithmetic --------------------------------------------------------------------------------


def test_the_page_has_the_tables_of_the_script(scale: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert scale.replaced(page, scale.ASSUMED, scale.NETS) == page
    for name in scale.TABLES:
        assert page.count(f"<!-- table {name} -->") == 1, name
    other = scale.replaced(page, scale.ASSUMED | {"core_hour": 1.0}, scale.NETS)
    assert other != page
    assert "101.41" not in page


def test_prices_follow_the_assumptions(scale: ModuleType, tmp_path: Path) -> None:
    nets = {"a": scale.Net(cpu=0.36 - scale.READ["500 x 375"] - scale.ROW, start=1, mib=1)}
    cells = [
        cell.strip() for cell in scale.compute(scale.ASSUMED | {"core_hour": 0.5, "workers": 100}, nets).split("|")
    ]
    assert cells[-8:-1] == ["a", "359", "100.0", "50", "50,000", "1000.0", "14"]  # 2.5 $/h against 180 $/h a 1,000/s


@pytest.mark.parametrize(("share", "error"), [(0.5, 0.01), (0.1, 0.01), (0.01, 0.001), (0.3, 0.2)])
def test_wilson_takes_the_fewest_samples(scale: ModuleType, share: float, error: float) -> None:
    def half(n: int) -> float:
        found = stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
        return (found.high - found.low) / 2

    n = scale.wilson(share, error)
    assert half(n) == pytest.approx(error, rel=0.03 if n > 100 else 0.15)
    assert half(n // 2) > 1.2 * error


def test_hoeffding_and_rare_kinds(scale: ModuleType) -> None:
    assert scale.hoeffding(0.01) == math.ceil(math.log(40) / 0.0002)
    for share in (0.3, 1e-2, 1e-4, 1e-6):
        n = scale.to_find(share)
        assert stats.binom.cdf(0, n, share) <= 0.05 < stats.binom.cdf(0, n - 1, share)


@pytest.mark.parametrize(("start", "between"), [(33, 72_000), (33, 3_600), (200, 3_600)])
def test_shards_of_the_best_length_lose_least(scale: ModuleType, start: float, between: float) -> None:
    best = optimize.minimize_scalar(
        lambda length: scale.whole_shard(length, start, between) / length, bounds=(1, 10 * between), method="bounded"
    )
    found = scale.daly(start, between)
    assert scale.whole_shard(found, start, between) / found == pytest.approx(best.fun, rel=1e-3)
    assert found == pytest.approx(best.x, rel=0.02)
    assert scale.young(start, between) == pytest.approx(best.x, rel=0.2)


def test_a_shard_that_begins_anew_takes_as_long_as_the_formula_says(scale: ModuleType) -> None:
    rng, spent = np.random.default_rng(0), []
    for _ in range(4000):
        seconds = 0.0
        while (life := rng.exponential(500)) < 330:
            seconds += life
        spent.append(seconds + 330)
    assert np.mean(spent) == pytest.approx(scale.whole_shard(300, 30, 500), rel=0.03)
    assert np.mean(np.array(spent) > 330) == pytest.approx(scale.dies(330, 500), abs=0.03)


def test_the_length_with_the_end_is_the_best(scale: ModuleType) -> None:
    loss = lambda length: 33 / length + 100 * length / (2 * 1e6)  # noqa: E731
    best = optimize.minimize_scalar(loss, bounds=(1, 1e5), method="bounded", options={"xatol": 1e-3})
    assert scale.with_tail(33, 1e6, 100) == pytest.approx(best.x, rel=1e-3)


# --- what is stored ----------------------------------------------------------------------------


def test_forms_of_maps_give_back_what_they_say() -> None:
    files = importlib.import_module("rates_files")
    rng = np.random.default_rng(0)
    maps = np.kron(rng.normal(size=(3, 28, 28)), np.ones((8, 8))).astype(np.float32)
    maps[2] *= 1e-6
    found = {name: (stored, files.kept(maps, back)) for name, (stored, back) in files.forms(maps)}
    assert len(found) == 7
    assert found["sum over channels, float32"][1]["correlation"] == pytest.approx(1)
    assert found["int8, 28 x 28"][0].nbytes == 3 * 784
    for name, (_, kept) in found.items():  # squares of one value are nothing that coarse maps could lose
        if "largest" not in name:
            assert kept["correlation"] > 0.9995, name
            assert kept["share of |R|"] == pytest.approx(1, abs=0.02), name
    fewest = found["the 1 % largest pixels, uint16 and int8"]
    assert fewest[0].nbytes == 3 * 501 * 3
    assert 0.01 < fewest[1]["share of |R|"] < 0.08
    assert fewest[1]["correlation"] < 0.5


def test_tables_that_are_measured_hold_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = importlib.import_module("rates_tables")
    monkeypatch.setattr(tables, "SHARDS", 3)
    for job in (tables.plan, tables.record):
        job(tmp_path / "one", 20)
    tables.split(tmp_path / "many", 20)
    tables.merge(tmp_path / "many", 20)
    one, many = ((tmp_path / name / "results.csv").read_text().splitlines() for name in ("one", "many"))
    assert len(one) == len(many) == 21
    assert [line.split(",")[0] for line in one] == [line.split(",")[0] for line in many]
    tables.resume(tmp_path / "one", 20)  # no picture is there, so that no row counts
    assert len((tmp_path / "one" / "results.csv").read_text().splitlines()) == 1
    tables.rename(tmp_path, 3)
    assert {path.stat().st_size for path in (tmp_path / "pictures").iterdir()} == {30_000}


# --- the farm ----------------------------------------------------------------------------------

SMALL = {"images": 500, "workers": 16, "shards": 25, "between_deaths": 40.0, "lease": 40.0}
SMALL |= {"unreadable": 0.01, "poison": 0.002, "slow": 0.3}


@pytest.mark.parametrize("way", ["shards", "driver"])
def test_nothing_is_lost_and_nothing_is_done_twice(farm: ModuleType, way: str, tmp_path: Path) -> None:
    found = farm.run(way, farm.Conditions(**SMALL), place=tmp_path)
    assert found["sound"], found["audit"]
    assert found["audit"]["failed"] == 6
    count = found["count"]
    assert count["deaths of workers"] > 10
    assert count["deaths with half a picture"] > 0
    assert count["deaths between picture and row"] > 0
    assert count["deaths by poison"] >= 3
    assert count["pictures written"] > found["audit"]["whole"]
    assert count["turned away by the lock" if way == "shards" else "delivered again"] > 0


@pytest.mark.parametrize(("way", "promise"), [("shards", "names"), ("driver", "each once"), ("shards", "again")])
def test_the_count_notices_a_broken_promise(farm: ModuleType, way: str, promise: str, tmp_path: Path) -> None:
    found = farm.run(way, farm.Conditions(**SMALL), promise, tmp_path)
    assert not found["sound"]
    assert found["refused"] or found["audit"]["whole"] + found["audit"]["failed"] < found["audit"]["images"]


@pytest.mark.slow
def test_every_broken_promise_is_noticed(farm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--images", "5000", "--workers", "100", "--shards", "200", "--broken", "all"]
    options += ["--between-deaths", "40", "--lease", "20", "--slow", "0.2"]
    monkeypatch.setattr(
        "sys.argv", ["farm.py", *options, "--place", str(tmp_path), "--json", str(tmp_path / "all.json")]
    )
    with pytest.raises(SystemExit) as stop:
        farm.main()
    assert stop.value.code == 0
    rows = json.loads((tmp_path / "all.json").read_text())
    assert len(rows) == 9
    assert [row["sound"] for row in rows] == [row["broken"] is None for row in rows]
