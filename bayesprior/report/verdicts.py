"""Every question that a report answers, and every sentence.

The only file to change for other words. The numbers come from `bayesprior.diagnostics`, which
judges nothing; what decides stands in `bayesprior.report.thresholds`. One rule for all answers:
*yes* is said only where the whole 95 % interval lies within what it claims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from bayesprior.diagnostics.calibration import CalibrationBins
from bayesprior.diagnostics.compare import Difference
from bayesprior.diagnostics.convergence import ChainSummary, TemperatureCheck
from bayesprior.diagnostics.intervals import HALF_WIDTH
from bayesprior.diagnostics.prior import ChiSquareCheck, Direction, joint_limit
from bayesprior.diagnostics.regression import coverage, rank_distance
from bayesprior.diagnostics.shift import ShiftRow
from bayesprior.prediction.metrics import METRICS
from bayesprior.report.thresholds import limit

__all__ = [
    "Verdict",
    "calibration_verdict",
    "comparison_verdict",
    "conflict_verdict",
    "convergence_verdict",
    "coverage_verdict",
    "posterior_verdict",
    "shift_verdict",
    "temperature_verdict",
    "width_verdict",
    "worst",
]

Level = Literal["ok", "unknown", "warn", "fail"]
"""``unknown`` says that the run lacks what the question needs; the reason names it."""
SEVERITY: tuple[Level, ...] = ("ok", "unknown", "warn", "fail")

LAW = "Are these draws of the posterior?"
HELP = "Did the prior help?"
SAMPLER = "Did the sampler work?"
TRUST = "Can the probabilities be trusted?"
CHANGED = "Do the probabilities stay honest when the data change?"
FIT = "Does the prior fit the data?"


@dataclass(frozen=True)
class Verdict:
    """The answer to one question, with its reason.

    Attributes
    ----------
    question, level
        What is asked; ``ok``, ``unknown``, ``warn`` or ``fail``.
    headline, reason, advice
        The answer in a few words; what was measured, in a sentence or two; what to do next.

    Examples
    --------
    >>> print(Verdict("Did the sampler work?", "warn", "Too few draws", "ESS is 12."))
    [warn] Did the sampler work? Too few draws. ESS is 12.
    """

    question: str
    level: Level
    headline: str
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"[{self.level}] {self.question} {self.headline}. {self.reason}"
        return f"{text} Next: {self.advice}" if self.advice else text

    def to_dict(self) -> dict[str, str]:
        """Return the fields as a dictionary."""
        return asdict(self)


def worst(question: str, verdicts: Sequence[Verdict]) -> Verdict:
    """Merge verdicts on one question: the worst headline leads, every reason is kept."""
    lead = max(verdicts, key=lambda v: SEVERITY.index(v.level))
    others = [v for v in verdicts if v is not lead]
    advice = [lead.advice, *(v.advice for v in others if v.level != "ok")]
    return replace(
        lead,
        question=question,
        reason=" ".join([lead.reason, *(v.reason for v in others)]),
        advice=" ".join(dict.fromkeys(filter(None, advice))),
    )


def posterior_verdict(temperatures: Mapping[str, float]) -> Verdict | None:
    """Say so where the draws are not the posterior's; None where all temperatures are 1.

    The temperatures are those that the sampler was set to, by parameter group.
    """
    off = [f"{name} at T = {_short(t)}" for name, t in temperatures.items() if t != 1]
    if not off:
        return None
    known = "each group has its own T" if len(set(temperatures.values())) > 1 else "T is not 1"
    reason = f"The draws follow exp(-U / T), and {known}; the posterior is T = 1 everywhere."
    advice = "Set temperature and head_temperature to 1, or read spreads as those of this law."
    return Verdict(LAW, "warn", f"Not the posterior: {', '.join(off)}", reason, advice)


def _short(number: float) -> str:
    small = np.format_float_scientific(number, precision=2, trim="-", exp_digits=1)
    return small if 0 < number < 0.001 else f"{number:g}"


def comparison_verdict(
    differences: Sequence[Difference], method: str, baseline: str, *, only_prior: bool = False
) -> Verdict:
    """Say whether a method is better than a baseline, by accuracy (of numbers CRPS) and NLL.

    It is asked of the prior only where the two differ in nothing else (``only_prior``). The
    differences are those of `bayesprior.diagnostics.compare.paired_differences`.
    """
    question = HELP if only_prior else f"Is {method} better than {baseline}?"
    found = [d for d in differences if d.method == method and d.metric in _DECISIVE]
    parts = []
    for d in found:
        digits = "+.1%" if d.metric.endswith("accuracy") else "+.3f"
        estimate, low, high = (format(v, digits) for v in d.interval)
        parts.append(f"{_DECISIVE[d.metric]} {estimate} [{low}, {high}]")
    over = f"95 % over {found[0].over}" if found else ""
    reason = f"{method} against {baseline}, {over}: {', '.join(parts)}."
    words = {d.verdict for d in found}
    if not words or "unknown" in words:
        alone = not found or found[0].num_pairs < 2
        reason += " One seed cannot tell." if alone else " Seeds that do not vary cannot tell."
        advice = "Fit both with two seeds or more, at best five."
        return Verdict(question, "unknown", "Cannot tell yet", reason, advice)
    if words == {"tie"}:
        if all(max(np.abs(d.interval)) <= (METRICS[d.metric].margin or 0) for d in found):
            advice = "Take the simpler of the two."
            return Verdict(question, "warn", "No difference that matters", reason, advice)
        advice = "More seeds or more test points narrow the intervals; until then call it a tie."
        return Verdict(question, "warn", "No clear difference", reason, advice)
    if "worse" not in words:
        return Verdict(question, "ok", "Yes", reason, f"Prefer {method} for such data.")
    if "better" not in words:
        harm = "No, it did harm" if only_prior else "No, it is worse"
        return Verdict(question, "fail", harm, reason, f"Prefer {baseline} for such data.")
    advice = "Choose by the metric that your use depends on."
    return Verdict(question, "warn", "Mixed", reason, advice)


_DECISIVE = {"accuracy": "accuracy", "nll": "loss per point (NLL)", "crps": "CRPS"}
_DECISIVE |= {"label_accuracy": "share of right labels", "label_nll": "loss per label (NLL)"}
LONGER = "Raise burn_in, num_draws or thin"


def convergence_verdict(
    summaries: Sequence[ChainSummary], *, num_chains: int, num_draws: int, independent: bool = False
) -> Verdict:
    """Say whether the chains can be relied on; see `bayesprior.diagnostics.convergence`.

    Independent draws are made directly from a fitted law (SWAG) and have nothing to converge.
    """
    if num_chains * num_draws == 1:
        said = "The posterior is 1 point.", "For a sample of it: bp.sample, or fit sgld."
        return Verdict(SAMPLER, "unknown", "There was no sampler", *said)
    if independent:
        reason = f"{num_chains * num_draws} draws come straight from a fitted Gaussian."
        advice = "Their width is the fit's; see whether the probabilities can be trusted."
        return Verdict(SAMPLER, "ok", "Nothing to converge", reason, advice)
    if not summaries:
        reason = (
            f"{num_chains} chain(s) of {num_draws} draw(s): R-hat and effective sample size need "
            "4 draws a chain and finite values."
        )
        return Verdict(SAMPLER, "warn", "Too few draws", reason, f"{LONGER}.")
    split = "chains" if num_chains > 1 else "parts of the one chain"
    excess = {s.name: s.rhat / max(limit("rhat_fail"), s.rhat_chance) for s in summaries}
    bad = max(summaries, key=lambda s: excess[s.name])
    if excess[bad.name] > 1:
        reason = f"The {split} disagree on {bad.name}: R-hat is {bad.rhat:.2f}, 1 is wanted."
        advice = f"{LONGER}; if the new layer is at fault, lower its head_std or head_temperature."
        return Verdict(SAMPLER, "fail", "Not converged, run longer", reason, advice)
    least = min(summaries, key=lambda s: min(s.ess_bulk, s.ess_tail))
    ess, wanted = min(least.ess_bulk, least.ess_tail), limit("ess_per_chain") * num_chains
    error = max(s.mcse for s in summaries)
    numbers = (
        f"The {num_chains * num_draws} draws are worth {ess:.0f} independent ones for "
        f"{least.name}; averages err by up to {error:.0%} of a posterior standard deviation"
    )
    if ess < wanted:
        reason = f"{numbers}. {wanted:.0f} are wanted, {wanted / num_chains:.0f} a chain."
        return Verdict(SAMPLER, "warn", "Too few draws", reason, f"{LONGER}.")
    top = max(summaries, key=lambda s: s.rhat / max(limit("rhat_warn"), s.rhat_chance))
    if top.rhat > max(limit("rhat_warn"), top.rhat_chance):
        reason = f"The {split} still drift in {top.name}: R-hat is {top.rhat:.2f}."
        return Verdict(SAMPLER, "warn", "Nearly converged", reason, f"{LONGER}.")
    top = max(summaries, key=lambda s: s.rhat_bound)
    numbers += f"; R-hat is {top.rhat:.2f} (95 % interval up to {top.rhat_bound:.2f})"
    if not top.rhat_bound <= limit("rhat_fail"):
        return Verdict(SAMPLER, "warn", "Too few draws", f"{numbers}.", f"{LONGER}.")
    reason = f"{numbers}. A mode that no chain visits stays unseen."
    advice = "Use the draws; chains that started apart (start_spread) agree on more."
    return Verdict(SAMPLER, "ok", "Yes, the chains agree", reason, advice)


def temperature_verdict(checks: Sequence[TemperatureCheck]) -> Verdict:
    """Say whether the sampler ran at the temperature it claims."""
    if not checks:
        reason = "No temperature was recorded over at least 4 steps."
        return Verdict(SAMPLER, "unknown", "Temperature unknown", reason, f"{LONGER}.")
    verdicts = []
    for check in checks:
        m, tolerance = check.measured, limit("temperature")
        reason = (
            f"Its {check.name} was measured as {m.estimate:.4g} (95 % interval {m.low:.4g} to "
            f"{m.high:.4g}); {check.claimed:.4g} was asked for."
        )
        agrees = check.agrees(tolerance)
        level: Level
        if agrees:
            headline, level, advice = f"Yes, at temperature {check.claimed:.3g}", "ok", ""
        elif agrees is None:
            headline, level = f"Temperature not known to {tolerance:.0%}", "unknown"
            advice = "Sample for more steps."
        else:
            hot, most = check.ratio > 1, limit("temperature_fail")
            headline = "Too hot, lower the learning rate" if hot else "Too cold, run longer"
            level = "warn" if 1 / most <= check.ratio <= most else "fail"
            advice = "Lower lr or raise batch_size." if hot else "Raise burn_in, or lr."
        verdicts.append(Verdict(SAMPLER, level, headline, reason, advice))
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
        f"{num_constraints:,} observed outputs narrow at most as many of {total.dim:,} "
        f"directions, and the others alone give {max(least, 0):,.0f}."
    )
    wanted = limit("narrow") * least
    if total.mean - HALF_WIDTH * total.error >= wanted or least <= 0:
        return Verdict(SAMPLER, "ok", "The draws are wide enough", numbers)
    advice = f"{LONGER}; SWAG's width is that of an optimizer's noise, so sample instead."
    if total.mean >= wanted:
        return Verdict(SAMPLER, "unknown", "Width not known well enough", numbers, advice)
    headline = "The draws are narrower than the posterior"
    return Verdict(SAMPLER, "warn", headline, numbers, advice)


def calibration_verdict(bins: CalibrationBins, *, independent: bool = True) -> Verdict:
    """Say whether probabilities can be trusted, from bins of the top label, or of several labels.

    Pixels are no independent points, so that nothing is said of chance.
    """
    total = int(bins.count.sum())
    if not total:
        said = "0 predictions were scored.", "Predict labeled test points."
        return Verdict(TRUST, "unknown", "No points", *said)
    chance, bound = (bins.chance, bins.bound) if independent else (0.0, 0.0)
    sure, right = bins.sums[1:].sum(axis=1) / total
    numbers = f"Accuracy is {right:.1%} at a mean confidence of {sure:.1%}; on average they differ "
    advice = "Scale the temperature of the probabilities on validation data (see Results)."
    way = f"the model is {'over' if bins.overconfidence > 0 else 'under'}confident"
    if several := bins.together > 1:
        numbers = f"{right:.1%} of labels came, at a mean probability of {sure:.1%}; bins differ "
        advice = "Recalibrate each label on validation data, for example by Platt's scaling."
        way = f"its probabilities are too {'extreme' if bins.extremeness > 0 else 'near to 1/2'}"
    numbers += f"by {bins.ece:.1%} (ECE" + (
        f", 95 % interval up to {bound:.1%}); a perfectly calibrated model would show up to "
        f"{chance:.1%} on {total // bins.together} points by chance"
        f"{', were their labels always alike.' if several else '.'}"
        if independent
        else f") over {total} pixels, which depend on their neighbors."
    )
    return _graded("ece", bins.ece, chance, bound, way, numbers, advice)


def _graded(
    limits: str, error: float, chance: float, bound: float, way: str, reason: str, advice: str
) -> Verdict:
    """Trust an error within its limit, or within chance, if what is too large is excluded."""
    if error <= max(limit(f"{limits}_ok"), chance):
        if bound > limit(f"{limits}_fail"):
            advice = "Score more test points."
            return Verdict(TRUST, "unknown", "Too few points to tell", reason, advice)
        return Verdict(TRUST, "ok", "Yes", reason, "Use them as they are, for data like these.")
    if error > limit(f"{limits}_fail"):
        return Verdict(TRUST, "fail", f"No, {way}", reason, advice)
    return Verdict(TRUST, "warn", f"Roughly, {way}", reason, advice)


def coverage_verdict(pit: np.ndarray) -> Verdict:
    """Say whether predictive intervals can be trusted, from the targets' ranks in them."""
    distance, chance, bound = rank_distance(pit)
    inside = coverage(pit, 0.9)
    reason = (
        f"Of {len(pit)} targets {inside:.1%} lie in their 90 % predictive interval; their ranks "
        f"are {distance:.2f} from uniform (Kolmogorov-Smirnov; 95 % interval up to {bound:.2f}; "
        f"by chance up to {chance:.2f})."
    )
    off = abs(float(np.mean(pit)) - 0.5) > limit("bias")
    width = "narrow" if inside < 0.9 else "wide"
    way = "the predictions are biased" if off else f"the intervals are too {width}"
    advice = "Look at the likelihood's noise (std), and for a bias at the inputs' scale."
    return _graded("ranks", distance, chance, bound, way, reason, advice)


def shift_verdict(rows: Sequence[ShiftRow]) -> Verdict:
    """Say whether the probabilities stay honest on shifted data; the test set is first."""
    if len(rows) < 2:
        said = "0 shifted sets were given.", "Give some (shift), or ask for corruptions."
        return Verdict(CHANGED, "unknown", "Not measured", *said)
    bad = max(rows[1:], key=lambda row: row.scores["ece"] - row.chance)
    if bad.scores["ece"] <= max(limit("ece_fail"), bad.chance):  # no alarm: which is least known?
        bad = max(rows[1:], key=lambda row: row.bound)
    name = bad.shift.replace("_", " ")
    name += "" if bad.severity is None else f" of severity {bad.severity}"
    ece = bad.scores["ece"]
    reason = (
        f"The worst is {name}: accuracy {bad.scores['accuracy']:.0%} at a mean confidence of "
        f"{bad.scores['confidence']:.0%} (ECE {ece:.1%}, 95 % interval up to "
        f"{bad.bound:.1%}; up to {bad.chance:.1%} by chance; on the test set "
        f"{rows[0].scores['ece']:.1%})."
    )
    if ece <= max(limit("ece_fail"), bad.chance):
        if bad.bound > limit("ece_fail"):
            few = "Too few points to tell"
            return Verdict(CHANGED, "unknown", few, reason, "Score more points of it.")
        return Verdict(CHANGED, "ok", "Yes", reason, "Use them under such changes, too.")
    sure = bad.scores["confidence"] > bad.scores["accuracy"]
    headline = f"No, it stays {'too sure' if sure else 'too unsure'}"
    level: Level = "warn" if ece < limit("ece_changed_fail") else "fail"
    advice = "Do not rely on them there; train on such data, or abstain where they are recognized."
    return Verdict(CHANGED, level, headline, reason, advice)


def conflict_verdict(
    checks: Sequence[ChiSquareCheck],
    own: ChiSquareCheck | None,
    diagnoses: Mapping[int, str],
    directions: Sequence[Direction],
) -> Verdict:
    """Say whether prior and data clash.

    By the distances of all weights and of each layer, that along the prior's own directions, the
    diagnoses of these directions (`bayesprior.diagnostics.prior.diagnose`), and how far out the
    data alone may put them. Without the spread of posterior draws (``directions`` empty: a point
    estimate, SWAG, or a prior of rank 0) a conflict can be seen, but not a fit.
    """
    if not checks:
        said = "The run holds 0 priors or draws.", "Report with the prior of the fit."
        return Verdict(FIT, "unknown", "Not measured", *said)
    total = checks[0]
    numbers = (
        f"The weights lie {total.ratio**0.5:.2f} times as far from the prior mean as a draw from "
        "the prior would"
    )
    numbers += f", along its own directions {own.ratio**0.5:.2f} times." if own else "."
    widen = "Widen the prior (rms_std), or take another source."
    clashes = [index for index, word in diagnoses.items() if word == "conflict"]
    far = [c for c in checks[1:] if c.mean > limit("far") * c.high]
    if total.mean > limit("far") * total.high:
        return Verdict(FIT, "fail", "No, the data pull far outside it", numbers, widen)
    if own is not None and own.mean > limit("far") * own.high:
        headline = "No, the data pull far along its own directions"
        return Verdict(FIT, "fail", headline, numbers, widen)
    if own is not None and own.mean > own.high:
        return Verdict(FIT, "warn", "Not along its own directions", numbers, widen)
    if clashes:
        share = f"{len(clashes)} of {len(diagnoses)} directions"
        reason = f"{numbers} Prior and data pull against each other in {share} looked at."
        return Verdict(FIT, "warn", "They partly conflict", reason, widen)
    if far:
        reason = f"{numbers} Outside its range: {', '.join(c.name for c in far[:3])}."
        return Verdict(FIT, "warn", "Not in every layer", reason, widen)
    if not directions:
        reason = f"{numbers} Without the spread of posterior draws along them no fit can be shown."
        advice = "To tell a fit, sample the posterior (fit sgld) with a prior that has directions."
        return Verdict(FIT, "unknown", "No conflict seen", reason, advice)
    informed = [d for d in directions if d.contraction >= limit("informed")]
    numbers += f" The data speak of {len(informed)} of {len(directions)} directions"
    if not informed:
        advice = "More training points, or a wider prior, would tell."
        return Verdict(FIT, "unknown", "The data say too little", f"{numbers}.", advice)
    reach, most = max(d.reach for d in informed), joint_limit(limit("surprise"), len(informed))
    reason = f"{numbers}; none lies beyond {reach:.1f} prior std (95 % interval; {most:.1f} fits)."
    if reach > most:
        advice = "More training points or draws would tell."
        return Verdict(FIT, "unknown", "Cannot tell yet", reason, advice)
    advice = "Keep the prior; whether it helps is another question."
    return Verdict(FIT, "ok", "Yes, no sign of conflict", reason, advice)
