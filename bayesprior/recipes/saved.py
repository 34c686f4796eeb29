"""Read a fit's folder back: data, network, prior and posterior."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.data import DataBundle
from bayesprior.errors import ConfigError, PriorFileError
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.recipes.checks import as_data, check_function, check_network
from bayesprior.recipes.digests import data_digests, described, file_digest, prior_digest
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import MadeFrom
from bayesprior.recipes.places import restored
from bayesprior.recipes.runs import FITS, RunConfig, is_finished, read_config, read_results
from bayesprior.recipes.training import bound
from bayesprior.storage import MAP, PRIOR, SWAG
from bayesprior.tasks.likelihoods import (
    Categorical,
    HeteroscedasticNormal,
    Likelihood,
    Normal,
    PixelCategorical,
)
from bayesprior.tasks.protocols import Forward, inputs_forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["FitRun", "load_posterior", "load_run"]

FitPosterior = PointPosterior | GaussianWeights | StoredDraws

_LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    kind.__name__: kind for kind in (Categorical, HeteroscedasticNormal, Normal, PixelCategorical)
}
_FORWARDS: dict[str, Forward] = {
    "pair_forward": pair_forward,
    "inputs_forward": inputs_forward,
}


@dataclass(frozen=True, eq=False)
class FitRun:
    """A finished fit, put together again from its folder.

    Attributes
    ----------
    folder
        Where it lies.
    recipe, options
        The recipe that made it, and its options.
    results
        What ``results.json`` says of the fit: method, seed, seconds and so on.
    data, module
        The task, and the network at the first draw's weights and BatchNorm statistics.
    posterior, prior
        The fitted law, and the prior that it was fitted with.
    likelihood, forward
        As in the fit.
    """

    folder: Path
    recipe: str
    options: Mapping[str, Any]
    results: Mapping[str, Any]
    data: DataBundle
    module: nn.Module
    posterior: FitPosterior
    prior: GaussianWeights
    likelihood: Likelihood
    forward: Forward

    @property
    def method(self) -> str:
        """``"map"``, ``"swag"``, ``"sgld"`` or ``"sghmc"``."""
        return str(self.results["method"])

    def predict_proba(self, inputs: Any, **options: Any) -> Tensor:
        """Return class probabilities (N, C) of new inputs, averaged over draws.

        Parameters
        ----------
        inputs, **options
            As of `bayesprior.inference.bound.Bindable.predict_proba`.
        """
        return self.posterior.predict_proba(inputs, **options)


def load_posterior(run: str | Path) -> FitPosterior:
    """Return what a finished fit left in its folder.

    Raises
    ------
    ConfigError
        If it is no fit's folder, or the fit is not finished.
    PriorFileError
        If a file is missing or corrupt.
    """
    recipe = read_config(run, *FITS).recipe
    folder = Path(run).expanduser()
    if not is_finished(folder, recipe):
        raise ConfigError(f"{run} is not finished; run the same fit again, which goes on with it")
    if recipe == "fit_map":
        return PointPosterior.load(folder / MAP)
    return GaussianWeights.load(folder / SWAG) if recipe == "fit_swag" else StoredDraws(folder)


@torch.no_grad()
def load_run(
    run: str | Path,
    *,
    network: nn.Module | None = None,
    data: Any = None,
    likelihood: Likelihood | None = None,
    forward: Forward | None = None,
    trust: bool = False,
) -> FitRun:
    """Read the folder of a finished fit.

    What ``config.yaml`` names (data sets, networks and likelihoods of our tables) is made again;
    the rest must be given, and is checked.

    Parameters
    ----------
    run
        The folder.
    network
        A network of the same parameters; its weights are overwritten.
    data
        The same task.
    likelihood, forward
        As in the fit.
    trust
        Whether import paths that the folder names are imported and called: code of whoever wrote
        the folder.

    Raises
    ------
    ConfigError
        If the folder is no finished fit, something must be given or trusted, or what is given or
        found is not what the fit had.
    PriorFileError
        If a file of posterior or prior is missing, corrupt or another one.
    """
    config = read_config(run, *FITS)
    folder = Path(run).expanduser()
    posterior = load_posterior(folder)
    made_from = restored(config.made_from, folder)
    data = _data(config, made_from, folder, data, trust=trust)
    network = _network(config, made_from, folder, network, data, trust=trust)
    _check_layout(folder, network, posterior.layout)
    draw = next(iter(posterior.draws()))
    posterior.layout.load_(network, draw.weights.to(next(network.parameters())))
    buffers = dict(network.named_buffers())
    for name, value in draw.buffers.items():
        if name in buffers:
            buffers[name].copy_(value)
    likelihood = _likelihood(config, folder, likelihood)
    forward = _forward(config, folder, forward)
    return FitRun(
        folder,
        config.recipe,
        config.options,
        read_results(folder)["fit"],
        data,
        network,
        bound(posterior, network, likelihood, forward),
        _prior(config, made_from, folder),
        likelihood,
        forward,
    )


def _data(
    config: RunConfig, made_from: MadeFrom, folder: Path, data: Any, *, trust: bool
) -> DataBundle:
    given = data is not None
    if given:
        data = as_data(data)
    elif made_from.data is None:
        raise ConfigError(f"{folder} does not name its data; give data=, as in the fit")
    else:
        data = load_data(made_from.data, trusted=trust)
    for name, found in data_digests(data).items():
        recorded = config.digests.get(f"data.{name}")
        if recorded not in (None, found) and (not given or name == "train"):
            before, now = recorded.split()[0], found.split()[0]
            counts = f" ({before} examples then, {now} now)" if before != now else ""
            raise ConfigError(
                f"{folder}: the {name} data have changed since the fit{counts}; restore them, or "
                "fit again in another folder"
            )
    return data


def _network(
    config: RunConfig,
    made_from: MadeFrom,
    folder: Path,
    network: nn.Module | None,
    data: DataBundle,
    *,
    trust: bool,
) -> nn.Module:
    if network is not None:
        check_network(network, "network")
        return network
    if made_from.model is None:
        raise ConfigError(f"{folder} does not name its network; give network=, as in the fit")
    seed = int(config.options.get("seed", 0))
    return load_model(made_from.model, data, seed=seed, trusted=trust)[0]


def _check_layout(folder: Path, network: nn.Module, layout: ParameterLayout) -> None:
    diff = ParameterLayout.from_module(network).compare(layout)
    if diff.only_here or diff.only_there or diff.shape_conflicts:
        raise ConfigError(
            f"the network is not the one of {folder} (network against fit: {diff.describe()})"
        )


def _prior(config: RunConfig, made_from: MadeFrom, folder: Path) -> GaussianWeights:
    """Return the prior of the fit: the folder's copy, or the file that it was read from."""
    own = folder / PRIOR
    if not own.is_file() and made_from.prior is None:
        raise PriorFileError(f"{own} is missing; restore it, or fit again in another folder")
    path = own if own.is_file() else Path(str(made_from.prior))
    prior = GaussianWeights.load(path)
    if path != own and made_from.rms_std is not None:
        prior = prior.rescale(rms_std=made_from.rms_std)
    then, now = config.digests.get("prior"), None
    if then is not None:
        now = prior_digest(prior)
    elif config.first_edition:
        then, now = config.digests.get("file.prior"), file_digest(path)
    if then != now:
        raise PriorFileError(f"{path} is not the prior that {folder} was fitted with; restore it")
    return prior


def _likelihood(config: RunConfig, folder: Path, given: Likelihood | None) -> Likelihood:
    found = config.options.get("likelihood", {"class": "Categorical"})  # the first edition's only
    if given is not None:
        if described(given) != found:
            raise ConfigError(
                f"{folder} was fitted with the likelihood {found!r}, {described(given)!r} was given"
            )
        return given
    options = dict(found) if isinstance(found, Mapping) else {"class": found}
    kind = _LIKELIHOODS.get(str(options.pop("class", "")))
    if kind is None:
        raise ConfigError(f"{folder} was fitted with a likelihood of its own; give likelihood=")
    return kind(**{name: _tensors(value) for name, value in options.items()})


def _tensors(value: Any) -> Tensor | Any:
    return torch.tensor(value) if isinstance(value, list) else value


def _forward(config: RunConfig, folder: Path, given: Forward | None) -> Forward:
    found = str(config.options.get("forward", "pair_forward"))
    if given is not None:
        check_function(given, "forward", "module, batch")
        return given
    if found not in _FORWARDS:
        raise ConfigError(f"{folder} was fitted with the forward {found!r}; give forward=")
    return _FORWARDS[found]
