"""Draws of a Pyro model as an ArviZ DataTree."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import Batch
from bayesprior.probabilistic.log_joint import call_model
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["samples_to_datatree"]

Groups = dict[str, dict[str, np.ndarray]]


def samples_to_datatree(
    samples: Mapping[str, Tensor],
    *,
    model: Callable[..., Any] | None = None,
    data: Batch | None = None,
    networks: Mapping[str, GaussianWeights] | None = None,
    max_size: int = 1000,
) -> Any:
    """Collect draws, by site and grouped by chain, in ArviZ's groups.

    Any sampler's will do: ``MCMC.get_samples(group_by_chain=True)`` of Pyro's own, for example.

    Parameters
    ----------
    samples
        Constrained values of shape (num_chains, num_samples, ...) by site.
    model, data
        The Pyro model and all its data as one batch; together they add the groups
        ``log_likelihood``, ``log_prior``, ``observed_data`` and ``sample_stats`` (lp, the log
        joint density), and deterministic sites to ``posterior``. Costs one run of the model a
        draw.
    networks
        Laws of `GaussianWeights` sites, which make large ones presentable.
    max_size
        Sites with more values are left out of ``posterior``; of those in ``networks`` the
        positions along the prior's directions (``<site>_coordinate``) and the Mahalanobis
        distance (``<site>_mahalanobis``) stay.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    ConfigError
        If the samples are not grouped by chain.

    Examples
    --------
    >>> tree = samples_to_datatree({"mean": torch.zeros(4, 100)})
    >>> dict(tree["posterior"].sizes)
    {'chain': 4, 'draw': 100}
    """
    from arviz_base import from_dict

    shapes = {name: tuple(value.shape) for name, value in samples.items()}
    leads = {shape[:2] for shape in shapes.values()}
    if len(leads) != 1 or len(leads.pop()) != 2:
        raise ConfigError(
            "samples must have shapes (num_chains, num_samples, ...), as from "
            f"get_samples(group_by_chain=True), got {shapes}"
        )
    groups: Groups = defaultdict(dict)
    networks = networks or {}
    for name, value in samples.items():
        if value[0, 0].numel() <= max_size:
            groups["posterior"][name] = value.numpy(force=True)
        elif name in networks:
            law = networks[name]
            coordinates, distance = law.coordinates(value), law.mahalanobis(value)
            groups["posterior"][f"{name}_coordinate"] = coordinates.numpy(force=True)
            groups["posterior"][f"{name}_mahalanobis"] = distance.numpy(force=True)
    if model is not None and data is not None:
        _add_densities(groups, samples, model, data)
    with warnings.catch_warnings():
        # Many short chains are meant: the axes are named by us.
        warnings.filterwarnings("ignore", "Found chain dimension to be longer")
        return from_dict(dict(groups))


def _add_densities(
    groups: Groups, samples: Mapping[str, Tensor], model: Callable[..., Any], data: Batch
) -> None:
    num_chains, num_samples = next(iter(samples.values())).shape[:2]
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for chain in range(num_chains):
        for draw in range(num_samples):
            values = {name: value[chain, draw] for name, value in samples.items()}
            trace = _trace(model, values, data)
            found["sample_stats"]["lp"].append(trace.log_prob_sum().double())
            for name, site in trace.nodes.items():
                if site["type"] != "sample" or site_is_subsample(site):
                    continue
                if site["infer"].get("_deterministic"):
                    found["posterior"][name].append(site["value"])
                elif name in samples:
                    found["log_prior"][name].append(site["log_prob_sum"])
                else:
                    found["log_likelihood"][name].append(site["unscaled_log_prob"])
                    groups["observed_data"][name] = site["value"].numpy(force=True)
    for group, variables in found.items():
        for name, drawn in variables.items():
            stacked = torch.stack(drawn).unflatten(0, (num_chains, num_samples))
            groups[group][name] = stacked.numpy(force=True)


@torch.no_grad()
def _trace(model: Callable[..., Any], values: Mapping[str, Tensor], data: Batch) -> Any:
    conditioned = poutine.condition(model, data=values)
    with poutine.block():
        trace = poutine.trace(lambda: call_model(conditioned, data)).get_trace()
    trace.compute_log_prob()
    return trace
