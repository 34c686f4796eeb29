"""How strongly a prior should speak, and how confident a fit may be: parts usable alone."""

from bayesprior.inference.strength.confidence import fit_confidence
from bayesprior.inference.strength.features import head_inputs
from bayesprior.inference.strength.head import HeadPrior, map_head
from bayesprior.inference.strength.noise import feature_noise
from bayesprior.inference.strength.probe import Probe, fit_probe

__all__ = [
    "HeadPrior",
    "Probe",
    "feature_noise",
    "fit_confidence",
    "fit_probe",
    "head_inputs",
    "map_head",
]
