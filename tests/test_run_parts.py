"""Plan, explain and record, one by one: what travels between processes, what is written when."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import photos, table

import lrp_tf
from lrp_tf.files import images
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery import Finished, ledger
from lrp_tf.heatmap.look import Look


@pytest.fixture(scope="module")
def base(saved):
    return lrp_tf.Recipe(str(saved), preprocess="none", look=Look(("heatmap",)), layers=("conv2d",)).gallery("results")


@pytest.fixture
def job(base, tmp_path):
    photos(tmp_path / "in", 4)
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    return dataclasses.replace(base, out=tmp_path / "results", batch=2)


def listed(tmp_path):
    return list(images.find([tmp_path / "in"]))


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_is_its_three_parts(job, tmp_path):
    plan = job.plan(listed(tmp_path))
    assert below(job.out) == ["settings.json"]
    assert (len(plan.items), plan.skipped) == (5, 0)
    # Two processes explain, with neither table nor lock; what they give travels.
    found = [one for part in (plan.items[1::2], plan.items[::2]) for one in job.explain(part)]
    assert below(job.out) == [*(f"photo{i}.heatmap.png" for i in range(4)), "settings.json"]
    content = pickle.dumps(found)
    assert len(content) < 1500 * len(found)
    told: list[str] = []
    with job.record(plan, tell=told.append) as record:
        for finished in pickle.loads(content):
            assert record.add(finished)
            assert not record.add(finished)  # work that was done twice
        with pytest.raises(LoadError, match="Another run is writing"):
            job.run(listed(tmp_path), resume=True)
    outcome = record.outcome()
    other = dataclasses.replace(job, out=tmp_path / "one")
    assert outcome == other.run(listed(tmp_path))
    for name in ("results.csv", "failures.csv", "layers.csv"):
        assert sorted(map(str, table(job.out / name))) == sorted(map(str, table(other.out / name)))
    assert "empty file" in told[0]
    assert below(job.out) == below(other.out)


def test_what_is_finished(job, tmp_path):
    plan = job.plan(listed(tmp_path))
    found = {os.path.basename(one.item.path): one for one in job.explain(plan.items, relevance=True)}
    good, bad = found["photo0.png"], found["empty.png"]
    assert isinstance(good, Finished)
    assert (good.reason, bad.reason, bad.rows, bad.relevance) == (None, "empty file", [], None)
    assert (good.rows[0][0], good.rows[0][1]) == good.item
    assert len(good.rows[0]) == len(ledger.COLUMNS)
    assert good.targets == [(good.rows[0][2], good.rows[0][3])]
    assert (good.relevance.shape, good.relevance.dtype) == ((1, 32, 32, 3), np.float32)
    np.testing.assert_allclose(
        good.relevance.sum(), float(good.rows[0][ledger.COLUMNS.index("sum_of_relevance")]), rtol=1e-4
    )
    assert good.layers[0][4] == "conv2d"
    assert 0 <= good.low < good.high <= 255
    absurd = list(good.rows[0])
    absurd[ledger.COLUMNS.index("warning")] = "out of proportion"
    assert good._replace(rows=[tuple(absurd)]).warnings == [(good.rows[0][3], "out of proportion")]
    assert good.warnings == []


def test_a_row_comes_after_its_picture(job, tmp_path):
    plan = job.plan(listed(tmp_path))
    with job.record(plan) as record:
        for finished in job.explain(plan.items):
            if finished.reason is None:
                assert Path(f"{job.out / finished.item.base}.heatmap.png").exists()
                assert finished.item.path not in (job.out / "results.csv").read_text()
            record.add(finished)
    assert len(table(job.out / "results.csv")) == 4


def test_a_page_follows_a_whole_record_alone(job, tmp_path):
    job = dataclasses.replace(job, page=True)
    plan = job.plan(listed(tmp_path))
    with contextlib.suppress(KeyError), job.record(plan) as record:
        record.add(next(iter(job.explain(plan.items))))
        raise KeyError
    assert not (job.out / "index.html").exists()
    again = job.plan(listed(tmp_path), resume=True)
    assert len(again.items) + again.skipped == 5
    with job.record(again) as record:
        for finished in job.explain(again.items):
            record.add(finished)
    assert (job.out / "index.html").exists()


def test_the_scale_of_a_run_is_asked_for(job, tmp_path):
    job = dataclasses.replace(job, look=Look(("heatmap",), scale="run"))
    plan = job.plan(listed(tmp_path))
    with pytest.raises(LoadError, match=r"`scale` run .* Expected a number"):
        job.explain(plan.items)
    scale = job.scale_of(plan)
    largest = [
        float(one.rows[0][ledger.COLUMNS.index("largest_relevance")])
        for one in job.explain(plan.items, scale=scale)
        if one.rows
    ]
    np.testing.assert_allclose(scale, max(largest), rtol=1e-5)
