"""A likelihood that a user might write: a plain class from outside the package."""

import pyro.distributions as dist

from bayesprior.errors import DataError
from bayesprior.tasks.likelihoods import Moments, Normal


class Poisson:
    """A plain class from outside: counts, with the log rate as output."""

    def validate(self, outputs, targets):
        if outputs.shape != targets.shape or targets.is_complex():
            raise DataError("expected log rates and counts of one shape")

    def log_prob(self, outputs, targets):
        self.validate(outputs, targets)
        return self.distribution(outputs).log_prob(targets)

    def predictive(self, outputs):
        return Moments(outputs.exp(), outputs.exp())

    average = Normal.average
    entropy = Normal.entropy

    def distribution(self, outputs):
        return dist.Poisson(outputs.exp()).to_event(1)

    def monitor(self, outputs, targets):
        return {}
