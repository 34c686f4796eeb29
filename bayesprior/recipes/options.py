"""Every option of the recipes, written once: keywords in Python, flags on the command line.

Groups are combined by inheritance. A value is brought to its type and checked when it is given.
"""

import dataclasses
import os
from typing import Any, Literal

from bayesprior.errors import ConfigError
from bayesprior.recipes.fields import Options, option, values_of
from bayesprior.recipes.source_options import ObjectiveOptions

__all__ = [
    "METHODS",
    "AverageOptions",
    "DataOptions",
    "LoggedOptions",
    "MadeFrom",
    "MapOptions",
    "ModelOptions",
    "NewDataOptions",
    "PageOptions",
    "RunOptions",
    "SampleOptions",
    "SamplerOptions",
    "SghmcOptions",
    "SourceOptions",
    "SwagOptions",
    "TransferOptions",
    "plain_values",
]


def plain_values(options: Options) -> dict[str, Any]:
    """Return the options among a call's arguments, as JSON primitives: what a folder records.

    Examples
    --------
    >>> plain_values(RunOptions(out="runs/map", progress=False))["seed"]
    0
    """
    package = __name__.rpartition(".")[0]
    groups = [
        kind
        for kind in type(options).__mro__
        if kind.__module__.startswith(f"{package}.") and kind.__module__.endswith("options")
    ]
    return {k: v for group in reversed(groups) for k, v in values_of(group, options).items()}


class DeviceOptions(Options):
    """Device."""

    device: str = "auto"
    """Where to compute: auto (a GPU if there is one), cpu, cuda, or cuda:1."""
    progress: bool = True
    """Show progress bars."""


class RunOptions(DeviceOptions):
    """Folder, seed."""

    out: str | os.PathLike[str] | None = option(None, path=True, shown="nothing is written")
    """Folder to write; an unfinished run of the same options in it is resumed."""
    seed: int = option(0, least=0)
    """Decides initialization, order of the data, and noise."""
    checkpoint_every: int = option(1000, least=1)
    """Steps between checkpoints."""


class LoggedOptions(RunOptions):
    """Log."""

    logger: Literal["csv", "tensorboard"] | None = option(None, shown="trace.csv alone")
    """Also write the scalars of every tenth step to the folder's logs, in this form."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logger and self.out is None:
            raise ConfigError(f"logger = {self.logger!r} needs a folder; give out")


class DataOptions(Options):
    """Data."""

    data: str
    """A short name (digits, glyphs, cifar10, cifar100, mnist, fashion_mnist, flowers102,
    oxford_pets, image_folder, mask_folder), a folder of pictures (a folder for each class, or
    images and masks), a .npz file with x_train, y_train, x_test, y_test (or x, y; y are masks if
    they have pixels, several labels an example if they are rows of 0 and 1), a .csv file with
    --data_options.target COLUMN, or an import path pkg.module:function that returns a
    DataBundle."""
    data_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the data set, as --data_options.NAME VALUE, such as root, size, or test_fraction
    (0.2): what folders, tables and arrays without a test split give for one."""
    classes: str | None = option(None, shown="all")
    """Keep these classes (names or numbers, separated by commas), relabeled 0, 1, ..."""
    num_data: int | None = option(None, least=1, shown="all")
    """Keep this many training examples, class-balanced where they have classes."""
    per_class: int | None = option(None, least=1, shown="all")
    """Or this many of each class."""
    num_validation: int | None = option(None, least=1, shown="none more")
    """Take this many validation examples out of the training split first."""
    data_seed: int = option(0, least=0)
    """Decides which examples; --seed decides everything else."""


class ModelOptions(Options):
    """Network."""

    model: str
    """A short name (small_conv, small_resnet, mlp, mobilenet_v1), a library's network for classes
    (torchvision/NAME or NAME, timm/NAME, hf/NAME) or masks (torchvision's LRASPP, FCN and
    DeepLab by their names, smp/NAME), or an import path pkg.module:callable."""
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the network, as --model_options.NAME VALUE, such as widths. The numbers of
    classes, channels and features come from the data."""
    head: str | None = option(None, shown="the last linear layer")
    """Name of the layer that does not transfer."""
    noise: str = option("learned")
    """Of targets that are numbers: learned (one level, a weight of the head), predicted (by the
    network, for each input), or a known standard deviation in the targets' unit."""


class SmoothingOptions(Options):
    """Labels."""

    label_smoothing: float | None = option(None, least=0, most=1, shown="0")
    """Share e of every label's weight in the loss that goes to all classes alike: a loss of
    -(1 - e) log p_y - (e / C) sum_c log p_c. Predictions and metrics are of the labels as they are;
    a likelihood in the strict sense is e = 0 alone."""


class SourceOptions(SmoothingOptions, ObjectiveOptions, LoggedOptions):
    """Source fit: descent, then SWAG."""

    rank: int = option(20, least=0)
    """K, the number of directions kept; below num_snapshots."""
    num_steps: int = option(2000, least=0)
    """Steps before the snapshots; 0 continues from trained weights."""
    num_snapshots: int = option(40, least=1)
    """Snapshots of the weights."""
    collect_every: int = option(10, least=1)
    """Steps between two snapshots."""
    batch_size: int = option(128, least=1)
    """Examples a step."""
    swag_lr_factor: float = option(0.5, above=0)
    """Factor on lr while snapshots are taken."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Whether BatchNorm statistics are updated."""
    diagonal_only: bool = False
    """Keep variances only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.diagonal_only:
            _check_rank(self.rank, self.num_snapshots)
        if self.num_steps and (self.warm_up or 0) >= self.num_steps:
            raise ConfigError(
                f"warm_up = {self.warm_up} must be below num_steps = {self.num_steps}"
            )


class FitOptions(LoggedOptions):
    """Every fit."""

    batch_size: int = option(64, least=1)
    """Examples a step."""
    lr: float | None = option(None, above=0, shown="found, in units of the prior")
    """Learning rate on the mean loss; of a sampler, step size on grad U / N. Without it one is
    found before the first step, in standard deviations of the prior, and told in results.json."""
    head_lr: float | None = option(None, above=0, shown="lr")
    """Learning rate of the new weights."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Whether BatchNorm statistics stay the source's or are updated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr is None and self.head_lr is not None:
            raise ConfigError("head_lr goes with lr; give both, or none: then both are found")


class DescentOptions(SmoothingOptions, FitOptions):
    """Descent."""

    momentum: float = option(0.9, least=0, most=1)
    """Share of the last step that is repeated; of a rate that was found, of Adam's mean."""


class MapOptions(DescentOptions):
    """MAP."""

    num_steps: int = option(500, least=1)
    """Steps, with a cosine to zero."""
    warm_up: int = option(0, least=0)
    """Steps of rising learning rate."""
    stop: int | None = option(None, least=1, shown="num_steps")
    """Stop after this step of the same schedule (early stopping)."""
    snapshots: int = option(0, least=0)
    """Weights kept along the run in chain-00, at equal intervals up to its end: where it could
    have stopped."""
    start: Literal["prior", "module"] = "prior"
    """Start the transferred weights at the prior's mean, or, if that is zero, as their layers draw
    them; or all weights where the network has them: with a prior around zero that is fine-tuning
    with weight decay 1 / (N std^2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stop", "snapshots"):
            if (getattr(self, name) or 0) > self.num_steps:
                raise ConfigError(
                    f"{name} must be at most num_steps = {self.num_steps}, got "
                    f"{getattr(self, name)}"
                )


class SwagOptions(DescentOptions):
    """MAP, then SWAG."""

    rank: int = option(20, least=1)
    """K, the number of directions kept; below num_snapshots."""
    num_steps: int = option(500, least=1)
    """Steps before the snapshots."""
    num_snapshots: int = option(40, least=1)
    """Snapshots of the weights."""
    collect_every: int = option(5, least=1)
    """Steps between two snapshots."""
    swag_lr_factor: float = option(0.5, above=0)
    """Factor on lr while snapshots are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rank(self.rank, self.num_snapshots)


class SampleOptions(FitOptions):
    """Chains of a sampler."""

    batch_size: int = option(0, least=0)
    """Examples a step; 0 is 64 where lr is given, else all of up to 256. With a part of the data
    the step that is found is much smaller: the noise of batches would heat the chain."""
    num_draws: int = option(50, least=1)
    """Draws kept of each chain."""
    chains: int = option(4, least=1)
    """Number of chains; each has its own start, noise and fresh new weights."""
    start_spread: float = option(1.0, least=0)
    """How far from the prior's mean chains start, in draws of the prior at their temperature."""
    burn_in: int = option(500, least=0)
    """Steps before the draws; of every cycle, if there are cycles."""
    thin: int = option(20, least=1)
    """Steps between two draws."""
    cycles: int = option(0, least=0)
    """Cosine cycles of exploration and sampling; 0 keeps lr. num_draws must be a multiple."""
    temperature: float = option(1.0, least=0)
    """1 samples the posterior; every other value is another law. On tasks of few labels 1 did not
    buy a better NLL than MAP's: it is for the posterior itself."""
    head_temperature: float | None = option(None, least=0, shown="temperature")
    """Temperature of the new weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (cycles := self.cycles) and (draws := self.num_draws) % cycles:
            raise ConfigError(f"num_draws = {draws} is no multiple of cycles = {cycles}")


_FRICTION = "0.1 if lr is given, else the prior's critical damping"


class SghmcOptions(SampleOptions):
    """Chains of SGHMC."""

    friction: float | None = option(None, above=0, most=1, shown=_FRICTION)
    """Share of the velocity that SGHMC loses a step."""


METHODS: dict[str, tuple[str, type[FitOptions]]] = {
    "map": ("fit_map", MapOptions),
    "swag": ("fit_swag", SwagOptions),
    "sgld": ("sample", SampleOptions),
    "sghmc": ("sample", SghmcOptions),
}
"""Kinds of inference: the recipe, and its options."""


class SamplerOptions(SampleOptions):
    """Chains of either sampler."""

    sampler: Literal["sgld", "sghmc"] = "sghmc"
    """Which sampler."""
    friction: float | None = option(None, above=0, most=1, shown=_FRICTION)
    """Share of the velocity that SGHMC loses a step; sgld has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler == "sgld" and self.friction is not None:
            raise ConfigError("friction belongs to sampler='sghmc'; sgld has none")
        if self.sampler == "sghmc" and self.friction is None and self.lr is not None:
            object.__setattr__(self, "friction", 0.1)


class TransferOptions(RunOptions):
    """Transfer."""

    folds: int = option(4, least=3, most=20)
    """Parts of the training examples that are held out in turn, each from one fine-tuning; at most
    as many as the smallest class has examples."""
    head_prior: Literal["auto", "learned", "isotropic"] = "auto"
    """Covariance of the head's weights: learned from the features of the source, where its file
    tells them, or isotropic."""
    baselines: Literal["none", "quick", "all"] = "quick"
    """What the result is set beside: quick is a linear probe, which needs no further fit; all adds
    five fine-tunings (AdamW at three rates, LP-FT, L2-SP; WiSE-FT) where there is a test split."""
    rename: Literal["auto"] | None = option(None, shown="as the files have them")
    """auto gives the tensors of files of weights the network's names, by order and shape."""


class MadeFrom(Options):
    """The names and files that a run's objects were made from, so that its folder finds them."""

    data: DataOptions | None = None
    """What `bayesprior.recipes.named.load_data` made the data from."""
    model: ModelOptions | None = None
    """What `bayesprior.recipes.named.load_model` made the network from."""
    prior: str | None = option(None, path=True)
    """File of the prior."""
    rms_std: float | None = option(None, above=0)
    """Width that the prior of the file was brought to."""
    source: str | None = option(None, path=True)
    """File of the source posterior."""
    weights: str | None = option(None, path=True)
    """File of weights, or a name that the model knows."""


def _check_rank(rank: int, num_snapshots: int) -> None:
    if not 1 <= rank < num_snapshots:  # deviations from their own mean span one direction less
        raise ConfigError(
            f"rank must be at least 1 and below num_snapshots = {num_snapshots}, got {rank}"
        )


class AverageOptions(DeviceOptions):
    """Model average of a run."""

    num_draws: int | None = option(None, least=1, shown="all stored, or 30 of a SWAG posterior")
    """Draws averaged, at most those that a run stored."""
    batch_size: int = option(256, least=1)
    """Examples at a time."""
    batch_norm: Literal["draw", "module", "reestimate"] = "draw"
    """BatchNorm statistics: each draw's own, the network's, or averages over the training split."""
    seed: int = option(0, least=0)
    """Of what is drawn."""
    trust: bool = False
    """Import what a run's folder names by an import path; that executes its writer's code."""


class NewDataOptions(AverageOptions):
    """New data."""

    risk: float = option(0.05, least=0, most=1)
    """Largest share of errors among the answers that are not abstained from; the threshold on the
    largest probability that keeps it is fitted on the validation split."""


class PageOptions(AverageOptions):
    """Report."""

    shift: dict[str, str] = dataclasses.field(default_factory=dict)
    """Further test sets with the same classes, as NAME=FILE: an .npz file or a data set's name. One
    that does not fit is left out, and the page says so."""
    ood: dict[str, str] = dataclasses.field(default_factory=dict)
    """Foreign sets, likewise; their labels are not used."""
    corruptions: bool = False
    """Also corrupt the test images: noise, blur, contrast and more, at severities 1, 3 and 5."""
    mode: Literal["full", "summary"] = "full"
    """summary keeps moments instead of sampled labels, for large sets."""
