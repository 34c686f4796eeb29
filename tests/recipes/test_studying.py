import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from study_cases import FIXED, METHODS, options

from bayesprior.errors import ConfigError
from bayesprior.inference.progress import read_trace
from bayesprior.recipes import load_run, study
from bayesprior.recipes.study_plan import evaluations

ROOT = Path(__file__).parent.parent.parent


def weights(folder):
    return [draw.weights for draw in load_run(folder, trust=True).posterior.draws(5)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of four methods at two numbers of examples, and its arguments."""
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    arguments = options(folder, methods=METHODS, num_data=[12, 30])
    return study(**arguments), arguments


def test_table_json_and_page_say_the_same(whole):
    found, arguments = whole
    said = json.loads((found.folder / "results.json").read_text())["study"]
    page = (found.folder / "report.md").read_text()
    assert [c.num_data for c in found.comparisons] == [12, 30]
    assert "More examples" in page
    for comparison, written in zip(found.comparisons, said["comparisons"], strict=True):
        assert written["table"] == [dict(row) for row in comparison.rows]
        assert [row["method"] for row in comparison.rows] == list(METHODS)
        assert written["said"] == comparison.sentences
        for d, in_file in zip(comparison.differences, written["differences"], strict=True):
            assert (in_file["verdict"], in_file["num_pairs"]) == (d.verdict, 2)
            assert in_file["interval"]["estimate"] == d.interval.estimate
        by_method = {r.name: r for r in comparison.results}
        base = by_method["fine-tuning"]
        for d in comparison.differences:
            gap = by_method[d.method].metric(d.metric) - base.metric(d.metric)
            assert d.interval.estimate == pytest.approx(gap.mean())
        for verdict in comparison.verdicts:
            assert verdict.reason in page
        for remark in comparison.remarks:
            assert remark in page.replace("\\", "")
    assert said["budget"] == arguments["budget"]


def test_no_fit_exceeds_the_budget_and_each_says_what_it_used(whole):
    found, arguments = whole
    for comparison in found.comparisons:
        used = {row["method"]: row["evaluations"] for row in comparison.rows}
        assert used["MAP"] == used["SWAG"] == used["SGLD"] == arguments["budget"]
        assert used["fine-tuning"] <= arguments["budget"]
        for method, folders in comparison.folders.items():
            assert len(folders) == arguments["seeds"]
            for folder in folders:
                traces = sorted(folder.glob("**/trace.csv"))
                assert sum(read_trace(path)[-1]["step"] for path in traces) == used[method]


def test_validation_alone_chooses_and_stops_are_points_of_one_run(whole):
    found, _ = whole
    tried = json.loads((found.folder / "results.json").read_text())["study"]["tried"]
    for comparison in found.comparisons:
        for row in comparison.rows:
            rows = tried[f"{row['method']}, {comparison.num_data} examples"]
            best = min(rows, key=lambda r: r["validation_nll"])
            chosen = {k: v for k, v in best.items() if k not in ("validation_nll", "by_seed")}
            assert row["selected"] == ",".join(
                f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in chosen.items()
            )
            assert len(rows) == 2 * (3 if row["method"] == "fine-tuning" else 1)
    runs = list((found.folder / "fits" / "fine-tuning" / "n-12").glob("*/seed-1000"))
    assert len(runs) == 2
    assert not list(found.folder.glob("fits/*/*/*/seed-1000/predictive-test.nc"))


def test_every_fit_is_a_run_folder(whole):
    found, _ = whole
    for folders in found.comparisons[0].folders.values():
        run = load_run(folders[0], trust=True)
        assert run.data.num_data == 12
        assert not (folders[0] / "prior.safetensors").exists()
        assert run.prior.shared_dim < run.prior.layout.dim


def test_a_finished_study_fits_nothing_again(whole):
    found, arguments = whole
    before = {p: p.stat().st_mtime_ns for p in (found.folder / "fits").rglob("*")}
    again = study(**arguments)
    assert {p: p.stat().st_mtime_ns for p in (found.folder / "fits").rglob("*")} == before
    for one, two in zip(found.comparisons, again.comparisons, strict=True):
        assert (one.rows, one.sentences) == (two.rows, two.sentences)
    with pytest.raises(ConfigError, match="its budget is 20, this one's 30"):
        study(**arguments | {"budget": 30})


def test_one_seed_is_unknown(tmp_path):
    comparison = study(**options(tmp_path, seeds=1)).comparisons[0]
    assert {d.verdict for d in comparison.differences} == {"unknown"}
    assert [v.level for v in comparison.verdicts] == ["unknown"]
    assert all(row["nll_se"] is None for row in comparison.rows)


def test_what_diverges_is_a_result(tmp_path, monkeypatch):
    arguments = options(tmp_path)
    monkeypatch.setenv("STUDY_NAN", "1")
    comparison = study(**arguments).comparisons[0]
    assert [row["seeds"] for row in comparison.rows] == [1, 1]
    assert sum("seed 1: diverged" in remark for remark in comparison.remarks) == 2
    assert {d.verdict for d in comparison.differences} == {"unknown"}
    monkeypatch.setenv("STUDY_NAN", "1000")  # the seed that chooses
    with pytest.raises(ConfigError, match="method 'fine-tuning': every configuration diverged"):
        study(**arguments | {"out": str(tmp_path / "other")})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_costs_its_own_cell(tmp_path, monkeypatch):
    arguments = options(tmp_path, methods={"MAP": FIXED}, jobs=2)  # a worker takes 6 s to start
    monkeypatch.setenv("STUDY_KILL", "1")
    # loky's workers inherit the environment when they start
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    with pytest.warns(UserWarning, match="a worker was killed|kills its worker"):
        comparison = study(**arguments).comparisons[0]
    [lost] = [remark for remark in comparison.remarks if "lost" in remark]
    assert "seed 1: lost" in lost
    assert [row["seeds"] for row in comparison.rows] == [1]
    monkeypatch.delenv("STUDY_KILL")
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("study/fits/*/*/*/seed-0/*")}
    found = study(**arguments | {"jobs": None}).comparisons[0]
    assert [row["seeds"] for row in found.rows] == [2]
    assert not [remark for remark in found.remarks if "lost" in remark]
    assert {p: p.stat().st_mtime_ns for p in times} == times


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_study_goes_on_bit_for_bit(tmp_path):
    expected = study(**options(tmp_path / "whole")).comparisons[0]
    arguments = options(tmp_path / "killed")
    code = "import json, sys, bayesprior as bp; bp.study(**json.loads(sys.argv[1]))"
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"STUDY_KILL_PARENT": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments | {"jobs": 2})],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    found = study(**arguments).comparisons[0]
    without = {"seconds"}
    for one, two in zip(expected.rows, found.rows, strict=True):
        assert {k: v for k, v in one.items() if k not in without} == {
            k: v for k, v in two.items() if k not in without
        }
    for method, folders in expected.folders.items():
        for one, two in zip(folders, found.folders[method], strict=True):
            assert all(map(torch.equal, weights(one), weights(two)))
    assert found.sentences == expected.sentences


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_around_the_call_runs_the_fits(tmp_path):
    distributed = pytest.importorskip("distributed")
    arguments = options(tmp_path, methods={"MAP": {"lr": 0.05}})
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = study(**arguments).comparisons[0]
    assert np.isfinite(found.rows[0]["nll"])
    assert evaluations("map", {"num_steps": found.rows[0]["evaluations"]}) == 20


def test_data_without_validation_is_refused(tmp_path):
    arguments = options(tmp_path, data="recipes_cases:blobs", data_options={"num_classes": 3})
    with pytest.raises(ConfigError, match="no validation split to choose by; give num_validation"):
        study(**arguments)
