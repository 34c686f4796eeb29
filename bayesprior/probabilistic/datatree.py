"""Draws of a Pyro model as an ArviZ DataTree."""

import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.probabilistic.sites import (
    is_latent,
    is_observed,
    is_weight_distribution,
    trace_at,
)
from bayesprior.tasks.protocols import Batch, to_device

__all__ = ["draws_to_datatree", "samples_to_datatree"]

Found = dict[str, dict[str, list[np.ndarray]]]


def samples_to_datatree(
    samples: Mapping[str, Tensor],
    *,
    model: Callable[..., Any] | None = None,
    data: Batch | None = None,
    networks: Mapping[str, Any] | None = None,
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
        Constant weight distributions of sites, which make large ones presentable. With a model
        every draw's own distribution is used, as wide as it is there.
    max_size
        Sites with more values are left out of ``posterior``; of weights the positions along the
        prior's directions (``<site>_coordinate``, if it has some) and the Mahalanobis distance
        (``<site>_mahalanobis``) stay.

    Examples
    --------
    >>> tree = samples_to_datatree({"mean": torch.zeros(4, 100)})
    >>> dict(tree["posterior"].sizes)
    {'chain': 4, 'draw': 100}
    """
    shapes = {name: tuple(value.shape) for name, value in samples.items()}
    leads = {shape[:2] for shape in shapes.values()}
    if len(leads) != 1 or len(lead := leads.pop()) != 2:
        raise ConfigError(
            "samples must have shapes (num_chains, num_samples, ...), as from "
            f"get_samples(group_by_chain=True), got {shapes}"
        )
    draws = (
        {name: value[place] for name, value in samples.items()}
        for place in itertools.product(*map(range, lead))
    )
    return draws_to_datatree(
        draws, lead, model=model, data=data, networks=networks or {}, max_size=max_size
    )


def draws_to_datatree(
    draws: Iterable[Mapping[str, Tensor]],
    shape: tuple[int, ...],
    *,
    model: Callable[..., Any] | None,
    data: Batch | None,
    networks: Mapping[str, Any],
    max_size: int,
    device: torch.device | None = None,
) -> Any:
    """Do what `samples_to_datatree` does for draws that come one by one, chain after chain.

    The model, and whatever it is given, is on ``device``.
    """
    from arviz_base import from_dict

    found: Found = defaultdict(lambda: defaultdict(list))
    observed: dict[str, np.ndarray] = {}
    for values in draws:
        if device is not None:
            values = to_device(dict(values), device)
        laws = dict(networks)
        if model is not None and data is not None:
            trace = trace_at(model, data if device is None else to_device(data, device), values)
            _add_densities(found, observed, trace, values)
            laws |= {name: trace.nodes[name]["fn"] for name in values if name in trace.nodes}
        for name, value in values.items():
            if value.numel() <= max_size:
                found["posterior"][name].append(value.numpy(force=True))
            elif is_weight_distribution(law := laws.get(name)):
                coordinates = law.coordinates(value)
                if coordinates.shape[-1]:
                    found["posterior"][f"{name}_coordinate"].append(coordinates.numpy(force=True))
                distance = law.mahalanobis(value).numpy(force=True)
                found["posterior"][f"{name}_mahalanobis"].append(distance)
    groups: dict[str, dict[str, np.ndarray]] = {
        group: {name: np.stack(v).reshape(*shape, *v[0].shape) for name, v in variables.items()}
        for group, variables in found.items()
    }
    if observed:
        groups["observed_data"] = observed
    with warnings.catch_warnings():
        # Many short chains are meant: the axes are named by us.
        warnings.filterwarnings("ignore", "Found chain dimension to be longer")
        return from_dict(groups)


def _add_densities(
    found: Found, observed: dict[str, np.ndarray], trace: Any, values: Mapping[str, Tensor]
) -> None:
    found["sample_stats"]["lp"].append(trace.log_prob_sum().double().numpy(force=True))
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if name in values:
            found["log_prior"][name].append(site["log_prob_sum"].numpy(force=True))
        elif is_observed(site):
            found["log_likelihood"][name].append(site["unscaled_log_prob"].numpy(force=True))
            observed[name] = site["value"].numpy(force=True)
        elif site["infer"].get("_deterministic"):
            found["posterior"][name].append(site["value"].numpy(force=True))
        elif is_latent(site):
            raise ConfigError(f"the model has the latent site {name!r}, which the samples lack")
