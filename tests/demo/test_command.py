import json

import pytest
import xarray

from bayesprior.cli.main import main
from bayesprior.recipes.saved import load_run


@pytest.mark.slow
def test_the_demo_in_miniature(tmp_path, capsys):
    out = tmp_path / "demo"
    arguments = "--num_data 30 --source_steps 30 --num_draws 4 --progress false".split()
    assert main(["demo", "--out", str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    methods = [line.split("  ")[0] for line in printed.splitlines()]
    for method in ("transfer", "probe", "AdamW 0.001", "L2-SP", "SGHMC"):
        assert method in methods
    tree = xarray.open_datatree(out / "report.nc")
    assert {
        "posterior",
        "log_prior",
        "sample_stats",
        "log_likelihood",
        "posterior_predictive",
        "observed_data",
    } <= tree.children.keys()
    assert tree["posterior"].sizes["chain"] == 2
    report = json.loads((out / "report.json").read_text())
    assert "transfer" in json.dumps(report["verdicts"])
    assert load_run(out / "transfer").prior.rms_std == load_run(out / "sghmc").prior.rms_std
    # a second call reads what is there
    (out / "report.html").unlink()
    assert main(["demo", "--out", str(out), *arguments]) == 0
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if line in printed.splitlines()] == (
        printed.splitlines()
    )
