import json

import pytest

from bayesprior import recipes
from bayesprior.cli.main import main
from bayesprior.demo import methods, steps
from bayesprior.recipes.runs import read_config
from bayesprior.weights.gaussian import GaussianWeights

SMALL = "--seeds 2 --num_steps 2 --source_steps 3 --jobs 1 --progress false".split()


@pytest.fixture
def quick(monkeypatch):
    """Two settings, one selection seed, two draws; the report is recorded, not made."""
    monkeypatch.setattr(steps, "GRID", ((0.005, 0.01), (0.005, 10.0)))
    monkeypatch.setattr(steps, "SELECTION_SEEDS", 1)
    monkeypatch.setattr(methods, "DRAWS", 2)
    reports = []
    monkeypatch.setattr(recipes, "report", lambda *args, **options: reports.append(options))
    return reports


def test_the_whole_way(quick, tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *SMALL]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for method in methods.METHODS.values():
        assert method.title in printed
    assert "MAP with the learned prior and L2-SP" in printed
    assert GaussianWeights.load(out / "prior.safetensors").provenance["role"] == "prior"
    assert GaussianWeights.load(out / "source.safetensors").rank == 10
    found = json.loads((out / "results.json").read_text())
    assert found["seeds"] == [0, 1]
    assert found["task"] == {
        "source": "glyphs",
        "target": "digits",
        "num_data": 20,
        "num_test": 797,
    }
    for method, settings in found["selection"]["tried"].items():
        assert [(s["lr"], s["rms_std"]) for s in settings] == list(steps.GRID)
        best = min(settings, key=lambda s: s["validation_nll"])
        chosen = found["selection"]["chosen"][method]
        assert (chosen["lr"], chosen["rms_std"]) == (best["lr"], best["rms_std"])
    assert {row["seeds"] for row in found["table"]} == {2}
    assert set(found["differences_to_fine_tuning"]) == set(methods.METHODS) - {"fine-tuning"}
    for method in steps.KEPT:
        assert read_config(out / method).options["seed"] == 0
    [report] = quick
    assert report["out"] == out
    [foreign] = report["ood"].values()
    assert len(foreign.test) == 1040  # letters only
    assert foreign.input_shape == (1, 8, 8)
    assert [run.name for run in report["runs"]] == [m.title for m in methods.METHODS.values()]

    # The same command again does nothing twice; another configuration is refused.
    monkeypatch.setattr(steps, "predict_with", None)
    monkeypatch.setattr(recipes, "fit_source", None)
    assert main(["demo", "--out", str(out), *SMALL]) == 0
    assert " ".join(capsys.readouterr().out.split()) == printed
    assert main(["demo", "--out", str(out), *SMALL, "--num_data", "30"]) == 2
    assert "its num_data is 20, this one's 30" in capsys.readouterr().err


def test_a_killed_demo_goes_on_with_what_is_missing(quick, tmp_path, monkeypatch):
    real, done = steps.predict_with, []

    def stop(setting, *rest):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(setting)
        return real(setting, *rest)

    monkeypatch.setattr(steps, "predict_with", stop)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *SMALL]) == 130
    assert len(list((out / "pieces").glob("*.json"))) == 5
    again = []
    monkeypatch.setattr(
        steps,
        "predict_with",
        lambda setting, *rest: (again.append(setting), real(setting, *rest))[1],
    )
    assert main(["demo", "--out", str(out), *SMALL]) == 0
    assert not set(done) & set(again)
    assert len(done) + len(again) == 6 * 2 + 6 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_data", "5000"], "num_data = 5000 is more than the 600"),
        (["--num_data", "0"], "num_data must be at least 1"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--jobs", "-1"], "jobs must be at least 1"),
        (["--num_seeds", "1"], "no option --num_seeds"),
    ],
)
def test_wrong_options_write_nothing(options, message, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), *options]) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_pieces_run_in_other_processes(tmp_path):
    prior_file = steps._make_prior(tmp_path, {"progress": False, "seed": 0, "source_steps": 2})
    piece = (methods.Setting("map", 0.01, 0.01, 0, 10, 2), "test", None)
    with steps._workers(2) as pool:
        steps.run_pieces(tmp_path, prior_file, {"one": piece, "two": piece}, pool, progress=False)
    one, two = (json.loads((tmp_path / "pieces" / f"{n}.json").read_text()) for n in ("one", "two"))
    assert one["metrics"] == two["metrics"]
    assert (tmp_path / "pieces" / "one.npz").exists()


def test_a_setting_that_diverged_is_never_chosen(tmp_path):
    trials = {}
    for lr, nll in ((0.1, None), (0.2, 0.5), (0.3, 0.4)):
        for method in methods.METHODS:
            s = methods.Setting(method, lr, 1.0, 0, 20, 2)
            name = steps._name("tune", s)
            trials[name] = (s, "validation", None)
            found = {"diverged": True} if nll is None else {"metrics": {"nll": nll}}
            path = tmp_path / "pieces" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found))
    selection = steps._select(tmp_path, trials)
    assert all(chosen == {"lr": 0.3, "rms_std": 1.0} for chosen in selection["chosen"].values())
    assert selection["tried"]["map"][0]["validation_nll"] == float("inf")
