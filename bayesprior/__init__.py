"""Source posteriors as informative priors: Bayesian transfer learning with Pyro and ArviZ.

Importing the package is cheap: each public name is imported when it is first used.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bayesprior.registry import lazy
from bayesprior.version import __version__

if TYPE_CHECKING:
    from bayesprior.data import DataBundle, as_bundle, check_fit, few_shot, from_arrays, get_data
    from bayesprior.errors import (
        BayesPriorError,
        CheckpointError,
        ConfigError,
        DataError,
        DivergenceError,
        LayoutMismatchError,
        MissingDependencyError,
        PriorFileError,
        StorageError,
    )
    from bayesprior.inference.collectors import SWAG, DrawsInMemory, DrawWriter, Watching
    from bayesprior.inference.engine import train
    from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
    from bayesprior.inference.posteriors import PointPosterior, StoredDraws
    from bayesprior.inference.prior_term import attach_prior
    from bayesprior.inference.strength import feature_noise
    from bayesprior.integrations import huggingface, lightning
    from bayesprior.models import get_model
    from bayesprior.prediction.predict import predict
    from bayesprior.prediction.results import Prediction
    from bayesprior.probabilistic import BayesianNetwork, RandomNetwork, StochasticGradientMCMC
    from bayesprior.recipes import (
        collect,
        fit_map,
        fit_source,
        fit_swag,
        load_run,
        make_prior,
        report,
        sample,
        study,
        transfer,
    )
    from bayesprior.recipes.new_data import predict_new
    from bayesprior.report import plots
    from bayesprior.tasks.likelihoods import (
        Bernoulli,
        Categorical,
        HeteroscedasticNormal,
        Likelihood,
        Normal,
    )
    from bayesprior.tasks.objectives import Objective, supervised, two_view
    from bayesprior.tasks.pixels import PixelCategorical
    from bayesprior.tasks.protocols import (
        Forward,
        dictionary_forward,
        inputs_forward,
        keyword_forward,
    )
    from bayesprior.weights.blocks import Block
    from bayesprior.weights.gaussian import GaussianWeights
    from bayesprior.weights.layout import ParameterLayout
    from bayesprior.weights.pooling import pool
    from bayesprior.weights.rows import RowCovariance

__all__ = [
    "BayesPriorError",
    "BayesianNetwork",
    "Bernoulli",
    "Block",
    "Categorical",
    "CheckpointError",
    "ConfigError",
    "DataBundle",
    "DataError",
    "DivergenceError",
    "DrawWriter",
    "DrawsInMemory",
    "Forward",
    "GaussianWeights",
    "HeteroscedasticNormal",
    "ImplicitPriorSGD",
    "LayoutMismatchError",
    "Likelihood",
    "MissingDependencyError",
    "Normal",
    "Objective",
    "ParameterLayout",
    "PixelCategorical",
    "PointPosterior",
    "Prediction",
    "PriorFileError",
    "RandomNetwork",
    "RowCovariance",
    "SGHMC",
    "SGLD",
    "SWAG",
    "StochasticGradientMCMC",
    "StorageError",
    "StoredDraws",
    "Watching",
    "__version__",
    "as_bundle",
    "attach_prior",
    "check_fit",
    "collect",
    "dictionary_forward",
    "feature_noise",
    "few_shot",
    "fit_map",
    "fit_source",
    "fit_swag",
    "from_arrays",
    "get_data",
    "get_model",
    "huggingface",
    "inputs_forward",
    "keyword_forward",
    "lightning",
    "load_run",
    "make_prior",
    "plots",
    "pool",
    "predict",
    "predict_new",
    "report",
    "sample",
    "study",
    "supervised",
    "train",
    "transfer",
    "two_view",
]

__getattr__ = lazy(__name__, __file__)


class _Package(ModuleType):
    """Keeps a folder from hiding the public name it shares: `report` is the recipe."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
