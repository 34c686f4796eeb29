"""The user's verbs: fit a source, make a prior, infer with it. Plain typed functions.

Each reads values and files, writes one run folder if ``out`` is given, and returns a value; run
again with the same arguments and folder, it continues where it was stopped.
"""

from typing import TYPE_CHECKING

from bayesprior.registry import lazy

if TYPE_CHECKING:
    from bayesprior.recipes.collecting import collect
    from bayesprior.recipes.new_masks import NewMasks, predict_masks
    from bayesprior.recipes.prior import make_prior, shaped
    from bayesprior.recipes.reporting import report
    from bayesprior.recipes.saved import FitRun, Transfer, load_posterior, load_run
    from bayesprior.recipes.source import fit_source
    from bayesprior.recipes.studying import StudyResult, study
    from bayesprior.recipes.target import fit_map, fit_swag, sample
    from bayesprior.recipes.training import initialize_, pick_device
    from bayesprior.recipes.transferring import transfer

__all__ = [
    "FitRun",
    "NewMasks",
    "StudyResult",
    "Transfer",
    "collect",
    "fit_map",
    "fit_source",
    "fit_swag",
    "initialize_",
    "load_posterior",
    "load_run",
    "make_prior",
    "pick_device",
    "predict_masks",
    "report",
    "sample",
    "shaped",
    "study",
    "transfer",
]

# The options beside these are read by ``--help``, which must not wait for torch.
__getattr__ = lazy(__name__, __file__)
