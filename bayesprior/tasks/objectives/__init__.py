"""Losses for the training loop: supervised, and one file a self-supervised family."""

from bayesprior.tasks.objectives.methods import METHODS, Momentum, self_supervised
from bayesprior.tasks.objectives.objective import Objective
from bayesprior.tasks.objectives.supervised import supervised
from bayesprior.tasks.objectives.two_view import TwoView, two_view

__all__ = [
    "METHODS",
    "Momentum",
    "Objective",
    "TwoView",
    "self_supervised",
    "supervised",
    "two_view",
]
