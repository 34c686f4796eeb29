"""The user's verbs: fit a source, make a prior, infer with it. Plain typed functions.

Each reads values and files, writes one run folder if ``out`` is given, and returns a value; run
again with the same arguments and folder, it continues where it was stopped.
"""

from bayesprior.recipes.reporting import report
from bayesprior.recipes.run import initialize_, pick_device
from bayesprior.recipes.source import fit_source, make_prior, shaped
from bayesprior.recipes.target import fit_map, fit_swag, sample

__all__ = [
    "fit_map",
    "fit_source",
    "fit_swag",
    "initialize_",
    "make_prior",
    "pick_device",
    "report",
    "sample",
    "shaped",
]
