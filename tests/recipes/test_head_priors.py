"""Heads in units of logits, learned from a source's features, and widths by tensor."""

import copy
import math

import pytest
import torch
from recipes_cases import QUIET, Net, blobs, source_and_target
from torch import nn

from bayesprior.errors import ConfigError
from bayesprior.inference.strength.features import feature_statistics, head_inputs
from bayesprior.inference.strength.head import within_metric
from bayesprior.inference.strength.noise import feature_noise
from bayesprior.recipes import fit_source, make_prior
from bayesprior.recipes.head_priors import rms_by_tensor
from bayesprior.recipes.named import point_source
from bayesprior.recipes.runs import read_config
from bayesprior.recipes.training import initialize_
from bayesprior.tasks.protocols import pair_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.rows import RowCovariance

HEAD = ("head.weight", "head.bias")


@pytest.fixture(scope="module")
def fitted():
    return source_and_target()


def features_at(source, module, data):
    source.layout.load_(module, source.loc)
    for name, buffer in module.named_buffers():
        buffer.copy_(source.buffers[name])
    return head_inputs(module, "head", data.loader("train", 60))


def test_the_source_tells_how_its_features_vary(fitted, tmp_path):
    source, *_ = fitted
    features, labels = features_at(source, Net(3), blobs(3))
    for name, expected in feature_statistics(features, labels).items():
        torch.testing.assert_close(source.statistics[name].double(), expected, rtol=1e-4, atol=1e-5)
    source.save(tmp_path / "source.safetensors")
    assert GaussianWeights.load(tmp_path / "source.safetensors").statistics.keys() == (
        source.statistics.keys()
    )


def test_a_source_with_its_head_looks_at_the_last_linear_layer():
    module, data = Net(3), blobs(3)
    short = {"rank": 1, "num_steps": 2, "num_snapshots": 2, **QUIET}
    source = fit_source(module, data, **short)
    assert "head.weight" in source.layout.slices
    assert source.statistics["head_inputs.within"].shape == (12, 12)
    softmax = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Tanh())
    headless = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.AdaptiveAvgPool1d(3))
    assert fit_source(softmax, data, **short).statistics["head_inputs.mean"].shape == (16,)
    assert "found" in fit_source(headless, data, **short).provenance["features"]


def logit_stds(prior, features):
    """The rms standard deviation of logits at these features, of the prior's own covariance."""
    weight, bias = (prior.layout.slice(name) for name in HEAD)
    cov = prior.covariance_matrix
    rows = cov[weight, weight][:12, :12]
    squares = ((features @ rows) * features).sum(1) + cov[bias, bias][0, 0]
    return math.sqrt(float(squares.mean()))


def test_a_learned_head_has_the_metric_of_the_features(fitted):
    source, target, _ = fitted
    prior = make_prior(source, target, head="head", rms_std=0.1)
    [block] = [b for b in prior.blocks if b.names == ("head.weight",)]
    assert isinstance(block.covariance, RowCovariance)
    tril = within_metric(source.statistics["head_inputs.within"])
    ratio = block.covariance.tril.double() / tril
    assert float(ratio[tril != 0].std()) < 1e-4 * prior.provenance["head_std"]
    features, _ = features_at(source, Net(3), blobs(3))
    # the source's own logits, but for N - C in the place of N
    assert logit_stds(prior, features) == pytest.approx(5, rel=3 / 60)
    assert prior.provenance["head_prior"] == "learned"
    assert "head_note" not in prior.provenance
    assert prior.rms_std == pytest.approx(0.1)
    assert not prior.statistics


@pytest.mark.parametrize("kind", ["learned", "isotropic"])
def test_the_targets_own_features_set_the_width(fitted, kind):
    source, target, data = fitted
    state = {name: value.clone() for name, value in target.state_dict().items()}
    prior = make_prior(source, target, head="head", head_prior=kind, head_logit_std=2.0, data=data)
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    features, _ = features_at(source, Net(2), data)
    assert logit_stds(prior, features) == pytest.approx(2.0, rel=1e-5)
    assert prior.provenance["head_prior"] == kind


def test_what_the_source_does_not_tell_is_said(fitted):
    source, target, data = fitted
    bare = GaussianWeights.from_blocks(source.layout, source.loc, source.blocks)
    told = make_prior(bare, target, head="head").provenance
    assert (told["head_prior"], told["head_std"]) == ("isotropic", 1.0)
    assert "tells nothing of its features" in told["head_note"]
    with pytest.raises(ConfigError, match="no learned head_prior: the source tells nothing"):
        make_prior(bare, target, head="head", head_prior="learned")
    with pytest.raises(ConfigError, match="give data=, or head_std"):
        make_prior(bare, target, head="head", head_logit_std=3.0)
    assert make_prior(bare, target, head="head", data=data).provenance["head_logit_std"] == 5


def test_a_head_of_other_inputs_is_isotropic(fitted):
    source, *_ = fitted
    wider = Net(2)
    wider.backbone.append(nn.Linear(12, 7))
    wider.head = nn.Linear(7, 2)
    told = make_prior(source, wider, head=["head", "backbone.4"]).provenance
    assert told["head_note"] == "the head is not one linear layer"
    wider.backbone[-1].requires_grad_(False)
    told = make_prior(source, wider, head="head").provenance
    assert told["head_note"] == "the source's head takes 12 numbers, 7 here"


def test_one_width_of_the_head(fitted):
    source, target, _ = fitted
    with pytest.raises(ConfigError, match="one of head_std and head_logit_std"):
        make_prior(source, target, head="head", head_std=1.0, head_logit_std=5.0)
    with pytest.raises(ConfigError, match="give head_logit_std"):
        make_prior(source, target, head="head", head_std=1.0, head_prior="learned")
    with pytest.raises(ConfigError, match="one of rms_std and rms_ratio"):
        make_prior(source, target, head="head", rms_std=1.0, rms_ratio=0.25)


@pytest.mark.parametrize("shape", ["low-rank", "isotropic"])
def test_every_tensor_has_a_width_of_its_own(fitted, shape):
    source, target, _ = fitted
    prior = make_prior(source, target, head="head", rms_ratio=0.25, shape=shape)
    widths, own = prior.block_rms_std(), rms_by_tensor(source)
    for name in source.layout.names:
        assert widths[name] == pytest.approx(0.25 * own[name], rel=1e-4)
    if shape == "low-rank":  # correlations stay
        wide = source.jitter(0.1).covariance_matrix
        cov = prior.covariance_matrix[: source.dim, : source.dim]
        for matrix in (wide, cov):
            root = matrix.diagonal().sqrt()
            matrix /= torch.outer(root, root)
        torch.testing.assert_close(cov, wide, rtol=1e-3, atol=1e-4)


def test_a_tensor_of_zeros_keeps_a_little_width(fitted):
    source, target, _ = fitted
    loc = source.loc.clone()
    loc[source.layout.slice("backbone.1.bias")] = 0
    law = GaussianWeights.from_blocks(source.layout, loc, source.blocks)
    width = make_prior(law, target, head="head", rms_ratio=0.25).block_rms_std()["backbone.1.bias"]
    assert width == pytest.approx(0.0025 * float(loc.square().mean().sqrt()), rel=1e-4)


def test_without_a_width_the_features_set_it(fitted, tmp_path):
    """Where there are data; else, and around zero, the source keeps its own."""
    source, target, data = fitted
    prior = make_prior(source, target, head="head", data=data, out=tmp_path)
    module = copy.deepcopy(target)
    initialize_(module, source)
    batches = list(data.loader("train", 100))
    noise = feature_noise(module, batches, head="head", by_tensor=True, forward=pair_forward)
    ratio = prior.provenance["rms_ratio"]
    assert ratio == pytest.approx(2.5 * noise, rel=1e-4)
    own, found = rms_by_tensor(source), prior.block_rms_std()
    assert all(found[name] == pytest.approx(ratio * rms) for name, rms in own.items())
    assert read_config(tmp_path).digests.keys() >= {"data.train"}
    zero = make_prior(source, target, head="head", data=data, shape="zero")
    assert zero.rms_std == pytest.approx(source.rms_std)
    assert zero.provenance["rms_ratio"] is None


def test_a_checkpoint_has_no_width_of_its_own(fitted):
    _, target, data = fitted
    law = point_source(target, None)
    assert make_prior(law, target, head="head", data=data).provenance["rms_ratio"] > 0
    with pytest.raises(ConfigError, match="a checkpoint has no width of its own: give rms_std"):
        make_prior(law, target, head="head")
