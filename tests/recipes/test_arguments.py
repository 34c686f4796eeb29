import pytest
import torch
import yaml
from recipes_cases import MAP, QUIET, Net, blobs
from torch import nn
from torch.utils.data import DataLoader

from bayesprior.data import from_arrays
from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.models import learn_noise
from bayesprior.prediction.predict import predict
from bayesprior.recipes import fit_map
from bayesprior.recipes.arguments import FitCall, SourceCall, check_network, head_names
from bayesprior.recipes.named import point_source
from bayesprior.tasks.likelihoods import Categorical, HeteroscedasticNormal

NAMES = ["body.0.weight", "body.0.bias", "left.weight", "left.bias", "right.weight"]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (None, ()),
        ("left", ("left.weight", "left.bias")),
        ("*.weight", ("body.0.weight", "left.weight", "right.weight")),
        (["left", "right.*"], ("left.weight", "left.bias", "right.weight")),
        (lambda name: name.startswith("right"), ("right.weight",)),
    ],
)
def test_a_head_is_named_by_prefix_pattern_several_or_predicate(head, found):
    assert head_names(iter(NAMES), head, "network") == set(found)


@pytest.mark.parametrize("head", ["lef", ["left", "fc"], "left.weight.x"])
def test_a_head_that_names_nothing_is_refused(head):
    with pytest.raises(LayoutMismatchError, match="the target has no trainable parameter under"):
        head_names(NAMES, head, "target")


def test_a_network_has_something_to_train():
    check_network(Net(2))
    with pytest.raises(ConfigError, match="target has no trainable parameter .Identity"):
        check_network(nn.Identity(), "target")
    with pytest.raises(ConfigError, match="module has no trainable parameter"):
        check_network(Net(2).requires_grad_(False))
    with pytest.raises(ConfigError, match=r"weight has no values .meta device.; load them first"):
        check_network(nn.Linear(3, 2, device="meta"))


def test_whatever_holds_the_data_becomes_a_bundle():
    bundle, module = blobs(2), Net(2)
    law = point_source(module, 0.1)
    assert FitCall(module, law, bundle).data is bundle
    pairs = [bundle.train[i] for i in range(10)]
    for data in (pairs, DataLoader(pairs, batch_size=5)):
        assert FitCall(module, law, data).data.num_data == 10
    with pytest.raises(ConfigError, match="data must be a DataBundle.*load it with get_data"):
        FitCall(module, law, "digits")


def test_a_prior_of_other_weights_is_refused():
    module, data = Net(2), blobs(2)
    with pytest.raises(LayoutMismatchError):
        FitCall(module, point_source(Net(3), 0.1), data)
    law = point_source(module, 0.1)
    law.buffers["backbone.2.running_mean"] = torch.zeros(13)
    with pytest.raises(LayoutMismatchError, match=r"'backbone.2.running_mean' have shape \(13,\)"):
        fit_map(module, law, data, **QUIET, **MAP)


def test_what_decides_the_result_beside_options_is_recorded():
    module, data = Net(3), blobs(3)
    own = SourceCall(module, data, head="head").extras()
    assert own == {
        "likelihood": {"class": "Categorical"},
        "forward": "pair_forward",
        "head": "head",
        "loss_fn": None,
    }
    assert "likelihood" not in SourceCall(module, data, loss_fn=len).extras()
    with pytest.raises(ConfigError, match="made_from must be a MadeFrom, got dict"):
        SourceCall(module, data, made_from={})


def test_numbers_bring_their_likelihood_and_need_a_noise():
    x = torch.linspace(-1, 1, 12).reshape(6, 2).numpy()
    data = from_arrays("line", (x, 3 + x[:, :1]), normalize=None)
    module = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(
        ConfigError, match=r"outputs \(1,\), .* needs a mean and a noise: .*learn_n"
    ):
        fit_map(module, point_source(module, 1.0), data, **QUIET, **MAP)
    learn_noise(module, "0")
    call = FitCall(module, point_source(module, 1.0), data)
    assert isinstance(call.likelihood, HeteroscedasticNormal)
    torch.testing.assert_close(call.likelihood.target_mean, data.train.targets.mean(0))
    given = FitCall(module, point_source(module, 1.0), data, likelihood=HeteroscedasticNormal())
    assert given.likelihood.target_std == 1.0


def test_smoothed_labels_are_fitted_and_true_ones_scored(tmp_path):
    module, data = Net(2), blobs(2, num_data=40)
    prior = point_source(module, 1.0)
    options = {"num_steps": 60, "lr": 0.1, "label_smoothing": 0.4, **QUIET}
    fit = fit_map(module, prior, data, out=tmp_path / "map", **options)
    config = yaml.safe_load((tmp_path / "map" / "config.yaml").read_text())
    assert config["options"]["label_smoothing"] == 0.4
    assert config["options"]["likelihood"] == {"class": "Categorical"}
    loader = data.loader("train", 64)
    found = predict(module, fit, loader, Categorical())
    probs = found.mean_probs[range(20), data.train.targets]
    # at the optimum of the smoothed loss, labels have probability 1 - 0.4 / 2
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["nll"] == pytest.approx(-float(probs.log().mean()))
    assert 0.7 < probs.mean() < 0.9


def test_what_cannot_be_smoothed_is_refused():
    data, net = blobs(2, num_data=40), Net(2)
    given = {"head": "head", "label_smoothing": 0.1}
    with pytest.raises(ConfigError, match="likelihood, forward and label_smoothing"):
        SourceCall(net, data, loss_fn=lambda module, batch: (0, {}), **given)
    with pytest.raises(ConfigError, match="label_smoothing belongs to objective = 'supervised'"):
        SourceCall(net, data, objective="simclr", **given)
    with pytest.raises(ConfigError, match="label_smoothing must be at most 1, got 1.5"):
        SourceCall(net, data, head="head", label_smoothing=1.5)
