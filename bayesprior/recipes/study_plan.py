"""What a study fits: methods, their grids, equal budgets, and one cell for each fit."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.recipes.fields import Options
from bayesprior.recipes.options import (
    MapOptions,
    PriorOptions,
    RunOptions,
    SampleOptions,
    SghmcOptions,
    StudyOptions,
    SwagOptions,
)
from bayesprior.recipes.runs import read_results
from bayesprior.storage import predictive_path

__all__ = [
    "DIVERGED",
    "FIRST_SELECTION_SEED",
    "Cell",
    "Configuration",
    "Method",
    "edges",
    "evaluations",
    "plan",
    "prior_folder",
    "select",
]

DIVERGED = "diverged"
"""Name in a cell's ``results.json`` of the reason why there is no fit."""
FIRST_SELECTION_SEED = 1000
"""What lies between the seeds that are reported and those that choose."""

_GROUPS: dict[str, type[Options]] = {
    "map": MapOptions,
    "swag": SwagOptions,
    "sgld": SampleOptions,
    "sghmc": SghmcOptions,
}
# The study's own: equal for all methods.
_SHARED = {spec.name for spec in dataclasses.fields(RunOptions)} | {"batch_size", "stop", "start"}


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodOptions(Options):
    """A method as a user describes it, without the options of the fit."""

    inference: Literal["map", "swag", "sgld", "sghmc"] = "map"
    start: Literal["prior", "source", "random"] = "prior"
    prior: dict[str, Any] = dataclasses.field(default_factory=dict)
    grid: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Configuration:
    """One point of a method's grid.

    Attributes
    ----------
    chosen
        Its values, by which it is told from the others.
    options
        Of the fit, steps included.
    prior
        Of `make_prior`, but for the width.
    rms_std
        Width that the prior is brought to; None for its own.
    """

    chosen: Mapping[str, Any]
    options: Mapping[str, Any]
    prior: Mapping[str, Any]
    rms_std: float | None

    @property
    def name(self) -> str:
        """For a folder."""
        return _words(self.chosen) or "fixed"


@dataclass(frozen=True, eq=False)
class Method:
    """What a study compares: a kind of inference, where it starts, and its grid."""

    name: str
    inference: str
    start: str
    grid: Mapping[str, Sequence[Any]]
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True, eq=False)
class Cell:
    """One fit: its method and configuration, its seed of examples, new weights and noise."""

    method: Method
    configuration: Configuration
    num_data: int | None
    seed: int
    split: str

    def folder(self, out: str | Path) -> Path:
        """Return the run folder, that of the recipe."""
        stop = self.configuration.options.get("stop")
        name = self.configuration.name + (f",stop={stop}" if stop else "")
        amount = "all" if self.num_data is None else self.num_data
        return Path(out, "fits", self.method.name, f"n-{amount}", name, f"seed-{self.seed}")

    def is_done(self, out: str | Path) -> bool:
        """Whether it is predicted, or known to diverge."""
        folder = self.folder(out)
        found = read_results(folder)
        has_file = self.split == "validation" or predictive_path(folder, self.split).exists()
        return DIVERGED in found or (f"predict-{self.split}" in found and has_file)


def plan(call: StudyOptions) -> dict[str, Method]:
    """Return the methods by name, every configuration of each checked and within the budget.

    Raises
    ------
    ConfigError
        If a method's description cannot work; the message has its name.
    """
    if not call.methods:
        raise ConfigError("methods is empty; describe at least one, as name: {inference: map}")
    found = {}
    for name, text in call.methods.items():
        try:
            found[str(name)] = _method(str(name), text, call)
        except ConfigError as error:
            raise ConfigError(f"method {name!r}: {error}") from None
    if call.baseline is not None and call.baseline not in found:
        near = nearest_name(call.baseline, found)
        raise ConfigError(f"baseline {call.baseline!r} is none of the methods{near}")
    return found


def _method(name: str, text: Any, call: StudyOptions) -> Method:
    if not re.fullmatch(r"\w[\w ,.+-]*", name):
        raise ConfigError("a name becomes a folder: letters, digits, blanks and . , + - only")
    if not isinstance(text, Mapping):
        raise ConfigError(f"it must map names to values, got {text!r}")
    own = {spec.name for spec in dataclasses.fields(MethodOptions)}
    described = MethodOptions(**{k: v for k, v in text.items() if k in own})
    fixed = {k: v for k, v in text.items() if k not in own}
    if described.start != "prior" and described.inference != "map":
        raise ConfigError(f"start={described.start!r} is for inference: map")
    grid = {k: list(v) if isinstance(v, list | tuple) else [v] for k, v in described.grid.items()}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return Method(
        name,
        described.inference,
        described.start,
        grid,
        tuple(_configuration(described, fixed, point, call) for point in points),
    )


def _configuration(
    described: MethodOptions, fixed: Mapping[str, Any], point: Mapping[str, Any], call: StudyOptions
) -> Configuration:
    of_fit = {spec.name for spec in dataclasses.fields(_GROUPS[described.inference])}
    of_prior = {spec.name for spec in dataclasses.fields(PriorOptions)} - {"out"}
    options, prior = dict(fixed), dict(described.prior)
    for key, value in point.items():
        bare = key.removeprefix("prior.")
        if bare == key and key in of_fit:
            options[key] = value
        else:
            prior[bare] = value
    for given, known, whose in ((options, of_fit, "fit"), (prior, of_prior, "prior")):
        for key in given:
            if key not in known:
                near = nearest_name(key, known)
                raise ConfigError(f"{key!r} is no option of its {whose}{near}")
    if both := _SHARED & options.keys():
        raise ConfigError(f"{sorted(both)[0]!r} is the study's own, the same for every method")
    rms_std = PriorOptions(**prior).rms_std
    prior.pop("rms_std", None)
    full = _within_budget(described.inference, options, call.budget)
    return Configuration(dict(point), full, prior, rms_std)


def evaluations(inference: str, options: Mapping[str, Any]) -> int:
    """Return the gradient evaluations of a fit, all its chains together.

    Examples
    --------
    >>> evaluations("map", {"num_steps": 100}), evaluations("map", {"num_steps": 100, "stop": 50})
    (100, 50)
    >>> evaluations("swag", {"num_steps": 60, "num_snapshots": 20, "collect_every": 2})
    100
    >>> evaluations("sgld", {"chains": 2, "burn_in": 30, "num_draws": 10, "thin": 2})
    100
    """
    full: Any = _GROUPS[inference](**options)
    if inference == "map":
        return int(full.stop or full.num_steps)
    if inference == "swag":
        return int(full.num_steps + full.num_snapshots * full.collect_every)
    return int(full.chains * (max(full.cycles, 1) * full.burn_in + full.thin * full.num_draws))


def _within_budget(inference: str, options: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """Return the options with the steps that they leave open: as many as the budget allows."""
    free = "num_steps" if inference in ("map", "swag") else "burn_in"
    out = dict(options)
    if free not in out:
        without = {k: v for k, v in out.items() if k != "snapshots"}
        one, two = (evaluations(inference, without | {free: steps}) for steps in (1, 2))
        out[free] = 1 + (budget - one) // (two - one)
        if out[free] < 1:
            raise ConfigError(
                f"its snapshots or draws leave no step of the budget of {budget} gradient "
                "evaluations; take fewer, or raise budget"
            )
    if (used := evaluations(inference, out)) > budget:
        raise ConfigError(f"a fit takes {used} gradient evaluations, the budget is {budget}")
    return out


def select(
    method: Method, scores: Mapping[int, Sequence[Mapping[int | None, float]]]
) -> tuple[Configuration, list[dict[str, Any]]]:
    """Choose the configuration, and where to stop, of the least mean validation NLL.

    Parameters
    ----------
    method
        Whose configurations.
    scores
        For the index of each configuration, one mapping a seed: where the run could have stopped
        (None for its end) to the NLL there; empty if it diverged.

    Returns
    -------
    configuration, tried

    Raises
    ------
    ConfigError
        If no configuration has a finite score.
    """
    tried: list[dict[str, Any]] = []
    for index, found in scores.items():
        for stop in sorted({step for seed in found for step in seed} or {None}, key=str):
            values = [seed.get(stop, np.inf) for seed in found]
            tried.append(
                {
                    **method.configurations[index].chosen,
                    **({} if stop is None else {"stop": stop}),
                    "validation_nll": float(np.mean(values)),
                    "by_seed": values,
                    "index": index,
                }
            )
    best = min(tried, key=lambda row: row["validation_nll"])
    if not np.isfinite(best["validation_nll"]):
        raise ConfigError(
            f"method {method.name!r}: every configuration diverged; lower its learning rates"
        )
    chosen = method.configurations[best["index"]]
    options = {k: v for k, v in chosen.options.items() if k != "snapshots"}
    options |= {"stop": best["stop"]} if "stop" in best else {}
    chosen = dataclasses.replace(chosen, options=options)
    return chosen, [{k: v for k, v in row.items() if k != "index"} for row in tried]


def edges(method: Method, chosen: Configuration) -> Iterator[str]:
    """Say where the choice lies at the end of what was tried, and what that means."""
    for key, values in method.grid.items():
        numbers = sorted(v for v in set(values) if isinstance(v, int | float))
        value = chosen.chosen[key]
        if len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        at = f"{method.name}: selected at the edge of the grid ({key} = {value:g}"
        if key == "rms_std" and value == numbers[-1]:
            yield f"{at}, the widest): the prior hardly acts."
        elif key == "rms_std":
            yield f"{at}, the narrowest): a narrower prior may do better."
        elif len(numbers) > 2:
            yield f"{at}, the {'largest' if value == numbers[-1] else 'least'} of {len(numbers)})."


def prior_folder(out: str | Path, configuration: Configuration) -> Path:
    """Return the run folder of a configuration's prior, before it is brought to its width."""
    return Path(out, "priors", _words(configuration.prior) or "low-rank")


def _words(values: Mapping[str, Any]) -> str:
    return ",".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    )
