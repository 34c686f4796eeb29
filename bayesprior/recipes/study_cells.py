"""One fit of a study: its folder, its start, its fit and its predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bayesprior.inference.generators import seeded
from bayesprior.inference.posteriors import PointPosterior, StoredDraws, stored_step
from bayesprior.prediction.predict import predict
from bayesprior.recipes import target
from bayesprior.recipes.arguments import default_likelihood, head_names
from bayesprior.recipes.fields import values_of
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import (
    METHODS,
    AverageOptions,
    DataOptions,
    MadeFrom,
    ModelOptions,
)
from bayesprior.recipes.predicting import at_most, is_predicted, predict_run
from bayesprior.recipes.runs import add_results, read_results
from bayesprior.recipes.saved import load_run
from bayesprior.recipes.study_options import StudyOptions
from bayesprior.recipes.study_plan import Configuration, Method, words
from bayesprior.recipes.training import initialize_, pick_device
from bayesprior.storage import PRIOR, chain_dir, draw_path
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = [
    "DIVERGED",
    "FIRST_SELECTION_SEED",
    "Cell",
    "averaging",
    "data_options",
    "fit_and_predict",
    "model_options",
    "prior_folder",
]

DIVERGED = "diverged"
"""Name in a cell's ``results.json`` of the reason why there is no fit."""
_VALIDATED = "predict-validation"
FIRST_SELECTION_SEED = 1000
"""What lies between the seeds that are reported and those that choose."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One fit: its method and configuration, its seed of examples, new weights and noise."""

    method: Method
    configuration: Configuration
    num_data: int | None
    seed: int
    split: str

    @property
    def described(self) -> dict[str, Any]:
        """What makes it another method than a cell that differs in any of it."""
        configuration = self.configuration
        prior = {**configuration.prior, "rms_std": configuration.rms_std}
        own = {"inference": self.method.inference, "start": self.method.start, "prior": prior}
        return {**configuration.options, **own}

    def folder(self, out: str | Path) -> Path:
        """Return the run folder, that of the recipe."""
        amount, name = self.num_data or "all", self.configuration.name
        return Path(out, "fits", self.method.name, f"n-{amount}", name, f"seed-{self.seed}")

    def is_done(self, call: StudyOptions) -> bool:
        """Whether it is predicted, or known to diverge."""
        folder = self.folder(call.out)
        found = read_results(folder)
        if DIVERGED in found or self.split == "validation":
            return DIVERGED in found or _VALIDATED in found
        return is_predicted(folder, self.split, averaging(call))

    def scores(self, out: str | Path) -> dict[str, float | None]:
        """Return the validation NLL at each step where it could stop; nothing if it diverged."""
        found = read_results(self.folder(out)).get(_VALIDATED, {"nll": {}})
        return dict(found["nll"])


def prior_folder(out: str | Path, configuration: Configuration) -> Path:
    """Return the run folder of a configuration's prior, before it is brought to its width."""
    return Path(out, "priors", words(configuration.prior) or "low-rank")


def data_options(call: StudyOptions, num_data: int | None, seed: int) -> DataOptions:
    """Return the data of one seed and number of examples."""
    own = {"num_data": num_data, "data_seed": seed}
    return DataOptions(**values_of(DataOptions, call) | own)


def model_options(call: StudyOptions) -> ModelOptions:
    """Return the network."""
    return ModelOptions(**values_of(ModelOptions, call))


def averaging(call: StudyOptions) -> AverageOptions:
    """Return how a fit of the study is predicted."""
    return AverageOptions(num_draws=call.num_draws, device=call.device, progress=False)


def fit_and_predict(call: StudyOptions, cell: Cell, folder: Path) -> None:
    """Fit one cell in its folder and predict the split that it is for."""
    of_data, of_model = data_options(call, cell.num_data, cell.seed), model_options(call)
    data = load_data(of_data, of_model)
    module, head = load_model(of_model, data, seed=cell.seed)
    prior_file = prior_folder(call.out, cell.configuration) / PRIOR
    law, rms_std = GaussianWeights.load(prior_file), cell.configuration.rms_std
    law = law if rms_std is None else law.rescale(rms_std=rms_std)
    options = dict(cell.configuration.options)
    if cell.method.start != "prior":
        options["start"] = "module"
        _start(call, cell, module, head, law)
    if cell.method.inference in ("sgld", "sghmc"):
        options["sampler"] = cell.method.inference
        lr = options.setdefault("lr", 1e-3)
        options.setdefault("head_lr", lr)
        options["lr"] = min(lr, data.num_data / float(law.max_precision()[: law.shared_dim].max()))
    fit = getattr(target, METHODS[cell.method.inference][0])(
        module,
        law,
        data,
        out=folder,
        seed=cell.seed,
        device=call.device,
        progress=False,
        checkpoint_every=call.checkpoint_every,
        batch_size=call.batch_size,
        made_from=MadeFrom(data=of_data, model=of_model, prior=str(prior_file), rms_std=rms_std),
        **options,
    )
    # The file that the prior was read from serves every fit; each folder's copy would add up.
    (folder / PRIOR).unlink(missing_ok=True)
    if cell.split == "test":
        predict_run(
            folder, "test", averaging(call), fit=load_run(folder, network=module, data=data)
        )
        return

    def nll(posterior: Any) -> float:
        loader = data.loader("validation", 256)
        num_draws = at_most(call.num_draws, posterior)
        found = predict(
            module,
            posterior,
            loader,
            default_likelihood(data),
            num_draws=num_draws,
            progress=False,
        )
        return found.metrics["nll"]

    found = {}
    if options.get("snapshots"):  # points of this one run, where it could have stopped
        for draw in StoredDraws(folder).draws():
            step = stored_step(draw_path(chain_dir(folder, 0), draw.index))
            found[str(step)] = nll(PointPosterior(law.layout, draw.weights, draw.buffers))
    add_results(folder, _VALIDATED, {"nll": found or {"end": nll(fit)}})


def _start(
    call: StudyOptions, cell: Cell, module: nn.Module, head: str, law: GaussianWeights
) -> None:
    """Put the network at the source's weights, and its head where every method's starts."""
    if cell.method.start == "source":
        shared = [n for n in law.layout.names if law.layout.slice(n).start < law.shared_dim]
        initialize_(module, GaussianWeights.load(call.source).marginal(shared))
    names = head_names(ParameterLayout.from_module(module).names, head, "network")
    with seeded(cell.seed, [pick_device(call.device)]):
        for owner in sorted({name.rpartition(".")[0] for name in names}):
            reset = getattr(module.get_submodule(owner), "reset_parameters", None)
            if callable(reset):
                reset()
