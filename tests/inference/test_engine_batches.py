"""Batches of unequal size, random layers, broken data, and rates set between two runs."""

import math

import pytest
import torch
from inference_linear import NUM_DATA, Problem, half_square
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprior.errors import CheckpointError, ConfigError, DataError, DivergenceError
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGHMC, SGLD
from bayesprior.inference.progress import read_trace
from bayesprior.inference.schedules import constant, cosine
from bayesprior.weights.layout import ParameterLayout


def fit(module, loader, optimizer, num_steps, loss=half_square, num_data=NUM_DATA, **options):
    options = {"progress": False, "schedule": constant()} | options
    schedule = options.pop("schedule")
    train(module, loss, loader, optimizer, schedule, num_steps, num_data=num_data, **options)


def test_accumulated_batches_count_by_their_examples():
    """128 zeros and one 1 in two micro-batches: the fitted probability is that of all 129."""
    labels = torch.cat([torch.zeros(128), torch.ones(1)])[:, None].double()
    module = nn.Linear(1, 1, bias=True, dtype=torch.float64)
    loader = DataLoader(TensorDataset(torch.zeros(129, 1).double(), labels), batch_size=128)

    def loss(network, batch):
        return nn.functional.binary_cross_entropy_with_logits(network(batch[0]), batch[1]), {}

    optimizer = torch.optim.Adam([module.bias], lr=0.3)
    fit(module, loader, optimizer, 800, loss, 129, accumulate=2, schedule=cosine(num_steps=800))
    assert torch.sigmoid(module.bias).item() == pytest.approx(1 / 129, rel=1e-6)


def test_a_last_batch_of_one_does_not_stop_batch_norm():
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    problem = Problem()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    loader = problem.loader(batch_size=13, shuffle=True)  # 40 = 3 * 13 + 1
    with pytest.warns(UserWarning, match="last batch of one example is skipped"):
        fit(module, loader, optimizer, 10, batch_norm="train")


def test_batches_of_one_are_none_for_batch_norm():
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match="batch_size of at least 2, or batch_norm='frozen'"):
        fit(module, Problem().loader(batch_size=1), optimizer, 2, batch_norm="train")
    fit(module, Problem().loader(batch_size=1), optimizer, 2)


def test_training_statistics_end_re_estimated_by_examples(tmp_path):
    module = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    problem = Problem()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    loader = problem.loader(batch_size=16, shuffle=True)  # 16, 16, 8
    fit(module, loader, optimizer, 4, batch_norm="train", run_dir=tmp_path)
    torch.testing.assert_close(module[0].running_mean, problem.inputs.mean(0))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    assert torch.equal(saved["0.running_mean"], module[0].running_mean)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_inputs_are_named_and_not_blamed_on_the_rate(value):
    problem = Problem()
    problem.inputs[17, 2] = value
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=1e-3)
    with pytest.raises(DataError, match="batch 2 of epoch 0 of the inputs holds NaN") as caught:
        fit(problem.module, problem.loader(8), optimizer, 6)
    assert "lower the lr" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_that_is_too_large_is_still_blamed_on_the_rate():
    problem = Problem()
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=20.0)
    with pytest.raises(DivergenceError, match="lower the lr"):
        fit(problem.module, problem.loader(8), optimizer, 3000)


@pytest.mark.parametrize("loss", [1e9, math.inf])
def test_data_without_a_scale_are_named_beside_the_rate(loss):
    """At the first step no rate is to blame, whatever the data are."""
    problem = Problem()
    problem.targets.mul_(1e9)
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=1e30)

    def outgrown(network, batch):
        return half_square(network, batch)[0] * (loss / 1e9), {}

    with pytest.raises(
        DivergenceError, match=r"scale the data, which reach .*e\+.*, to about 1"
    ) as e:
        fit(problem.module, problem.loader(8), optimizer, 20, outgrown)
    assert ("lower the lr" in str(e.value)) == (loss == 1e9)


@pytest.mark.parametrize("entry", ["1.weight", "0.running_var"])
def test_a_network_that_holds_nan_is_named_before_the_first_step(entry):
    problem = Problem()
    module = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    module.state_dict()[entry].view(-1)[0] = math.nan
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=f"hold NaN .* first step .'{entry}'.*the network anew"):
        fit(module, problem.loader(8), optimizer, 6)


def test_gradients_of_an_earlier_run_do_not_enter():
    """Such as those of a run that broken data ended, or of the caller's own backward."""
    fresh, used = Problem(), Problem()
    for parameter in used.module.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    for problem in (fresh, used):
        optimizer = torch.optim.SGD(problem.module.parameters(), lr=1e-3)
        fit(problem.module, problem.loader(), optimizer, 2, prior=problem.prior)
    assert torch.equal(used.weights(), fresh.weights())


@pytest.mark.parametrize(
    ("named", "options", "width"),
    [
        ("temperature", {"temperature": 0.5}, 1.0),
        ("friction", {"friction": 0.25}, 1.0),
        ("seed", {"seed": 3}, 1.0),
        ("fingerprint of the prior", {}, 0.5),
    ],
)
def test_another_run_does_not_resume(tmp_path, named, options, width):
    def go(num_steps, width=1.0, **own):
        problem = Problem()
        own = {"lr": 1e-3, "num_data": NUM_DATA, "friction": 0.5} | own
        optimizer = SGHMC(problem.module.parameters(), **own)
        prior = problem.prior.rescale(cov_scale=width)
        run = {"prior": prior, "run_dir": tmp_path, "resume": (tmp_path / "trace.csv").exists()}
        fit(problem.module, problem.loader(), optimizer, num_steps, **run)

    go(3)
    go(3)
    with pytest.raises(CheckpointError, match=f"belongs to another run: its {named} is"):
        go(3, width, **options)


def dropout_network(rate):
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(rate), nn.Linear(8, 1)).double()


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_under_a_sampler_is_warned_of(rate, recwarn):
    """Also below a log prior that drowns the change: likelihoods are compared."""
    module, problem = dropout_network(rate), Problem()
    optimizer = SGLD(module.parameters(), lr=1e-6, num_data=NUM_DATA)
    batches = list(problem.loader())
    state = torch.get_rng_state()
    fit(module, batches, optimizer, 1)
    assert len(recwarn) == (1 if rate else 0)
    if rate:
        assert "targets no posterior" in str(recwarn[0].message)
    else:
        assert torch.equal(torch.get_rng_state(), state)


def test_dropout_of_an_optimizer_or_a_random_subset_is_nobodys_business(recwarn):
    module, problem = dropout_network(0.3), Problem()
    fit(module, problem.loader(), torch.optim.SGD(module.parameters(), lr=1e-3), 1)

    def subset(network, batch):
        rows = torch.randperm(NUM_DATA)[:20]
        return half_square(network, (batch[0][rows], batch[1][rows]))

    module = nn.Sequential(nn.Linear(5, 1)).double()
    optimizer = SGLD(module.parameters(), lr=1e-6, num_data=NUM_DATA)
    fit(module, problem.loader(), optimizer, 1, subset)
    assert not recwarn


def test_a_rate_set_between_two_runs_holds():
    problem = Problem()
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=0.5)
    seen = []

    def note(event):
        seen.append(optimizer.param_groups[0]["lr"])

    run = {"schedule": cosine(num_steps=2), "hooks": [note]}
    fit(problem.module, problem.loader(), optimizer, 2, **run)
    assert optimizer.param_groups[0]["lr"] == 0.5  # not where the schedule ended
    optimizer.param_groups[0]["lr"] = 0.01
    fit(problem.module, problem.loader(), optimizer, 2, **run)
    assert seen == pytest.approx([0.5, 0.25, 0.01, 0.005])


def test_a_temperature_set_between_two_runs_holds():
    problem = Problem()
    optimizer = SGLD(problem.module.parameters(), lr=1e-3, num_data=NUM_DATA, temperature=0.0)
    fit(problem.module, problem.loader(), optimizer, 2)
    noise = optimizer.param_groups[0]["noise_state"]
    optimizer.param_groups[0]["temperature"] = 1.0
    fit(problem.module, problem.loader(), optimizer, 2)
    assert noise == []
    assert optimizer.param_groups[0]["noise_state"]


@pytest.mark.parametrize("name", ["lr", "temperature"])
def test_a_rate_changed_inside_a_run_is_an_error(name):
    problem = Problem()
    optimizer = SGLD(problem.module.parameters(), lr=1e-3, num_data=NUM_DATA)

    def meddle(event):
        optimizer.param_groups[0][name] = 0.5

    with pytest.raises(ConfigError, match="was changed inside the run"):
        fit(problem.module, problem.loader(), optimizer, 3, hooks=[meddle])


def test_gradients_outside_the_optimizer_do_not_pile_up():
    problem = Problem()
    optimizer = torch.optim.SGD([problem.module.bias], lr=1e-3)
    fit(problem.module, problem.loader(), optimizer, 3, prior=problem.prior)
    assert problem.module.weight.grad is None


def test_the_trace_has_the_temperatures_of_every_group(tmp_path):
    problem = Problem()
    groups = [
        {"params": [problem.module.weight], "name": "backbone"},
        {"params": [problem.module.bias], "name": "head", "temperature": 0.01},
    ]
    optimizer = SGHMC(groups, lr=1e-3, num_data=NUM_DATA, friction=0.5)
    fit(
        problem.module,
        problem.loader(),
        optimizer,
        6,
        prior=problem.prior,
        run_dir=tmp_path,
        log_every=2,
    )
    row = read_trace(tmp_path / "trace.csv")[-1]
    assert row["temperature"] == pytest.approx((5 * 1 + 0.01) / 6)
    assert (row["temperature.backbone"], row["temperature.head"]) == (1, 0.01)
    for name in ("configurational_temperature", "kinetic_temperature"):
        whole = (5 * row[f"{name}.backbone"] + row[f"{name}.head"]) / 6
        assert row[name] == pytest.approx(whole)


def test_compiled_modules_train_under_the_plain_names():
    problem, plain = Problem(), Problem()
    compiled = torch.compile(problem.module, backend="eager")
    for module, own in ((compiled, problem), (plain.module, plain)):
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
        seen = []
        fit(module, own.loader(), optimizer, 2, prior=own.prior, on_step=seen.append)
        assert ParameterLayout.from_module(seen[-1].module) == own.prior.layout
    assert torch.equal(problem.weights(), plain.weights())


@pytest.mark.gpu
def test_it_computes_where_the_module_is():
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    problem = Problem()
    problem.module.to(device)
    optimizer = torch.optim.SGD(problem.module.parameters(), lr=1e-3)
    fit(problem.module, problem.loader(), optimizer, 2, prior=problem.prior)
    assert problem.module.weight.device == device
