"""Numbers to predict, from a table to a report, by commands; and whether intervals cover."""

import csv
import json

import numpy as np
import pytest
import yaml
from scipy.stats import binom, norm

from bayesprior.cli.main import main
from bayesprior.recipes import load_run

QUIET = ["--progress", "false", "--device", "cpu"]
MODEL = ["--model", "mlp", "--model_options.widths", "[8]"]
TARGET = ["--data_options.target", "price"]


def write_flats(path, num, seed):
    rng = np.random.default_rng(seed)
    area, age = rng.uniform(20, 120, num), rng.uniform(0, 80, num)
    price = 1000 * (50 + 3 * area - 0.5 * age + 20 * rng.normal(size=num))
    lines = [f"{a:.2f},{b:.1f},{c:.2f}" for a, b, c in zip(area, age, price, strict=True)]
    path.write_text("\n".join(["area,age,price", *lines]) + "\n")


def run(*words):
    assert main([*map(str, words), *QUIET]) == 0, words


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A source, a prior and two fits of 50 flats, all made by commands."""
    folder = tmp_path_factory.mktemp("flats")
    write_flats(folder / "cities.csv", 200, 0)
    write_flats(folder / "flats.csv", 150, 1)
    steps = ("--num_steps", 30, "--num_snapshots", 4, "--collect_every", 2, "--rank", 3)
    run(
        *("fit-source", "--data", folder / "cities.csv", *TARGET, *MODEL, *steps),
        *("--out", folder / "source"),
    )
    task = ["--data", folder / "flats.csv", *TARGET, "--num_data", 50, *MODEL]
    run(
        *("make-prior", "--source", folder / "source" / "source.safetensors", *task),
        *("--rms_std", 0.1, "--out", folder / "prior"),
    )
    prior = ["--prior", folder / "prior" / "prior.safetensors"]
    run("fit", "map", *prior, *task, "--num_steps", 200, "--out", folder / "map")
    lengths = ("--num_draws", 3, "--chains", 2, "--burn_in", 10, "--thin", 1)
    run("fit", "sghmc", *prior, *task, *lengths, "--out", folder / "sghmc")
    return folder


def test_the_noise_is_a_weight_and_the_units_lie_in_the_folder(work):
    config = yaml.safe_load((work / "map" / "config.yaml").read_text())
    fit = load_run(work / "map")
    known = config["options"]["likelihood"]
    targets = fit.data.train.targets
    assert fit.data.num_data == 50
    assert known["class"] == "HeteroscedasticNormal"
    assert known["target_mean"] == pytest.approx([targets.mean().item()])
    assert known["target_std"] == pytest.approx([targets.std(correction=0).item()])
    assert fit.prior.layout.names[-1] == "head.log_variance"
    provenance = fit.prior.provenance
    assert (provenance["head_logit_std"], provenance["head_prior"]) == (1.0, "isotropic")


def test_metrics_are_in_the_unit_of_the_data(work):
    run("predict", work / "map")
    found = json.loads((work / "map" / "results.json").read_text())["predict-test"]
    assert {"nll", "rmse", "crps", "pit", "coverage_50", "coverage_90"} <= found.keys()
    assert 15_000 < found["rmse"] < 60_000  # the noise alone is 20,000


def test_new_rows_get_intervals(work, capsys):
    out = work / "new.csv"
    lines = (work / "flats.csv").read_text().splitlines()
    new = [",".join(reversed(line.split(",")[:2])) for line in lines]  # by name, not by place
    (work / "new_flats.csv").write_text("\n".join(new) + "\n")
    for _ in range(2):  # its own file is replaced
        run("predict", work / "map", work / "new_flats.csv", "--out", out)
    assert "150 inputs predicted" in capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "mean", "std", "low_50", "high_50", "low_90", "high_90"]
    fit = load_run(work / "map")
    for row in rows[:3]:
        mean, std, *ends = (float(value) for name, value in row.items() if name != "file")
        law = norm(mean, std)
        assert ends == pytest.approx([*law.interval(0.5), *law.interval(0.9)], rel=1e-6)
    areas = [float(line.split(",")[0]) for line in lines[1:]]
    assert np.corrcoef(areas, [float(row["mean"]) for row in rows])[0, 1] > 0.9
    assert fit.data.columns == ("area", "age")


def test_a_written_configuration_fits_again(work):
    config = work / "map" / "config.yaml"
    run("fit", "map", "--config", config, "--out", work / "other")
    one, other = (json.loads((work / n / "results.json").read_text()) for n in ("map", "other"))
    assert one["fit"]["num_data"] == other["fit"]["num_data"] == 50
    draws = [next(iter(load_run(work / n).posterior.draws())).weights for n in ("map", "other")]
    assert (draws[0] == draws[1]).all()
    before = (work / "map" / "results.json").read_text()
    run("fit", "map", "--config", config)  # finished
    assert (work / "map" / "results.json").read_text() == before


def test_fits_are_compared_and_reported(work, capsys):
    run("compare", work / "map", work / "sghmc", "--out", work / "compared.json")
    assert {"nll", "rmse", "crps", "pit"} <= json.loads((work / "compared.json").read_text())[
        "table"
    ][0].keys()
    run("report", work / "map", work / "sghmc")
    page = (work / "map" / "report.md").read_text()
    for text in ("CRPS", "PIT distance", "50 % coverage", "90 % coverage", "Predictive intervals"):
        assert text in page
    assert "Paired differences to sghmc" in page


def refused(capsys, *words):
    capsys.readouterr()
    assert main([*map(str, words), *QUIET]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_one_line(work, capsys):
    flats = ["--data", work / "flats.csv", *MODEL]
    prior = ["make-prior", "--shape", "zero", "--rms_std", 0.1, "--out", work / "none"]
    line = refused(capsys, *prior, *flats, "--data_options.target", "prise")
    assert "no column 'prise'; did you mean 'price'" in line
    line = refused(capsys, *prior, *flats, *TARGET, "--noise", "loud")
    assert "noise must be learned, predicted or a number, got 'loud'" in line
    line = refused(capsys, *prior, *flats, *TARGET, "--per_class", 3)
    assert "has no class for each example" in line
    (work / "short.csv").write_text("area,price\n50,3\n")
    line = refused(capsys, "predict", work / "map", work / "short.csv")
    assert "no column 'age'" in line
    source = work / "source" / "source.safetensors"
    study = ["study", *flats, *TARGET, "--source", source, "--methods", "{a: {inference: map}}"]
    assert "has numbers to predict, and a study compares methods on one class" in refused(
        capsys, *study, "--out", work / "study"
    )


@pytest.mark.parametrize("noise", ["predicted", "20000"])
def test_other_noises(work, noise):
    out = work / f"noise-{noise}"
    task = ["--data", work / "flats.csv", *TARGET, *MODEL, "--noise", noise]
    run("make-prior", "--shape", "zero", "--rms_std", 0.3, *task, "--out", out / "prior")
    prior = out / "prior" / "prior.safetensors"
    fit = ("fit", "map", "--prior", prior, *task, "--start", "module", "--num_steps", 30)
    run(*fit, "--out", out / "map")
    run("predict", out / "map", work / "flats.csv", "--out", out / "new.csv")
    stds = np.loadtxt(out / "new.csv", delimiter=",", skiprows=1, usecols=2)
    if noise == "predicted":
        assert np.ptp(stds) > 0
    else:
        np.testing.assert_allclose(stds, 20_000, rtol=1e-4)


# The share of targets inside, with the defaults but for what stands here (seed 0, split 0), may
# leave the band in which 99 % of honest models are. One noise level is too wide for most rows of
# energy and yacht, whose errors grow with the target.
TOO_WIDE = "half of the errors are far smaller than the other half"
TABLES = [
    ("concrete", "learned", 0.5),
    ("concrete", "learned", 0.9),
    ("wine_red", "learned", 0.5),
    ("wine_red", "learned", 0.9),
    ("wine_white", "learned", 0.5),
    ("wine_white", "learned", 0.9),
    ("energy", "predicted", 0.5),
    ("energy", "predicted", 0.9),
    ("yacht", "predicted", 0.5),
    ("yacht", "predicted", 0.9),
    ("energy", "learned", 0.9),
    pytest.param("energy", "learned", 0.5, marks=pytest.mark.xfail(reason=TOO_WIDE, strict=True)),
    pytest.param("yacht", "learned", 0.5, marks=pytest.mark.xfail(reason=TOO_WIDE, strict=True)),
    ("yacht", "learned", 0.9),
]


@pytest.fixture(scope="module")
def covered(data_dir, tmp_path_factory):
    """Fit a table by commands, once for a kind of noise; return the numbers of its test split."""
    folder = tmp_path_factory.mktemp("covered")
    arrays = np.load(data_dir / "regression.npz")

    def find(name, noise):
        out = folder / f"{name}-{noise}"
        if not out.exists():
            x, y = arrays[f"{name}_x"], arrays[f"{name}_y"].reshape(-1, 1)
            order = np.random.default_rng(0).permutation(len(x)) < len(x) // 5
            test = arrays[f"{name}_test_mask"][0] if f"{name}_test_mask" in arrays.files else order
            parts = {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}
            np.savez(folder / f"{name}.npz", **parts)
            task = ["--data", folder / f"{name}.npz", "--data_options.kind", "regression"]
            task += ["--model", "mlp", "--model_options.widths", "[50]", "--noise", noise]
            run("make-prior", "--shape", "zero", "--rms_std", 0.2, *task, "--out", out / "prior")
            prior = out / "prior" / "prior.safetensors"
            run("fit", "map", "--start", "module", "--prior", prior, *task, "--out", out / "map")
            run("predict", out / "map")
        return json.loads((out / "map" / "results.json").read_text())["predict-test"]

    return find


@pytest.mark.long
@pytest.mark.parametrize(("name", "noise", "level"), TABLES)
def test_intervals_of_the_tables_cover(covered, name, noise, level):
    found = covered(name, noise)
    low, high = binom.ppf([0.005, 0.995], found["num_points"], level) / found["num_points"]
    assert low <= found[f"coverage_{level * 100:.0f}"] <= high
