import numpy as np
import pytest
import torch
from recipes_cases import Net, source_and_target
from torch import nn

from bayesprior.errors import BayesPriorError, ConfigError, LayoutMismatchError
from bayesprior.models import learn_noise
from bayesprior.recipes import make_prior, shaped
from bayesprior.recipes.named import point_source
from bayesprior.recipes.runs import read_config, read_results
from bayesprior.weights.gaussian import GaussianWeights


@pytest.fixture(scope="module")
def fitted():
    return source_and_target()


def test_prior_is_the_rescaled_marginal_with_a_new_head(fitted, tmp_path):
    source, target, _ = fitted
    prior = make_prior(source, target, head="head", rms_std=0.05, head_std=2.0, out=tmp_path)
    assert prior.layout.names[-2:] == ("head.weight", "head.bias")
    assert prior.shared_dim == source.dim
    assert prior.rms_std == pytest.approx(0.05)
    assert prior.block_rms_std()["head.weight"] == pytest.approx(2.0)
    jittered = source.jitter(0.1)
    scale = (0.05 / jittered.rms_std) ** 2
    torch.testing.assert_close(
        prior.covariance_matrix[: source.dim, : source.dim], scale * jittered.covariance_matrix
    )
    assert prior.provenance["jitter_share"] == pytest.approx(0.1 / 1.1)
    loaded = GaussianWeights.load(tmp_path / "prior.safetensors")
    assert torch.equal(loaded.loc, prior.loc)
    assert loaded.provenance["new"] == ["head.bias", "head.weight"]


@pytest.mark.parametrize("shape", ["low-rank", "diagonal", "isotropic"])
def test_shapes_share_mean_and_width(fitted, shape):
    source, *_ = fitted
    law = shaped(source.rescale(rms_std=0.1), shape)
    assert torch.equal(law.loc, source.loc)
    assert law.rms_std == pytest.approx(0.1)
    assert (law.rank > 0) == (shape == "low-rank")


def test_prior_errors_name_the_parameter(fitted):
    source, target, _ = fitted
    with pytest.raises(LayoutMismatchError, match="no trainable parameter under the head 'fc'"):
        make_prior(source, target, head="fc")
    with pytest.raises(LayoutMismatchError, match=r"does not cover 2 parameters .*head\.weight"):
        make_prior(source, target)
    renamed = source.rename({"backbone.1.weight": "backbone.1.wieght"})
    with pytest.raises(LayoutMismatchError, match="did you mean 'backbone.1.weight'"):
        make_prior(renamed, target, head="head")
    with pytest.raises(ConfigError, match="shape must be one of 'low-rank', 'diagonal'"):
        make_prior(source, target, head="head", shape="full")
    with pytest.raises(ConfigError, match="rms_std must be above 0, got -1.0"):
        make_prior(source, target, head="head", rms_std=-1.0)


def test_making_a_prior_leaves_the_source_as_it_was(fitted):
    source, target, _ = fitted
    before = dict(source.provenance)
    make_prior(source, target, head="head", rms_std=0.1)
    assert source.provenance == before


def test_around_zero_is_the_run_without_the_source(fitted):
    source, target, _ = fitted
    learned = make_prior(source, target, head="head", rms_std=0.1)
    zero = make_prior(source, target, head="head", rms_std=0.1, shape="zero")
    assert not zero.loc.any()
    torch.testing.assert_close(zero.variance[: source.dim], torch.full((source.dim,), 0.01))
    torch.testing.assert_close(zero.variance[source.dim :], learned.variance[source.dim :])
    assert zero.buffers.keys() == learned.buffers.keys()
    assert zero.provenance["transferred"] == 0


@pytest.mark.parametrize("shape", ["low-rank", "diagonal", "isotropic", "zero"])
@pytest.mark.parametrize("jitter", [0.0, 0.1, 3.0])
def test_without_a_width_the_source_keeps_its_own(fitted, shape, jitter):
    source, target, _ = fitted
    prior = make_prior(source, target, head="head", jitter=jitter, shape=shape)
    assert prior.rms_std == pytest.approx(source.rms_std, rel=1e-6)
    double = make_prior(source, target, head="head", jitter=jitter, shape=shape, cov_scale=4)
    assert double.rms_std == pytest.approx(2 * source.rms_std, rel=1e-6)
    if jitter == 0.0 and shape == "low-rank":
        assert torch.equal(prior.variance[: source.dim], source.variance)


def test_provenance_says_what_was_asked_and_of_which_checkpoint(fitted, tmp_path):
    _, target, _ = fitted
    law = point_source(Net(2), 0.1, "resnet.pth")
    prior = make_prior(law, target, head="head", rms_std=np.float32(0.5), head_std=2, out=tmp_path)
    found = GaussianWeights.load(tmp_path / "prior.safetensors").provenance
    assert found["checkpoint"] == "resnet.pth"
    assert (found["rms_std_asked"], found["cov_scale_asked"]) == (0.5, None)
    assert found["rms_std"] == pytest.approx(0.5)
    config, numbers = read_config(tmp_path, "make_prior"), read_results(tmp_path)["make-prior"]
    assert config.options["head"] == "head"
    assert numbers["rms_std"] == prior.rms_std
    before = (tmp_path / "prior.safetensors").stat().st_mtime_ns
    make_prior(law, target, head="head", rms_std=0.5, head_std=2, out=tmp_path)
    assert (tmp_path / "prior.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="its source is another law"):
        make_prior(
            point_source(Net(2), 0.1, "x"),
            target,
            head="head",
            rms_std=0.5,
            head_std=2,
            out=tmp_path,
        )


@pytest.mark.parametrize(
    "options",
    [
        {"rms_std": 1e300},
        {"rms_std": 1e-300},
        {"rms_std": 1e-25},
        {"head_std": 1e-300},
        {"head_std": 1e-25},
        {"jitter": 1e300},
        {"rms_std": 0.1, "cov_scale": 2.0},
        {"rank": 99},
        {"shape": "diagonal", "rank": 2},
        {"head": "nosuchlayer"},
        {"head": "*"},
    ],
)
def test_a_prior_that_is_refused_leaves_nothing(fitted, tmp_path, options):
    source, target, _ = fitted
    with pytest.raises(BayesPriorError) as caught:
        make_prior(source, target, **{"head": "head", **options}, out=tmp_path / "prior")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "prior").exists()


def test_several_heads(fitted):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Net(2).backbone
            self.left, self.right = nn.Linear(12, 2), nn.Linear(12, 3)

    source, *_ = fitted
    for head in (["left", "right"], ["left.*", "right"], lambda name: "backbone" not in name):
        prior = make_prior(source, Two(), head=head)
        new = {"left.weight", "left.bias", "right.weight", "right.bias"}
        assert set(prior.provenance["new"]) == new


def test_a_new_norm_layer_keeps_its_scale(fitted, tmp_path):
    class Deep(Net):
        def __init__(self):
            super().__init__(2)
            self.head = nn.Sequential(
                nn.BatchNorm1d(12), nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 2)
            )

    source, *_ = fitted
    target = Deep()
    with torch.no_grad():
        target.head[2].weight.fill_(0.5)
    prior = make_prior(source, target, head="head", head_std=0.1, out=tmp_path)
    means = prior.layout.unflatten(prior.loc)
    assert (means["head.0.weight"] == 1).all()
    assert (means["head.2.weight"] == 0.5).all()
    for name in ("head.0.bias", "head.1.weight", "head.2.bias", "head.3.weight"):
        assert not means[name].any()
    with torch.no_grad():
        target.head[2].weight.fill_(0.25)
    with pytest.raises(ConfigError, match="its new norm layers started otherwise"):
        make_prior(source, target, head="head", head_std=0.1, out=tmp_path)
    with pytest.raises(ConfigError, match="its network is"):
        make_prior(source, Net(2), head="head", head_std=0.1, out=tmp_path)


def test_a_target_that_does_not_fit_its_data_is_refused(fitted, tmp_path):
    source, _, data = fitted
    with pytest.raises(ConfigError, match="the network gives 50 outputs, 'blobs' has 2 classes"):
        make_prior(source, Net(50), head="head", data=data, out=tmp_path / "prior")
    assert not (tmp_path / "prior").exists()


def test_the_width_of_a_head_is_not_that_of_its_noise():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    learn_noise(module)
    law = point_source(module, 1.0)
    prior = make_prior(law, module, head="2", head_std=0.05, rms_std=1.0)
    widths = prior.block_rms_std()
    assert (widths["2.weight"], widths["2.bias"]) == (pytest.approx(0.05), pytest.approx(0.05))
    assert widths["2.log_variance"] == pytest.approx(1.0)
    assert prior.shared_dim == 16
