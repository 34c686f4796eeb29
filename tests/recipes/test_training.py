import pytest
import torch
from recipes_cases import QUIET, Net, blobs

from bayesprior.errors import ConfigError
from bayesprior.inference.progress import read_trace
from bayesprior.recipes import fit_map, fit_swag, initialize_, pick_device, sample
from bayesprior.recipes.named import point_source
from bayesprior.recipes.runs import read_results
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


@pytest.mark.parametrize("fit", [fit_map, fit_swag])
def test_around_zero_a_fit_starts_as_layers_do(fit):
    """At zero, a saddle, no weight but the last bias would ever move."""
    net = Net(2)
    net.shift = torch.nn.Parameter(torch.full((3,), 9.0))  # of no layer that could draw it
    layout = ParameterLayout.from_module(net)
    zero = GaussianWeights.point(layout, torch.zeros(layout.dim), 0.5)
    zero.buffers["backbone.2.running_mean"] = torch.full((12,), 7.0)
    lengths = {"num_steps": 1} | ({} if fit is fit_map else {"num_snapshots": 2, "rank": 1})
    starts = []
    for seed in (0, 0, 1):
        again = {**QUIET, **lengths, "lr": 1e-9, "seed": seed}
        fit(net, zero, blobs(2), **again)  # the second starts where the first left the network
        starts.append(layout.flatten(net))
        assert all(p.any() for n, p in net.named_parameters() if n != "backbone.2.bias")
        assert (net.backbone[2].weight - 1).abs().max() < 1e-3
        assert (net.backbone[2].running_mean == 7).all()
        assert 0 < net.shift.abs().max() < 3
    assert torch.equal(starts[0], starts[1])
    assert (starts[0] - starts[2]).abs().max() > 0.1


def test_a_fit_around_zero_learns(tmp_path):
    layout = ParameterLayout.from_module(Net(2))
    zero = GaussianWeights.point(layout, torch.zeros(layout.dim), 0.5)
    fit_map(Net(2), zero, blobs(2), num_steps=120, out=tmp_path, **QUIET)
    assert read_results(tmp_path)["fit"]["training_accuracy"] > 0.9


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


def test_a_fit_says_how_it_ended_on_its_training_examples(tmp_path):
    prior, data = point_source(Net(2), 0.5), blobs(2)
    fit_map(Net(2), prior, data, num_steps=120, lr=0.1, out=tmp_path, **QUIET)
    found = read_results(tmp_path)["fit"]
    rows = read_trace(tmp_path / "trace.csv")[-10:]
    for name in ("loss", "accuracy"):
        assert found[f"training_{name}"] == pytest.approx(sum(row[name] for row in rows) / 10)
    assert found["training_accuracy"] > 0.9


def test_a_fit_that_ends_no_better_than_guessing_is_warned_of(tmp_path):
    """To answer all examples alike, and surely, is worse than to know the classes' shares."""
    net, data = Net(2), blobs(2)
    prior = point_source(net, 0.5)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([10.0, 0.0]))
    stuck = {"lr": 1e-9, **QUIET}
    guessing = r"training loss is \d.*, no better than guessing by the classes' shares \(0.693\)"
    with pytest.warns(UserWarning, match=f"{guessing}: lower lr"):
        fit_map(net, prior, data, num_steps=100, start="module", **stuck)
    hot = {"num_draws": 10, "thin": 1, "burn_in": 90, "chains": 2, "temperature": 1e3, **QUIET}
    with pytest.warns(UserWarning, match=f"{guessing}: raise burn_in"):
        sample(net, prior, data, lr=1e-2, **hot)
    fit_map(net, prior, data, num_steps=90, start="module", **stuck)  # too short to tell
