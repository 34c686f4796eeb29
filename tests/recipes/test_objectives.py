"""A source without labels: from images to a law, over kills, and what is refused."""

import pytest
import torch
from recipes_cases import TINY, blobs, interrupt_at, net

from bayesprior.data import DataBundle, from_arrays
from bayesprior.data.two_view import two_views
from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes import fit_source
from bayesprior.recipes.runs import read_results
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import METHODS, two_view
from bayesprior.weights.gaussian import GaussianWeights


def unlabeled():
    data = blobs(3)
    return from_arrays("blobs", (data.train.inputs.movedim(1, -1).numpy(), None))


@pytest.mark.parametrize("name", METHODS)
def test_a_law_that_says_what_it_is(name, tmp_path):
    source = fit_source(net(), unlabeled(), objective=name, out=tmp_path, **TINY)
    told = GaussianWeights.load(tmp_path / "source.safetensors").provenance
    assert told["objective"] == name
    assert told["role"] == "source pseudo-posterior"
    assert told["law"].startswith("pseudo-posterior")
    assert told["augmentations"]["transform"] == "SimCLRTransform"
    assert told["augmentations"]["rr_degrees"] == 10
    assert told.get("temperature") == METHODS[name].temperature
    assert told.get("ema") == METHODS[name].ema
    assert told.get("queue") == (30 if name == "moco" else None)
    assert not [n for n in source.layout.names if n.startswith("head")]
    assert (source.variance > 0).all()
    found = GaussianWeights.load(tmp_path / "source.safetensors").statistics
    assert found["head_inputs.within"].shape == found["head_inputs.between"].shape == (12, 12)
    assert (torch.linalg.eigvalsh(found["head_inputs.within"]) > -1e-6).all()
    assert "accuracy" not in read_results(tmp_path)["fit-source"]


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "moco", "queue": 20},
        {"objective": "byol", "collect_momentum": True, "optimizer": "adamw", "warm_up": 3},
    ],
)
def test_it_resumes_bit_for_bit(options, tmp_path, monkeypatch):
    options = {**TINY, **options, "seed": 3, "checkpoint_every": 4}
    whole = fit_source(net(), unlabeled(), **options)
    module = net()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            fit_source(module, unlabeled(), out=tmp_path, **options)
    for started in (module, net()):  # goes on; then finds the finished run
        law = fit_source(started, unlabeled(), out=tmp_path, **options)
        assert torch.equal(law.loc, whole.loc)
        assert torch.equal(law.cov_factor, whole.cov_factor)
        assert all(torch.equal(law.buffers[name], whole.buffers[name]) for name in law.buffers)


def test_the_momentum_copy_is_another_law():
    laws = [
        fit_source(net(), unlabeled(), objective="byol", collect_momentum=of_copy, **TINY)
        for of_copy in (False, True)
    ]
    start = laws[0].layout.flatten(net())
    moved = [(law.loc - start).norm().item() for law in laws]
    assert moved[1] < moved[0] / 10  # at 0.996 a step
    assert laws[1].provenance["network"] == "momentum copy"


def test_a_collapse_is_told_without_any_label(tmp_path):
    data = two_views(unlabeled(), view=lambda image: image + 0.1 * torch.randn(image.shape))
    lengths = {**TINY, "num_steps": 200, "lr": 0.3, "weight_decay": 1e-2, "out": tmp_path}
    told = "embedding_std 0.0.*collapsed to a point"
    with pytest.warns(UserWarning, match=told):
        fit_source(net(), data, loss_fn=two_view(torch.nn.functional.mse_loss), **lengths)
    assert read_results(tmp_path)["fit-source"]["training_embedding_std"] < 0.05


def flat():
    return from_arrays("table", (torch.randn(60, 16).numpy(), None))


def channels(num):
    images = torch.rand(60, 4, 4, num).numpy()
    return from_arrays("pictures", (images, None))


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (unlabeled, {"objective": "supervised"}, DataError, "has no labels; .*objective='simclr'$"),
        (unlabeled, {"accuracy": True}, DataError, "the training and test images of 'blobs' have"),
        (flat, {}, DataError, r"images of 1 or 3 channels; 'table' has inputs of shape \(16,\)"),
        (lambda: channels(4), {}, DataError, r"1 or 3 channels; 'pictures' .* \(4, 4, 4\)"),
        (lambda: channels(3), {}, ConfigError, "Net does not take the inputs of 'pictures'"),
        (unlabeled, {"batch_size": 59}, ConfigError, "batch_size = 59 leaves a batch of one of 60"),
        (unlabeled, {"head": "haed"}, ConfigError, "no 'haed'; did you mean 'head'"),
        (unlabeled, {"head": ["head"]}, ConfigError, "needs the name of the head's layer"),
        (unlabeled, {"likelihood": Categorical()}, ConfigError, "leave out loss_fn, likelihood"),
    ],
)
def test_what_cannot_work_is_one_line_and_no_folder(data, options, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        fit_source(net(), data(), out=tmp_path / "r", **{"objective": "simclr", **TINY, **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_labels_of_one_split_alone_are_not_enough():
    data = blobs(3)
    bare = DataBundle("blobs", data.train, class_names=data.class_names)
    with pytest.raises(DataError, match="the test images of 'blobs' have no labels"):
        fit_source(net(), bare, objective="simclr", accuracy=True, **TINY)
