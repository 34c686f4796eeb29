"""Other people's priors and posteriors as `GaussianWeights`, with what was assumed on record.

Positions in such files follow ``module.parameters()``, so every reader takes the module that the
file was made from (the backbone without its head) and checks lengths, names and shapes against
it. Files are read with ``weights_only=True``: no code in them is run. Sources are state dicts or
paths of files that hold one; entries that the module lacks are left out.
"""

import math
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bayesprior.errors import ConfigError, PriorFileError
from bayesprior.inference.collectors import SWAG
from bayesprior.weights.checks import check_positive
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["from_checkpoints", "from_four_files", "from_state_dict", "from_swa_gaussian"]

State = str | Path | Mapping[str, Tensor]


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
        tensors[part] = found = _load(f"{prefix}_{part}.pt")
        dims = tuple(found.shape) if isinstance(found, Tensor) else ()
        if len(dims) != shape.count("D") + shape.count("K") or dims[-1] != layout.dim:
            raise PriorFileError(
                f"{prefix}_{part}.pt must have shape {shape}, where {type(module).__name__} has D "
                f"= {layout.dim} trainable weights; got {dims or type(found).__name__}; pass the "
                "network that the file was made from, without its head"
            )
    model, buffers = Path(f"{prefix}_model.pt"), {}
    if model.is_file():
        state = _state(model)
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
    provenance = {"imported": record}
    return GaussianWeights(layout, mean, diag, rows.T, buffers=buffers, provenance=provenance)


def from_swa_gaussian(
    source: State, module: nn.Module, *, var_floor: float = 1e-6
) -> GaussianWeights:
    """Read the state dict of a ``swa_gaussian`` SWAG model (``*_mean``, ``*_sq_mean``, ...).

    The covariance is half the variances plus half the deviations' product over K - 1, K the rows
    that the file holds; without deviations it is the variances. Those, differences of two
    averages in float32, are bounded below by ``var_floor`` times their mean.

    Raises `PriorFileError` if the source is unreadable or lacks a parameter's moments.
    """
    layout, where = ParameterLayout.from_module(module), _name(source)
    state = {name.removeprefix("base."): tensor for name, tensor in _state(source).items()}

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
        share = 0.5
        rows = torch.cat([deviations.reshape(count, -1) for deviations in kept], 1)
        rows = rows[rows.abs().amax(1) > 0]  # the first deviation is zero
        factor = math.sqrt(share / (count - 1)) * rows.T.float()
    record = {"format": "swa_gaussian", "source": where, "divisor": max(count - 1, 0)}
    record |= {"floored_share": float((variance < floor).double().mean()), "var_floor": floor}
    mean, diag, buffers = mean.float(), variance.clamp_min(floor).float(), _buffers(state, module)
    law = GaussianWeights(layout, mean, share * diag, factor, buffers=buffers)
    law.provenance["imported"] = record
    return law


def from_state_dict(source: State, module: nn.Module, *, std: float) -> GaussianWeights:
    """Make the isotropic prior (L2-SP) around a checkpoint's weights; ``std`` in weight units."""
    layout, state = ParameterLayout.from_module(module), _state(source)
    loc, buffers = _flatten(state, layout, _name(source)), _buffers(state, module)
    provenance = {"imported": {"format": "state dict", "source": _name(source)}}
    return GaussianWeights.point(layout, loc, std, buffers=buffers, provenance=provenance)


def from_checkpoints(
    sources: Iterable[State], module: nn.Module, *, rank: int = 20, **options: Any
) -> GaussianWeights:
    """Fit `SWAG` (whose options these are) to checkpoints of one trajectory, read one at a time."""
    layout, swag = ParameterLayout.from_module(module), SWAG(rank=rank, **options)
    names, buffers = [], {}
    for source in sources:
        state, name = _state(source), _name(source)
        swag.update_weights(_flatten(state, layout, name), layout)
        names.append(name)
        buffers = _buffers(state, module)
    record = {"format": "checkpoints", "source": names}
    return swag.posterior(buffers=buffers, provenance={"imported": record})


def _name(source: State) -> str:
    return "the state dict" if isinstance(source, Mapping) else str(source)


def _load(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise PriorFileError(f"no such file: {path}")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise PriorFileError(f"{path} is no readable file of tensors: {why}") from error


def _state(source: State) -> dict[str, Tensor]:
    state = source if isinstance(source, Mapping) else _load(source)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise PriorFileError(f"{_name(source)} holds no dictionary of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _flatten(state: Mapping[str, Tensor], layout: ParameterLayout, where: str | Path) -> Tensor:
    named = {name: tuple(tensor.shape) for name, tensor in state.items()}
    diff = layout.compare(ParameterLayout(tuple(named), tuple(named.values())))
    if diff.only_here or diff.shape_conflicts:
        raise PriorFileError(f"{where} does not fit the module (here): {diff.describe()}")
    return layout.flatten_tensors(state[name] for name in layout.names)


def _buffers(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    return {name: state[name] for name, _ in module.named_buffers() if name in state}
