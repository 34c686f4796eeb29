"""ArviZ's own functions on the trees of every method, read back from disk, with no adapter."""

import arviz_plots as azp
import arviz_stats as azs
import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import MCMC, NUTS
from torch import nn
from torch.func import functional_call

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers.sgld import SGLD
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.progress import read_trace
from bayesprior.inference.schedules import constant
from bayesprior.prediction.predict import predict
from bayesprior.storage import TRACE, chain_dir
from bayesprior.tasks.likelihoods import Categorical, Normal
from bayesprior.tasks.objectives import supervised
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree
from bayesprior.tree.trace import draw_statistics
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # ArviZ on new pandas
    pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto"),
    pytest.mark.filterwarnings("ignore::UserWarning:arviz_plots"),
    pytest.mark.filterwarnings("ignore:.*constrained_layout.*"),
]


def map_tree(run, folder):
    return tree_of(run, PointPosterior(run.prior.layout, run.prior.loc))


def swag_tree(run, folder):
    return tree_of(run, run.prior.rescale(cov_scale=0.01), num_draws=100)


def sgld_tree(run, folder):
    for chain in range(3):
        run.prior.layout.load_(run.model, next(iter(run.prior.draws(1, seed=chain))).weights)
        train(
            run.model,
            supervised(Categorical()),
            run.loader,
            SGLD(run.model.parameters(), lr=0.2, num_data=30, seed=chain),
            constant(burn_in=20, thin=2),
            100,
            prior=run.prior,
            num_data=30,
            collectors=[DrawWriter(folder, chain=chain)],
            run_dir=chain_dir(folder, chain),
            log_every=1,
            progress=False,
        )
    posterior = StoredDraws(folder)
    chain, draw = np.divmod(np.arange(120), 40)
    traces = [read_trace(chain_dir(folder, c) / TRACE) for c in range(3)]
    stats = draw_statistics(folder, chain, draw, traces)
    return tree_of(run, posterior, sample_stats=stats, traces=traces)


def mcmc_tree(run, folder):
    x, y = run.sets["train"]

    def model():
        weights = pyro.sample("weights", run.prior)
        views = run.prior.layout.unflatten(weights)
        pyro.sample("y", dist.Categorical(logits=functional_call(run.model, views, (x,))), obs=y)

    rows = []
    for seed in (0, 1):  # Pyro's chains in processes cost more than they sample
        pyro.set_rng_seed(seed)
        mcmc = MCMC(NUTS(model, max_tree_depth=3), 40, 30, disable_progbar=True)
        mcmc.run()
        rows.append(mcmc.get_samples()["weights"])
    run.posterior.weights = torch.stack(rows)
    return tree_of(run, run.posterior)


def regression_tree(run, folder):
    """One output and a prior of rank 0."""
    line = nn.Linear(3, 1)
    prior = GaussianWeights.point(ParameterLayout.from_module(line), torch.zeros(4), 1.0)
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    batch = [(x, x.sum(1, keepdim=True))]
    posterior = prior.rescale(cov_scale=0.05)
    found = predict(line, posterior, batch, Normal(std=1.0), num_draws=100)
    return to_datatree(prior=prior, draws=posterior.draws(100, 0), train=found, test=found)


def rank_0_tree(run, folder):
    run.prior = run.prior.isotropic()
    return swag_tree(run, folder)


def tree_of(run, posterior, num_draws=None, **options):
    def predicted(name):
        batch = [run.sets[name]]
        return predict(run.model, posterior, batch, Categorical(), num_draws=num_draws)

    return to_datatree(
        prior=run.prior,
        draws=posterior.draws(num_draws, 0),
        train=predicted("train"),
        test=predicted("test"),
        ood={"noise": predicted("noise")},
        class_names=run.class_names,
        **options,
    )


METHODS = {
    "map": (map_tree, 1, 1),
    "swag": (swag_tree, 1, 100),
    "sgld": (sgld_tree, 3, 40),
    "mcmc": (mcmc_tree, 2, 40),
    "rank 0": (rank_0_tree, 1, 100),
    "regression": (regression_tree, 1, 100),
}


@pytest.fixture(scope="module")
def trees(run_factory_module, tmp_path_factory):
    """Every method's tree, from netCDF."""
    found = {}
    for name, (make, chains, draws) in METHODS.items():
        folder = tmp_path_factory.mktemp(name)
        tree = make(run_factory_module(), folder)
        assert tree["posterior"].mahalanobis.shape == (chains, draws)
        save_tree(tree, folder / "tree.nc")
        found[name] = load_tree(folder / "tree.nc")
        xr.testing.assert_identical(found[name], tree)
    return found


SAMPLED = ["swag", "sgld", "mcmc"]


@pytest.mark.parametrize("method", SAMPLED)
def test_summary_ess_and_rhat(trees, method):
    tree = trees[method]
    table = azs.summary(tree, var_names=["prior_coordinate", "mahalanobis"], round_to="none")
    flat = tree["posterior"].mahalanobis.values
    assert table.loc["mahalanobis", "mean"] == pytest.approx(flat.mean())
    assert np.isfinite(table["ess_bulk"].to_numpy(float)).all()
    assert 0 < float(azs.ess(tree, var_names=["mahalanobis"]).mahalanobis) <= 3 * flat.size
    rhat = float(azs.rhat(tree, var_names=["mahalanobis"]).mahalanobis)
    assert np.isnan(rhat) if method == "swag" else rhat > 0.9  # ArviZ gives none of one chain
    for group in ("sample_stats", "predictions"):
        name = {"sample_stats": "lp", "predictions": "log_likelihood"}[group]
        values = azs.ess(tree, var_names=[name], group=group)[name]
        assert np.isfinite(values).all()


@pytest.mark.parametrize("method", SAMPLED)
def test_loo_pit_and_power_scaling(trees, method):
    tree = trees[method]
    loo = azs.loo(tree, pointwise=True)
    likelihood = tree["log_likelihood"].y.values.reshape(-1, 30)
    assert loo.elpd <= np.logaddexp.reduce(likelihood, axis=0).sum() - 30 * np.log(len(likelihood))
    pit = azs.loo_pit(tree).y
    assert ((pit > -1e-9) & (pit < 1 + 1e-9)).all()
    found = azs.psense_summary(tree, var_names=["prior_coordinate"])
    assert {"prior", "likelihood", "diagnosis"} <= set(found.columns)
    assert len(found) == 3


def test_methods_are_compared(trees):
    table = azs.compare({name: azs.loo(trees[name], pointwise=True) for name in SAMPLED})
    assert set(table.index) == set(SAMPLED)
    assert table["weight"].sum() == pytest.approx(1)


def test_a_point_estimate_has_its_moments(trees):
    table = azs.summary(trees["map"], var_names=["mahalanobis"], kind="stats", round_to="none")
    assert table.loc["mahalanobis", "mean"] == 0  # at the prior's own mean
    assert np.isfinite(float(trees["map"]["sample_stats"].lp[0, 0]))


def test_the_samplers_state_is_beside_its_draws(trees):
    stats = trees["sgld"]["sample_stats"]
    names = {"step", "lr", "temperature", "configurational_temperature", "lp"}
    assert names <= set(stats.data_vars)
    np.testing.assert_array_equal(stats.step, [range(22, 101, 2)] * 3)
    assert (stats.lr == 0.2).all()
    assert (stats.temperature == 1).all()
    trace = trees["sgld"]["trace"].sel(step=stats.step.isel(chain=0).astype(int).values)
    found = stats.configurational_temperature
    np.testing.assert_array_equal(found, trace.configurational_temperature)


PLOTS = {
    "trace": (azp.plot_trace, {"var_names": ["mahalanobis", "prior_coordinate"]}),
    "trace and density": (azp.plot_trace_dist, {"var_names": ["mahalanobis"], "compact": False}),
    "rank": (azp.plot_rank, {"var_names": ["mahalanobis"]}),
    "forest": (azp.plot_forest, {"var_names": ["prior_coordinate"]}),
    "density": (azp.plot_dist, {"var_names": ["mahalanobis"]}),
    "ess evolution": (azp.plot_ess_evolution, {"var_names": ["mahalanobis"]}),
    "autocorrelation": (azp.plot_autocorr, {"var_names": ["mahalanobis"]}),
    "prior and posterior": (azp.plot_prior_posterior, {"var_names": ["prior_coordinate"]}),
    "reliability": (azp.plot_ppc_pava, {"var_names": ["y"], "data_type": "categorical"}),
}


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("plot", PLOTS)
def test_plots(trees, method, plot, tmp_path):
    if plot == "rank" and trees[method].posterior.sizes["chain"] == 1:
        pytest.skip("ranks compare chains")
    draw, options = PLOTS[plot]
    with mpl.rc_context():
        mpl.use("Agg")
        collection = draw(trees[method], backend="matplotlib", **options)
        collection.savefig(tmp_path / "plot.png")
        mpl.pyplot.close("all")
    assert (tmp_path / "plot.png").stat().st_size > 2000


def test_plots_of_loo_and_power_scaling(trees, tmp_path):
    with mpl.rc_context():
        mpl.use("Agg")
        loos = {name: azs.loo(trees[name], pointwise=True) for name in SAMPLED}
        azp.plot_khat(loos["sgld"], backend="matplotlib").savefig(tmp_path / "k.png")
        azp.plot_compare(azs.compare(loos), backend="matplotlib").savefig(tmp_path / "c.png")
        weighted = azp.plot_psense_dist(
            trees["sgld"], var_names=["mahalanobis"], backend="matplotlib"
        )
        weighted.savefig(tmp_path / "p.png")
        mpl.pyplot.close("all")
    assert all((tmp_path / f"{name}.png").stat().st_size > 2000 for name in "kcp")


def test_a_point_estimate_can_be_plotted(trees, tmp_path):
    with mpl.rc_context():
        mpl.use("Agg")
        options = {"var_names": ["y"], "data_type": "categorical", "backend": "matplotlib"}
        azp.plot_ppc_pava(trees["map"], **options).savefig(tmp_path / "plot.png")
        mpl.pyplot.close("all")
    assert (tmp_path / "plot.png").stat().st_size > 2000


def finite(found):
    """Whether every number of what ArviZ returned is one."""
    found = found.dataset if isinstance(found, xr.DataTree) else found
    parts = found.data_vars.values() if isinstance(found, xr.Dataset) else [found]
    numbers = np.concatenate([np.ravel(np.asarray(part, float)) for part in parts])
    return numbers.size > 0 and np.isfinite(numbers).all()


# What ArviZ computes of a tree as it is: no variable named, none left out. A point has one draw.
CALLS = {
    "summary": lambda tree: azs.summary(tree, kind="stats", round_to="none").to_numpy(float),
    "mean": lambda tree: azs.mean(tree),
    "hdi": lambda tree: azs.hdi(tree),
    "eti": lambda tree: azs.eti(tree),
    "loo": lambda tree: [float(azs.loo(tree).elpd)],
    "loo_pit": lambda tree: azs.loo_pit(tree).y,
    "ess": lambda tree: azs.ess(tree),
    "mcse": lambda tree: azs.mcse(tree),
}


@pytest.mark.parametrize("method", [m for m in METHODS if m != "map"])
@pytest.mark.parametrize("call", CALLS)
def test_arviz_takes_the_tree_as_it_is(trees, method, call):
    assert finite(CALLS[call](trees[method]))


@pytest.mark.parametrize("call", ["summary", "mean"])
def test_arviz_takes_a_point(trees, call):
    assert CALLS[call](trees["map"]) is not None


NUMBERS = {
    "loo_metrics": lambda tree: [azs.loo_metrics(tree, kind="rmse").mean],
    "metrics": lambda tree: [azs.metrics(tree, kind="rmse").mean],
}


@pytest.mark.parametrize("call", ["loo_metrics", "metrics"])
def test_arviz_scores_one_output(trees, call):
    assert finite(np.array(NUMBERS[call](trees["regression"]), float))


@pytest.mark.parametrize("plot", [azp.plot_ppc_interval, azp.plot_ppc_pit, azp.plot_ppc_dist])
def test_plots_of_one_output(trees, plot, tmp_path):
    with mpl.rc_context():
        mpl.use("Agg")
        plot(trees["regression"], backend="matplotlib").savefig(tmp_path / "plot.png")
        mpl.pyplot.close("all")
    assert (tmp_path / "plot.png").stat().st_size > 2000
