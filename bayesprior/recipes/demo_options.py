"""Options of the embedded example; those of the recipes are in `bayesprior.recipes.options`."""

from dataclasses import dataclass

from bayesprior.recipes.fields import Options, option

__all__ = ["DemoOptions"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoOptions(Options):
    """Demo."""

    out: str = option("demo", path=True)
    """Folder to write; a run that was stopped continues, what is finished is not done again."""
    num_data: int = option(20, least=1)
    """Labeled handwritten images in all."""
    seeds: int = option(5, least=1)
    """Repetitions with fresh images, head and noise."""
    budget: int = option(200, least=30)
    """Gradient evaluations of each fit."""
    source_steps: int = option(800, least=1)
    """Steps on the source."""
    seed: int = option(0, least=0)
    """First of the seeds."""
    jobs: int = option(2, least=1)
    """Fits at a time, each on one core."""
    progress: bool = True
    """Show progress bars."""
