"""Fine-tunings that a transfer is held against: of all training examples, usual constants."""

from torch import Tensor, nn, optim

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.inference.protocols import Draw
from bayesprior.inference.strength.probe import Probe
from bayesprior.recipes.members import MemberTask, Recipe
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["ADAMW_RATES", "fine_tunings"]

ADAMW_RATES = (1e-4, 3e-4, 1e-3)
_HEAD_FACTOR = 10.0  # on the rate of a head that starts from zero
_WEIGHT_DECAY = 0.01
_LP_RATE, _L2SP_RATE = 1e-4, 1e-3
_L2SP_STDS = (0.05, 1.0)  # of the backbone around the source, of the head around zero


def fine_tunings(task: MemberTask, probe: Probe, num_steps: int = 100) -> dict[str, Draw]:
    """Fit the baselines, one after the other; those that diverge are left out.

    AdamW from the source with a head at zero, at each of `ADAMW_RATES`; LP-FT, from the probe
    (Kumar et al., arXiv:2202.10054); WiSE-FT, its weights half way back to the source's and the
    probe's (Wortsman et al., arXiv:2109.01903); L2-SP (Li et al., arXiv:1802.01483).
    """
    found: dict[str, PointPosterior] = {}
    linear = task.with_head(probe.weight, probe.bias)
    runs: list[tuple[str, float, float, Tensor | None, GaussianWeights | None]] = [
        *((f"AdamW {rate:g}", rate, _HEAD_FACTOR, None, None) for rate in ADAMW_RATES),
        ("LP-FT", _LP_RATE, 1.0, linear, None),
        ("L2-SP", _L2SP_RATE, _HEAD_FACTOR, None, _around_the_source(task)),
    ]
    for name, rate, factor, start, prior in runs:
        decay = _WEIGHT_DECAY if prior is None else 0.0
        recipe = Recipe(rate, factor * rate, num_steps, num_steps // 10)
        member = task.fit(
            name,
            recipe,
            prior=prior,
            start=start,
            optimizer=lambda module, r=recipe, d=decay: _adamw(module, task.head, r, d),  # type: ignore[misc]
        )
        if member is not None:
            found[name] = member.point
    if "LP-FT" in found:
        point = found["LP-FT"]
        half = (point.weights + linear.to(point.weights)) / 2
        found["WiSE-FT"] = PointPosterior(point.layout, half, point.buffers)
    return {n: Draw(0, 0, p.weights, p.buffers, p.layout) for n, p in found.items()}


def _adamw(module: nn.Module, head: str, recipe: Recipe, decay: float) -> optim.Optimizer:
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parts[name.startswith(f"{head}.")].append(parameter)
    rates = (recipe.lr, recipe.head_lr)
    groups = [{"params": p, "lr": r} for p, r in zip(parts, rates, strict=True) if p]
    return optim.AdamW(groups, lr=recipe.lr, weight_decay=decay)


def _around_the_source(task: MemberTask) -> GaussianWeights:
    prior, (body, head) = task.prior, _L2SP_STDS
    shared = [n for n in prior.layout.names if n not in set(prior.new_names)]
    law = prior.marginal(shared).isotropic().rescale(rms_std=body)
    return law.extend(prior.layout, std=head)
