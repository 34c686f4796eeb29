"""What a study compares: methods, their grids, equal budgets, and what validation chooses."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.recipes.fields import Options
from bayesprior.recipes.options import METHODS, RunOptions
from bayesprior.recipes.prior_options import PriorOptions
from bayesprior.recipes.study_options import StudyOptions

__all__ = ["Configuration", "Method", "edges", "evaluations", "plan", "select", "words"]

# The study's own: equal for all methods.
_SHARED = {spec.name for spec in dataclasses.fields(RunOptions)} | {"batch_size", "stop", "start"}


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
        """What was chosen; names a folder."""
        return words(self.chosen) or "fixed"


@dataclass(frozen=True, eq=False)
class Method:
    """What a study compares: a kind of inference, where it starts, and its grid."""

    name: str
    inference: str
    start: str
    grid: Mapping[str, Sequence[Any]]
    configurations: tuple[Configuration, ...]


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
    of_fit = {spec.name for spec in dataclasses.fields(METHODS[described.inference][1])}
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
    >>> evaluations("swag", {"num_steps": 40, "num_snapshots": 30, "collect_every": 2})
    100
    >>> evaluations("sgld", {"chains": 2, "burn_in": 30, "num_draws": 10, "thin": 2})
    100
    """
    full: Any = METHODS[inference][1](**options)
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
    method: Method, scores: Mapping[int, Sequence[Mapping[str, float | None]]]
) -> tuple[Configuration, list[dict[str, Any]]]:
    """Choose the configuration, and where to stop, of the least mean validation NLL.

    Parameters
    ----------
    method
        Whose configurations.
    scores
        For the index of each configuration, one mapping a seed: the step at which the run could
        have stopped ("end" where it had no choice) to the NLL there; empty if it diverged.

    Returns
    -------
    configuration, tried

    Raises
    ------
    ConfigError
        If no configuration has a finite score.
    """
    tried = []
    for index, by_seed in scores.items():
        configuration = method.configurations[index]
        for stop in {step: None for seed in by_seed for step in seed} or ("end",):
            values = [float("inf") if (v := seed.get(stop)) is None else v for seed in by_seed]
            options = {k: v for k, v in configuration.options.items() if k != "snapshots"}
            own = {} if stop == "end" else {"stop": int(stop)}
            point = dataclasses.replace(
                configuration, chosen={**configuration.chosen, **own}, options={**options, **own}
            )
            tried.append((sum(values) / len(values), values, point))
    least, _, chosen = min(tried, key=lambda one: one[0])
    if least == float("inf"):
        raise ConfigError(
            f"method {method.name!r}: every configuration diverged; lower its learning rates"
        )
    rows = [{**p.chosen, "validation_nll": mean, "by_seed": v} for mean, v, p in tried]
    return chosen, rows


def edges(method: Method, chosen: Configuration) -> Iterator[str]:
    """Say where the choice lies at the end of what was tried, and what that means."""
    for key, values in method.grid.items():
        numbers = sorted(v for v in set(values) if isinstance(v, int | float))
        value = chosen.chosen[key]
        if len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        at = f"{method.name}: selected at the edge of the grid ({key} = {value:g}"
        if key == "rms_std" and value == numbers[-1]:
            yield f"{at}, the widest): the choice was for as little prior as the grid has."
        elif key == "rms_std":
            yield f"{at}, the narrowest): a narrower prior may do better."
        elif len(numbers) > 2:
            yield f"{at}, the {'largest' if value == numbers[-1] else 'least'} of {len(numbers)})."


def words(values: Mapping[str, Any]) -> str:
    """Return names and values, as they name a folder."""
    return ",".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    )
