"""Pyro: networks with informative priors as models, and stochastic-gradient MCMC of any model."""

from bayesprior.probabilistic.datatree import samples_to_datatree
from bayesprior.probabilistic.mcmc import StochasticGradientMCMC
from bayesprior.probabilistic.network import BayesianNetwork
from bayesprior.probabilistic.potential import PyroPotential, init_to_finite_mean, potential_loss

__all__ = [
    "BayesianNetwork",
    "PyroPotential",
    "StochasticGradientMCMC",
    "init_to_finite_mean",
    "potential_loss",
    "samples_to_datatree",
]
