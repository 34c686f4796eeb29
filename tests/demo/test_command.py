import json

import pytest

from bayesprior.cli.main import main
from bayesprior.demo import command
from bayesprior.recipes.options import StudyOptions
from bayesprior.recipes.study_cells import evaluations, plan


def test_six_methods_have_the_same_budget_and_tuning():
    for budget in (30, 200, 1000):
        methods = command.methods(budget)
        options = StudyOptions(data="d", model="m", source="s", methods=methods, budget=budget)
        planned = plan(options)
        assert len(planned) == 6
        assert {len(m.configurations) for m in planned.values()} == {6}
        used = {
            evaluations(m.inference, c.options) for m in planned.values() for c in m.configurations
        }
        assert max(used) == budget
        assert min(used) >= budget - 1  # two chains cannot share an odd number


@pytest.mark.slow
def test_the_demo_in_miniature(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "GRID", {"lr": (0.02,), "rms_std": (0.1,)})
    monkeypatch.setattr(command, "SELECTION_SEEDS", 1)
    out = tmp_path / "demo"
    arguments = "--seeds 2 --budget 30 --source_steps 30 --jobs 1 --progress false".split()
    assert main(["demo", "--out", str(out), *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    study = json.loads((out / "study" / "results.json").read_text())["study"]["comparisons"][0]
    for sentence in study["said"]:
        assert sentence in printed
    report = json.loads((out / "report.json").read_text())
    reasons = [verdict["reason"] for verdict in report["verdicts"]]
    mine = next(s for s in study["said"] if s.startswith(f"Is {command.REPORTED} better"))
    assert any(reason in mine for reason in reasons)
