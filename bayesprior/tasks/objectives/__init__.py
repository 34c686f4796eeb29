"""Losses for the training loop: supervised, and one file a self-supervised family."""

from bayesprior.tasks.objectives.supervised import supervised
from bayesprior.tasks.objectives.two_view import two_view

__all__ = ["supervised", "two_view"]
