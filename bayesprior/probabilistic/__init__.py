"""Pyro: networks with informative priors as models, and stochastic-gradient MCMC of any model."""

from bayesprior.probabilistic.bayesian import BayesianNetwork
from bayesprior.probabilistic.datatree import samples_to_datatree
from bayesprior.probabilistic.mcmc import StochasticGradientMCMC
from bayesprior.probabilistic.network import RandomNetwork
from bayesprior.probabilistic.potential import PyroPotential, potential_loss
from bayesprior.probabilistic.sites import init_to_finite_mean

__all__ = [
    "BayesianNetwork",
    "PyroPotential",
    "RandomNetwork",
    "StochasticGradientMCMC",
    "init_to_finite_mean",
    "potential_loss",
    "samples_to_datatree",
]
