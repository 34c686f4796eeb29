"""The options of a prior's shape and width."""

import os
from typing import Literal

from bayesprior.errors import ConfigError
from bayesprior.recipes.fields import Options, option

__all__ = ["PriorOptions"]


class PriorOptions(Options):
    """Width and shape of a prior."""

    rms_std: float | None = option(None, above=0, shown="see rms_ratio")
    """Root mean square standard deviation of the transferred weights, in weight units; one grid
    serves all shapes."""
    cov_scale: float | None = option(None, above=0, shown="1")
    """Or a factor on the source's covariance."""
    rms_ratio: float | None = option(
        None, above=0, shown="2.5 times what the features bear, where there are data"
    )
    """Or a width for every tensor: its standard deviation as a share of its own root mean square
    weight in the source. The shape inside a tensor, and its correlations with others, stay. Noise
    that moves the features of the data by .35 of their spread is what they bear; without data, or a
    linear head, and around zero, the source keeps its own width."""
    head_prior: Literal["auto", "learned", "isotropic"] = "auto"
    """Covariance of the new head's weights, the same for each class: learned is that of the
    source's features, which are scaled down where they vary within classes; auto takes it where
    the source tells it, and says so."""
    head_logit_std: float | None = option(
        None, above=0, shown="5, of numbers 1, if the features' size is known"
    )
    """Standard deviation of a logit, or of a standardized number, under the prior of the head. The
    size of the head's inputs is that of the data given, else the source's."""
    head_std: float | None = option(None, above=0, shown="1, if it is not")
    """Or the standard deviation of each new weight."""
    jitter: float = option(0.1, least=0)
    """Share of the mean variance added to every transferred weight's before the width is set:
    SWAG's least variances, of weights that hardly moved, would bound a sampler's step."""
    shape: Literal["low-rank", "diagonal", "isotropic", "zero"] = "low-rank"
    """Shape of the covariance, around the same mean and with the same rms_std; isotropic is
    L2-SP. zero is isotropic around zero: the run without the source."""
    rank: int | None = option(None, least=0, shown="all")
    """Keep fewer directions."""
    out: str | os.PathLike[str] | None = option(None, path=True, shown="nothing is written")
    """Folder to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [n for n in ("rms_std", "cov_scale", "rms_ratio") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ConfigError(f"give one of {given[0]} and {given[1]}, not both")
        if self.head_std is not None and self.head_logit_std is not None:
            raise ConfigError("give one of head_std and head_logit_std, not both")
        if self.head_std is not None and self.head_prior == "learned":
            raise ConfigError("head_prior='learned' has its width in logits: give head_logit_std")
        if self.rank is not None and self.shape != "low-rank":
            raise ConfigError(f"rank belongs to shape='low-rank'; {self.shape!r} has no directions")
