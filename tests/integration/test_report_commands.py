"""From fits to pages by the commands: what is added at run time, and how often work is done."""

import json
import shutil

import numpy as np
import pytest

import bayesprior.cli.reporting
import bayesprior.recipes.predicting
import bayesprior.recipes.reporting
from bayesprior.cli.main import main
from bayesprior.prediction.metrics import METRICS, MetricRow
from bayesprior.recipes.runs import read_results
from bayesprior.report import build
from bayesprior.report.context import Heading
from bayesprior.report.document import Text
from bayesprior.report.verdicts import Verdict

QUIET = ("--device", "cpu", "--progress", "false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two fits of one small task, not yet predicted."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(24) % 3, "test": np.arange(30) % 3}
    arrays = {f"y_{split}": y for split, y in labels.items()}
    for split, y in labels.items():
        light = 60 * y[:, None, None] + rng.integers(0, 100, (len(y), 4, 4))
        arrays[f"x_{split}"] = light.astype(np.uint8)
    np.savez(folder / "task.npz", **arrays)
    task = ["--data", str(folder / "task.npz"), "--model", "mlp", *QUIET]
    argv = ["make-prior", "--shape", "zero", "--rms_std", "1", *task]
    assert main([*argv, "--out", str(folder / "prior")]) == 0
    task += ["--prior", str(folder / "prior" / "prior.safetensors"), "--num_steps", "5"]
    for name, lr in (("slow", "0.001"), ("fast", "0.1")):
        assert main(["fit", "map", *task, "--lr", lr, "--out", str(folder / name)]) == 0
    return [str(folder / name) for name in ("slow", "fast")]


@pytest.fixture
def _added(monkeypatch):
    row = MetricRow("hesitation", "entropy of the average", lambda p: p.entropy, False, 0.01)
    monkeypatch.setitem(METRICS, "hesitation", row)
    verdict = Verdict("Is it raining?", "ok", "No", "The sky is blue.")
    heading = Heading(
        "Weather", lambda context: [Text("Sunny.")], lambda context: verdict, verdict.question
    )
    monkeypatch.setattr(build, "SECTIONS", [*build.SECTIONS, heading])


@pytest.mark.usefixtures("_added")
def test_every_command_and_its_help_have_them(runs, tmp_path, capsys):
    def printed(*argv):
        capsys.readouterr()
        assert main([*argv]) == 0
        return " ".join(capsys.readouterr().out.split())

    for command in ("predict", "compare"):
        assert "hesitation: entropy of the average" in printed(command, "--help")
    assert "Weather (Is it raining?)" in printed("report", "--help")

    said = printed("predict", runs[0], *QUIET)
    value = read_results(runs[0])["predict-test"]["hesitation"]
    assert f"hesitation {value:.4g}" in said

    said = printed("compare", *runs, *QUIET, "--out", str(tmp_path / "compared.json"))
    assert "; hesitation " in said
    found = json.loads((tmp_path / "compared.json").read_text())
    assert found["table"][0]["hesitation"] == pytest.approx(value)
    gap = found["table"][0]["hesitation"] - found["table"][1]["hesitation"]
    [difference] = [d for d in found["differences"] if d["metric"] == "hesitation"]
    assert difference["estimate"] == pytest.approx(gap)

    printed("report", *runs, *QUIET, "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "report.md").read_text()
    assert "**Is it raining? No.** The sky is blue." in page
    assert page.split("## Weather")[1].split() == ["Sunny."]
    told = json.loads((tmp_path / "page" / "report.json").read_text())
    tables = {i["table"]: i for s in told["sections"] for i in s["items"] if "table" in i}
    scored = {
        row["score"]: row["value"] for row in tables["Metrics of the test set (30 points)"]["rows"]
    }
    assert scored["hesitation"]["estimate"] == pytest.approx(value)
    assert tables["All methods"]["rows"][0]["hesitation"] == pytest.approx(value)
    compared = tables["Paired differences to fast"]["rows"]
    assert "hesitation" in {row["metric"] for row in compared}


def test_a_report_loads_its_run_once_and_predicts_each_split_once(runs, tmp_path, monkeypatch):
    run = shutil.copytree(runs[0], tmp_path / "run")
    for path in run.glob("predictive-*"):
        path.unlink()
    loaded, predicted = [], []

    def watch(module, name, seen):
        function = getattr(module, name)

        def watched(*args, **options):
            seen.append(function(*args, **options))
            return seen[-1]

        monkeypatch.setattr(module, name, watched)

    for module in (bayesprior.cli.reporting, bayesprior.recipes.predicting):
        watch(module, "load_run", loaded)
    for module in (bayesprior.recipes.reporting, bayesprior.recipes.predicting):
        watch(module, "predict", predicted)
    assert main(["report", str(run), *QUIET, "--out", str(tmp_path / "page")]) == 0
    assert len(loaded) == 1
    assert sorted(found.num_points for found in predicted) == [24, 30]
