"""Options of the commands that run many fits."""

import dataclasses
from typing import Any

from bayesprior.recipes.fields import Options, option
from bayesprior.recipes.options import DataOptions, ModelOptions, RunOptions

__all__ = ["DemoOptions", "StudyOptions"]


class StudyOptions(ModelOptions, DataOptions, RunOptions):
    """Study."""

    out: str = option("study", path=True)
    """Folder to write; a study that was stopped continues, what is finished is not done again."""
    source: str = dataclasses.field(metadata={"path": True})
    """File that fit-source wrote: every prior is made of it."""
    methods: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Name -> what is fitted: inference (map, swag, sgld, sghmc), start (prior, source, random),
    prior (options of make-prior), grid (option -> values to choose from; prior.NAME where the fit
    has an option of that name too), and options of the fit."""
    baseline: str | None = option(None, shown="the first method")
    """The method that the others are held against."""
    budget: int = option(500, least=1)
    """Gradient evaluations of one fit, of batch_size examples each: what all its chains take
    together, at most. Steps that a method leaves open use it up."""
    batch_size: int = option(64, least=1)
    """Examples of one gradient evaluation."""
    num_data: tuple[int, ...] = option((), shown="all")  # type: ignore[assignment]
    """Numbers of training examples, as 20 or [20, 50, 100]; each has its own choice and table."""
    seeds: int = option(5, least=1)
    """Repetitions with other examples, new weights and noise."""
    selection_seeds: int = option(1, least=1)
    """Further seeds, by whose mean validation NLL the grid's values are chosen."""
    num_draws: int | None = option(None, least=1, shown="all stored, or 30 of SWAG")
    """Draws averaged."""
    jobs: int | None = option(None, least=1, shown="a surrounding joblib.parallel_config's, or 1")
    """Fits at a time, each a process of one thread."""

    def __post_init__(self) -> None:
        if isinstance(self.num_data, int) and not isinstance(self.num_data, bool):
            object.__setattr__(self, "num_data", (self.num_data,))
        super().__post_init__()


class DemoOptions(Options):
    """Demo."""

    out: str = option("demo", path=True)
    """Folder to write; a run that was stopped continues, what is finished is not done again."""
    num_data: int = option(50, least=10)
    """Labeled handwritten images in all."""
    source_steps: int = option(800, least=1)
    """Steps on the source."""
    num_draws: int = option(50, least=2)
    """Draws of each of the two chains."""
    seed: int = option(0, least=0)
    """Decides the images, the head and all noise."""
    progress: bool = True
    """Show progress bars."""
