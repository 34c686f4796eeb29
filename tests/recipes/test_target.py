import os
import signal

import pytest
import torch
from recipes_cases import Net, source_and_target

from bayesprior.errors import ConfigError
from bayesprior.inference import engine
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.recipes import fit_map, fit_swag, make_prior, sample
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def task():
    source, target, data = source_and_target()
    prior = make_prior(source, target, head="head", rms_std=0.1, head_std=1.0)
    return target.state_dict(), prior, data


def fresh(state):
    module = Net(2)
    module.load_state_dict(state)
    return module


def log_joint(module, prior, data):
    inputs, labels = (
        torch.stack([data.train[i][0] for i in range(len(data.train))]),
        data.train.targets,
    )
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(module.eval()(inputs), labels, reduction="sum")
        return float(prior.log_prob(prior.layout.flatten(module), dtype=torch.float64)) - float(nll)


def test_map_raises_the_posterior_and_is_saved(task, tmp_path):
    state, prior, data = task
    module = fresh(state)
    fit = fit_map(module, prior, data, num_steps=150, lr=0.1, out=tmp_path, **QUIET)
    assert torch.equal(PointPosterior.load(tmp_path / "map.safetensors").weights, fit.weights)
    better = log_joint(module, prior, data)
    start = fresh(state)
    fit_map(start, prior, data, num_steps=1, lr=1e-9, **QUIET)
    assert better > log_joint(start, prior, data) + 5
    for name, buffer in module.named_buffers():  # frozen at the source's statistics
        assert torch.equal(buffer, prior.buffers[name])


def test_a_tight_prior_holds_the_shared_weights(task):
    state, prior, data = task
    tight = prior.rescale(rms_std=1e-6)
    fit = fit_map(fresh(state), tight, data, num_steps=50, lr=0.1, **QUIET)
    moved = (fit.weights - prior.loc)[: prior.shared_dim]
    assert moved.abs().max() < 1e-4
    assert (fit.weights[prior.shared_dim :] != state["head.weight"].new_zeros(1)).any()


def test_swag_is_a_law_over_all_weights(task, tmp_path):
    state, prior, data = task
    fit = fit_swag(
        fresh(state), prior, data, rank=3, num_steps=40, num_snapshots=6, out=tmp_path, **QUIET
    )
    assert fit.layout.names == prior.layout.names
    assert fit.shared_dim == fit.dim
    assert torch.equal(GaussianWeights.load(tmp_path / "swag.safetensors").loc, fit.loc)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "sgld", "lr": 1e-3},
        {"sampler": "sghmc", "lr": 1e-3, "friction": 0.2},
        {"sampler": "sgld", "lr": 1e-3, "cycles": 2, "burn_in": 6},
    ],
)
def test_chains_differ_in_noise_and_head_and_are_stored(task, tmp_path, options):
    state, prior, data = task
    options = {"burn_in": 4, "thin": 2, "num_draws": 4, "chains": 2} | options
    draws = sample(fresh(state), prior, data, out=tmp_path, seed=3, **options, **QUIET)
    assert (draws.num_chains, draws.num_draws) == (2, 4)
    stored = {(d.chain, d.index): d.weights for d in StoredDraws(tmp_path).draws()}
    assert len(stored) == 8
    assert not torch.equal(stored[0, 0], stored[1, 0])
    again = sample(fresh(state), prior, data, out=tmp_path / "again", seed=3, **options, **QUIET)
    for draw in again.draws():
        assert torch.equal(draw.weights, stored[draw.chain, draw.index])


def test_killed_sampling_goes_on_to_the_same_draws(task, tmp_path, monkeypatch):
    state, prior, data = task
    options = {"burn_in": 4, "thin": 2, "num_draws": 5, "chains": 2, "seed": 3, **QUIET}
    whole = list(sample(fresh(state), prior, data, out=tmp_path / "whole", **options).draws())

    original, calls = engine.StepEvent, []

    def interrupting(*arguments, **named):
        calls.append(1)
        if len(calls) == 20:  # in the second chain
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    monkeypatch.setattr(engine, "StepEvent", interrupting)
    with pytest.raises(KeyboardInterrupt, match="resume from"):
        sample(fresh(state), prior, data, out=tmp_path / "parts", **options)
    resumed = list(sample(fresh(state), prior, data, out=tmp_path / "parts", **options).draws())
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.weights, other.weights)


def test_head_has_its_own_temperature(task, tmp_path):
    state, prior, data = task
    draws = sample(
        fresh(state),
        prior,
        data,
        out=tmp_path,
        chains=1,
        num_draws=3,
        burn_in=0,
        thin=1,
        lr=1e-12,
        temperature=1.0,
        head_temperature=0.0,
        **QUIET,
    )
    first, *_, last = [draw.weights for draw in draws.draws()]
    split = prior.shared_dim
    assert (first[:split] - last[:split]).abs().max() > 0
    torch.testing.assert_close(first[split:], last[split:], rtol=0, atol=1e-9)


def test_chains_start_as_far_apart_as_draws_of_the_prior_at_their_temperature(task):
    """The squared distance of the shared weights from the mean is chi-square, times T."""
    state, prior, data = task
    prior = prior.isotropic()
    lengths = {"chains": 5, "num_draws": 1, "burn_in": 0, "thin": 1, "lr": 1e-12, **QUIET}
    shared = prior.shared_dim
    for options, scale in (
        ({}, 1.0),
        ({"temperature": 0.25}, 0.25),
        ({"start_spread": 2.0}, 4.0),
        ({"start_spread": 0.0}, 0.0),
    ):
        draws = list(sample(fresh(state), prior, data, **options, **lengths).draws())
        away = torch.stack([d.weights - prior.loc for d in draws])[:, :shared]
        distance = float((away**2 / prior.variance[:shared]).sum(1).mean())
        error = scale * (2 * shared / len(draws)) ** 0.5
        assert abs(distance - scale * shared) < 5 * error + 1e-4
        assert len({float(row.sum()) for row in away}) == len(draws)


def test_bad_arguments_are_one_clear_error(task, tmp_path):
    state, prior, data = task
    bad = [
        ({"sampler": "nuts"}, "sampler must be one of 'sgld', 'sghmc', got 'nuts'"),
        ({"chains": 0}, "chains must be at least 1, got 0"),
        ({"friction": 1.5}, "friction must be at most 1"),
        ({"cycles": 4}, "num_draws = 50 is no multiple of cycles = 4"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": 1e9}, "unstable under this prior"),
        ({"device": "cuda:99"}, "cuda"),
    ]
    for index, (options, message) in enumerate(bad):
        if options.get("device") and torch.cuda.is_available():
            continue
        with pytest.raises(ConfigError, match=message):
            sample(fresh(state), prior, data, out=tmp_path / str(index), **(QUIET | options))


def test_map_from_the_modules_own_weights_is_fine_tuning(task):
    state, prior, data = task
    zero = GaussianWeights.point(prior.layout, torch.zeros_like(prior.loc), std=1e4)
    module = fresh(state)
    before = prior.layout.flatten(module)
    fit_map(module, zero, data, num_steps=1, lr=1e-9, start="module", **QUIET)
    torch.testing.assert_close(prior.layout.flatten(module), before)
    with pytest.raises(ConfigError, match="start must be one of 'prior', 'module'"):
        fit_map(module, zero, data, start="source", **QUIET)


def test_friction_belongs_to_sghmc(task):
    state, prior, data = task
    with pytest.raises(ConfigError, match="friction belongs to sampler='sghmc'"):
        sample(fresh(state), prior, data, sampler="sgld", friction=0.2, **QUIET)


class Wrong(Net):
    """The network with a layer before it that takes other channels."""

    def __init__(self):
        super().__init__(2)
        self.backbone.insert(0, torch.nn.Conv2d(4, 1, 1))


@pytest.mark.parametrize("recipe", [fit_map, fit_swag, sample])
def test_a_network_that_does_not_fit_the_data_is_refused_before_the_folder_is_made(
    task, tmp_path, recipe
):
    _, _, data = task
    for module, said in (
        (Net(50), "the network gives 50 outputs, 'blobs' has 2 classes"),
        (Wrong(), "its first layer takes 4 channels, the data have 1"),
    ):
        layout = ParameterLayout.from_module(module)
        law = GaussianWeights.point(layout, layout.flatten(module), std=1.0)
        with pytest.raises(ConfigError, match=said) as caught:
            recipe(module, law, data, out=tmp_path / "run", **QUIET)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", [fit_map, fit_swag])
def test_statistics_that_are_updated_belong_to_the_weights(task, tmp_path, recipe):
    """Those of the result are averages over the training data at its own weights."""
    state, prior, data = task
    options = {"num_steps": 20, "batch_norm": "train", "batch_size": len(data.train)}
    if recipe is fit_swag:
        options |= {"num_snapshots": 4, "rank": 2}
    fit = recipe(fresh(state), prior, data, out=tmp_path, **options, **QUIET)
    module = Net(2)
    weights = fit.loc if recipe is fit_swag else fit.weights
    with torch.no_grad():
        fit.layout.load_(module, weights)
        inputs = torch.stack([data.train[i][0] for i in range(len(data.train))])
        hidden = module.backbone[1](module.backbone[0](inputs)).double()
    mean, variance = fit.buffers["backbone.2.running_mean"], fit.buffers["backbone.2.running_var"]
    torch.testing.assert_close(mean, hidden.mean(0).float())
    torch.testing.assert_close(variance, hidden.var(0).float())
