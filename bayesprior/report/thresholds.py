"""Every number that decides an answer of a report, with its source."""

from typing import NamedTuple

__all__ = ["THRESHOLDS", "Threshold", "limit"]


class Threshold(NamedTuple):
    """A number that decides, what it decides, and where it comes from."""

    value: float
    what: str
    source: str


_OURS = "our convention"
THRESHOLDS = {
    "rhat_fail": Threshold(
        1.1,
        "R-hat beyond it and beyond chance: not converged; where not excluded: too few draws",
        "Gelman et al., Bayesian Data Analysis (2013), section 11.4",
    ),
    "rhat_warn": Threshold(
        1.01, "R-hat beyond it and beyond chance: nearly converged", "arXiv:1903.08008"
    ),
    "ess_per_chain": Threshold(
        10, "effective draws wanted of each chain", f"{_OURS}; arXiv:1903.08008 asks for 100"
    ),
    "temperature": Threshold(0.1, "relative error of a temperature that is no matter", _OURS),
    "temperature_fail": Threshold(2.0, "times too hot or too cold that fails", _OURS),
    "ece_ok": Threshold(0.02, "ECE up to it is no practical matter", _OURS),
    "ece_fail": Threshold(
        0.1, "ECE beyond it is not to be trusted; where it cannot be excluded, unknown", _OURS
    ),
    "ece_changed_fail": Threshold(0.25, "ECE on changed data that fails, not only warns", _OURS),
    "ranks_ok": Threshold(0.05, "distance of ranks from uniform that is no matter", _OURS),
    "ranks_fail": Threshold(
        0.2, "distance beyond which intervals mislead; where not excluded, unknown", _OURS
    ),
    "bias": Threshold(0.15, "distance of the ranks' mean from a half that is bias", _OURS),
    "sensitivity": Threshold(
        0.05,
        "power-scaling sensitivity that counts, if beyond its Monte Carlo noise",
        "ArviZ's default, doi:10.1007/s11222-023-10366-5",
    ),
    "surprise": Threshold(
        3.0,
        "standard deviations of the prior; farther out along one direction it does not fit (along "
        "several: what its draws exceed as rarely)",
        _OURS,
    ),
    "informed": Threshold(
        0.5, "contraction from which the data are said to speak of a direction", _OURS
    ),
    "far": Threshold(2.0, "times the prior's 97.5 % quantile: far outside the prior", _OURS),
    "narrow": Threshold(0.8, "share of the least possible width that draws must reach", _OURS),
}
"""The numbers that decide, by name; the page lists them."""


def limit(name: str) -> float:
    """Return the value of a threshold."""
    return THRESHOLDS[name].value
