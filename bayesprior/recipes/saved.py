"""Read a fit's folder back: data, network, prior and posterior."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.data import DataBundle, as_bundle
from bayesprior.errors import ConfigError, PriorFileError, check
from bayesprior.inference.bound import facts_html
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.prediction.predict import predict
from bayesprior.recipes.arguments import check_network
from bayesprior.recipes.digests import data_digests, described, frozen_digest, prior_digest
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import MadeFrom
from bayesprior.recipes.places import restored
from bayesprior.recipes.reporting import report
from bayesprior.recipes.runs import RunConfig, finished_fit, read_results
from bayesprior.recipes.training import bound, read_posterior
from bayesprior.storage import PRIOR
from bayesprior.tasks.likelihoods import (
    Bernoulli,
    Categorical,
    HeteroscedasticNormal,
    Likelihood,
    Normal,
)
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import Forward, inputs_forward, keyword_forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["FitRun", "Transfer", "at_first_draw_", "load_posterior", "load_run"]

FitPosterior = PointPosterior | GaussianWeights | StoredDraws | DrawsInMemory

_LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    kind.__name__: kind
    for kind in (Bernoulli, Categorical, HeteroscedasticNormal, Normal, PixelCategorical)
}
_FORWARDS: dict[str, Forward] = {f.__qualname__: f for f in (pair_forward, inputs_forward)}


@dataclass(frozen=True, eq=False)
class FitRun:
    """A finished fit, put together again from its folder.

    Attributes
    ----------
    folder
        Where it lies; None where a transfer was given none.
    recipe, options
        The recipe that made it, and its options.
    results
        What ``results.json`` says: under ``fit`` method, seed, seconds and so on, beside it the
        numbers of what was predicted.
    data, module
        The task, and the network at the first draw's weights and BatchNorm statistics.
    posterior, prior
        The fitted law, and the prior that it was fitted with.
    likelihood, forward
        As in the fit.
    """

    folder: Path | None
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
        """``"map"``, ``"swag"``, ``"sgld"``, ``"sghmc"`` or ``"transfer"``."""
        return str(self.results["fit"]["method"])

    def _repr_html_(self) -> str:
        about = {"folder": self.folder, "network": type(self.module).__name__}
        found = {k: v for k, v in self.results["fit"].items() if isinstance(v, str | int | float)}
        return facts_html(f"{self.method} on {self.data.name}", about | found)

    def predict_proba(self, inputs: Any, **options: Any) -> Tensor:
        """Return class probabilities (N, C) of new inputs, averaged over draws.

        Parameters
        ----------
        inputs, **options
            As of `bayesprior.inference.bound.Bindable.predict_proba`.
        """
        return self.posterior.predict_proba(inputs, **options)


class Transfer(FitRun):
    """What `bayesprior.transfer` made: the members as draws that are averaged in logits.

    ``prior`` is that of the committee's MAP; ``results`` says the members, the decisions, and every
    method's numbers.
    """

    def predict(self, inputs: Any, **options: Any) -> Tensor:
        """Return the most probable class (N,) of new inputs."""
        return self.predict_proba(inputs, **options).argmax(1)

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Return the metrics of a split of the task."""
        loader = self.data.loader(split, 256)
        found = predict(self.module, self.posterior, loader, self.likelihood, forward=self.forward)
        return dict(found.metrics)

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return the rows of `bayesprior.recipes.leaderboard.leaderboard`, the best NLL first.

        Where there is no test split the numbers are out of fold: of single members that saw less
        data, so that they rank methods, and are no quotable numbers of the committee.
        """
        return sorted(self.results["fit"]["leaderboard"], key=lambda row: row["nll"])

    def report(self, **options: Any) -> Any:
        """Write ``report.nc`` and the page into the folder; return the tree.

        Parameters
        ----------
        **options
            As of `bayesprior.report`.
        """
        out = options.pop("out", self.folder)
        if out is None:
            raise ConfigError("a report needs a folder: transfer(..., out=), or report(out=)")
        return report(
            self.module,
            self.posterior,
            self.data,
            out=out,
            prior=self.prior,
            forward=self.forward,
            title=f"transfer to {self.data.name}",
            method="transfer",
            **options,
        )


def load_posterior(run: str | Path) -> FitPosterior:
    """Return what a finished fit left in its folder.

    Raises
    ------
    ConfigError
        If it is no fit's folder, or the fit is not finished.
    PriorFileError
        If a file is missing or corrupt.
    """
    found: FitPosterior = read_posterior(Path(run).expanduser(), finished_fit(run).recipe)
    return found


@torch.no_grad()
def at_first_draw_(network: nn.Module, posterior: FitPosterior) -> None:
    """Put a network at a posterior's first draw: weights, and BatchNorm statistics."""
    draw = next(iter(posterior.draws()))
    posterior.layout.load_(network, draw.weights.to(next(network.parameters())))
    buffers = dict(network.named_buffers())
    for name in buffers.keys() & draw.buffers.keys():
        buffers[name].copy_(draw.buffers[name])


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
    config, folder = finished_fit(run), Path(run).expanduser()
    posterior = read_posterior(folder, config.recipe)
    made_from = restored(config.made_from, folder)
    data = _data(config, made_from, folder, data, trust)
    if network is not None:
        check_network(network, "network")
    elif made_from.model is None:
        raise ConfigError(f"{folder} does not name its network; give network=, as in the fit")
    else:
        network, _ = load_model(made_from.model, data, seed=config.options["seed"], trusted=trust)
    diff = ParameterLayout.from_module(network).compare(posterior.layout)
    if not diff.is_equal:
        raise ConfigError(
            f"the network is not the one of {folder} (network against fit: {diff.describe()})"
        )
    if config.digests.get("frozen") not in (None, frozen_digest(network).get("frozen")):
        raise ConfigError(
            f"the network's frozen weights are not those that {folder} was fitted with, and its "
            "files hold the trained ones alone: load the same, or let the function that makes the "
            "network decide them (torch.manual_seed)"
        )
    at_first_draw_(network, posterior)
    prior = _prior(config, made_from, folder)
    speaks = (_likelihood(config, folder, likelihood), _forward(config, folder, forward))
    posterior = bound(posterior, network, *speaks)
    about = (folder, config.recipe, config.options, read_results(folder))
    kind = Transfer if config.recipe == "transfer" else FitRun
    return kind(*about, data, network, posterior, prior, *speaks)


def _data(
    config: RunConfig, made_from: MadeFrom, folder: Path, given: Any, trust: bool
) -> DataBundle:
    if given is None and made_from.data is None:
        raise ConfigError(f"{folder} does not name its data; give data=, as in the fit")
    if given is not None or made_from.data is None:
        data = as_bundle(check(given, "data", "data"))
    else:
        data = load_data(made_from.data, made_from.model, trusted=trust)
    for name, now in data_digests(data).items():
        then = config.digests.get(f"data.{name}")
        if then not in (None, now) and (given is None or name == "train"):
            then, now = then.split()[0], now.split()[0]
            counts = f" ({then} examples then, {now} now)" if then != now else ""
            raise ConfigError(
                f"{folder}: the {name} data have changed since the fit{counts}; restore them, or "
                "fit again in another folder"
            )
    return data


def _prior(config: RunConfig, made_from: MadeFrom, folder: Path) -> GaussianWeights:
    """Return the prior of the fit: the folder's copy, or the file that it was read from."""
    path = folder / PRIOR
    if path.is_file() or made_from.prior is None:
        prior = GaussianWeights.load(path)
    else:
        path = Path(made_from.prior)
        prior = GaussianWeights.load(path)
        if made_from.rms_std is not None:
            prior = prior.rescale(rms_std=made_from.rms_std)
    made = config.recipe == "transfer"  # the run's own, not given to it
    if not made and config.digests.get("prior") != prior_digest(prior):
        raise PriorFileError(f"{path} is not the prior that {folder} was fitted with; restore it")
    return prior


def _likelihood(config: RunConfig, folder: Path, given: Likelihood | None) -> Likelihood:
    found = config.options.get("likelihood")
    if given is not None:
        check(given, "likelihood", "likelihood")
        if described(given) != found:
            raise ConfigError(
                f"{folder} was fitted with the likelihood {found!r}, {described(given)!r} was given"
            )
        return given
    options = dict(found) if isinstance(found, Mapping) else {}
    if options.get("class") == "PixelCategorical":
        options.setdefault("reduction", "sum")  # before there was a choice
    kind = _LIKELIHOODS.get(str(options.pop("class", "")))
    if kind is None:
        raise ConfigError(f"{folder} was fitted with a likelihood of its own; give likelihood=")
    return kind(**{n: torch.tensor(v) if isinstance(v, list) else v for n, v in options.items()})


def _forward(config: RunConfig, folder: Path, given: Forward | None) -> Forward:
    known = config.options.get("forward")
    if given is None and isinstance(known, Mapping) and known.get("class") == "KeywordForward":
        return keyword_forward(str(known["labels"]), str(known["outputs"]))
    found = str(known)
    if given is None and found not in _FORWARDS:
        raise ConfigError(f"{folder} was fitted with the forward {found!r}; give forward=")
    forward = _FORWARDS[found] if given is None else given
    check(forward, "function", "forward")
    return forward
