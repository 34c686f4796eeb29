import pytest
import torch

from bayesprior import recipes
from bayesprior.data import digits
from bayesprior.demo import methods
from bayesprior.demo.methods import HEAD_STD, METHODS, MODEL, Setting, predict_with, tuning
from bayesprior.errors import DivergenceError
from bayesprior.recipes.named import load_model
from bayesprior.recipes.saved import load_run
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory):
    """A prior around random weights with an uneven diagonal and one direction."""
    folder = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    module, head = load_model(MODEL, digits(), seed=0)
    layout = ParameterLayout.from_module(module).select(
        n for n, _ in module.named_parameters() if not n.startswith("head")
    )
    diag = torch.rand(layout.dim) + 0.1
    source = GaussianWeights(layout, layout.flatten(module), diag, torch.randn(layout.dim, 1))
    recipes.make_prior(source, module, head=head, head_std=HEAD_STD, out=folder)
    return folder / "prior.safetensors"


def setting(method, **changes):
    return Setting(method, **({"lr": 0.01, "rms_std": 0.01, "seed": 3} | changes), **SMALL)


SMALL = {"num_data": 20, "num_steps": 3}


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(methods, "DRAWS", 2)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts_the_split_asked_for(method, prior_file):
    found, seconds = predict_with(setting(method), prior_file, "validation")
    assert found.mean_probs.shape == (400, 10)
    assert seconds > 0
    again, _ = predict_with(setting(method), prior_file, "validation")
    torch.testing.assert_close(found.mean_probs, again.mean_probs, rtol=0, atol=0)


def test_methods_start_where_they_say(prior_file, monkeypatch):
    """At a vanishing rate a fit is its start: random weights or the source's."""
    seen = {}
    real = recipes.fit_map

    def spy(module, prior, data, **options):
        fit = real(module, prior, data, **options)
        seen[len(seen)] = (fit.weights, prior)
        return fit

    monkeypatch.setattr(recipes, "fit_map", spy)
    for method in ("scratch", "fine-tuning", "l2-sp", "map"):
        predict_with(setting(method, lr=1e-12), prior_file, "validation")
    learned = GaussianWeights.load(prior_file)
    shared = learned.shared_dim
    weights = [w[:shared] for w, _ in seen.values()]
    assert (weights[0] - learned.loc[:shared]).abs().max() > 0.1
    for w in weights[1:]:
        torch.testing.assert_close(w, learned.loc[:shared])
    heads = [w[shared:] for w, _ in seen.values()]
    for head in heads[1:]:  # the same head everywhere: methods are compared pair by pair
        torch.testing.assert_close(head, heads[0])
    laws = [law for _, law in seen.values()]
    for law in laws:
        assert law.rms_std == pytest.approx(0.01, rel=1e-4) or law.rank == 0
        assert law.block_rms_std()["head.weight"] == pytest.approx(HEAD_STD)
    assert not laws[0].loc.any()
    assert not laws[1].loc.any()
    assert [law.rank for law in laws] == [0, 0, 0, 1]


def test_weight_decay_is_the_prior_around_zero(prior_file):
    learned = GaussianWeights.load(prior_file)
    law = methods._around_zero(learned, 0.25)
    assert law.layout == learned.layout
    torch.testing.assert_close(law.variance[: learned.shared_dim].mean(), torch.tensor(0.0625))


def test_sgld_takes_half_the_stable_step(prior_file):
    learned = GaussianWeights.load(prior_file).rescale(rms_std=0.01)
    options = tuning(setting("sgld"), learned)
    stiffest = float(learned.max_precision()[: learned.shared_dim].max())
    assert options["lr"] == pytest.approx(20 / stiffest)
    assert options["head_lr"] == pytest.approx(0.1)
    wide = GaussianWeights.load(prior_file).rescale(rms_std=100.0)
    assert tuning(setting("sgld"), wide)["lr"] == 0.01


@pytest.mark.parametrize("method", ["map", "swag", "sgld"])
def test_a_kept_fit_is_a_run_folder_with_the_same_numbers(method, prior_file, tmp_path):
    found, _ = predict_with(setting(method), prior_file, "test")
    kept, _ = predict_with(setting(method), prior_file, "test", tmp_path / method)
    assert kept.metrics["nll"] == pytest.approx(found.metrics["nll"], rel=1e-3)
    run = load_run(tmp_path / method)
    assert run.prior.rms_std == pytest.approx(0.01)


def test_a_fit_that_diverges_is_none(prior_file, monkeypatch):
    def diverge(*args, **options):
        raise DivergenceError("NaN")

    monkeypatch.setattr(recipes, "fit_map", diverge)
    assert predict_with(setting("map"), prior_file, "validation") is None
