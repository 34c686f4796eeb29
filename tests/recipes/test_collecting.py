"""A source of checkpoints: SWAG of exactly these, with statistics that belong to its mean."""

import warnings

import pytest
import torch
from recipes_cases import Net, blobs
from torch import nn

from bayesprior.data import DataBundle, as_bundle
from bayesprior.errors import ConfigError, LayoutMismatchError, PriorFileError
from bayesprior.inference.batch_norm import reestimate_
from bayesprior.inference.collectors import SWAG
from bayesprior.recipes import collect, fit_map, make_prior
from bayesprior.recipes.runs import read_config, read_results
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

CPU = {"device": "cpu", "head": "head"}


@pytest.fixture(scope="module")
def data():
    return blobs(3)


@pytest.fixture(scope="module")
def trained(data):
    """A network and its checkpoints of five steps, as somebody's loop leaves them."""
    torch.manual_seed(0)
    module = Net(3)
    optimizer, states = torch.optim.SGD(module.parameters(), lr=0.1), []
    loader = data.loader("train", 20)
    for _ in range(2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
            states.append({name: t.clone() for name, t in module.state_dict().items()})
    return module, states


@pytest.fixture
def paths(trained, tmp_path):
    found = []
    for i, state in enumerate(trained[1]):
        path = tmp_path / f"epoch-{i}.pt"
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": i}, path)
        found.append(path)
    return found


def test_it_is_swag_of_the_backbone_with_statistics_at_the_mean(trained, paths, data):
    module, states = trained
    before = {name: t.clone() for name, t in module.state_dict().items()}
    source = collect(module, paths, data=data, rank=4, **CPU)
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in before.items())
    layout = ParameterLayout.from_module(module, lambda n: not n.startswith("head"))
    swag = SWAG(rank=4)
    for state in states:
        swag.update_weights(layout.flatten_tensors(state[n] for n in layout.names), layout)
    expected = swag.posterior()
    assert source.layout == layout
    assert torch.equal(source.loc, expected.loc)
    assert torch.equal(source.cov_diag, expected.cov_diag)
    assert torch.equal(source.cov_factor, expected.cov_factor)
    mean = Net(3)
    mean.load_state_dict(states[-1])
    layout.load_(mean, source.loc)
    reestimate_(mean, data.loader("train", 128, shuffle=True, seed=0))
    for name in ("backbone.2.running_mean", "backbone.2.running_var"):
        torch.testing.assert_close(source.buffers[name], mean.get_buffer(name))
        assert not torch.equal(source.buffers[name], states[-1][name])
    known = source.provenance
    assert (known["role"], known["model"], known["num_data"]) == ("source posterior", "Net", 60)
    assert known["imported"]["source"] == list(map(str, paths))
    assert "head_inputs.within" in source.statistics


def test_the_folder_is_that_of_a_source_and_is_found_finished(trained, paths, data, tmp_path):
    module, _ = trained
    out = tmp_path / "source"
    source = collect(module, paths, data=data, out=out, **CPU)
    assert source.rank == len(paths) - 1  # n checkpoints span n - 1 directions
    assert GaussianWeights.load(out / "source.safetensors").provenance == source.provenance
    assert read_config(out, "collect").options["batch_size"] == 128
    assert read_results(out)["collect"]["rank"] == source.rank
    written = (out / "source.safetensors").stat().st_mtime_ns
    collect(module, paths, data=data, out=out, **CPU)
    assert (out / "source.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="holds another run: its checkpoints were others"):
        collect(module, paths[1:], data=data, out=out, **CPU)


def test_a_prior_is_made_of_it_and_fitted(trained, paths, data):
    source = collect(trained[0], paths, data=data, **CPU)
    target = blobs(2, num_data=24, seed=1)
    network = Net(2)
    prior = make_prior(source, network, head="head", data=target, rms_std=0.1)
    assert prior.provenance["head_prior"] == "learned"
    quick = {"device": "cpu", "progress": False}
    fit_map(network, prior, target, num_steps=2, **quick)


def test_without_data_the_last_statistics_are_kept_and_it_is_said(trained):
    module, states = trained
    with pytest.warns(UserWarning, match=r"statistics are those of the last checkpoint.*--data"):
        source = collect(module, states, **CPU)
    assert torch.equal(
        source.buffers["backbone.2.running_mean"], states[-1]["backbone.2.running_mean"]
    )
    assert source.provenance["batch_norm"] == "of the last checkpoint"
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    states = [nn.Linear(2, 2).state_dict() for _ in range(2)]
    states = [{f"{i}.{n}": t for i in (0, 1) for n, t in s.items()} for s in states]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collect(plain, states).buffers == {}


def test_a_head_of_other_classes_and_data_without_labels(trained, data):
    """The network is the target's: the checkpoints' head is left out; images alone suffice."""
    images = as_bundle(DataBundle("images", [image for image, _ in data.train]))
    source = collect(Net(7), trained[1], data=images, **CPU)
    assert not [n for n in source.layout.names if n.startswith("head")]
    assert (
        source.provenance["features"] == "not looked at: the examples have no classes of their own"
    )
    assert torch.equal(source.loc, collect(Net(3), trained[1], data=data, **CPU).loc)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (
            lambda s: s[:1],
            {},
            ConfigError,
            r"at least 2 checkpoints, got 1; .*make-prior --weights",
        ),
        (lambda s: s[0], {}, ConfigError, r"checkpoints must be a list, got OrderedDict|got dict"),
        (
            lambda s: s,
            {"rank": 50},
            ConfigError,
            r"rank must be at most 6, the checkpoints; got 50",
        ),
        (lambda s: [s[0], s[0]], {}, ConfigError, r"all snapshots are equal"),
        (lambda s: [s[0], "no.pt"], {}, PriorFileError, r"no such file: no\.pt"),
        (lambda s: s, {"head": "haed"}, LayoutMismatchError, r"no trainable parameter under the"),
        (lambda s: s, {"head": ["head", "backbone"]}, ConfigError, r"covers every parameter"),
        (
            lambda s: s,
            {"diagonal_only": True, "rank": 2},
            ConfigError,
            r"rank belongs to a law with directions",
        ),
        (
            lambda s: [*s[:2], nn.Linear(3, 4).state_dict()],
            {},
            PriorFileError,
            r"does not fit Net",
        ),
    ],
)
def test_what_cannot_be_collected_is_one_line(trained, data, change, options, error, message):
    module, states = trained
    with pytest.raises(error, match=message) as caught:
        collect(module, change(states), data=data, **{**CPU, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*not in the file")
def test_checkpoints_of_other_layers_are_one_line(trained, data):
    module, states = trained
    less = {n: t for n, t in states[2].items() if not n.startswith("backbone.2")}
    with pytest.raises(PriorFileError, match=r"holds other layers.*; give checkpoints of one netw"):
        collect(module, [*states[:2], less], data=data, **CPU)
