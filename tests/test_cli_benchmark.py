"""`lrp-tf benchmark` in process: options, what it writes, resuming, mistakes."""

import csv
import json
import re
from pathlib import Path

import pytest

from lrp_tf import cli
from lrp_tf.cli import benchmark_options
from lrp_tf.evaluate import evidence, xaitris
from lrp_tf.evaluate.benchmark import methods, nets, run

TINY = [
    "benchmark",
    "--problems",
    "linear",
    "--backgrounds",
    "white",
    "--nets",
    "mlp",
    "--seeds",
    "2",
    "--samples",
    "20",
]
TINY += ["--training", "400", "--epochs", "2", "--methods", "epsilon,epsilon_gamma_box:gamma=0.5,random"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(name: str) -> list[dict[str, str]]:
    with open(Path("benchmark") / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_options_name_what_there_is() -> None:
    assert benchmark_options.PROBLEMS == xaitris.PROBLEMS
    assert benchmark_options.BACKGROUNDS == xaitris.BACKGROUNDS
    assert benchmark_options.INPUTS == xaitris.INPUTS
    assert benchmark_options.TEXTS == evidence.NAMES
    assert tuple(nets.NETS) == benchmark_options.NETS
    assert benchmark_options.CONTRASTS == methods.CONTRASTS


def test_tables_on_the_console_and_in_files_and_a_run_that_is_resumed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.toml").write_text('[[entry]]\nmatch = "all"\nrule = "zplus"\n', encoding="utf-8")
    given = [*TINY, "mine.toml", "--contrast", "none", "softmax"]
    given[given.index("mine.toml") : given.index("mine.toml")] = ["--methods"]
    assert cli.main(given) == 0
    out, told = capsys.readouterr()
    assert "1/2 linear-white-mlp-0: accuracy 0." in told
    assert "2 nets in " in out
    found = {row["method"] for row in rows("summary.csv")}
    named = {"epsilon", "epsilon_gamma_box:gamma=0.5", "mine.toml"}
    assert found == {"random"} | named | {f"{name} contrast softmax" for name in named}
    assert f"| {'mine.toml'} |" in Path("benchmark/table.md").read_text(encoding="utf-8")
    before = Path("benchmark/summary.csv").read_bytes()
    assert cli.main(given) == 2
    assert "benchmark holds a benchmark. Remedy: --resume to finish it" in capsys.readouterr().err
    (Path("benchmark/nets") / "linear-white-mlp-1.json").unlink()  # as after a kill
    assert cli.main([*given, "--resume"]) == 0
    assert Path("benchmark/summary.csv").read_bytes() == before
    monkeypatch.setattr(run, "Trainer", None)
    assert cli.main([*given, "--resume"]) == 0
    capsys.readouterr()
    assert cli.main([*given, "--resume", "--inputs", "unsigned"]) == 2
    assert 'They differ in inputs: "signed", now "unsigned"' in capsys.readouterr().err


def test_an_earlier_run_is_begun_anew() -> None:
    assert cli.main(TINY) == 0
    assert cli.main([*TINY, "--overwrite", "--inputs", "unsigned", "--seeds", "1"]) == 0
    settings = json.loads(Path("benchmark/nets/settings.json").read_text(encoding="utf-8"))
    assert settings["inputs"] == "unsigned"
    assert {row["seeds"] for row in rows("summary.csv")} == {"1"}


def test_methods_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["benchmark", "--methods", "list"]) == 0
    assert capsys.readouterr().out.split() == [*methods.names(), "tuned"]
    assert not Path("benchmark").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--methods", "epsilom"], "--methods expects some of all, epsilon, .*, tuned. Received: epsilom"),
        (["--methods", "epsilon,epsilon"], "--methods: epsilon comes twice"),
        (["--seeds", "0"], "seeds expects at least 1. Received: 0"),
        (["--training", "5"], "samples expects at least 20. Received: 5"),
    ],
)
def test_mistakes_are_told(given: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([*TINY[:-2], *given]) == 2
    assert re.search(message, capsys.readouterr().err)
