"""Names of `bayesprior.recipes` that the commands use."""

from bayesprior.recipes.named import foreign_set, load_data, load_model, point_source
from bayesprior.recipes.saved import load_posterior, load_run

__all__ = [
    "foreign_set",
    "load_data",
    "load_model",
    "load_posterior",
    "load_run",
    "point_source",
]
