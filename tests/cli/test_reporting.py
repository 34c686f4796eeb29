import contextlib
import io
import json
import math
import shutil

import numpy as np
import pytest
import yaml

from bayesprior.cli.main import main
from bayesprior.recipes.runs import read_results
from bayesprior.tree.files import load_tree
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.rows import RowCovariance

QUIET = ["--progress", "false", "--device", "cpu"]
MODEL = ["--model", "small_conv", "--model_options", "norm=batch", "--model_options.widths=[8,8]"]
QUIET = ["--progress", "false", "--device", "cpu"]


@pytest.fixture
def copied(work, tmp_path):
    for name in ("map", "swag", "sgld"):
        shutil.copytree(work / name, tmp_path / name)
    return tmp_path


def write_set(path, num=20, classes=3, size=8):
    labels = np.arange(num) % classes
    np.savez(path, x=np.full((num, size, size), 100, np.uint8), y=labels)
    return path


@pytest.fixture(scope="module")
def page(work, tmp_path_factory):
    """A report of three runs, with sets that fit and sets that do not; what was said."""
    folder = tmp_path_factory.mktemp("page")
    runs = [shutil.copytree(work / name, folder / name) for name in ("sgld", "map", "swag")]
    sets = {"gray": {}, "seven": {"classes": 7}, "foreign": {"classes": 7}, "large": {"size": 16}}
    argv = ["report", *map(str, runs), *QUIET, "--out", str(folder / "page")]
    for (name, kind), flag in zip(
        sets.items(), ("--shift", "--shift", "--ood", "--ood"), strict=True
    ):
        argv += [flag, f"{name}={write_set(folder / f'{name}.npz', **kind)}"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(argv) == 0
    return folder / "page", out.getvalue(), err.getvalue()


def test_a_report_of_one_run_set_beside_others(page):
    folder, out, _ = page
    assert out.split() == [str(folder / "report.html")]
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "report.json", "report.nc"} <= names
    html = (folder / "report.html").read_text()
    assert "SGLD on target" in html
    assert "http" not in html.replace("http://www.w3.org", "").split("<body")[0]
    tree = load_tree(folder / "report.nc")
    assert {"posterior", "prior", "log_likelihood", "predictions"} <= set(tree.children)
    assert any("gray" in group for group in tree.children)
    assert any("foreign" in group for group in tree.children)
    told = json.dumps(json.loads((folder / "report.json").read_text()))
    assert "map" in told


def test_sets_that_do_not_fit_are_left_out_and_named(page):
    folder, _, err = page
    lines = err.splitlines()
    assert "set seven is left out: it has 7 classes, the task 3; give foreign images as" in lines[0]
    assert "set large is left out: its images are (1, 16, 16)" in lines[1]
    text = (folder / "report.md").read_text()
    assert "set seven" in text
    assert "its images are (1, 16, 16)" in text
    assert not {"predictions_seven", "predictions_large"} & set(
        load_tree(folder / "report.nc").children
    )


def test_a_page_is_written_anew_from_its_tree(page, copied, capsys, refused):
    assert "report.nc" in refused("report", copied / "map", "--rebuild")
    html = copied / "report.html"
    shutil.copy(page[0] / "report.nc", copied)  # the tree is enough
    assert main(["report", str(copied), "--rebuild"]) == 0
    assert capsys.readouterr().out.split() == [str(html)]
    assert html.read_text() == (page[0] / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shift", "x=no.npz"], "no.npz"),
        (["--shift", "no.npz"], "--shift takes NAME=VALUE"),
        (["--ood", "x=digitz"], "did you mean 'digits'"),
        (["--num_draws", "0"], "--num_draws must be at least 1"),
    ],
)
def test_what_a_report_cannot_be_made_of(copied, options, message, refused):
    assert message in refused("report", copied / "sgld", *options, *QUIET)
    assert not (copied / "sgld" / "report.html").exists()


def test_a_prior_that_is_gone_is_named(copied, refused):
    (copied / "map" / "prior.safetensors").unlink()
    path = copied / "map" / "config.yaml"
    path.write_text(path.read_text().replace("prior.safetensors", "gone.safetensors"))
    assert "gone.safetensors" in refused("report", copied / "map", *QUIET)


def test_compare_prints_a_table_and_paired_differences(copied, capsys):
    runs = [str(copied / name) for name in ("map", "swag", "sgld")]
    assert main(["compare", *runs, *QUIET, "--out", str(copied / "c.json")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "map minus swag, 95 % over points: accuracy" in out
    assert "sgld minus swag, 95 %" in out
    found = json.loads((copied / "c.json").read_text())
    assert [row["method"] for row in found["table"]] == ["map", "swag", "sgld"]
    assert {d["verdict"] for d in found["differences"]} == {"unknown"}  # of one seed
    assert found["versions"]["bayesprior"]


def test_map_swag_and_sgld_under_a_learned_head_in_one_table(work, tmp_path, capsys):
    data = ["--data", str(work / "target.npz"), "--num_data", "12", *MODEL, *QUIET]
    source = str(work / "source" / "source.safetensors")
    assert main(["make-prior", "--source", source, *data, "--out", str(tmp_path / "prior")]) == 0
    path = tmp_path / "prior" / "prior.safetensors"
    law = GaussianWeights.load(path)
    assert law.provenance["head_prior"] == "learned"
    head = next(block for block in law.blocks if "head.weight" in block.names)
    assert isinstance(head.covariance, RowCovariance)
    lengths = {
        "map": ["--num_steps", "9"],
        "swag": ["--num_steps", "9", "--num_snapshots", "4", "--rank", "2"],
        "sgld": ["--num_draws", "4", "--chains", "2", "--burn_in", "4", "--thin", "1"],
    }
    for method, length in lengths.items():
        fit = ["fit", method, *data, "--prior", str(path), "--out", str(tmp_path / method)]
        assert main([*fit, *length]) == 0
    runs = [str(tmp_path / method) for method in lengths]
    assert main(["compare", *runs, *QUIET, "--out", str(tmp_path / "c.json")]) == 0
    table = json.loads((tmp_path / "c.json").read_text())["table"]
    assert [row["method"] for row in table] == list(lengths)
    assert all(0 < row["nll"] < math.inf and 0 <= row["accuracy"] <= 1 for row in table)


def test_runs_that_differ_in_seeds_are_one_method(copied, capsys):
    for name in ("map", "swag"):
        for seed in (1, 2):
            config = str(copied / name / "config.yaml")
            argv = ["fit", name, "--config", config, "--seed", str(seed)]
            assert main([*argv, "--out", str(copied / f"{name}{seed}")]) == 0
    runs = [str(copied / f"{name}{s}") for name in ("map", "swag") for s in ("", 1, 2)]
    assert main(["compare", *runs, *QUIET, "--out", str(copied / "c.json")]) == 0
    found = json.loads((copied / "c.json").read_text())
    assert [(row["method"], row["seeds"]) for row in found["table"]] == [
        ("map and 2 more", 3),
        ("swag and 2 more", 3),
    ]
    assert "95 % over seeds" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_compared(work, copied, refused):
    one = str(copied / "map")
    assert "at least two runs" in refused("compare", one)
    assert "is no run folder" in refused("compare", one, copied / "nothing")
    assert "was made by fit_source" in refused("compare", one, work / "source")
    (copied / "c.json").write_text("mine")
    line = refused("compare", one, copied / "swag", *QUIET, "--out", copied / "c.json")
    assert "nothing was overwritten" in line
    assert (copied / "c.json").read_text() == "mine"


def test_report_and_compare_hold_against_the_same_run(page, copied, capsys, refused):
    runs = [str(copied / name) for name in ("sgld", "map", "swag")]
    chosen = ["--baseline", runs[2], *QUIET]
    assert main(["report", *runs, *chosen, "--out", str(copied / "r")]) == 0
    for more, baseline, folder in ((QUIET, "map", page[0]), (chosen, "swag", copied / "r")):
        capsys.readouterr()
        assert main(["compare", *runs, *more]) == 0
        assert f"sgld minus {baseline}" in " ".join(capsys.readouterr().out.split())
        tree = load_tree(folder / "report.nc")
        assert (tree.attrs["method"], tree.attrs["baseline"]) == ("sgld", baseline)
        assert not tree.attrs["only_prior"]
    assert main(["compare", runs[0], "--baseline", runs[1], *QUIET]) == 0
    line = refused("compare", *runs, "--baseline", runs[0], *QUIET)
    assert "no baseline named 'sgld': 'sgld' is compared" in line


def test_runs_that_differ_in_the_prior_only_are_told_as_such(copied, capsys):
    config = str(copied / "map" / "config.yaml")
    argv = ["fit", "map", "--config", config, "--rms_std", "0.5", "--out", str(copied / "wide")]
    assert main(argv) == 0
    argv = ["report", str(copied / "map"), str(copied / "wide"), "--out", str(copied / "page")]
    assert main([*argv, *QUIET]) == 0
    assert load_tree(copied / "page" / "report.nc").attrs["only_prior"]


def test_predict_prints_the_metrics_of_a_split(work, copied, capsys, refused):
    assert main(["predict", str(copied / "swag"), "--split", "validation", *QUIET]) == 0
    out = capsys.readouterr().out
    found = read_results(copied / "swag")["predict-validation"]
    assert f"nll         {found['nll']:.4g}" in out
    assert "None" not in out
    assert f"written to {copied / 'swag' / 'results.json'}" in out
    assert "is no run folder" in refused("predict", copied / "nothing")
    assert "was made by make_prior" in refused("predict", work / "prior")
    line = refused("predict", copied / "swag", "--num_draws", "0", *QUIET)
    assert "--num_draws must be at least 1" in line
    assert "--out is for the predictions of NEW" in refused(
        "predict", copied / "swag", "--out", copied / "x.csv", *QUIET
    )
    (copied / "map" / "map.safetensors").unlink()
    assert "map.safetensors" in refused("predict", copied / "map", *QUIET)


def test_an_unfinished_run_is_neither_predicted_nor_reported(copied, refused):
    (copied / "sgld" / "results.json").unlink()
    for words in (["predict", copied / "sgld"], ["report", copied / "sgld"]):
        assert "is not finished" in refused(*words, *QUIET)
    assert "is not finished" in refused("compare", copied / "map", copied / "sgld", *QUIET)


def test_code_that_a_folder_names_runs_with_trust_only(copied, refused, capsys):
    path = copied / "map" / "config.yaml"
    own = str(yaml.safe_load(path.read_text())["made_from"]["data"]["data"])
    mark = copied / "executed"
    found = yaml.safe_load(path.read_text())
    found["made_from"]["data"] |= {
        "data": "os:system",
        "data_options": {"command": f"touch {mark}"},
    }
    path.write_text(yaml.safe_dump(found))
    for words in (["predict", copied / "map"], ["report", copied / "map"]):
        assert "--trust" in refused(*words, *QUIET)
    assert "--trust" in refused("predict", copied / "map", own, "--out", copied / "x.csv", *QUIET)
    assert not mark.exists()
    assert main(["predict", str(copied / "map"), "--trust", *QUIET]) == 2
    assert mark.exists()


def test_new_data_become_a_table(copied, capsys, refused):
    new = write_set(copied / "new.npz", num=5)
    argv = ["predict", str(copied / "map"), str(new), *QUIET]
    assert main([*argv, "--out", str(copied / "rows.csv")]) == 0
    captured = capsys.readouterr()
    assert "of the 6 validation examples" in captured.out
    assert f"5 inputs predicted; the rows are in {copied / 'rows.csv'}" in captured.out
    assert captured.err == ""
    lines = (copied / "rows.csv").read_text().splitlines()
    assert lines[0] == "file,class,0,1,2,entropy,abstain"
    assert len(lines) == 6
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == lines
    (copied / "bad.png").write_text("no picture")
    line = refused(*argv, copied / "bad.png", "--out", copied / "rows.csv")
    assert line.startswith(
        f"1 of the files could not be read: {copied / 'bad.png'}: is no readable"
    )
    assert line.endswith(f"The other 5 inputs are predicted; the rows are in {copied / 'rows.csv'}")
    assert "--out must be a .csv file" in refused(*argv, "--out", copied / "rows")
    assert "--risk must be at most 1" in refused(*argv, "--risk", "2")
