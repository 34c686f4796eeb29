"""``fit-source``, ``make-prior``, ``fit``: names become objects, and a recipe does the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bayesprior import recipes
from bayesprior.cli.commands import Fit, FitSource, MakePrior, Named, values_of
from bayesprior.cli.console import print_pairs
from bayesprior.cli.inspection import show
from bayesprior.data import DataBundle
from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.recipes.checks import head_names
from bayesprior.recipes.named import load_data, load_model, point_source
from bayesprior.recipes.options import (
    DataOptions,
    MadeFrom,
    MapOptions,
    ModelOptions,
    PriorOptions,
    SampleOptions,
    SghmcOptions,
    SourceOptions,
    SwagOptions,
)
from bayesprior.recipes.runs import read_results
from bayesprior.storage import PRIOR, RESULTS, SOURCE
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["fit", "fit_source", "make_prior"]


def fit_source(options: FitSource) -> None:
    """Fit a source posterior and say what it holds."""
    data = load_data(options)
    module, head = load_model(options, data, seed=options.seed, weights=options.weights)
    recipes.fit_source(
        module,
        data,
        head=head,
        made_from=_made_from(options, weights=options.weights),
        **values_of(SourceOptions, options),
    )
    show(Path(options.out) / SOURCE)


def make_prior(options: MakePrior) -> None:
    """Make a prior and say what it holds."""
    if options.source is not None and options.weights is not None:
        raise ConfigError("give one of --source and --weights, not both")
    if options.source is None and options.weights is None and options.shape != "zero":
        raise ConfigError("give --source or --weights (only --shape zero needs neither)")
    if options.source is None and options.rms_std is None:
        raise ConfigError("a prior without --source has no width of its own; give --rms_std")
    data = load_data(options)
    module, head = load_model(options, data, seed=options.seed, weights=options.weights)
    values = values_of(PriorOptions, options)
    if options.source is not None:
        source = GaussianWeights.load(options.source)
        _check_covers(source, module, head, options, data)
    else:
        source = point_source(module, options.rms_std)
        values["shape"] = "zero" if options.shape == "zero" else "isotropic"
    made_from = _made_from(options, source=options.source, weights=options.weights)
    recipes.make_prior(source, module, head=head, data=data, made_from=made_from, **values)
    show(Path(options.out) / PRIOR)


def fit(options: Fit) -> None:
    """Infer with a prior and print the numbers of the fit."""
    data = load_data(options)
    module, head = load_model(options, data, seed=options.seed)
    head_names(ParameterLayout.from_module(module).names, head, "network")
    law = GaussianWeights.load(options.prior)
    _check_is_prior(law, module, options)
    if options.rms_std is not None:
        law = law.rescale(rms_std=options.rms_std)
    recipe, group, more = _RECIPES[options.method]
    recipe(
        module,
        law,
        data,
        made_from=_made_from(options, prior=options.prior, rms_std=options.rms_std),
        **values_of(group, options),
        **more,
    )
    results = read_results(options.out)["fit"]
    print_pairs({k: v for k, v in results.items() if not isinstance(v, dict | list) and k != "end"})
    print(f"written to {Path(options.out) / RESULTS}")


_RECIPES: dict[str, tuple[Callable[..., Any], type[Any], dict[str, str]]] = {
    "map": (recipes.fit_map, MapOptions, {}),
    "swag": (recipes.fit_swag, SwagOptions, {}),
    "sgld": (recipes.sample, SampleOptions, {"sampler": "sgld"}),
    "sghmc": (recipes.sample, SghmcOptions, {"sampler": "sghmc"}),
}


def _made_from(options: Named, **files: Any) -> MadeFrom:
    """Return the names and files behind the objects, for the run's folder."""
    return MadeFrom(
        data=DataOptions(**values_of(DataOptions, options)),
        model=ModelOptions(**values_of(ModelOptions, options)),
        **files,
    )


def _check_covers(
    source: GaussianWeights, module: Any, head: str, options: MakePrior, data: DataBundle
) -> None:
    """Say in options, not in calls of Python, what to do about a source of another network."""
    diff = source.layout.compare(ParameterLayout.from_module(module))
    unknown = [
        name
        for name in (*diff.only_there, *diff.shape_conflicts)
        if name != head and not name.startswith(f"{head}.")
    ]
    if unknown:
        raise LayoutMismatchError(
            f"--source {options.source} is of another network than --model {options.model} for "
            f"inputs of shape {data.input_shape}: {diff.describe()}; give the source's --model and "
            "--model_options, data with its channels and size, and name by --head what is new"
        )


def _check_is_prior(law: GaussianWeights, module: Any, options: Fit) -> None:
    """Send a source posterior to make-prior first, and a prior to its own network."""
    diff = ParameterLayout.from_module(module).compare(law.layout)
    if not (diff.only_here or diff.only_there or diff.shape_conflicts):
        return
    if law.provenance.get("role") != "prior":
        raise ConfigError(
            f"--prior {options.prior} is no prior of this network (it is a "
            f"{law.provenance.get('role', 'law without a role')}); run first: bayesprior "
            f"make-prior --source {options.prior} --data {options.data} --model {options.model}"
        )
    raise LayoutMismatchError(
        f"--prior {options.prior} was made for another network (network against prior: "
        f"{diff.describe()}); give the --data, --model and --model_options of its make-prior"
    )
