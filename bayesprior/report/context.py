"""What the headings of a report read: a run's tree and everything found from it, once."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.compare import Difference, MethodResult, paired_differences
from bayesprior.diagnostics.convergence import (
    ChainSummary,
    TemperatureCheck,
    chain_summaries,
    claimed_temperatures,
    temperature_checks,
)
from bayesprior.diagnostics.intervals import metric_interval
from bayesprior.diagnostics.outcomes import LabelOutcome, metric_rows
from bayesprior.diagnostics.predictions import Outcome, score_intervals, scores
from bayesprior.diagnostics.prior import (
    ChiSquareCheck,
    Direction,
    Sensitivity,
    direction_check,
    directions,
    mahalanobis_checks,
    sensitivities,
)
from bayesprior.diagnostics.regression import pit_values, regression_points
from bayesprior.diagnostics.shift import ShiftRow, shift_table
from bayesprior.errors import BayesPriorError
from bayesprior.report.document import Item, Picture
from bayesprior.report.verdicts import (
    SAMPLER,
    Verdict,
    convergence_verdict,
    temperature_verdict,
    width_verdict,
    worst,
)
from bayesprior.tree.beside import methods_of

__all__ = ["Context", "Heading"]

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """A run's tree, what was found from it (each once), and what could not be found.

    Attributes
    ----------
    tree
        From `bayesprior.tree.build.to_datatree`; its attributes hold ``title``, ``subtitle``,
        ``num_data``, ``temperature``, ``independent_draws``, ``committee``, ``method``,
        ``baseline``, ``only_prior`` and ``configuration`` where they are known.
    notes
        ``what -> why`` of everything that could not be reported.
    """

    tree: xr.DataTree
    notes: dict[str, str] = field(default_factory=dict)

    def attempt(self, what: str, make: Callable[..., T], *args: Any, **options: Any) -> T | None:
        """Return what ``make`` returns, or note its error's one line and return None."""
        try:
            return make(*args, **options)
        except BayesPriorError as error:
            self.notes[what] = str(error)
            return None

    def picture(
        self, title: str, caption: str, draw: Callable[..., Figure], *args: Any
    ) -> list[Picture]:
        """Return the one picture, or note why there is none."""
        figure = self.attempt(f"figure: {title}", draw, *args)
        return [] if figure is None else [Picture(title, caption, figure)]

    @functools.cached_property
    def attrs(self) -> Mapping[str, Any]:
        """The tree's attributes, out of their JSON."""
        return {
            str(k): json.loads(v) if isinstance(v, str) and v[:1] in "{[" and v else v
            for k, v in self.tree.attrs.items()
        }

    @property
    def kind(self) -> str:
        """Of ``classes``, several ``labels``, ``pixels`` (no maps), ``numbers``, or ``none``."""
        if "predictions" not in self.tree.children:
            return "none"
        found = self.tree["predictions"]
        kinds = {"probs": "classes", "label_probs": "labels", "mean": "numbers"}
        kinds["calibration"] = "pixels"
        return next((kind for name, kind in kinds.items() if name in found), "none")

    @property
    def temperature(self) -> float:
        """That the posterior was sampled at."""
        return float(self.attrs.get("temperature", 1.0))

    @functools.cached_property
    def test(self) -> Outcome | None:
        """Predictions of the test set, of classes."""
        if self.kind in ("numbers", "pixels", "labels"):
            return None
        return self.attempt("predictions", Outcome.from_group, self.tree, "predictions")

    @functools.cached_property
    def labels(self) -> LabelOutcome | None:
        """Predictions of the test set, of several labels an example."""
        if self.kind != "labels":
            return None
        return self.attempt("predictions", LabelOutcome.from_group, self.tree)

    @functools.cached_property
    def validation(self) -> Outcome | None:
        """Predictions of the points on which the temperature of the probabilities is fitted."""
        if "validation" not in self.tree.children:
            self.notes["temperature scaling"] = "no validation set was given to fit it on"
            return None
        return self.attempt("temperature scaling", Outcome.from_group, self.tree, "validation")

    @functools.cached_property
    def further(self) -> dict[str, list[Outcome]]:
        """Further sets, by ``shift`` (labels of the task) and ``ood`` (foreign)."""
        out: dict[str, list[Outcome]] = {"shift": [], "ood": []}
        for group in self.tree.children:
            if group.startswith("predictions_"):
                found = self.attempt(f"set {group}", Outcome.from_group, self.tree, group)
                if found is not None:
                    out[str(self.tree[group].attrs["kind"])].append(found)
        return out

    @functools.cached_property
    def scores(self) -> dict[str, float]:
        """Metrics of the test set."""
        return {} if self.test is None else scores(self.test)

    @functools.cached_property
    def estimates(self) -> dict[str, Any]:
        """Every metric of the test set; an `Interval` where one is known."""
        if self.kind == "numbers":
            data = self.tree["predictions"].dataset
            points = self.attempt("metrics of the numbers", regression_points, data)
            if points is None:
                return {}
            rows = metric_rows("numbers")
            return {
                n: metric_interval(row, np.asarray(row.points(points), dtype=float))
                for n, row in rows.items()
            }
        if (several := self.labels) is not None:
            each = {n: metric_interval(row, several.values(row)) for n, row in several.rows.items()}
            each["label_ece"] = each["label_ece"]._replace(high=self.bins.bound)
            return each
        if self.kind == "pixels":
            return dict(json.loads(self.tree["predictions"].attrs["metrics"]))
        if self.test is None:
            return {}
        found = self.attempt("intervals of the metrics", score_intervals, self.test) or {}
        if "ece" in found:  # the bound that the verdict goes by; the bootstrap's may miss the ECE
            found["ece"] = found["ece"]._replace(high=self.bins.bound)
        return self.scores | found

    @functools.cached_property
    def bins(self) -> CalibrationBins:
        """Top-label bins of the test set, or of several labels; empty without one."""
        if self.labels is not None:
            return self.labels.bins()
        if self.kind == "pixels":
            return CalibrationBins(self.tree["predictions"].calibration.values)
        return CalibrationBins(np.zeros((3, 15))) if self.test is None else self.test.bins()

    @functools.cached_property
    def pit(self) -> np.ndarray | None:
        """Ranks of the test set's numbers in their predictive laws."""
        if self.kind != "numbers":
            return None
        data = self.tree["predictions"].dataset
        return self.attempt("coverage of the intervals", pit_values, data)

    @functools.cached_property
    def shift_rows(self) -> list[ShiftRow]:
        """Metrics of the test set and of every shifted set; empty without any."""
        if (test := self.test) is None or not (shifted := self.further["shift"]):
            return []
        return self.attempt("metrics on changed data", shift_table, test, shifted) or []

    @functools.cached_property
    def methods(self) -> list[MethodResult]:
        """Results on the same test points to set side by side."""
        return methods_of(self.tree)

    @functools.cached_property
    def differences(self) -> list[Difference]:
        """Every other method against the baseline, in pairs."""
        if len(self.methods) < 2:
            return []
        baseline = str(self.attrs.get("baseline", self.methods[-1].name))
        found = self.attempt("paired differences", paired_differences, self.methods, baseline)
        return found or []

    @functools.cached_property
    def checks(self) -> list[ChiSquareCheck]:
        """Distances from the prior mean: of all weights, then by parameter."""
        options = {"temperature": self.temperature}
        what = "distance from the prior"
        return self.attempt(what, mahalanobis_checks, self.tree, **options) or []

    @functools.cached_property
    def own_directions(self) -> ChiSquareCheck | None:
        """Distance along the prior's own directions."""
        if not self.directions:
            return None
        return direction_check(self.tree, temperature=self.temperature)

    @functools.cached_property
    def directions(self) -> list[Direction]:
        """The posterior along each direction of the prior."""
        what = "posterior along the prior's directions"
        options = {"temperature": self.temperature}
        return self.attempt(what, directions, self.tree, **options) or []

    @functools.cached_property
    def sensitivities(self) -> list[Sensitivity]:
        """Reactions to a stronger or weaker prior, of chains that converged."""
        what = "sensitivity to the prior"
        if not self.converged:
            self.notes[what] = "the sampler failed; its weights would mislead"
        elif any(t != 1 for t in self.claims.values()):
            self.notes[what] = "the draws are not those of the posterior, at temperature 1"
        else:
            return self.attempt(what, sensitivities, self.tree) or []
        return []

    @functools.cached_property
    def chains(self) -> list[ChainSummary]:
        """Convergence of what is followed."""
        return chain_summaries(self.tree)

    @functools.cached_property
    def temperatures(self) -> list[TemperatureCheck]:
        """Measured temperatures against the claimed ones."""
        return temperature_checks(self.tree)

    @property
    def claims(self) -> dict[str, float]:
        """Temperature of each parameter group, as the trace or else the options say."""
        if found := claimed_temperatures(self.tree):
            return {name or "all weights": claimed for name, claimed in found.items()}
        head = self.attrs.get("configuration", {}).get("head_temperature")
        if head is None:
            return {"all weights": self.temperature}
        return {"backbone": self.temperature, "head": float(head)}

    @property
    def num_draws(self) -> tuple[int, int]:
        """Chains, and draws in each."""
        for group in ("posterior", "predictions"):
            if group in self.tree.children and "draw" in self.tree[group].sizes:
                sizes = self.tree[group].sizes
                return int(sizes["chain"]), int(sizes["draw"])
        return 1, 1

    @functools.cached_property
    def sampler(self) -> Verdict:
        """Whether the draws can be relied on; other answers depend on it."""
        chains, draws = self.num_draws
        if self.attrs.get("committee", 0):
            said = f"The {chains * draws} draws are the members of a committee, averaged in logits."
            advice = "Their spread is no posterior's; see whether the probabilities can be trusted."
            return Verdict(SAMPLER, "unknown", "There was no sampler", said, advice)
        independent = bool(self.attrs.get("independent_draws", 0))
        found = [
            convergence_verdict(
                self.chains, num_chains=chains, num_draws=draws, independent=independent
            )
        ]
        if chains * draws > 1 and not independent:
            if self.temperatures:
                found.append(temperature_verdict(self.temperatures))
            else:
                self.notes["temperature of the sampler"] = "the trace records none"
        one_law = len(set(self.claims.values())) == 1
        if self.checks and self.num_outputs and chains * draws > 1 and one_law:
            width = width_verdict(self.checks[0], self.num_outputs, temperature=self.temperature)
            found.append(width)
        return worst(found[0].question, found)

    @property
    def converged(self) -> bool:
        """Whether the draws did not fail."""
        return self.sampler.level != "fail"

    @property
    def num_outputs(self) -> int:
        """How many outputs the training set constrains: points times classes."""
        if "log_likelihood" not in self.tree.children or self.kind == "none":
            return 0
        sizes = self.tree["predictions"].sizes
        pixels = sizes.get("row", 1) * sizes.get("column", 1)
        outputs = next((sizes[n] for n in ("class_name", "label", "output") if n in sizes), 0)
        return int(self.tree["log_likelihood"].sizes["train_point"] * outputs * pixels)


class Heading(NamedTuple):
    """One heading of a report, which has no place on the page without items.

    Attributes
    ----------
    title
        Of the section.
    items
        What stands under it.
    verdict
        The answer it supports, on top of the page; None for no question.
    question
        What is answered, for those who ask what a report holds; a run's own may name its methods.
    """

    title: str
    items: Callable[[Context], Sequence[Item]]
    verdict: Callable[[Context], Verdict | None] | None = None
    question: str = ""
