"""What watches a trajectory and learns from it."""

from bayesprior.inference.collectors.draws import DrawWriter
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.collectors.swag import SWAG
from bayesprior.inference.collectors.watching import Watching

__all__ = ["SWAG", "DrawWriter", "DrawsInMemory", "Watching"]
