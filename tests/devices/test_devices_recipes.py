"""The user's verbs, through ``fabric=``."""

import warnings

import numpy as np
import pytest
import torch
from devices.accelerator import fabric_on, waits
from recipes_cases import MAP, SAMPLE, SOURCE, SWAG, Net, blobs

from bayesprior.prediction.predict import predict
from bayesprior.recipes import fit_map, fit_source, fit_swag, make_prior, sample
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tree.build import to_datatree

SAMPLERS = {
    "sgld": {"sampler": "sgld"},
    "sghmc": {"sampler": "sghmc", "friction": 0.2},
    "cyclical": {"sampler": "sgld", "num_draws": 4, "cycles": 2, "head_temperature": 0.5},
}
TARGET = blobs(2, num_data=40, seed=1)


def fresh(num_classes):
    torch.manual_seed(0)
    return Net(num_classes)


def source_on(device, **options):
    with_fabric = {"fabric": fabric_on(device), "progress": False}
    return fit_source(fresh(3), blobs(3), head="head", **{**SOURCE, **with_fabric, **options})


def prior_on(device):
    module = fresh(2).to(device)
    return make_prior(source_on(device), module, head="head", rms_std=0.1, head_std=0.5)


@pytest.fixture(scope="module")
def prior():
    return prior_on(torch.device("cpu"))


def law(found):
    return found.loc, found.cov_diag, found.cov_factor, found.buffers


def fitted(recipe, device, prior, **options):
    """Return the network and what was fitted."""
    module = fresh(2)
    fit = recipe(module, prior, TARGET, fabric=fabric_on(device), progress=False, **options)
    assert next(module.parameters()).device.type == device.type
    return module, fit


def test_source_and_prior(both, tmp_path):
    def work(device):
        source = source_on(device, out=tmp_path / device.type)
        assert source.loc.device.type == device.type
        assert source_on(device, out=tmp_path / device.type).loc.dim() == 1  # read, not made again
        return law(source), law(prior_on(device))

    both(work)


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": "train"}, {"start": "module", "head_lr": 0.1}]
)
def test_map(both, prior, options):
    def work(device):
        module, fit = fitted(fit_map, device, prior, **MAP, **options)
        return fit.weights, fit.buffers, module.state_dict()

    both(work)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_swag(both, prior, tmp_path, batch_norm):
    def work(device):
        out = tmp_path / device.type
        return law(fitted(fit_swag, device, prior, batch_norm=batch_norm, out=out, **SWAG)[1])

    both(work)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("stored", [True, False])
def test_samples(both, prior, tmp_path, name, stored):
    def work(device):
        options = {**SAMPLE, **SAMPLERS[name], "out": tmp_path / device.type if stored else None}
        fit = fitted(sample, device, prior, **options)[1]
        return [(d.chain, d.index, d.weights, d.buffers) for d in fit.draws()]

    both(work)


STEPS = {
    "source": lambda device, prior, n: source_on(device, num_steps=n),
    "map": lambda device, prior, n: fitted(fit_map, device, prior, **{**MAP, "num_steps": n}),
    "swag": lambda device, prior, n: fitted(fit_swag, device, prior, **{**SWAG, "num_steps": n}),
    "sgld": lambda device, prior, n: fitted(
        sample, device, prior, **{**SAMPLE, "burn_in": n, **SAMPLERS["sgld"]}
    ),
    "sghmc": lambda device, prior, n: fitted(
        sample, device, prior, **{**SAMPLE, "burn_in": n, **SAMPLERS["sghmc"]}
    ),
}
# What one more row of the trace waits for.
ROW = {
    "inference/run_state.py:check_loss",
    "inference/run_state.py:scalars",
    "inference/run_state.py:<dictcomp>",
}
PRIOR = {"inference/prior_term.py:add_to_grad", "inference/prior_term.py:_temperatures"}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_makes_the_host_wait_for_nothing(device, prior, name):
    """Ten steps more are one row of the trace more, of each of two chains."""
    counted = []
    for num_steps in (20, 30):
        with waits() as found:
            STEPS[name](device, prior, num_steps)
        counted.append(found)
    chains, places = 2 if name.startswith("sg") else 1, ROW | (PRIOR if name != "source" else set())
    expected = dict.fromkeys(places, chains)
    if name == "sghmc":  # of each of two groups
        expected["inference/optimizers/sghmc.py:kinetic_temperature"] = 2 * chains
    counted[1].subtract(counted[0])
    assert {place: count for place, count in counted[1].items() if count} == expected


def test_what_a_report_shows(both, prior):
    """Its numbers; the page is made of those alone."""

    def work(device):
        module, fit = fitted(fit_swag, device, prior, **SWAG)
        train, test = (
            predict(module, fit, TARGET.loader(split, 16), Categorical(), num_draws=6)
            for split in ("train", "test")
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = to_datatree(prior=prior.to(device), draws=fit.draws(6), train=train, test=test)
        proba = fit.predict_proba(torch.zeros(3, 1, 4, 4))
        numbers = {
            f"{group}/{name}": torch.from_numpy(np.ascontiguousarray(variable.values))
            for group in tree.groups
            for name, variable in tree[group].data_vars.items()
            if variable.dtype.kind in "fiub"
        }
        assert len(numbers) > 10
        return proba, numbers, dict(test.metrics)

    both(work)
