"""The loss surface: data loss, prior and posterior along a line or plane through weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from bayesprior.data import DataBundle
from bayesprior.errors import ConfigError, DataError, LayoutMismatchError, checked
from bayesprior.inference.batch_norm import running_layers
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.inference.protocols import Draw
from bayesprior.inference.wrappers import modes_kept
from bayesprior.prediction.functional import FunctionalNetwork
from bayesprior.report.style import BLUE, GRAY, ORANGE, Shown, styled
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.protocols import Forward, batch_size, pair_forward, to_device
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["draw_surface", "surface_values"]

LABELS = {
    "data_loss": "data loss",
    "negative_log_prior": "negative log prior / N",
    "posterior": "their sum: negative log posterior / N",
}
_KEPT = "the statistics that the ends share"
_ANEW = "statistics estimated anew at every point, on the examples of the data loss"


@torch.no_grad()
@checked("module=network data=bundle prior=gaussian likelihood=likelihood max_examples=count")
def surface_values(
    ends: Sequence[Any],
    *,
    module: nn.Module,
    data: DataBundle,
    prior: GaussianWeights | None = None,
    likelihood: Likelihood | None = None,
    forward: Forward = pair_forward,
    names: Sequence[str] = ("source", "MAP", "fine-tuning"),
    num_points: int | None = None,
    margin: float = 0.25,
    max_examples: int = 256,
    seed: int = 0,
) -> xr.Dataset:
    """Evaluate data loss and prior on a line or plane through the weights given.

    The data loss is the mean negative log likelihood of training examples without augmentation,
    the prior's part (w - m)' S^-1 (w - m) / (2 N) with the prior's mean m, covariance S and the
    number N of training examples.

    Parameters
    ----------
    ends
        Two or three points, as of `bayesprior.report.plots.loss_surface`.
    module
        The network; in evaluation mode, and left as it is. Where the ends have other BatchNorm
        statistics than the first, these are estimated anew at every point.
    data
        The task.
    prior
        Without it only the data loss is found.
    likelihood, forward
        As of the fit.
    names
        Of the ends.
    num_points
        Of each axis; 25 of a line and 15 of a plane by default.
    margin
        How far beyond the ends, in parts of their distance.
    max_examples
        Training examples, picked by ``seed``.

    Returns
    -------
    xarray.Dataset
        Variables over ``x`` (and ``y``), the distances from the first end in weight space, and the
        places of the ends. One forward pass for each point.

    Raises
    ------
    DataError
        If the points coincide, or three lie on a line.
    LayoutMismatchError
        If an end lacks a weight of the first (of the prior).
    ConfigError
        If there are not two or three named ends, or one is no weights.
    """
    if not 2 <= len(ends) <= min(3, len(names)):
        raise ConfigError(f"names must be one for each of 2 or 3 ends, got {len(ends)} ends")
    found = [_end(end) for end in ends]
    layout = found[0][0] if prior is None else prior.layout
    vectors = torch.stack([_in_order(vector, own, layout) for own, vector, _ in found])
    places, basis = _spanned(vectors)
    plain = dataclasses.replace(data, train=data.train.without_augmentation())
    batch = next(iter(plain.loader("train", max_examples, shuffle=True, seed=seed)))
    buffers = found[0][2]
    anew = bool(running_layers(module)) and not all(_same(buffers, own[2]) for own in found)
    network = FunctionalNetwork(
        module,
        layout,
        forward=forward,
        batch_norm="reestimate" if anew else "draw",
        bn_loader=[batch] if anew else None,
    )
    size = num_points or (25 if len(ends) == 2 else 15)
    low, high = places.min(0), places.max(0)
    axes = [
        np.linspace(lo - margin * (hi - lo), hi + margin * (hi - lo), size)
        for lo, hi in zip(low, high, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    law = likelihood or Categorical()
    losses, distances = [], []
    with modes_kept(module):
        module.eval()
        on_device = to_device(batch, network.device)
        for number, at in enumerate(grid.reshape(-1, len(axes))):
            weights = vectors[0] + torch.from_numpy(at) @ basis
            outputs, targets = network(
                network.state(Draw(0, number, weights, {} if anew else buffers, layout)), on_device
            )
            losses.append(-float(law.log_prob(outputs, targets).double().mean()))
            if prior is not None:
                distances.append(float(prior.mahalanobis(weights.to(prior.loc))))
    dims = ("x", "y")[: len(axes)]
    values = {"data_loss": np.reshape(losses, grid.shape[:-1])}
    if prior is not None:
        values["negative_log_prior"] = np.reshape(distances, grid.shape[:-1]) / 2 / data.num_data
        values["posterior"] = values["data_loss"] + values["negative_log_prior"]
    variables: dict[str, Any] = {name: (dims, value) for name, value in values.items()}
    variables["place"] = (("end", "axis"), places)
    said = {"num_examples": batch_size(batch), "batch_norm": "none"}
    if running_layers(module):
        said["batch_norm"] = _ANEW if anew else _KEPT
    coords = {**dict(zip(dims, axes, strict=True)), "end": list(names[: len(ends)])}
    return xr.Dataset(variables, coords, said)


@styled
def draw_surface(values: xr.Dataset) -> Figure:
    """Draw what `surface_values` found: curves along a line, contours in a plane."""
    shown = [name for name in LABELS if name in values]
    is_plane = "y" in values.dims
    figure = Shown(figsize=(4.8, (3.4 if is_plane else 1.5) * len(shown) + 0.5))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    places = values.place.values
    for axes, name in zip(panels, shown, strict=True):
        found = values[name].values
        if is_plane:
            levels = np.unique(np.quantile(found, np.linspace(0, 1, 12)))
            lines = axes.contour(values.x, values.y, found.T, levels=levels, colors=BLUE)
            axes.clabel(lines, fontsize=7, fmt="%.3g")
            axes.plot(*places.T, "o", color=ORANGE)
            axes.set(title=LABELS[name], aspect="equal")
        else:
            axes.plot(values.x, found, color=BLUE)
            for place in places[:, 0]:
                axes.axvline(place, color=GRAY, linestyle="--")
            axes.set_ylabel(LABELS[name].split(":")[0])
        for end, place in zip(values.end.values, places, strict=True):
            if is_plane:
                axes.annotate(str(end), place, (4, 4), textcoords="offset points")
            elif axes is panels[0]:
                top = axes.get_xaxis_transform()
                axes.text(place[0], 1.02, str(end), transform=top, ha="center", va="bottom")
    said = f"distance in weights from {values.end.values[0]}"
    if (statistics := values.attrs["batch_norm"]) != "none":
        said += f"\n(BatchNorm: {statistics.split(',')[0]})"
    panels[-1].set_xlabel(said)
    return figure


def _end(end: Any) -> tuple[ParameterLayout, Tensor, dict[str, Tensor]]:
    """Return layout, weights and BatchNorm statistics of what may stand for weights."""
    if isinstance(end, nn.Module):
        end = PointPosterior.from_module(end)
    if isinstance(end, GaussianWeights):
        return end.layout, end.loc, dict(end.buffers)
    if not hasattr(end, "draws"):
        raise ConfigError(f"an end must be weights or a network, got {type(end).__name__}")
    mean, first = None, None
    for count, draw in enumerate(end.draws(), 1):
        first = first or draw
        weights = draw.weights.double()
        mean = weights if mean is None else mean + (weights - mean) / count
    if mean is None or first is None:
        raise DataError("an end gave no draws")
    return end.layout, mean, dict(first.buffers)


def _in_order(vector: Tensor, own: ParameterLayout, layout: ParameterLayout) -> Tensor:
    """Return weights in another order, in float64 on the CPU."""
    views = own.unflatten(vector.detach().cpu().double())
    if missing := [name for name in layout.names if name not in views]:
        raise LayoutMismatchError(f"an end lacks the weights {', '.join(missing[:3])}")
    return torch.cat([views[name].reshape(-1) for name in layout.names])


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n].cpu(), b[n].cpu()) for n in a)


def _spanned(vectors: Tensor) -> tuple[np.ndarray, Tensor]:
    """Return the ends' places and an orthonormal basis (K, D) of what they span."""
    basis: list[Tensor] = []
    for difference in vectors[1:] - vectors[0]:
        rest = difference - sum((difference @ u) * u for u in basis)
        if float(rest.norm()) <= 1e-9 * max(float(vectors.norm()), 1e-300):
            raise DataError("the points coincide or lie on a line; choose others")
        basis.append(rest / rest.norm())
    spanned = torch.stack(basis)
    return ((vectors - vectors[0]) @ spanned.T).numpy(), spanned
