"""Presets that lost to a Sobel filter say so: in summary(), on the command line, in the documentation; no others do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers import REPOSITORY

import lrp_tf
from lrp_tf import cli, composites, rules
from lrp_tf.composites import presets, remarks
from lrp_tf.composites.bounds import InputZBox

kl = keras.layers
PICTURE = (12, 12, 3)


def net(*layers: Any, shape: tuple[int, ...] = PICTURE) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers, kl.Flatten(), kl.Dense(3)])


def functional_depthwise() -> keras.Model:
    x = keras.Input(PICTURE)
    h = keras.ops.depthwise_conv(kl.Conv2D(4, 3)(x), np.ones((3, 3, 4, 1), "float32"))
    return keras.Model(x, kl.Dense(3)(kl.Flatten()(h)))


def normalized_behind_a_sum() -> keras.Model:
    """Where BatchNormalization folds into nothing."""
    x = keras.Input(PICTURE)
    h = kl.Add()([kl.Conv2D(4, 3)(x), kl.Conv2D(4, 3)(x)])
    return keras.Model(x, kl.Dense(3)(kl.Flatten()(kl.ReLU()(kl.BatchNormalization()(h)))))


NETS = {
    "plain": (remarks.PLAIN, net(kl.Conv2D(4, 3, activation="relu"), kl.Conv2D(4, 3))),
    "normalized": (remarks.NORMALIZED, net(kl.Conv2D(4, 3), kl.BatchNormalization(), kl.ReLU(), kl.Conv2D(4, 3))),
    "normalized behind a sum": (remarks.NORMALIZED, normalized_behind_a_sum()),
    "normalized within a model": (
        remarks.NORMALIZED,
        net(keras.Sequential([kl.Conv2D(4, 3), kl.BatchNormalization()])),
    ),
    "depthwise": (remarks.DEPTHWISE, net(kl.Conv2D(4, 3), kl.ReLU(), kl.DepthwiseConv2D(3), kl.Conv2D(4, 1))),
    "depthwise, normalized": (remarks.DEPTHWISE, net(kl.Conv2D(4, 3), kl.DepthwiseConv2D(3), kl.BatchNormalization())),
    "separable": (remarks.DEPTHWISE, net(kl.Conv2D(4, 3), kl.SeparableConv2D(4, 3))),
    "depthwise of keras.ops": (remarks.DEPTHWISE, functional_depthwise()),
    "dense": (None, net(kl.Dense(4, "relu"), shape=(6,))),
    "dense on pictures": (None, net(kl.Flatten(), kl.Dense(4, "relu"))),
    "signals": (None, net(kl.Conv1D(4, 3), kl.BatchNormalization(), kl.ReLU(), kl.DepthwiseConv1D(3), shape=(12, 2))),
    "volumes": (None, net(kl.Conv3D(4, 3), kl.BatchNormalization(), kl.ReLU(), shape=(6, 6, 6, 1))),
}


def summary(model: keras.Model, composite: Any, **options: Any) -> tuple[list[str], list[str]]:
    """The remarks among the notes of the table, and the lines that were printed."""
    printed: list[str] = []
    table = lrp_tf.Explainer(model, composite, check=False, **options).summary(printed.append)
    return [note for note in table.notes if "Sobel" in note], printed[0].splitlines()


def bounds(name: str) -> dict[str, float]:
    return {"low": 0.0, "high": 1.0} if composites.needs_bounds(name) else {}


@pytest.mark.parametrize("built", NETS)
def test_a_net_gets_the_remarks_of_its_kind_and_no_others(built: str) -> None:
    kind, model = NETS[built]
    told = {remark.preset for remark in remarks.REMARKS}
    for name in composites.PRESETS if built == "plain" else told:
        noted, lines = summary(model, name, **bounds(name))
        expected = [str(remark) for remark in remarks.REMARKS if remark.preset == name and remark.kind is kind]
        assert noted == expected
        assert [line for line in lines if "Sobel" in line] == expected  # once, below the table
        assert not expected or lines[-1] == expected[-1]
        assert any("Dense" in line for line in lines)


def test_other_outputs_and_inputs_are_no_kind() -> None:
    """What was measured are classifiers of one picture."""
    x = keras.Input(PICTURE)
    h = kl.Conv2D(4, 3)(x)
    pooled = kl.GlobalAveragePooling2D()(h)
    attended = kl.MultiHeadAttention(1, 4)(tokens := kl.Reshape((100, 4))(h), tokens)
    others = [
        keras.Model(x, kl.Conv2D(2, 1)(h)),  # a class for each pixel
        keras.Model([x, y := keras.Input((3,))], kl.Dense(2)(kl.Concatenate()([pooled, y]))),
        keras.Model(x, kl.Dense(2)(kl.Flatten()(attended))),
        net(kl.Conv2D(4, 3), shape=(12, 12, 1)),
    ]
    for model in others:
        assert summary(model, "epsilon")[0] == []
    first = net(kl.Conv2D(4, 3, data_format="channels_first"), shape=(3, 12, 12))
    assert summary(first, "epsilon")[0] == summary(NETS["plain"][1], "epsilon")[0] != []


@pytest.mark.parametrize("remark", remarks.REMARKS, ids=lambda r: f"{r.preset}, {r.kind.name}")
def test_other_settings_of_a_preset_were_not_measured(remark: remarks.Remark) -> None:
    model = next(model for kind, model in NETS.values() if kind is remark.kind)
    box = bounds(remark.preset)
    default = composites.get(remark.preset, **box)
    assert summary(model, composites.Composite(default.entries, "mine", flow_epsilon=default.flow_epsilon))[0] != []
    if not box:
        assert summary(model, composites.parse(str(default)))[0] != []
    else:
        channels = {"low": [-1.0, -2.0, -3.0], "high": [1.0, 2.0, 3.0]}
        assert summary(model, remark.preset, **channels)[0] == [str(remark)]
        assert summary(model, remark.preset, low=np.zeros(3), high=np.ones(3))[0] == [str(remark)]
        assert summary(model, remark.preset, low=np.zeros(PICTURE), high=np.ones(PICTURE))[0] == [str(remark)]
        boxed = [(match, stabilized(rule)) for match, rule in default.entries]
        assert summary(model, composites.Composite(boxed, remark.preset))[0] == []
    assert summary(model, remark.preset, **box, zero_bias=True)[0] == []
    assert summary(model, remark.preset, **box, epsilon=0.1)[0] == []
    assert summary(model, remark.preset, **box, flow_epsilon=0.1)[0] == []
    extended = [(composites.at(0), rules.ZPlus()), *default.entries]
    assert summary(model, composites.Composite(extended, remark.preset))[0] == []
    graph = lrp_tf.Explainer(model, default, check=False).graph
    canonized = composites.Composite(default.entries, remark.preset, canonizers=[lambda graph: graph])
    assert (remarks.of_net(default, graph), remarks.of_net(canonized, graph)) == ([remark], [])


def stabilized(rule: Any) -> Any:
    """A box of another stabilizer; any other rule as it is."""
    return InputZBox(rule.low, rule.high, 0.1) if isinstance(rule, InputZBox) else rule


def test_a_preset_of_a_users_own_gets_no_remark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(presets, "PRESETS", dict(presets.PRESETS))
    monkeypatch.setattr(composites, "PRESETS", presets.PRESETS)
    plain = NETS["plain"][1]
    assert summary(plain, "epsilon")[0] != []

    def mine() -> list:
        return [(None, rules.Epsilon(1.0))]

    composites.register("epsilon", mine, overwrite=True)
    assert summary(plain, "epsilon")[0] == []
    assert remarks.of_preset("epsilon") == []
    assert cli.main(["composites"]) == 0
    assert "epsilon lost" not in capsys.readouterr().out


def test_composites_prints_them_below_their_preset(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["composites"]) == 0
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            found[line] = []
        elif line.startswith("    # "):
            found[[*found][-1]].append(line.removeprefix("    # "))
    assert found == {name: [str(r) for r in remarks.REMARKS if r.preset == name] for name in composites.PRESETS}


@pytest.mark.parametrize("name", ["epsilon", "epsilon_plus_flat"])
def test_summary_of_the_command_prints_them(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    NETS["plain"][1].save(tmp_path / "model.keras")
    assert cli.main(["summary", str(tmp_path / "model.keras"), "--composite", name]) == 0
    out = capsys.readouterr().out
    assert out.count("lost to a Sobel filter") == (name == "epsilon")
    assert (remarks.PLAIN.name in out) == (name == "epsilon")


@pytest.mark.parametrize("remark", remarks.REMARKS, ids=lambda r: f"{r.preset}, {r.kind.name}")
def test_figures_bear_out_what_is_said(remark: remarks.Remark) -> None:
    kind = remark.kind
    assert len(remark.figures) == len(kind.nets) == len(kind.sobel) == len(kind.best)
    lost = [figure.lost for figure in remark.figures]
    assert any(lost)
    for figure, sobel in zip(remark.figures, kind.sobel, strict=True):
        assert figure.low - 0.001 <= figure.srg - sobel <= figure.high + 0.001
    assert f" on {sum(lost)} of {len(lost)} nets of colour" in str(remark) or all(lost)
    assert " on nets of colour" in str(remark) or not all(lost)
    for net, best, figure in zip(kind.nets, kind.best, remark.figures, strict=True):
        told = f"On {net}, it was better than Sobel" in str(remark)
        assert told == (figure.low > 0)
        assert told or figure.lost
        # What is named as better is above Sobel on every net; where it is below the preset, the text says so.
        assert (f"On {net}, it was better than Sobel and than {kind.better}." in str(remark)) == (figure.srg > best)
    assert all(best > sobel for best, sobel in zip(kind.best, kind.sobel, strict=True))


def test_the_net_on_which_a_preset_did_not_lose_is_told() -> None:
    texts = {remark.preset: str(remark) for remark in remarks.REMARKS if remark.kind is remarks.DEPTHWISE}
    net = remarks.DEPTHWISE.nets[1]
    assert f"On {net}, it was better than Sobel and than epsilon_gamma_wsquare. See" in texts["tutorial"]
    assert f"On {net}, it was better than Sobel. See" in texts["epsilon_alpha2_beta1_flat"]
    assert "it was better" not in texts["epsilon"]
    figures = (remarks.Figure(0.1, -0.2, -0.1), remarks.Figure(0.2, -0.1, 0.1))
    assert f"On {net}, it did not lose. See" in str(remarks.Remark("mine", remarks.DEPTHWISE, figures))


def table(page: str, head: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins so: first cell -> the others."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    rows = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return {row[0].split(" (")[0].strip("`"): row[1:] for row in cells}


def test_the_table_of_presets_tells_the_same() -> None:
    rows = table("rules.md", "| name | first | other convolutions") | table("rules.md", "| name | linear steps")
    for name in composites.PRESETS:
        told = [r.kind.label + (r.extent and f" ({r.extent} nets)") for r in remarks.REMARKS if r.preset == name]
        assert rows[name][-1] == ", ".join(told), name


def test_the_page_has_the_figures() -> None:
    """Every remark has its row, and every preset that lost by its paired interval has its remark."""
    trained, depthwise = (
        table("which.md", "| method | no BatchNormalization"),
        table("which.md", "| method | MobileNet"),
    )
    found = {
        remarks.PLAIN: [{name: cells[:2] for name, cells in trained.items()}],
        remarks.NORMALIZED: [{name: cells[2:] for name, cells in trained.items()}],
        remarks.DEPTHWISE: [{name: cells[i : i + 2] for name, cells in depthwise.items()} for i in (0, 2)],
    }
    assert set(found) == set(remarks.KINDS)
    for kind, nets in found.items():
        told = {remark.preset: remark for remark in remarks.REMARKS if remark.kind is kind}
        lost: set[str] = set()
        for i, rows in enumerate(nets):
            means = {name: float(cells[0].split(" (")[0]) for name, cells in rows.items()}
            assert (kind.sobel[i], kind.best[i]) == (means["Sobel"], means[kind.better])
            measured = {name: rows[name][1].split(" to ") for name in composites.PRESETS if name in rows}
            assert len(measured) >= 9
            lost |= {name for name, (_, high) in measured.items() if float(high) < 0}
            assert float(measured[kind.better][0]) > 0
            for name, remark in told.items():
                figure = remark.figures[i]
                assert figure.srg == means[name]
                assert measured[name] == [f"{figure.low:.3f}", f"{figure.high:.3f}"]
        assert lost == set(told)
