"""Draws of a Pyro model as an ArviZ DataTree."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.probabilistic.log_joint import call_model
from bayesprior.probabilistic.sites import is_latent, is_observed, is_weight_distribution
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
    shapes = {name: tuple(value.shape) for name, value in samples.items()}
    leads = {shape[:2] for shape in shapes.values()}
    if len(leads) != 1 or len(lead := leads.pop()) != 2:
        raise ConfigError(
            "samples must have shapes (num_chains, num_samples, ...), as from "
            f"get_samples(group_by_chain=True), got {shapes}"
        )
    draws = (
        {name: value[chain, draw] for name, value in samples.items()}
        for chain in range(lead[0])
        for draw in range(lead[1])
    )
    return draws_to_datatree(
        draws, (lead[0], lead[1]), model=model, data=data, networks=networks, max_size=max_size
    )


def draws_to_datatree(
    draws: Iterable[Mapping[str, Tensor]],
    shape: tuple[int, int],
    *,
    model: Callable[..., Any] | None = None,
    data: Batch | None = None,
    networks: Mapping[str, Any] | None = None,
    max_size: int = 1000,
    device: torch.device | None = None,
) -> Any:
    """Do what `samples_to_datatree` does for draws that come one by one, chain after chain.

    Parameters
    ----------
    draws
        Values by site.
    shape
        (num_chains, num_samples).
    model, data, networks, max_size
        See `samples_to_datatree`.
    device
        Where the model is.
    """
    from arviz_base import from_dict

    found: Found = defaultdict(lambda: defaultdict(list))
    observed: dict[str, np.ndarray] = {}
    has_model = model is not None and data is not None
    if device is not None:
        data = to_device(data, device)
    for values in draws:
        laws = dict(networks or {})
        if has_model:
            here = to_device(dict(values), device) if device is not None else values
            trace = _trace(model, here, data)
            _add_densities(found, observed, trace, values)
            nodes = {name: trace.nodes[name]["fn"] for name in values if name in trace.nodes}
            laws |= {name: law for name, law in nodes.items() if is_weight_distribution(law)}
        for name, value in values.items():
            if value.numel() <= max_size:
                found["posterior"][name].append(value.numpy(force=True))
            elif name in laws:
                _add_position(found["posterior"], name, value, laws[name])
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


def _add_position(found: dict[str, list[np.ndarray]], name: str, value: Tensor, law: Any) -> None:
    value = value.to(law.loc.device)
    coordinates = law.coordinates(value)
    if coordinates.shape[-1]:
        found[f"{name}_coordinate"].append(coordinates.numpy(force=True))
    found[f"{name}_mahalanobis"].append(law.mahalanobis(value).numpy(force=True))


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


@torch.no_grad()
def _trace(model: Any, values: Mapping[str, Tensor], data: Batch) -> Any:
    conditioned = poutine.condition(model, data=dict(values))
    with poutine.block():
        trace = poutine.trace(lambda: call_model(conditioned, data)).get_trace()
    trace.compute_log_prob()
    return trace
