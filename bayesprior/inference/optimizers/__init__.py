"""Optimizers and samplers: a torch ``Optimizer`` around a few lines of mathematics each."""

from bayesprior.inference.optimizers.implicit_sgd import ImplicitPriorSGD
from bayesprior.inference.optimizers.sampler import Sampler
from bayesprior.inference.optimizers.sghmc import SGHMC
from bayesprior.inference.optimizers.sgld import SGLD
from bayesprior.inference.optimizers.whitened_adam import WhitenedAdam

__all__ = ["SGHMC", "SGLD", "ImplicitPriorSGD", "Sampler", "WhitenedAdam"]
