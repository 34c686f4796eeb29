"""Draws of a Pyro model as an ArviZ DataTree."""

import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprior.errors import ConfigError
from bayesprior.probabilistic.sites import is_observed, is_weight_distribution, trace_at
from bayesprior.tasks.protocols import Batch

__all__ = ["samples_to_datatree"]

Found = dict[str, dict[str, list[np.ndarray]]]


@torch.no_grad()
def samples_to_datatree(
    samples: Mapping[str, Tensor] | tuple[Sequence[int], Iterable[Mapping[str, Tensor]]],
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
        Constrained values of shape (num_chains, num_samples, ...) by site. Or, for draws that
        shall not be in memory at once, (num_chains, num_samples) and what yields the values of
        each draw by site, chain after chain.
    model, data
        The Pyro model and all its data as one batch; together they add the groups
        ``log_likelihood``, ``log_prior``, ``observed_data`` and ``sample_stats`` (lp, the log
        joint density), and deterministic sites to ``posterior``. One run of the model a draw.
    networks
        Constant weight distributions of sites, which make large ones presentable. With a model
        every draw's own distribution is used, as wide as it is there.
    max_size
        Sites with more values are left out of ``posterior``; of weights the positions along the
        prior's directions (``<site>_coordinate``, if it has some) and the Mahalanobis distance
        (``<site>_mahalanobis``) stay.

    Examples
    --------
    >>> import torch
    >>> tree = samples_to_datatree({"mean": torch.zeros(4, 100)})
    >>> dict(tree["posterior"].sizes)
    {'chain': 4, 'draw': 100}
    """
    from arviz_base import from_dict

    shape, draws = _one_by_one(samples) if isinstance(samples, Mapping) else samples
    found: Found = defaultdict(lambda: defaultdict(list))
    observed: dict[str, np.ndarray] = {}
    for values in draws:
        laws: dict[str, Any] = dict(networks or {})
        if model is not None and data is not None:
            trace = trace_at(model, data, values)
            trace.compute_log_prob()
            _add_densities(found, observed, trace, values)
            laws |= {name: trace.nodes[name]["fn"] for name in values if name in trace.nodes}
        for name, value in values.items():
            if value.numel() <= max_size:
                found["posterior"][name].append(value.numpy(force=True))
            elif is_weight_distribution(laws.get(name)):
                law = laws[name]
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


def _one_by_one(
    samples: Mapping[str, Tensor],
) -> tuple[tuple[int, ...], Iterable[Mapping[str, Tensor]]]:
    shapes = {name: tuple(value.shape) for name, value in samples.items()}
    leads = {shape[:2] for shape in shapes.values()}
    if len(leads) != 1 or len(lead := leads.pop()) != 2:
        raise ConfigError(
            "samples must have shapes (num_chains, num_samples, ...), as from "
            f"get_samples(group_by_chain=True), got {shapes}"
        )
    places = itertools.product(*map(range, lead))
    return lead, ({name: value[place] for name, value in samples.items()} for place in places)


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
