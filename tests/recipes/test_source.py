import pytest
import torch
from recipes_cases import Net, blobs, source_and_target

from bayesprior.data import two_views
from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.recipes import fit_source, make_prior, shaped
from bayesprior.tasks.objectives import two_view
from bayesprior.weights.gaussian import GaussianWeights

TINY = {"num_steps": 20, "num_snapshots": 4, "collect_every": 2, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def fitted():
    return source_and_target()


def test_source_covers_the_backbone_and_says_where_it_comes_from(fitted):
    source, *_ = fitted
    assert set(source.layout.names) == {
        "backbone.1.weight",
        "backbone.1.bias",
        "backbone.2.weight",
        "backbone.2.bias",
    }
    assert 1 <= source.rank <= 4
    assert "backbone.2.running_mean" in source.buffers
    assert source.provenance["objective"] == "negative log likelihood"
    assert source.provenance["swag"]["num_snapshots"] == 8


def test_source_file_is_the_returned_value_and_a_second_call_repeats_it(tmp_path):
    torch.manual_seed(1)
    module = Net(3)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    fits = []
    for _ in range(2):  # the second finds the finished run
        module.load_state_dict(state)
        fits.append(fit_source(module, blobs(3), rank=3, out=tmp_path, seed=5, **TINY))
    loaded = GaussianWeights.load(tmp_path / "source.safetensors")
    for law in (fits[1], loaded):
        assert torch.equal(law.loc, fits[0].loc)
        assert torch.equal(law.cov_factor, fits[0].cov_factor)


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    module = Net(3)
    torch.manual_seed(3)
    fit_source(module, blobs(3), rank=3, **TINY)
    assert torch.equal(torch.rand(2), expected)


def test_self_supervised_source_is_recorded_as_such():
    def alignment(one, other):
        return (one - other).square().mean() + (one.std(0) - 1).square().mean()

    def blur(images):
        return images + 0.1 * torch.randn(images.shape)

    data = two_views(blobs(3), view=blur)
    source = fit_source(Net(3), data, loss_fn=two_view(alignment), rank=3, **TINY)
    assert source.provenance["objective"] == "two_view"


@pytest.mark.parametrize("rank", [0, 5])
def test_rank_that_the_snapshots_cannot_give_is_refused(rank):
    with pytest.raises(ConfigError, match=f"between 1 and num_snapshots = 4, got {rank}"):
        fit_source(Net(3), blobs(3), rank=rank, **TINY)


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"lr": 0.0}, {"swag_lr_factor": 0.0}, {"weight_decay": -1.0}]
)
def test_impossible_rates_are_refused(options):
    with pytest.raises(ConfigError, match=r"must be positive|Invalid weight_decay"):
        fit_source(Net(3), blobs(3), rank=3, **{**TINY, **options})


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
    with pytest.raises(ConfigError, match="shape must be one of low-rank, diagonal, isotropic"):
        make_prior(source, target, head="head", shape="full")
    with pytest.raises(ConfigError, match="rms_std must be a positive number"):
        make_prior(source, target, head="head", rms_std=-1.0)


def test_making_a_prior_leaves_the_source_as_it_was(fitted):
    source, target, _ = fitted
    before = dict(source.provenance)
    make_prior(source, target, head="head", rms_std=0.1)
    assert source.provenance == before
