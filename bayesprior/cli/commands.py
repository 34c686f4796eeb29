"""What every command takes, and the function behind it. Nothing heavy is imported here.

A command's options are the recipe's own (`bayesprior.recipes.options`) and what stands for its
objects: files and names.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

from bayesprior.recipes import options as groups
from bayesprior.recipes.fields import Options, option
from bayesprior.recipes.prior_options import PriorOptions
from bayesprior.recipes.source_options import CollectOptions
from bayesprior.recipes.study_options import DemoOptions, StudyOptions
from bayesprior.registry import resolve

__all__ = ["COMMANDS", "Command"]


def _path(places: str = "", **default: Any) -> Any:
    """Return a field for files; ``places`` (argparse's ``nargs``) for those without a flag."""
    return dataclasses.field(metadata={"path": True, "places": places}, **default)


class Quiet(Options):
    """Output."""

    quiet: bool = False
    """Show no progress, and print nothing but warnings, errors, and what was asked for: rows and
    tables of predict and compare."""


class Named(Quiet, groups.ModelOptions, groups.DataOptions):
    """Folder."""

    out: str = _path()
    """Folder to write; an unfinished run of the same options in it is resumed."""


class FitSource(Named, groups.SourceOptions):
    """Train on the source task and fit the source posterior (SWAG).

    Writes source.safetensors.
    """

    weights: str | None = _path(default=None)
    """Start from these: a file of weights of any layout, or a name that the network's library
    knows, such as DEFAULT."""
    rename: Literal["auto"] | None = option(None, shown="as the file has them")
    """auto: give the file's tensors the network's names, by order and shape."""


class Collect(Named, CollectOptions):
    """Fit the source posterior (SWAG) to checkpoints of a training of your own.

    Writes source.safetensors. With --data, BatchNorm statistics are estimated at the mean, and the
    network gets its classes and channels from there; else from --model_options.
    """

    checkpoints: tuple[str, ...] = _path("*")
    """Files of weights of any layout, in the order of the training; at least two."""
    data: str | None = option(None, shown="none")  # type: ignore[assignment]
    """The source task, as in fit-source."""


class MakePrior(Named, PriorOptions, groups.RunOptions):
    """Turn a source posterior into a prior for the target's network.

    Writes prior.safetensors. The data give the shapes of input and head, the size of the head's
    inputs, and the width, where none is given; nothing is trained.
    """

    source: str | None = _path(default=None)
    """File that fit-source wrote."""
    weights: str | None = _path(default=None)
    """Or a checkpoint alone, as in fit-source: the prior is isotropic around it (L2-SP), and
    as wide as the features of the data bear, where no width is given and the head is linear."""
    rename: Literal["auto"] | None = option(None, shown="as the file has them")
    """auto: give that file's tensors the network's names, by order and shape."""


class Fit(Named, groups.RunOptions):
    """Prior."""

    method: ClassVar[str] = ""

    prior: str = _path()
    """File that make-prior wrote."""
    rms_std: float | None = option(None, above=0, shown="the file's own")
    """Bring the prior to this width first."""


class FitMap(Fit, groups.MapOptions):
    """Infer the target's weights by maximizing the posterior (MAP).

    Writes map.safetensors.
    """

    method: ClassVar[str] = "map"


class FitSwag(Fit, groups.SwagOptions):
    """Infer by a Gaussian fitted to what SGD does around the posterior's mode (SWAG).

    Writes swag.safetensors.
    """

    method: ClassVar[str] = "swag"


class FitSgld(Fit, groups.SampleOptions):
    """Infer by sampling with stochastic-gradient Langevin dynamics (SGLD).

    Writes chain-00/draw-0000.safetensors and so on.
    """

    method: ClassVar[str] = "sgld"


class FitSghmc(Fit, groups.SghmcOptions):
    """Infer by sampling with stochastic-gradient Hamiltonian Monte Carlo (SGHMC).

    Writes chain-00/draw-0000.safetensors and so on.
    """

    method: ClassVar[str] = "sghmc"


class Transfer(Named, groups.TransferOptions):
    """Transfer a trained network to a task with few labels: calibrated, without a search.

    Averages the MAP under the source's prior with short fine-tunings on folds; how far they move
    and how confident they are is chosen out of fold. Writes chain-00, prior.safetensors, and with a
    test split report.html; `bayesprior predict OUT NEW ...` predicts new data.
    """

    without: ClassVar[tuple[str, ...]] = ("noise",)  # classes have none

    source: tuple[str, ...] = _path(default=())
    """File that fit-source wrote; given several times, the best one is taken."""
    weights: tuple[str, ...] = _path(default=())
    """Or a checkpoint, likewise."""


class Predict(Quiet, groups.NewDataOptions):
    """Predict a split with a run's model average, or new data.

    Without NEW: the metrics of a split, also in results.json, and predictive-SPLIT.nc (an ArviZ
    DataTree). With NEW: one row each, with class, probabilities, entropy, and whether to abstain;
    of numbers mean, standard deviation, and the ends of the 50 % and 90 % intervals; of masks a
    picture of labels and one of entropies each.
    """

    listed: ClassVar[str] = "metrics"

    run: str = _path("?")
    """Folder of a fit."""
    new: tuple[str, ...] = _path("*", default=())
    """Folders of pictures, pictures, .npz files with x, or tables with the run's columns."""
    split: Literal["test", "validation", "train"] = "test"
    """Which examples, where no NEW is given."""
    out: str | None = option(None, path=True, shown="the rows are printed")
    """The .csv file of the predictions for NEW, or the folder of their masks."""


class SideBySide(Quiet):
    """Runs."""

    runs: tuple[str, ...] = _path("*")
    """Folders of fits of the same test split."""
    baseline: str | None = option(None, path=True, shown="that of the second run")
    """The run whose method the others are held against."""


class Report(SideBySide, groups.PageOptions):
    """Report on a fit, set beside other fits: report.html, .md, .json and report.nc for ArviZ.

    The page is about the first run; the others are set beside it on the same test points. Runs
    that differ in their seeds only are one method.
    """

    listed: ClassVar[str] = "headings"

    out: str | None = option(None, path=True, shown="the first run's")
    """Folder of the report."""
    rebuild: bool = False
    """Only write the page anew from the report.nc in the folder; nothing is predicted."""


class Compare(SideBySide, groups.AverageOptions):
    """Set fits side by side: one table, and each one's paired differences to the baseline.

    Runs that differ in their seeds only are one method with several seeds. Runs are predicted on
    their test split first where that is not done.
    """

    listed: ClassVar[str] = "compared metrics"

    out: str | None = option(None, path=True, shown="nothing is written")
    """Also write the numbers to this .json file."""


class Inspect(Options):
    """Say what a file or a run folder holds: prior, posterior, estimate, draw, checkpoint, run."""

    paths: tuple[str, ...] = _path("*")
    """Files or folders that bayesprior wrote; told by their content."""
    card: bool = False
    """Print the card of a prior, source or posterior instead, as the Hugging Face hub shows it."""


class Demo(Quiet, DemoOptions):
    """Run the embedded example, offline: typeset glyphs to handwritten digits.

    Fits a source posterior to 62 typeset characters; transfers it by `transfer` to a few labeled
    images of real handwritten digits, all its baselines beside it; and runs two short chains of
    SGHMC under the same prior. Prints the leaderboard and writes report.html, on the chains.
    """


class Study(Quiet, StudyOptions):
    """Compare methods over seeds and numbers of examples, with equal budgets, chosen on validation.

    Describe the methods in a YAML file for --config. Writes results.json and report.html, and every
    fit as a run folder; stopped, the same command goes on.
    """


class Command(NamedTuple):
    """A command: the class of its options, and the import path of what it calls with them."""

    options: type[Options]
    path: str

    @property
    def function(self) -> Callable[[Any], None]:
        """The function, imported now."""
        return resolve("command", self.path, {})


COMMANDS = {
    "demo": Command(Demo, "bayesprior.demo.command:demo"),
    "fit-source": Command(FitSource, "bayesprior.cli.fitting:fit_source"),
    "collect": Command(Collect, "bayesprior.cli.fitting:collect"),
    "make-prior": Command(MakePrior, "bayesprior.cli.fitting:make_prior"),
    "fit map": Command(FitMap, "bayesprior.cli.fitting:fit"),
    "fit swag": Command(FitSwag, "bayesprior.cli.fitting:fit"),
    "fit sgld": Command(FitSgld, "bayesprior.cli.fitting:fit"),
    "fit sghmc": Command(FitSghmc, "bayesprior.cli.fitting:fit"),
    "transfer": Command(Transfer, "bayesprior.cli.fitting:transfer"),
    "predict": Command(Predict, "bayesprior.cli.reporting:predict"),
    "report": Command(Report, "bayesprior.cli.reporting:report"),
    "compare": Command(Compare, "bayesprior.cli.reporting:compare"),
    "study": Command(Study, "bayesprior.cli.reporting:study"),
    "inspect": Command(Inspect, "bayesprior.cli.inspection:inspect"),
}
"""Every command by its words."""
