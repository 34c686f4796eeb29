import pytest
import torch
from recipes_cases import Net

from bayesprior.errors import ConfigError
from bayesprior.recipes import initialize_, pick_device
from bayesprior.recipes.training import chain_seed, parameter_groups
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def test_device_names():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="unknown device 'tpu9'; use auto, cpu or cuda"):
        pick_device("tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            pick_device("cuda")


def make_prior():
    layout = ParameterLayout.from_module(Net(2))
    backbone = layout.select(n for n in layout.names if n.startswith("backbone"))
    loc = torch.arange(backbone.dim, dtype=torch.float32)
    buffers = {"backbone.2.running_mean": torch.full((12,), 7.0)}
    return GaussianWeights.point(backbone, loc, 0.1, buffers=buffers).extend(layout, std=1.0)


def test_start_is_the_prior_mean_with_the_modules_own_head():
    module, prior = Net(2), make_prior()
    head = module.head.weight.clone()
    initialize_(module, prior)
    flat = prior.layout.flatten(module)
    assert torch.equal(flat[: prior.shared_dim], prior.loc[: prior.shared_dim])
    assert torch.equal(module.head.weight, head)
    assert torch.equal(module.backbone[2].running_mean, torch.full((12,), 7.0))


def test_groups_split_shared_and_new_weights():
    module, prior = Net(2), make_prior()
    shared, new = parameter_groups(module, prior, 0.1, None, 1.0, 0.25)
    assert {id(p) for p in new["params"]} == {id(p) for p in module.head.parameters()}
    assert (shared["lr"], new["lr"]) == (0.1, 0.1)
    assert (shared["name"], new["name"]) == ("backbone", "head")
    assert (shared["temperature"], new["temperature"]) == (1.0, 0.25)
    assert "temperature" not in parameter_groups(module, prior, 0.1, 0.2)[1]
    everything = prior.layout
    point = GaussianWeights.point(everything, torch.zeros(everything.dim), 1.0)
    assert len(parameter_groups(module, point, 0.1, 0.2)) == 1


def test_seeds_of_chains_do_not_overlap():
    seeds = [chain_seed(seed, chain) for seed in range(50) for chain in range(50)]
    assert len(set(seeds)) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
