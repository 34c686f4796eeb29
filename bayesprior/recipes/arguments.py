"""Arguments that the recipes share beside their options: objects, checked when they are given."""

import os
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from bayesprior.data.bundle import DataBundle
from bayesprior.errors import ConfigError
from bayesprior.inference.protocols import LossFn
from bayesprior.recipes.checks import (
    as_data,
    check_function,
    check_law,
    check_likelihood,
    check_network,
    check_prior_fits,
)
from bayesprior.recipes.digests import described
from bayesprior.recipes.fields import option
from bayesprior.recipes.options import MadeFrom, RunOptions
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.objectives import supervised
from bayesprior.tasks.protocols import Forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["FitCall", "TrainCall"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainCall(RunOptions):
    """What every recipe that trains takes in Python alone."""

    out: str | os.PathLike[str] | None = option(  # type: ignore[assignment]
        None, path=True, shown="nothing is written"
    )
    likelihood: Likelihood | None = None
    """How outputs speak about targets; `Categorical` by default."""
    forward: Forward = pair_forward
    """Calls the network on a batch: ``(module, batch) -> (outputs, targets)``."""
    fabric: Fabric | None = None
    """Devices, precision and processes; it takes the place of ``device``."""
    made_from: MadeFrom | None = None
    """The names and files that module, prior and data were made from: `load_run` reads a folder
    that knows them without being given anything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_likelihood(self.likelihood)
        check_function(self.forward, "forward", "module, batch")
        if not isinstance(self.fabric, Fabric | None):
            raise ConfigError(f"fabric must be a Fabric, got {type(self.fabric).__name__}")
        if not isinstance(self.made_from, MadeFrom | None):
            raise ConfigError(f"made_from must be a MadeFrom, got {type(self.made_from).__name__}")

    def loss(self) -> LossFn:
        """Return the mean loss per example."""
        return supervised(self.likelihood or Categorical(), forward=self.forward)

    def extras(self) -> dict[str, Any]:
        """Return what decides the result beside the options, as JSON primitives."""
        return {
            "likelihood": described(self.likelihood or Categorical()),
            "forward": described(self.forward),
        }


@dataclass(frozen=True, eq=False)
class FitCall(TrainCall):
    """Arguments of every recipe that infers with a prior."""

    module: nn.Module
    """The network; trained in place."""
    prior: GaussianWeights
    """Law of all trainable weights, as of `make_prior`."""
    data: DataBundle
    """The target task (a data set or a ``DataLoader`` will do); N = ``data.num_data``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.module)
        check_law(self.prior)
        object.__setattr__(self, "data", as_data(self.data))
        check_prior_fits(self.module, self.prior, self.data.num_data)
