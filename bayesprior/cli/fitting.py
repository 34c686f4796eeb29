"""``fit-source``, ``make-prior``, ``fit`` and others: names become objects for a recipe."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bayesprior import recipes
from bayesprior.cli.commands import Collect, Fit, FitSource, MakePrior, Named, Transfer
from bayesprior.cli.console import print_pairs, print_table, printable
from bayesprior.cli.inspection import show
from bayesprior.data import DataBundle
from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.models import get_model, head_prefix
from bayesprior.prediction.metrics import METRICS
from bayesprior.recipes import options as groups
from bayesprior.recipes.arguments import head_names
from bayesprior.recipes.fields import values_of
from bayesprior.recipes.named import load_data, load_model, point_source
from bayesprior.recipes.prior_options import PriorOptions
from bayesprior.recipes.runs import read_results
from bayesprior.recipes.saved import Transfer as Transferred
from bayesprior.recipes.source_options import CollectOptions
from bayesprior.storage import PRIOR, RESULTS, SOURCE
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

__all__ = ["collect", "fit", "fit_source", "make_prior", "show_leaderboard", "transfer"]


def fit_source(options: FitSource) -> None:
    """Fit a source posterior and say what it holds."""
    data, module, head = _task(options, options.weights)
    recipes.fit_source(
        module,
        data,
        head=head,
        made_from=_made_from(options, weights=options.weights),
        **values_of(groups.SourceOptions, options),
    )
    show(Path(options.out) / SOURCE)


def collect(options: Collect) -> None:
    """Collect a source posterior from checkpoints and say what it holds."""
    made_from = groups.MadeFrom(
        model=groups.ModelOptions(**values_of(groups.ModelOptions, options))
    )
    data = None
    if options.data is None:
        try:
            module = get_model(options.model, **options.model_options)
        except ConfigError as error:
            raise ConfigError(
                f"{error} (without --data, all options of the network are in --model_options)"
            ) from None
        head = options.head or head_prefix(module)
    else:
        data, module, head = _task(options)
        made_from = _made_from(options)
    recipes.collect(
        module,
        options.checkpoints,
        data=data,
        head=head,
        made_from=made_from,
        **values_of(CollectOptions, options),
    )
    show(Path(options.out) / SOURCE)


def make_prior(options: MakePrior) -> None:
    """Make a prior and say what it holds."""
    files = {"source": options.source, "weights": options.weights}
    if None not in files.values():
        raise ConfigError("give one of --source and --weights, not both")
    if not any(files.values()) and options.shape != "zero":
        raise ConfigError("give --source or --weights (only --shape zero needs neither)")
    if options.source is None and options.shape == "zero" and options.rms_std is None:
        raise ConfigError("a prior around zero has no width of its own; give --rms_std")
    data, module, head = _task(options, options.weights)
    values = values_of(PriorOptions, options)
    if options.source is not None:
        source = GaussianWeights.load(options.source)
    else:
        source = point_source(module, options.rms_std, options.weights)
        values["shape"] = "zero" if options.shape == "zero" else "isotropic"
    try:
        recipes.make_prior(
            source,
            module,
            head=head,
            data=data,
            made_from=_made_from(options, **files),
            **values,
        )
    except LayoutMismatchError as error:  # in options, not in calls of Python
        differences = str(error).rpartition("; ")[0]
        raise LayoutMismatchError(
            f"--source {options.source} is of another network than --model {options.model} for "
            f"inputs of shape {data.input_shape}: {differences}; give the source's --model and "
            "--model_options, data with its channels and size, and name by --head what is new"
        ) from None
    show(Path(options.out) / PRIOR)


def fit(options: Fit) -> None:
    """Infer with a prior and print the numbers of the fit."""
    data, module, head = _task(options)
    layout = ParameterLayout.from_module(module)
    head_names(layout.names, head, "network")
    law = GaussianWeights.load(options.prior)
    _check_is_prior(law, layout, options)
    if options.rms_std is not None:
        law = law.rescale(rms_std=options.rms_std)
    recipe, group = groups.METHODS[options.method]
    sampler = {"sampler": options.method} if recipe == "sample" else {}
    getattr(recipes, recipe)(
        module,
        law,
        data,
        made_from=_made_from(options, prior=options.prior, rms_std=options.rms_std),
        **values_of(group, options),
        **sampler,
    )
    results = read_results(options.out)["fit"]
    print_pairs({k: v for k, v in results.items() if not isinstance(v, dict | list) and k != "end"})
    print(f"written to {printable(Path(options.out) / RESULTS)}")


def transfer(options: Transfer) -> None:
    """Transfer a network and print the leaderboard."""
    with warnings.catch_warnings():  # a class without an example ends in an error that says so
        warnings.filterwarnings("ignore", ".* has no training example of ", UserWarning)
        data = load_data(options, options)
    found = recipes.transfer(
        data,
        options.model,
        head=options.head,
        made_from=_made_from(options),
        source=options.source,
        weights=options.weights,
        **values_of(groups.TransferOptions, options),
    )
    show_leaderboard(found)
    if "test" in found.results:
        found.report(progress=options.progress, device=options.device)
    else:
        print("no test split with labels, so no report: out-of-fold numbers rank, and no more")
    print(f"written to {printable(options.out)}")


def show_leaderboard(found: Transferred, more: Sequence[Mapping[str, Any]] = ()) -> None:
    """Print what a transfer decided, and every method's numbers; more rows beside them."""
    fit, rows = found.results["fit"], found.leaderboard()
    rows = sorted([*rows, *map(dict, more)], key=lambda row: row["nll"])
    for row in fit["candidates"]:
        if "loaded" in row:
            print(printable(row["loaded"]))
        if len(fit["candidates"]) > 1:
            print(f"{printable(row['source'])}: NLL {row['nll']:.3f} of a probe on its features")
    for note in fit["notes"]:
        print(f"* {printable(note)}")
    why = f" ({fit['head_note']})" if fit["head_note"] else ""
    print(f"head prior: {fit['head_prior']}{why}")
    where = f"numbers of {rows[0]['n']:,}, {rows[0]['on']}" if rows else "none to tell numbers of"
    print(f"{fit['num_data']:,} training examples; {where}")
    if not rows:
        return
    shown = [name for name in ("nll", "accuracy", "ece") if name in rows[0]]
    table = [
        [
            row["method"],
            *(format(row[name], METRICS[name].format) for name in shown),
            _against(row),
            str(row["fits"]),
            *(f"{row[name]:.1f}" if name in row else "" for name in _TIMES),
        ]
        for row in rows
    ]
    labels = (METRICS[name].label for name in shown)
    print_table(["method", *labels, "above transfer", "fits", *_TIMES.values()], table)
    if any(map(_against, rows)):
        tie = f"within {METRICS['nll'].margin} a tie"
        print(f"above transfer: NLL less transfer's, 95 % over these examples; {tie}")


_TIMES = {"fit_seconds": "fit, s", "predict_seconds": "predict, s"}


def _against(row: Mapping[str, Any]) -> str:
    """Say by how much a method's NLL exceeds the committee's, or that it is a tie."""
    if row.get("verdict") not in ("better", "worse"):
        return row.get("verdict", "")
    low, high = (f"{value:+.3f}" for value in row["nll_interval"])
    return f"{low} to {high}"


def _task(
    options: FitSource | Collect | MakePrior | Fit, weights: str | None = None
) -> tuple[DataBundle, nn.Module, str]:
    """Return the data, the network and its head's name; say what was taken from weights."""
    data = load_data(options, options)
    module, head = load_model(
        options,
        data,
        seed=options.seed,
        weights=weights,
        rename=getattr(options, "rename", None) if weights else None,
        tell=lambda line: print(printable(line)),
    )
    return data, module, head


def _made_from(options: Named, **files: Any) -> groups.MadeFrom:
    """Return the names and files behind the objects, for the run's folder."""
    return groups.MadeFrom(
        data=groups.DataOptions(**values_of(groups.DataOptions, options)),
        model=groups.ModelOptions(**values_of(groups.ModelOptions, options)),
        **files,
    )


def _check_is_prior(law: GaussianWeights, layout: ParameterLayout, options: Fit) -> None:
    """Send a source posterior to make-prior first, and a prior to its own network."""
    diff = layout.compare(law.layout)
    if diff.is_equal:
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
