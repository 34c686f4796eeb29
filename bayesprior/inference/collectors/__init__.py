"""What watches a trajectory and learns from it."""

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory, Watching
from bayesprior.inference.collectors.swag import SWAG

__all__ = ["SWAG", "DrawWriter", "DrawsInMemory", "Watching"]
