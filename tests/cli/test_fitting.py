import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from bayesprior.cli.main import main
from bayesprior.inference.optimizers import SGLD
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.models import get_model
from bayesprior.recipes.runs import read_config, read_results
from bayesprior.weights.gaussian import GaussianWeights

MODEL = ["--model", "small_conv", "--model_options", "norm=batch", "--model_options.widths=[8,8]"]
QUIET = ["--progress", "false", "--device", "cpu"]


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_source_run_holds_law_configuration_and_numbers(work):
    source = GaussianWeights.load(work / "source" / "source.safetensors")
    assert source.rank == 3
    assert not [name for name in source.layout.names if name.startswith("head")]
    assert any(name.endswith("running_mean") for name in source.buffers)
    config = read_config(work / "source", "fit_source")
    assert config.made_from["model"]["model_options"] == {"norm": "batch", "widths": [8, 8]}
    assert config.options["lr"] == 0.05
    found = read_results(work / "source")
    assert found["fit-source"]["rms_std"] == pytest.approx(source.rms_std)
    assert found["fit-source"]["seed"] == 0
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_prior_has_the_width_and_head_asked_for(work):
    prior = GaussianWeights.load(work / "prior" / "prior.safetensors")
    assert prior.rms_std == pytest.approx(0.05)
    blocks = prior.block_rms_std()
    assert blocks["head.weight"] == pytest.approx(1.5)
    assert read_results(work / "prior")["make-prior"]["rms_std_by_block"] == pytest.approx(blocks)


def test_each_method_leaves_what_its_name_says(work):
    prior = GaussianWeights.load(work / "prior" / "prior.safetensors")
    assert PointPosterior.load(work / "map" / "map.safetensors").layout == prior.layout
    assert GaussianWeights.load(work / "swag" / "swag.safetensors").rank == 2
    draws = StoredDraws(work / "sgld")
    assert (draws.num_chains, draws.num_draws) == (2, 6)
    for run in ("map", "swag", "sgld"):
        assert (work / run / "results.json").exists()
        assert read_results(work / run)["fit"]["num_data"] == 12


def test_the_resolved_configuration_repeats_the_run(work, tmp_path):
    """Defaults are written out, files have full paths, so the file is enough, anywhere."""
    options = read_config(work / "map", "fit_map").options
    assert options["momentum"] == 0.9
    assert "chains" not in options
    config = str(work / "map" / "config.yaml")
    assert main(["fit", "map", "--config", config, "--out", str(tmp_path / "again")]) == 0
    first, again = (
        PointPosterior.load(folder / "map.safetensors").weights
        for folder in (work / "map", tmp_path / "again")
    )
    assert torch.equal(first, again)


def test_a_finished_run_is_read_again_not_made_again(work, capsys):
    before = snapshot(work / "map")
    config = str(work / "map" / "config.yaml")
    assert main(["fit", "map", "--config", config]) == 0
    assert "map" in capsys.readouterr().out
    assert snapshot(work / "map") == before
    source = str(work / "source" / "config.yaml")
    law = (work / "source" / "source.safetensors").stat().st_mtime_ns
    assert main(["fit-source", "--config", source]) == 0
    assert (work / "source" / "source.safetensors").stat().st_mtime_ns == law


def test_another_seed_is_another_run(work, refused):
    before = snapshot(work / "map")
    config = work / "map" / "config.yaml"
    line = refused("fit", "map", "--config", config, "--seed", "7")
    assert "its seed is 0, this one's 7" in line
    assert "nothing was overwritten" in line
    assert snapshot(work / "map") == before


def test_another_prior_is_another_run(work, tmp_path, refused):
    shutil.copytree(work / "map", tmp_path / "map")
    prior = GaussianWeights.load(work / "prior" / "prior.safetensors")
    prior.rescale(rms_std=1.0).save(tmp_path / "prior.safetensors")
    config = ["--config", tmp_path / "map" / "config.yaml"]
    line = refused("fit", "map", *config, "--prior", tmp_path / "prior.safetensors")
    assert "holds another run: its prior is" in line


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("map", ["--chains", "3"], "no option --chains; that is one of bayesprior fit sgld"),
        ("sgld", ["--friction", "0.2"], "no option --friction; that is one of bayesprior fit sg"),
        ("swag", ["--rank", "0"], "--rank must be at least 1"),
        ("swag", ["--rank", "5", "--num_snapshots", "4"], "--rank must be at least 1 and below"),
        ("map", ["--lr", "-1"], "--lr must be above 0"),
        ("map", ["--lr", "1e300"], "--lr must be at most"),
        ("map", ["--rms_std", "0"], "--rms_std must be above 0"),
        ("map", ["--seed", "1" + 21 * "0"], "--seed must be at most"),
        ("map", ["--checkpoint_every", "0"], "--checkpoint_every must be at least 1"),
        ("sghmc", ["--temperature", "-1"], "--temperature must be at least 0"),
        ("sgld", ["--lr", "10"], "unstable under this prior"),
        ("sgld", ["--cycles", "7"], "--num_draws 50 is no multiple of --cycles 7"),
        ("map", ["--num_steps", "0"], "--num_steps must be at least 1"),
        ("map", ["--num_data", "400"], "--num_data 400 is more than the 24 training examples"),
        ("map", ["--device", "cuda"], "torch sees no CUDA device"),
        ("map", ["--model", "mlp"], "no option 'norm'"),
        ("map", ["--model", "smal_conv"], "did you mean 'small_conv'"),
        ("map", ["--data", "digitz"], "did you mean 'digits'"),
        ("map", ["--classes", "0,9"], "has no class 9"),
        ("map", ["--head", "nosuchlayer"], "nosuchlayer"),
    ],
)
def test_options_that_cannot_work(fit, method, options, message, refused, tmp_path):
    if options[-2:] == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    line = refused("fit", method, *fit, *options, "--out", tmp_path / "run")
    assert message in line
    assert not {p.name for p in tmp_path.glob("run/*.safetensors")} - {"prior.safetensors"}


def test_a_network_that_is_not_the_priors(fit, refused, tmp_path):
    line = refused("fit", "map", *fit, "--model_options.widths=[8,16]", "--out", tmp_path / "run")
    assert "was made for another network" in line
    assert "(16, 8, 3, 3)" in line
    assert "(8, 8, 3, 3)" in line


def test_a_source_posterior_is_sent_to_make_prior(work, fit, refused, tmp_path):
    source = work / "source" / "source.safetensors"
    line = refused("fit", "map", *fit, "--prior", source, "--out", tmp_path / "run")
    assert f"run first: bayesprior make-prior --source {source} --data" in line


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "corrupt"])
def test_a_bad_prior_file(work, fit, damage, refused, tmp_path):
    path = tmp_path / "bad.safetensors"
    data = bytearray((work / "prior" / "prior.safetensors").read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "foreign":
        path.write_text("this is a text")
    elif damage == "corrupt":
        data[-5] ^= 0xFF
        path.write_bytes(data)
    line = refused("fit", "map", *fit, "--prior", path, "--out", tmp_path / "run")
    assert str(path) in line
    assert not (tmp_path / "run").exists()


def arrays(**changes):
    labels = np.arange(12) % 3
    good = {"x": np.zeros((12, 8, 8), np.uint8), "y": labels}
    return {k: v for k, v in (good | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arrays(y=None), "has no labels; store y with its x"),
        (arrays(y=np.arange(12) - 1), "label -1"),
        (arrays(x=np.full((12, 8, 8), np.nan, np.float32)), "NaN or infinite numbers"),
        (arrays(x=np.zeros((12, 8, 8, 5), np.uint8)), "must be 1, 3 or 4 channels"),
        (arrays(y=np.zeros(11, int)), "12 inputs"),
    ],
)
def test_bad_images(content, message, refused, tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, **content)
    argv = ["fit-source", "--data", path, "--model", "mlp", "--out", tmp_path / "run"]
    line = refused(*argv)
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_missing_npz(refused, tmp_path):
    line = refused("fit-source", "--data", "no.npz", "--model", "mlp", "--out", tmp_path / "run")
    assert "no.npz" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --source or --weights"),
        (["--source", "x", "--weights", "y"], "give one of --source and --weights, not both"),
        (["--weights", "no.pth"], "no.pth"),
        (["--shape", "zero"], "has no width of its own; give --rms_std"),
        (["--source", "no.safetensors"], "no.safetensors"),
    ],
)
def test_what_make_prior_needs(work, options, message, refused, tmp_path):
    argv = ["make-prior", "--data", work / "target.npz", *MODEL, "--out", tmp_path / "run"]
    assert message in refused(*argv, *options)


def test_make_prior_wants_one_width_and_a_fitting_network(work, refused, tmp_path):
    source = work / "source" / "source.safetensors"
    argv = ["make-prior", "--data", work / "target.npz", "--source", source, *QUIET]
    both = [*argv, *MODEL, "--rms_std", "1", "--cov_scale", "1", "--out", tmp_path / "run"]
    assert "cov_scale" in refused(*both)
    other = [*argv, "--model", "mlp", "--model_options.widths=[8]", "--out", tmp_path / "run"]
    line = refused(*other)
    assert f"--source {source} is of another network than --model mlp" in line
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_alone_gives_an_isotropic_prior(work, tmp_path):
    point = PointPosterior.load(work / "map" / "map.safetensors")
    state = dict(point.layout.unflatten(point.weights)) | dict(point.buffers)
    torch.save({"state_dict": state}, tmp_path / "net.any")
    argv = ["make-prior", "--data", str(work / "target.npz"), *MODEL, *QUIET]
    argv += ["--weights", str(tmp_path / "net.any"), "--out"]
    assert main([*argv, str(tmp_path / "prior"), "--rms_std", "0.25"]) == 0
    prior = GaussianWeights.load(tmp_path / "prior" / "prior.safetensors")
    assert prior.rank == 0
    assert prior.rms_std == pytest.approx(0.25)
    where = prior.layout.slice("backbone.0.0.weight")
    torch.testing.assert_close(prior.loc[where], point.weights[where])
    assert torch.equal(
        prior.buffers["backbone.0.1.running_mean"], state["backbone.0.1.running_mean"]
    )
    assert main([*argv, str(tmp_path / "measured")]) == 0
    measured = GaussianWeights.load(tmp_path / "measured" / "prior.safetensors")
    assert measured.provenance["rms_ratio"] > 0


def test_a_checkpoint_that_lacks_keys(work, refused, tmp_path):
    torch.save({"backbone.0.0.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / "net.pth")
    argv = ["make-prior", "--data", work / "target.npz", *MODEL, *QUIET, "--rms_std", "0.25"]
    line = refused(*argv, "--weights", tmp_path / "net.pth", "--out", tmp_path / "prior")
    assert "net.pth does not fit SmallConvNet" in line


def test_source_starts_from_weights(work, tmp_path):
    point = PointPosterior.load(work / "map" / "map.safetensors")
    torch.save(dict(point.layout.unflatten(point.weights)) | dict(point.buffers), tmp_path / "n.pt")
    argv = ["fit-source", "--data", str(work / "source.npz"), *MODEL, *QUIET]
    argv += ["--weights", str(tmp_path / "n.pt"), "--num_steps", "0", "--lr", "1e-6"]
    argv += ["--num_snapshots", "2", "--collect_every", "1", "--rank", "1"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    source = GaussianWeights.load(tmp_path / "run" / "source.safetensors")
    expected = point.layout.unflatten(point.weights)["backbone.0.0.weight"].reshape(-1)
    torch.testing.assert_close(source.loc[source.layout.slice("backbone.0.0.weight")], expected)


def test_a_full_disk_leaves_what_was_there(work, monkeypatch, refused, tmp_path):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        config = work / "prior" / "config.yaml"
        line = refused("make-prior", "--config", config, "--out", tmp_path / "prior")
    assert "No space left on device" in line
    assert not list(tmp_path.glob("prior/*.safetensors"))


def test_the_run_without_a_source(work, tmp_path):
    argv = ["make-prior", "--data", str(work / "target.npz"), *MODEL, *QUIET, "--shape", "zero"]
    assert main([*argv, "--rms_std", "0.5", "--out", str(tmp_path / "prior")]) == 0
    prior = GaussianWeights.load(tmp_path / "prior" / "prior.safetensors")
    assert not prior.loc.any()
    assert prior.rms_std == pytest.approx(0.5)


def test_an_interrupted_sampler_resumes_to_the_same_draws(work, fit, monkeypatch, tmp_path):
    options = ["--lr", "1e-4", "--head_lr", "0.01", "--num_draws", "4"]
    options += ["--burn_in", "3", "--thin", "2", "--seed", "3"]
    assert main(["fit", "sgld", *fit, *options, "--out", str(tmp_path / "whole")]) == 0

    real, deadline = SGLD.step, [7]

    def stop(self, *arguments, **keywords):
        deadline[0] -= 1
        if deadline[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(SGLD, "step", stop)
    assert main(["fit", "sgld", *fit, *options, "--out", str(tmp_path / "halves")]) == 143
    assert main(["fit", "sgld", *fit, *options, "--out", str(tmp_path / "halves")]) == 0
    whole, halves = (
        torch.stack([draw.weights for draw in StoredDraws(tmp_path / name).draws()])
        for name in ("whole", "halves")
    )
    assert torch.equal(whole, halves)
    found = json.loads((tmp_path / "halves" / "results.json").read_text())
    assert found["fit"]["method"] == "sgld"


def test_a_source_without_labels(work, tmp_path, refused):
    bare, out = tmp_path / "bare.npz", tmp_path / "run"
    with np.load(work / "source.npz") as arrays:
        np.savez(bare, x=arrays["x_train"])
    shared = ["fit-source", "--data", bare, *MODEL, *QUIET, "--out", out]
    fit = [*shared, "--num_steps", "4", "--num_snapshots", "3", "--rank", "2", "--collect_every", 1]
    contrast = [*fit, "--objective", "simclr", "--temperature", "0.3"]
    assert "--accuracy needs labeled" in refused(*contrast, "--accuracy", "true").replace(
        "bayesprior: error: ", ""
    )
    assert "'bare' has no labels" in refused(*fit)
    assert "--queue belongs to objective moco, not simclr" in refused(*contrast, "--queue", 9)
    assert main([str(word) for word in contrast]) == 0
    told = GaussianWeights.load(out / "source.safetensors").provenance
    assert (told["objective"], told["temperature"]) == ("simclr", 0.3)


@pytest.fixture(scope="module")
def checkpoints(work, tmp_path_factory):
    """Files of a network's weights along a walk, under a wrapper's names."""
    folder, generator = tmp_path_factory.mktemp("checkpoints"), torch.Generator().manual_seed(0)
    module = get_model("small_conv", in_channels=1, num_classes=3, norm="batch", widths=[8, 8])
    paths = []
    for step in range(4):
        for weights in module.parameters():
            weights.data += 0.01 * torch.randn(weights.shape, generator=generator)
        state = {f"module.{name}": t for name, t in module.state_dict().items()}
        torch.save({"model": state, "step": step}, folder / f"{step}.pt")
        paths.append(str(folder / f"{step}.pt"))
    return paths


def test_checkpoints_make_a_source_that_makes_a_prior(work, checkpoints, tmp_path, capsys):
    data, out = ["--data", str(work / "source.npz")], tmp_path / "source"
    assert main(["collect", *checkpoints, *data, *MODEL, "--rank", "2", "--out", str(out)]) == 0
    assert "source posterior" in capsys.readouterr().out
    source = GaussianWeights.load(out / "source.safetensors")
    assert source.rank == 2
    assert source.provenance["imported"]["source"] == checkpoints
    assert source.provenance["normalization"]["mean"]
    again = ["collect", *checkpoints, "--config", str(out / "config.yaml")]
    assert main(again) == 0  # finished
    prior = ["--source", str(out / "source.safetensors"), "--data", str(work / "target.npz")]
    assert main(["make-prior", *prior, *MODEL, *QUIET, "--out", str(tmp_path / "prior")]) == 0
    made = GaussianWeights.load(tmp_path / "prior" / "prior.safetensors")
    assert made.provenance["head_prior"] == "learned"
    assert torch.equal(made.loc[: source.dim], source.loc)


@pytest.mark.filterwarnings("default:BatchNorm statistics are those")
def test_checkpoints_alone_take_the_network_by_its_options(checkpoints, tmp_path, capsys, refused):
    out = ["--out", str(tmp_path / "source")]
    line = refused("collect", *checkpoints, *MODEL, *out)
    assert "needs the option in_channels, num_classes (without --data, all options of" in line
    shape = ["--model_options.in_channels", "1", "--model_options.num_classes", "9"]
    assert main(["collect", *checkpoints, *MODEL, *shape, *out]) == 0
    assert "warning: BatchNorm statistics are those of the last" in capsys.readouterr().err
    source = GaussianWeights.load(tmp_path / "source" / "source.safetensors")
    assert not [name for name in source.layout.names if name.startswith("head")]
    assert refused("collect", *MODEL, *out).startswith("missing: checkpoints")
    assert "at least 2 checkpoints" in refused("collect", checkpoints[0], *MODEL, *shape, *out)
