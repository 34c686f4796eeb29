"""Other people's priors and posteriors as `GaussianWeights`, with what was assumed on record.

Positions in such files follow ``module.parameters()``, so every reader takes the module that the
file was made from (the backbone without its head) and checks lengths, names and shapes against
it. Sources are state dicts or paths of files, of any layout that `read_state_dict` finds weights
in: no code in them is run, and entries that the module lacks are left out.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesprior.errors import CheckpointError, ConfigError, LayoutMismatchError, PriorFileError
from bayesprior.inference.collectors import SWAG
from bayesprior.weights.checks import check_positive
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection
from bayesprior.weights.state_dicts import (
    LoadReport,
    Source,
    load_weights,
    read_state_dict,
)
from bayesprior.weights.tensor_files import read_file

__all__ = ["from_checkpoints", "from_four_files", "from_state_dict", "from_swa_gaussian"]


@contextlib.contextmanager
def _prior_file_errors() -> Iterator[None]:
    """Turn errors of a weight file into those of a prior's file."""
    try:
        yield
    except CheckpointError as error:
        raise PriorFileError(str(error)) from error


@_prior_file_errors()
def from_four_files(
    prefix: str | Path,
    module: nn.Module,
    *,
    factor_divided: bool,
    convention: str = "proper",
    cov_scale: float = 1.0,
    eps: float = 0.0,
) -> GaussianWeights:
    r"""Read ``PREFIX_{mean,variance,covmat,model}.pt``, the priors of "Pre-Train Your Loss".

    With v the variances, Q (K, D) the deviations (divided by :math:`\sqrt{K - 1}` unless the file
    holds them so) and :math:`\lambda` the ``cov_scale``, the covariance by ``convention`` is

    * ``"proper"``: :math:`\frac\lambda2 (\mathrm{diag}(v) + Q^T Q) + \epsilon I`, SWAG's own;
    * ``"official"``: :math:`\mathrm{diag}(\lambda v + \epsilon) + \lambda^2 Q^T Q`, what the
      authors' code computes (by default with :math:`\lambda` = 1e10, :math:`\epsilon` = 0.1).
      There :math:`\lambda` changes the shape of the prior, not its width alone.

    Parameters
    ----------
    prefix
        What the names have in common. ``_model.pt``, for BatchNorm statistics, may be missing.
    module
        The backbone.
    factor_divided
        Whether the rows contain :math:`1 / \sqrt{K - 1}` already: a factor K - 1 in the
        covariance that no file tells. Decide; the choice goes into the provenance.

    Raises
    ------
    PriorFileError
        If a file is missing, unreadable or does not fit the module.
    ConfigError
        If an option cannot be.

    References
    ----------
    Shwartz-Ziv et al., Pre-Train Your Loss, arXiv:2205.10279.
    """
    if convention not in ("proper", "official"):
        raise ConfigError(f"convention must be 'proper' or 'official', got {convention!r}")
    check_positive("cov_scale", cov_scale)
    if not 0 <= eps < math.inf:
        raise ConfigError(f"eps must be 0 or more, got {eps}")
    layout, tensors = ParameterLayout.from_module(module), {}
    for part, shape in (("mean", "(D,)"), ("variance", "(D,)"), ("covmat", "(K, D)")):
        tensors[part] = found = read_file(f"{prefix}_{part}.pt")
        dims = tuple(found.shape) if isinstance(found, Tensor) else ()
        if len(dims) != 1 + ("K" in shape) or dims[-1] != layout.dim:
            raise PriorFileError(
                f"{prefix}_{part}.pt must have shape {shape}, where {type(module).__name__} has D "
                f"= {layout.dim} trainable weights; got {dims or type(found).__name__}; pass the "
                "network that the file was made from, without its head"
            )
    model, buffers = Path(f"{prefix}_model.pt"), {}
    if model.is_file():
        state = read_state_dict(model)
        _flatten(state, layout, model)
        if tuple(n for n in state if n in layout.slices) != layout.names:
            raise PriorFileError(f"{model} orders the parameters otherwise than the module")
        buffers = _buffers(state, module)
    mean, variance, rows = tensors.values()
    rows = rows if factor_divided else rows / math.sqrt(max(len(rows) - 1, 1))
    if convention == "official":
        diag, rows = cov_scale * variance + eps, cov_scale * rows
    else:
        diag, rows = 0.5 * cov_scale * variance + eps, math.sqrt(0.5 * cov_scale) * rows
    record = {"format": "four files", "source": str(prefix), "factor_divided": factor_divided}
    record |= {"convention": convention, "cov_scale": cov_scale, "eps": eps}
    made: dict[str, Any] = {"buffers": buffers, "provenance": {"imported": record}}
    return GaussianWeights(layout, mean, diag, rows.T, **made)


@_prior_file_errors()
def from_swa_gaussian(
    source: Source, module: nn.Module, *, var_floor: float = 1e-6
) -> GaussianWeights:
    """Read the state dict of a ``swa_gaussian`` SWAG model (``*_mean``, ``*_sq_mean``, ...).

    The covariance is half the variances plus half the deviations' product over K - 1, K the rows
    that the file holds; without deviations it is the variances. Those, differences of two
    averages in float32, are bounded below by ``var_floor`` times their mean.

    Raises `PriorFileError` if the source is unreadable or lacks a parameter's moments.
    """
    layout, found = ParameterLayout.from_module(module), read_state_dict(source)
    where, state = found.source, {n.removeprefix("base."): t for n, t in found.items()}

    def moment(kind: str) -> Tensor:
        named = {n: state[n + kind] for n in layout.names if n + kind in state}
        return _flatten(named, layout, f"{where} (*{kind})").double()

    mean = moment("_mean")
    variance = moment("_sq_mean") - mean.square()
    floor = var_floor * float(variance.clamp_min(0).mean())
    check_positive("var_floor times the mean variance", floor)
    kept = [state.get(f"{name}_cov_mat_sqrt", mean[:0]) for name in layout.names]
    count, share, factor = min(map(len, kept), default=0), 1.0, None
    if count > 1:
        rows, share = torch.cat([part.reshape(count, -1) for part in kept], 1), 0.5
        rows = rows[rows.abs().amax(1) > 0]  # the first deviation is zero
        factor = math.sqrt(share / (count - 1)) * rows.T.float()
    record = {"format": "swa_gaussian", "source": where, "divisor": max(count - 1, 0)}
    record |= {"floored_share": float((variance < floor).double().mean()), "var_floor": floor}
    diag = share * variance.clamp_min(floor).float()
    made: dict[str, Any] = {"buffers": _buffers(state, module), "provenance": {"imported": record}}
    return GaussianWeights(layout, mean.float(), diag, factor, **made)


@_prior_file_errors()
def from_state_dict(
    source: Source,
    module: nn.Module,
    *,
    std: float,
    head: Selection = (),
    rename: str | None = None,
) -> GaussianWeights:
    """Make the isotropic prior (L2-SP) around a checkpoint's weights.

    Parameters
    ----------
    source
        A file of any layout, or a state dict.
    module
        The network that the weights are for, not changed. Layers that the file lacks, or has for
        another number of outputs, are not in the prior: make_prior() adds a new head.
    std
        Standard deviation, in weight units.
    head
        Layers to leave out although the file has them.
    rename
        As of `load_weights`.

    Raises
    ------
    PriorFileError
        If the file cannot be read or does not fit the module.

    Warns
    -----
    UserWarning
        If layers other than ``head`` are not in the file.
    """
    layout, loc, buffers, report = _weights(source, module, head, rename)
    provenance = {"imported": {"format": "state dict", **report.record()}}
    return GaussianWeights.point(layout, loc, std, buffers=buffers, provenance=provenance)


@_prior_file_errors()
def from_checkpoints(
    sources: Iterable[Source],
    module: nn.Module,
    *,
    head: Selection = (),
    rename: str | None = None,
    rank: int = 20,
    **options: object,
) -> GaussianWeights:
    """Fit `SWAG` (whose options these are) to checkpoints of one trajectory, read one at a time.

    ``module``, ``head`` and ``rename`` are as of `from_state_dict`. The buffers are those of the
    last checkpoint; those that belong to the mean take data (`bayesprior.recipes.collect`).

    Raises
    ------
    PriorFileError
        If a file cannot be read, does not fit the module, or holds other layers than the first.
    ConfigError
        If there are fewer than two, or fewer than ``rank``.
    """
    swag, names = SWAG(rank=rank, **options), []  # type: ignore[arg-type]
    buffers: dict[str, Tensor] = {}
    for source in sources:
        layout, loc, buffers, report = _weights(source, module, head, rename)
        try:
            swag.update_weights(loc, layout)
        except LayoutMismatchError as error:
            raise PriorFileError(
                f"{report.source} holds other layers than the files before it: {error}; give "
                "checkpoints of one network, or name by head what differs"
            ) from None
        names.append(report.source)
    record = {"format": "checkpoints", "source": names}
    return swag.posterior(buffers=buffers, provenance={"imported": record})


@torch.no_grad()
def _weights(
    source: Source, module: nn.Module, head: Selection, rename: str | None = None
) -> tuple[ParameterLayout, Tensor, dict[str, Tensor], LoadReport]:
    """Return what a checkpoint holds of a network's parameters and buffers, in single precision."""
    mine = {n: t for n, t in module.state_dict().items() if isinstance(t, Tensor)}
    before = {name: tensor.clone() for name, tensor in mine.items()}
    try:
        report = load_weights(module, source, ignore=head, rename=rename)
        whole = ParameterLayout.from_module(module)
        layout = whole.select(n for n in whole.names if n not in report.missing)
        loc = layout.flatten(module)
        buffers = {n: b.clone() for n, b in module.named_buffers() if n in report.taken}
    finally:
        for name, tensor in before.items():
            mine[name].copy_(tensor)
    return layout, loc if loc.dtype == torch.float64 else loc.float(), buffers, report


def _flatten(state: Mapping[str, Tensor], layout: ParameterLayout, where: str | Path) -> Tensor:
    named = {name: tuple(tensor.shape) for name, tensor in state.items()}
    diff = layout.compare(ParameterLayout(tuple(named), tuple(named.values())))
    if diff.only_here or diff.shape_conflicts:
        raise PriorFileError(f"{where} does not fit the module (here): {diff.describe()}")
    return layout.flatten_tensors(state[name] for name in layout.names)


def _buffers(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    return {name: state[name] for name, _ in module.named_buffers() if name in state}
