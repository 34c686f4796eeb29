import pytest
import torch
from recipes_cases import Net, blobs, source_and_target

from bayesprior.data import two_views
from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.recipes import fit_source
from bayesprior.tasks.likelihoods import Categorical
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
    told = source.provenance["normalization"]
    transform = blobs(3).train.transform
    assert (told["mean"], told["std"]) == (list(transform.mean), list(transform.std))


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
    assert source.provenance["objective"] == "TwoView"


@pytest.mark.parametrize("rank", [0, 4, 5])
def test_rank_that_the_snapshots_cannot_give_is_refused(rank):
    """The deviations of four snapshots from their mean span three directions."""
    assert fit_source(Net(3), blobs(3), rank=3, **TINY).rank == 3
    with pytest.raises(ConfigError, match=f"at least 1 and below num_snapshots = 4, got {rank}"):
        fit_source(Net(3), blobs(3), rank=rank, **TINY)


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"lr": 0.0}, {"swag_lr_factor": 0.0}, {"weight_decay": -1.0}]
)
def test_impossible_rates_are_refused(options):
    [name] = options
    with pytest.raises(ConfigError, match=f"{name} must be (above 0|at least 0), got"):
        fit_source(Net(3), blobs(3), rank=3, **{**TINY, **options})


def test_the_head_is_named_by_prefix_pattern_or_predicate():
    everything = fit_source(Net(3), blobs(3), rank=3, **TINY)
    assert "head.weight" in everything.layout.names
    for head in ("head", "head.*", ["head.weight", "head.bias"], lambda name: "head" in name):
        source = fit_source(Net(3), blobs(3), rank=3, head=head, **TINY)
        assert not [name for name in source.layout.names if name.startswith("head")]
    with pytest.raises(LayoutMismatchError, match="no trainable parameter under the head 'fc'"):
        fit_source(Net(3), blobs(3), rank=3, head="fc", **TINY)
    with pytest.raises(ConfigError, match="covers every parameter"):
        fit_source(Net(3), blobs(3), rank=3, head="*", **TINY)


class Centered(torch.nn.Module):
    """A loss with something of its own to learn."""

    def __init__(self):
        super().__init__()
        self.center = torch.nn.Parameter(torch.zeros(3))

    def forward(self, module, batch):
        return (module(batch[0]) - self.center - 1).square().mean(), {}


def test_a_loss_that_is_a_module_belongs_to_the_start(tmp_path):
    module, loss = Net(3), Centered()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    fit_source(module, blobs(3), loss_fn=loss, rank=3, out=tmp_path, **TINY)
    module.load_state_dict(state)
    with torch.no_grad():
        loss.center.add_(5)
    with pytest.raises(ConfigError, match="its network started from other weights"):
        fit_source(module, blobs(3), loss_fn=loss, rank=3, out=tmp_path, **TINY)
    with pytest.raises(ConfigError, match="a loss_fn calls the network itself"):
        fit_source(module, blobs(3), loss_fn=loss, likelihood=Categorical(), rank=3, **TINY)


def test_a_network_that_does_not_fit_the_data_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(ConfigError, match="the network gives 50 outputs, 'blobs' has 3 classes"):
        fit_source(Net(50), blobs(3), rank=3, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
