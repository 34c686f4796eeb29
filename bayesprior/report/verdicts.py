"""Every question that a report answers, every threshold with its source, and every sentence.

The only file to change for other words. The numbers come from `bayesprior.diagnostics`, which
judges nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.compare import Difference
from bayesprior.diagnostics.convergence import ChainSummary, TemperatureCheck
from bayesprior.diagnostics.prior import ChiSquareCheck
from bayesprior.diagnostics.regression import coverage, rank_distance
from bayesprior.diagnostics.shift import ShiftRow

__all__ = [
    "THRESHOLDS",
    "Threshold",
    "Verdict",
    "calibration_verdict",
    "comparison_verdict",
    "conflict_verdict",
    "convergence_verdict",
    "coverage_verdict",
    "shift_verdict",
    "temperature_verdict",
    "width_verdict",
    "worst",
]

Level = Literal["ok", "unknown", "warn", "fail"]
"""``unknown`` says that the run lacks what the question needs; the reason names it."""
SEVERITY: tuple[Level, ...] = ("ok", "unknown", "warn", "fail")

HELP = "Did the prior help?"
SAMPLER = "Did the sampler work?"
TRUST = "Can the probabilities be trusted?"
CHANGED = "Do the probabilities stay honest when the data change?"
FIT = "Does the prior fit the data?"


class Threshold(NamedTuple):
    """A number that decides, what it decides, and where it comes from."""

    value: float
    what: str
    source: str


_OURS = "our convention"
THRESHOLDS = {
    "rhat_fail": Threshold(1.1, "R-hat beyond it and beyond chance: not converged", _OURS),
    "rhat_warn": Threshold(
        1.01, "R-hat beyond it and beyond chance: nearly converged", "arXiv:1903.08008"
    ),
    "ess_per_chain": Threshold(
        10, "effective draws wanted of each chain", f"{_OURS}; arXiv:1903.08008 asks for 100"
    ),
    "temperature": Threshold(0.1, "relative error of a temperature that is no matter", _OURS),
    "temperature_fail": Threshold(2.0, "times too hot or too cold that fails", _OURS),
    "ece_ok": Threshold(0.02, "ECE up to it is no practical matter", _OURS),
    "ece_fail": Threshold(
        0.1, "ECE beyond it is not to be trusted; where chance shows as much, unknown", _OURS
    ),
    "ece_changed_fail": Threshold(0.25, "ECE on changed data that fails, not only warns", _OURS),
    "ranks_ok": Threshold(0.05, "distance of ranks from uniform that is no matter", _OURS),
    "ranks_fail": Threshold(0.2, "distance of ranks beyond which intervals mislead", _OURS),
    "bias": Threshold(0.15, "distance of the ranks' mean from a half that is bias", _OURS),
    "sensitivity": Threshold(
        0.05,
        "power-scaling sensitivity that counts, if beyond its Monte Carlo noise",
        "ArviZ's default, doi:10.1007/s11222-023-10366-5",
    ),
    "surprise": Threshold(
        3.0, "standard deviations of a direction from where the prior expects it", _OURS
    ),
    "far": Threshold(2.0, "times the prior's 97.5 % quantile: far outside the prior", _OURS),
    "narrow": Threshold(0.8, "share of the least possible width that draws must reach", _OURS),
}
"""The numbers that decide, by name; the page lists them."""


def _limit(name: str) -> float:
    return THRESHOLDS[name].value


@dataclass(frozen=True)
class Verdict:
    """The answer to one question, with its reason.

    Attributes
    ----------
    question
        What is asked, for example ``"Did the sampler work?"``.
    level
        ``ok``, ``unknown``, ``warn`` or ``fail``.
    headline
        The answer in a few words.
    reason
        The numbers it rests on, in one or two sentences.

    Examples
    --------
    >>> print(Verdict("Did the sampler work?", "warn", "Too few draws", "ESS is 12."))
    [warn] Did the sampler work? Too few draws. ESS is 12.
    """

    question: str
    level: Level
    headline: str
    reason: str

    def __str__(self) -> str:
        return f"[{self.level}] {self.question} {self.headline}. {self.reason}"

    def to_dict(self) -> dict[str, str]:
        """Return the four fields as a dictionary."""
        return asdict(self)


def worst(question: str, verdicts: Sequence[Verdict]) -> Verdict:
    """Merge verdicts on one question: the worst headline leads, every reason is kept."""
    lead = max(verdicts, key=lambda v: SEVERITY.index(v.level))
    others = [v.reason for v in verdicts if v is not lead]
    return Verdict(question, lead.level, lead.headline, " ".join([lead.reason, *others]))


def comparison_verdict(
    differences: Sequence[Difference], method: str, baseline: str, *, only_prior: bool = False
) -> Verdict:
    """Say whether a method is better than a baseline, by accuracy and NLL.

    It is asked of the prior only where the two differ in nothing else (``only_prior``). The
    differences are those of `bayesprior.diagnostics.compare.paired_differences`.
    """
    question = HELP if only_prior else f"Is {method} better than {baseline}?"
    found = [d for d in differences if d.method == method and d.metric in ("accuracy", "nll")]
    parts = []
    for d in found:
        digits = "+.1%" if d.metric == "accuracy" else "+.3f"
        estimate, low, high = (format(v, digits) for v in d.interval)
        label = "accuracy" if d.metric == "accuracy" else "loss per point (NLL)"
        parts.append(f"{label} {estimate} [{low}, {high}]")
    over = f"95 % over {found[0].over}" if found else ""
    reason = f"{method} against {baseline}, {over}: {', '.join(parts)}."
    words = {d.verdict for d in found}
    if not words or "unknown" in words:
        reason += " One seed cannot tell; fit both with two or more, at best five."
        return Verdict(question, "unknown", "Cannot tell yet", reason)
    if words == {"tie"}:
        return Verdict(question, "warn", "No measurable difference", reason)
    if "worse" not in words:
        return Verdict(question, "ok", "Yes", reason)
    if "better" not in words:
        harm = "No, it did harm" if only_prior else "No, it is worse"
        return Verdict(question, "fail", harm, reason)
    return Verdict(question, "warn", "Mixed", reason)


def convergence_verdict(
    summaries: Sequence[ChainSummary], *, num_chains: int, num_draws: int, independent: bool = False
) -> Verdict:
    """Say whether the chains can be relied on; see `bayesprior.diagnostics.convergence`.

    Independent draws are made directly from a fitted law (SWAG) and have nothing to converge.
    """
    if num_chains * num_draws == 1:
        return Verdict(SAMPLER, "unknown", "There was no sampler", "The posterior is one point.")
    if independent:
        reason = f"{num_chains * num_draws} draws come straight from a fitted Gaussian."
        return Verdict(SAMPLER, "ok", "Nothing to converge", reason)
    if not summaries:
        reason = (
            f"{num_chains} chain(s) of {num_draws} draw(s): R-hat and effective sample size need "
            "4 draws a chain and finite values."
        )
        return Verdict(SAMPLER, "warn", "Too few draws", reason)
    split = "chains" if num_chains > 1 else "parts of the one chain"
    excess = {s.name: s.rhat / max(_limit("rhat_fail"), s.rhat_chance) for s in summaries}
    bad = max(summaries, key=lambda s: excess[s.name])
    if excess[bad.name] > 1:
        reason = (
            f"The {split} disagree on {bad.name}: R-hat is {bad.rhat:.2f} and should be near 1."
        )
        return Verdict(SAMPLER, "fail", "Not converged, run longer", reason)
    least = min(summaries, key=lambda s: min(s.ess_bulk, s.ess_tail))
    ess, wanted = min(least.ess_bulk, least.ess_tail), _limit("ess_per_chain") * num_chains
    error = max(s.mcse for s in summaries)
    numbers = (
        f"The {num_chains * num_draws} draws are worth {ess:.0f} independent ones for "
        f"{least.name}; averages err by up to {error:.0%} of a posterior standard deviation"
    )
    if ess < wanted:
        reason = f"{numbers}. {wanted:.0f} are wanted, {wanted / num_chains:.0f} a chain."
        return Verdict(SAMPLER, "warn", "Too few draws", reason)
    top = max(summaries, key=lambda s: s.rhat / max(_limit("rhat_warn"), s.rhat_chance))
    if top.rhat > max(_limit("rhat_warn"), top.rhat_chance):
        reason = f"The {split} still drift in {top.name}: R-hat is {top.rhat:.2f}."
        return Verdict(SAMPLER, "warn", "Nearly converged", reason)
    start = " Chains that start alike cannot show a mode that none of them visits."
    return Verdict(SAMPLER, "ok", "Yes, the chains agree", f"{numbers}.{start}")


def temperature_verdict(checks: Sequence[TemperatureCheck]) -> Verdict:
    """Say whether the sampler ran at the temperature it claims."""
    if not checks:
        reason = "No temperature was recorded over at least 4 steps."
        return Verdict(SAMPLER, "unknown", "Temperature unknown", reason)
    verdicts = []
    for check in checks:
        m = check.measured
        reason = (
            f"Its {check.name} is {m.estimate:.4g} (95 % interval {m.low:.4g} to "
            f"{m.high:.4g}), it claims {check.claimed:.4g}."
        )
        if check.agrees(_limit("temperature")):
            headline = f"Yes, at temperature {check.claimed:.3g}"
            verdicts.append(Verdict(SAMPLER, "ok", headline, reason))
            continue
        way = "Too hot, lower the learning rate" if check.ratio > 1 else "Too cold, run longer"
        most = _limit("temperature_fail")
        level: Level = "warn" if 1 / most <= check.ratio <= most else "fail"
        verdicts.append(Verdict(SAMPLER, level, way, reason))
    claims = {f"{check.claimed:.3g}" for check in checks}
    if len(claims) > 1:
        reason = (
            f"Parameter groups run at temperatures {' and '.join(sorted(claims))}: the draws "
            "follow exp(-U / T) for no one T."
        )
        verdicts.append(Verdict(SAMPLER, "warn", "Not the posterior", reason))
    return worst(SAMPLER, verdicts)


def width_verdict(total: ChiSquareCheck, num_constraints: int, *, temperature: float) -> Verdict:
    """Say whether several draws are as wide as a posterior of so few data must be.

    N points with C outputs can narrow at most N C of the D directions (in the linear
    approximation); along the others the posterior is the prior, so that the squared distance of
    its draws from the prior mean is at least T (D - N C). SWAG's draws, and those of a chain that
    has not travelled, are often far narrower.
    """
    least = temperature * (total.dim - num_constraints)
    numbers = (
        f"The draws' squared distance from the prior mean is {total.mean:,.0f}; "
        f"{num_constraints:,} observed outputs leave at least {max(least, 0):,.0f} of "
        f"{total.dim:,} free."
    )
    if total.mean >= _limit("narrow") * least:
        return Verdict(SAMPLER, "ok", "The draws are wide enough", numbers)
    return Verdict(SAMPLER, "warn", "The draws are narrower than the posterior", numbers)


def calibration_verdict(bins: CalibrationBins, *, independent: bool = True) -> Verdict:
    """Say whether the probabilities of classes can be trusted, from top-label bins.

    Pixels are no independent points, so that nothing is said of chance.
    """
    total = int(bins.count.sum())
    if not total:
        return Verdict(TRUST, "unknown", "No points", "No prediction was scored.")
    chance = bins.chance if independent else 0.0
    numbers = f"On average confidence and accuracy differ by {bins.ece:.1%} (ECE)"
    numbers += (
        f"; a perfectly calibrated model would show up to {chance:.1%} on {total} points by chance."
        if independent
        else f" over {total} pixels, which depend on their neighbors."
    )
    way = f"the model is {'over' if bins.overconfidence > 0 else 'under'}confident"
    return _graded("ece", bins.ece, chance, way, numbers)


def _graded(limits: str, error: float, chance: float, way: str, reason: str) -> Verdict:
    """Trust an error within its limit, or within chance if that shows less than a failure."""
    if error <= max(_limit(f"{limits}_ok"), chance):
        if chance > _limit(f"{limits}_fail"):
            return Verdict(TRUST, "unknown", "Too few points to tell", reason)
        return Verdict(TRUST, "ok", "Yes", reason)
    if error > _limit(f"{limits}_fail"):
        return Verdict(TRUST, "fail", f"No, {way}", reason)
    return Verdict(TRUST, "warn", f"Roughly, {way}", reason)


def coverage_verdict(pit: np.ndarray) -> Verdict:
    """Say whether predictive intervals can be trusted, from the targets' ranks in them."""
    distance, chance = rank_distance(pit)
    inside = coverage(pit, 0.9)
    reason = (
        f"Of {len(pit)} targets {inside:.1%} lie in their 90 % predictive interval; their ranks "
        f"are {distance:.2f} from uniform, by chance up to {chance:.2f} (Kolmogorov-Smirnov)."
    )
    off = abs(float(np.mean(pit)) - 0.5) > _limit("bias")
    width = "narrow" if inside < 0.9 else "wide"
    way = "the predictions are biased" if off else f"the intervals are too {width}"
    return _graded("ranks", distance, chance, way, reason)


def shift_verdict(rows: Sequence[ShiftRow]) -> Verdict:
    """Say whether the probabilities stay honest on shifted data; the test set is first."""
    if len(rows) < 2:
        return Verdict(CHANGED, "unknown", "Not measured", "No shifted set was given.")
    bad = max(rows[1:], key=lambda row: row.scores["ece"] - row.chance)
    name = bad.shift.replace("_", " ")
    name += "" if bad.severity is None else f" of severity {bad.severity}"
    ece = bad.scores["ece"]
    reason = (
        f"The worst is {name}: accuracy {bad.scores['accuracy']:.0%} at a mean confidence of "
        f"{bad.scores['confidence']:.0%} (ECE {ece:.1%}, up to {bad.chance:.1%} by chance; on the "
        f"test set {rows[0].scores['ece']:.1%})."
    )
    if ece <= max(_limit("ece_fail"), bad.chance):
        if bad.chance > _limit("ece_fail"):
            return Verdict(CHANGED, "unknown", "Too few points to tell", reason)
        return Verdict(CHANGED, "ok", "Yes", reason)
    sure = bad.scores["confidence"] > bad.scores["accuracy"]
    headline = f"No, it stays {'too sure' if sure else 'too unsure'}"
    level: Level = "warn" if ece < _limit("ece_changed_fail") else "fail"
    return Verdict(CHANGED, level, headline, reason)


def conflict_verdict(
    checks: Sequence[ChiSquareCheck],
    own: ChiSquareCheck | None,
    diagnoses: Mapping[int, str],
    *,
    num_draws: int,
) -> Verdict:
    """Say whether prior and data clash.

    By the distances of all weights and of each layer, that along the prior's own directions, and
    the diagnoses of these directions (`bayesprior.diagnostics.prior.diagnose`). A point estimate
    (one draw in all) lies closer to the mean than any draw would.
    """
    if not checks:
        return Verdict(FIT, "unknown", "Not measured", "The run holds no prior or no draws.")
    total = checks[0]
    numbers = (
        f"The weights lie {total.ratio**0.5:.2f} times as far from the prior mean as a draw from "
        "the prior would"
    )
    numbers += f", along its own directions {own.ratio**0.5:.2f} times." if own else "."
    clashes = [index for index, word in diagnoses.items() if word == "conflict"]
    far = [c for c in checks[1:] if c.mean > _limit("far") * c.high]
    if total.mean > _limit("far") * total.high:
        return Verdict(FIT, "fail", "No, the data pull far outside it", numbers)
    if own is not None and own.mean > _limit("far") * own.high:
        return Verdict(FIT, "fail", "No, the data pull far along its own directions", numbers)
    if own is not None and own.mean > own.high:
        return Verdict(FIT, "warn", "Not along its own directions", numbers)
    if clashes:
        share = f"{len(clashes)} of {len(diagnoses)} directions"
        reason = f"{numbers} Prior and data pull against each other in {share} looked at."
        return Verdict(FIT, "warn", "They partly conflict", reason)
    if far:
        reason = f"{numbers} Outside its range: {', '.join(c.name for c in far[:3])}."
        return Verdict(FIT, "warn", "Not in every layer", reason)
    if num_draws == 1:
        numbers += " A point estimate is expected to lie closer than a draw."
    return Verdict(FIT, "ok", "Yes, no sign of conflict", numbers)
