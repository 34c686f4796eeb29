import os
import signal

import numpy as np
import pytest
import torch
from inference_linear import NUM_DATA, Problem, half_square
from torch import nn

from bayesprior.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    LayoutMismatchError,
)
from bayesprior.inference.collectors import SWAG
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.progress import read_trace
from bayesprior.inference.schedules import constant, cosine
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def run(problem, optimizer, num_steps, schedule=None, loader=None, **options):
    options = {"progress": False, "prior": problem.prior, "num_data": NUM_DATA} | options
    return train(
        problem.module,
        half_square,
        problem.loader() if loader is None else loader,
        optimizer,
        schedule or constant(),
        num_steps,
        **options,
    )


@pytest.mark.parametrize("rms_std", [1e-4, 1e-2, 0.3, 10.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_implicit_sgd_reaches_the_closed_form_map(rms_std, momentum):
    problem = Problem(rms_std=rms_std)
    optimizer = ImplicitPriorSGD(problem.module.parameters(), lr=0.5, momentum=momentum)
    run(problem, optimizer, 400)
    posterior_std = problem.posterior_precision.inverse().diagonal().sqrt()
    error = (problem.weights() - problem.posterior_mean) / posterior_std
    assert error.abs().max() < 1e-6


@pytest.mark.parametrize("rms_std", [0.3, 10.0])
def test_adam_reaches_the_closed_form_map(rms_std):
    problem = Problem(rms_std=rms_std)
    optimizer = torch.optim.Adam(problem.module.parameters(), lr=0.2)
    run(problem, optimizer, 500, cosine(num_steps=500))
    torch.testing.assert_close(problem.weights(), problem.posterior_mean, rtol=1e-4, atol=1e-5)


def samplers(params):
    return {
        "sgd": lambda: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
        "adam": lambda: torch.optim.Adam(params, lr=1e-3),
        "implicit": lambda: ImplicitPriorSGD(params, lr=1e-2),
        "sgld": lambda: SGLD(params, lr=1e-3, num_data=NUM_DATA, seed=5),
        "sghmc": lambda: SGHMC(params, lr=1e-3, num_data=NUM_DATA, friction=0.1, seed=5),
    }


@pytest.mark.filterwarnings("ignore:dropout")
@pytest.mark.parametrize("name", ["sgd", "adam", "implicit", "sgld", "sghmc"])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(name, tmp_path):
    def one(folder, num_steps, resume, stop=None):
        problem = Problem()
        module = nn.Sequential(problem.module, nn.Dropout(0.3))
        layout = ParameterLayout.from_module(module)
        problem.module, problem.layout = module, layout
        problem.prior = problem.prior.rename(lambda n: f"0.{n}")
        if not resume:
            torch.manual_seed(3)
        else:
            torch.manual_seed(99)  # whatever the process did before resuming
        swag = SWAG(rank=4)
        optimizer = samplers(list(module.parameters()))[name]()
        stopped = []

        def on_step(event):
            if stop is not None and event.step == stop:
                stopped.append(os.kill(os.getpid(), signal.SIGTERM))

        run(
            problem,
            optimizer,
            num_steps,
            constant(thin=3),
            problem.loader(batch_size=16, shuffle=True),
            run_dir=folder,
            resume=resume,
            collectors=[swag],
            on_step=on_step,
            log_every=1,
        )
        return layout.flatten(module), swag.posterior()

    whole, whole_swag = one(tmp_path / "whole", 37, False)
    with pytest.raises(KeyboardInterrupt, match="after step 17 of 37; resume from"):
        one(tmp_path / "parts", 37, False, stop=17)
    resumed, resumed_swag = one(tmp_path / "parts", 37, True)
    assert torch.equal(whole, resumed)
    assert torch.equal(whole_swag.loc, resumed_swag.loc)
    assert torch.equal(whole_swag.cov_factor, resumed_swag.cov_factor)
    traces = [(tmp_path / part / "trace.csv").read_text() for part in ("whole", "parts")]
    assert traces[0] == traces[1]


def test_trace_has_loss_prior_and_temperatures(tmp_path):
    problem = Problem()
    optimizer = SGHMC(problem.module.parameters(), lr=1e-3, num_data=NUM_DATA, friction=0.1)
    run(problem, optimizer, 40, run_dir=tmp_path, log_every=10)
    rows = read_trace(tmp_path / "trace.csv")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    expected = {
        "step",
        "loss",
        "log_prior",
        "configurational_temperature",
        "lr",
        "temperature",
        "kinetic_temperature",
        "rmse",
    }
    assert set(rows[0]) == expected
    assert np.isfinite([list(row.values()) for row in rows]).all()


def test_accumulated_batches_equal_one_large_batch():
    results = []
    for batch_size, accumulate in ((NUM_DATA, 1), (NUM_DATA // 4, 4)):
        problem = Problem()
        optimizer = torch.optim.SGD(problem.module.parameters(), lr=1e-3)
        run(problem, optimizer, 10, loader=problem.loader(batch_size), accumulate=accumulate)
        results.append(problem.weights())
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_clipping_acts_on_the_data_gradient_only():
    problem = Problem()
    start = problem.weights()
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=1e-3)
    run(problem, optimizer, 1, clip_norm=1e-9)
    prior_step = 1e-3 * problem.prior.score(start) / NUM_DATA
    torch.testing.assert_close(problem.weights() - start, prior_step, rtol=0, atol=1e-11)


def test_clipping_a_sampler_warns():
    problem = Problem()
    optimizer = SGLD(problem.module.parameters(), lr=1e-4, num_data=NUM_DATA)
    with pytest.warns(UserWarning, match="changes the law"):
        run(problem, optimizer, 1, clip_norm=1.0)


def test_divergence_names_step_lr_and_last_checkpoint(tmp_path):
    problem = Problem()
    # within the wide prior's stability limit, far outside the likelihood's
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=20.0)
    wide = problem.prior.rescale(rms_std=1e6)
    expected = r"with lr 20; the last good checkpoint is .*step \d+"
    with pytest.raises(DivergenceError, match=expected):
        run(problem, optimizer, 2000, prior=wide, run_dir=tmp_path, checkpoint_every=5)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] % 5 == 0


@pytest.mark.parametrize("kind", ["sgd", "sgld", "sghmc"])
def test_step_size_unstable_under_the_prior_is_refused(kind):
    problem = Problem(rms_std=1e-3)
    params = list(problem.module.parameters())
    with pytest.raises(ConfigError, match=r"lr = 0.001 of .*largest stable"):
        run(problem, samplers(params)[kind](), 5)


def test_batch_norm_is_frozen_by_default_and_trains_on_request():
    for policy, moved in (("frozen", False), ("train", True)):
        module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
        problem = Problem()
        problem.module = module
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        run(problem, optimizer, 3, prior=None, batch_norm=policy)
        assert bool(module[1].running_mean.abs().max() > 0) is moved
        assert module.training


def test_bad_arguments_are_refused_in_one_line(tmp_path):
    problem = Problem()
    params = list(problem.module.parameters())
    sgd = torch.optim.SGD(params, lr=1e-3)
    with pytest.raises(ConfigError, match="batch_norm must be"):
        run(problem, sgd, 5, batch_norm="freeze")
    with pytest.raises(ConfigError, match="num_data must be"):
        run(problem, sgd, 5, num_data=0)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(problem, sgd, 5, run_dir=tmp_path / "none", resume=True)
    with pytest.raises(ConfigError, match="resume=True needs run_dir"):
        run(problem, sgd, 5, resume=True)
    run(problem, sgd, 5, run_dir=tmp_path)
    with pytest.raises(ConfigError, match="nothing was overwritten"):
        run(problem, sgd, 5, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match="its num_steps is 5, this run's is 6"):
        run(problem, sgd, 6, run_dir=tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        run(problem, sgd, 5, run_dir=tmp_path, resume=True)
    with pytest.raises(DataError, match="yields no batch"):
        run(problem, sgd, 5, loader=[])
    with pytest.raises(LayoutMismatchError, match="wieght; did you mean 'weight'"):
        run(problem, sgd, 5, prior=problem.prior.rename({"weight": "wieght"}))


def test_half_precision_scaling_is_refused():
    from lightning_fabric import Fabric

    problem = Problem()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    with pytest.raises(ConfigError, match="'bf16-true' is not supported"):
        run(problem, torch.optim.SGD(problem.module.parameters(), lr=1e-3), 2, fabric=fabric)


def test_mixed_bfloat16_moves_the_weights_like_full_precision():
    from lightning_fabric import Fabric

    results = []
    for precision in ("32-true", "bf16-mixed"):
        problem = Problem()
        problem.module = problem.module.float()
        problem.inputs, problem.targets = problem.inputs.float(), problem.targets.float()
        problem.prior = problem.prior.to(dtype=torch.float32)
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        optimizer = ImplicitPriorSGD(problem.module.parameters(), lr=0.2)
        run(problem, optimizer, 100, fabric=fabric)
        results.append(problem.weights())
    std = problem.posterior_precision.inverse().diagonal().sqrt()
    assert ((results[0] - results[1]).abs() / std).max() < 0.1


def test_fresh_weights_of_a_wide_layer_stay_outside_without_a_prior():
    problem = Problem()
    problem.module.bias.requires_grad_(False)
    optimizer = torch.optim.SGD([problem.module.weight], lr=1e-3)
    prior = GaussianWeights.point(
        ParameterLayout(("weight",), ((1, 5),)), torch.zeros(5, dtype=torch.float64), 1.0
    )
    bias = problem.module.bias.clone()
    run(problem, optimizer, 5, prior=prior)
    assert torch.equal(problem.module.bias, bias)
