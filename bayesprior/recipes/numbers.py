"""A law's numbers, as ``results.json`` holds them."""

from typing import Any

from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["law_numbers"]


def law_numbers(law: GaussianWeights) -> dict[str, Any]:
    """Return width, rank, directions and blocks as JSON primitives.

    ``effective_rank`` is 1 / sum p^2 over the directions' shares p of the factor's variance;
    ``drift_share`` is the largest share.
    """
    return {
        "num_weights": law.dim,
        "shared": law.shared_dim,
        "rank": law.rank,
        "rms_std": law.rms_std,
        "effective_rank": law.effective_rank,
        "drift_share": law.drift_share,
        "rms_std_by_block": law.block_rms_std(),
    }
