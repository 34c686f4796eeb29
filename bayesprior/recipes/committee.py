"""The transfer rule: a MAP under the informative prior and fold fine-tunings, as one committee."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from bayesprior.inference.posteriors import PointPosterior
from bayesprior.inference.protocols import Draw
from bayesprior.inference.strength.confidence import fit_confidence
from bayesprior.inference.strength.features import stratified_folds
from bayesprior.inference.strength.head import held_out_logits
from bayesprior.inference.strength.probe import Probe, fit_probe
from bayesprior.recipes.head_priors import rms_by_tensor, with_widths
from bayesprior.recipes.members import Member, MemberTask, Recipe
from bayesprior.recipes.rule import RULE, Rule
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Committee", "fit_committee", "probe_draw", "worse_by"]


@dataclass(frozen=True, eq=False)
class Committee:
    """What the rule made.

    Attributes
    ----------
    draws
        The members with their shares and confidences, to be averaged in logits.
    names
        Of the members.
    probe
        The linear probe on the source's features.
    budget
        Chosen; 0 where the probe was taken.
    confidence
        Factor on the committee's logits.
    held_out
        Out-of-fold logits (n, C) by method, for the examples ``rows``; empty without folds.
    rows
        Examples that are in a fold.
    prior
        Of the MAP, as wide as the budget asks for.
    notes
        What was dropped or fell back, in words.
    num_gradients, num_fits
        Image gradients that were computed, and fits; all that were tried.
    probe_seconds
        What the probe took.
    """

    draws: list[Draw]
    names: list[str]
    probe: Probe
    budget: float
    confidence: float
    held_out: Mapping[str, Tensor]
    rows: Integer[Tensor, " n"]
    prior: GaussianWeights
    notes: list[str] = field(default_factory=list)
    num_gradients: int = 0
    num_fits: int = 0
    probe_seconds: float = 0.0


def _nll(logits: Float[Tensor, "n C"], labels: Integer[Tensor, " n"]) -> Tensor:
    """Return each example's negative log likelihood."""
    return F.cross_entropy(logits.double(), labels, reduction="none")


def _known(values: Float[Tensor, "n k"]) -> Integer[Tensor, " m"]:
    """Return the rows without NaN."""
    return (~values.isnan().any(1)).nonzero()[:, 0]


def worse_by(one: Tensor, other: Tensor) -> float:
    """Return by how many paired standard errors one's loss exceeds another's."""
    difference = (one - other).double()
    error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    mean = float(difference.mean())
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


def fit_committee(
    task: MemberTask,
    rule: Rule = RULE,
    *,
    held_out_map: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Committee:
    """Fit the members, choose the budget, and weigh them together.

    Parameters
    ----------
    task
        Network, data, prior and units.
    rule
        The constants.
    held_out_map
        Whether the MAP is fitted on the folds, too, only to be looked at.
    tell
        Is given a line on each decision.
    """
    return _Fit(task, rule, held_out_map, tell).run()


class _Fit:
    def __init__(
        self, task: MemberTask, rule: Rule, held_out_map: bool, tell: Callable[[str], None]
    ) -> None:
        self.task, self.rule, self._tell = task, rule, tell
        self.held_out_map = held_out_map
        self.notes: list[str] = []
        self.num_gradients = 0
        self.prior = task.prior
        self.augmented = task.data.train.augment is not None
        began = time.perf_counter()
        self.probe = fit_probe(task.features, task.labels, task.num_classes, seed=task.seed)
        self.probe_seconds = time.perf_counter() - began

    def say(self, line: str) -> None:
        self.notes.append(line)
        self._tell(line)

    def run(self) -> Committee:
        task, rule = self.task, self.rule
        counts = torch.bincount(task.labels, minlength=task.num_classes)
        smallest = int(counts[counts > 0].min())
        if smallest < 2:
            self.say("a class has a single example: no folds, and a confidence of other tasks")
            return self._without_folds()
        folds = stratified_folds(task.labels, min(rule.num_folds, smallest), task.seed)
        halves = smallest == 2
        rounds = 1 + (len(task.labels) >= rule.search_from) + self.held_out_map
        task.num_expected = 1 + halves + int(folds.max() + 1) * rounds
        index, members, held_out = self._search(folds)
        budget = rule.budgets[index]
        rows = _known(held_out) if members else torch.arange(len(task.labels))
        held_out, labels = held_out[rows], task.labels[rows]
        head_folds = folds if halves else self._head_folds()
        heads = held_out_logits(
            task.features, task.labels, task.num_classes, task.head_prior, head_folds
        )
        share = rule.few_share if halves else rule.map_share
        first = self._map(index)
        if first is None:
            share = 0.0
        heads = heads[rows]
        found = {"probe": self.probe.confidence * self.probe.held_out[rows]}
        if members:
            mixture = share * rule.map_confidence * heads + (1 - share) * held_out.log_softmax(1)
        else:
            share, mixture = 1.0, rule.map_confidence * heads
        confidence = fit_confidence(mixture, labels, log_std=rule.confidence_std)
        found["committee"] = confidence * mixture
        if members:
            found["fine-tuning"] = confidence * held_out
        if members and first is not None and self.held_out_map:
            maps = self._held_out(folds, lambda name, kept: self._map(index, name, kept))[1][rows]
            if len(_known(maps)) == len(rows):
                found["map"] = rule.map_confidence * confidence * maps
        if halves and members and (whole := self._fine_tuned(index)) is not None:
            members = [whole]  # those of half the examples are for the confidence alone
        if first is None and not members:
            self.say("no member learned: the probe is taken instead")
        elif not self._is_beaten(found, labels):
            draws, names = self._weighed(first, members, share, confidence)
            return self._made(draws, names, budget, confidence, found, rows)
        return self._probe_alone({**found, "committee": found["probe"]}, rows)

    def _is_beaten(self, found: Mapping[str, Tensor], labels: Tensor) -> bool:
        """Whether the probe is so much better out of fold that it is taken instead."""
        ours, theirs = (_nll(found[name], labels) for name in ("committee", "probe"))
        errors, nats = self.rule.probe_lead
        if float(ours.mean()) >= math.log(self.task.num_classes):
            errors = self.rule.guess_lead
        lead = float((ours - theirs).mean())
        excess = worse_by(ours, theirs)
        if lead <= nats or excess <= errors:
            return False
        self.say(
            f"out of fold the committee is worse than the probe, NLL {float(ours.mean()):.3f} "
            f"against {float(theirs.mean()):.3f} ({excess:.1f} standard errors): the probe is "
            "taken instead"
        )
        return True

    def _search(self, folds: Tensor) -> tuple[int, list[Member], Tensor]:
        """Take the wide budget unless the narrow one is better by more than a standard error.

        In a tie the wide one: out of fold single members are scored, and members that moved
        further, so that they differ more, gain more by being averaged.
        """
        task, rule = self.task, self.rule
        narrow, narrow_logits = self._fold_members(0, folds)
        if len(task.labels) < rule.search_from:
            return 0, narrow, narrow_logits
        wide, wide_logits = self._fold_members(1, folds)
        nlls = torch.stack([self._confident_nll(x) for x in (narrow_logits, wide_logits)], 1)
        both = nlls[_known(nlls)]
        if not len(both):
            return (0, narrow, narrow_logits) if narrow else (1, wide, wide_logits)
        excess = worse_by(both[:, 1], both[:, 0])
        self.say(
            f"budget {rule.budgets[1]:g} against {rule.budgets[0]:g}: out-of-fold NLL "
            f"{float(both[:, 1].mean()):.3f} against {float(both[:, 0].mean()):.3f}, "
            f"{-excess:+.1f} standard errors better"
        )
        return (0, narrow, narrow_logits) if excess > 1 else (1, wide, wide_logits)

    def _confident_nll(self, logits: Tensor) -> Tensor:
        """Return each example's NLL at the best confidence; NaN where its member was dropped."""
        labels, rows = self.task.labels, _known(logits)
        nll = logits.new_full((len(logits),), math.nan)
        if len(rows):
            known = logits[rows]
            factor = fit_confidence(known, labels[rows], log_std=self.rule.confidence_std)
            nll[rows] = _nll(factor * known, labels[rows])
        return nll

    def _fold_members(self, index: int, folds: Tensor) -> tuple[list[Member], Tensor]:
        """Fit one member on the complement of each fold; return them, and out-of-fold logits.

        Those of a fold whose member is dropped are NaN.
        """

        def fit(name: str, kept: Tensor) -> Member | None:
            name = f"budget-{self.rule.budgets[index]:g}-{name}"
            self._count(index)
            return self._kept(self.task.fit(name, self._recipe(index), rows=kept), name)

        return self._held_out(folds, fit)

    def _held_out(
        self, folds: Tensor, fit: Callable[[str, Tensor], Member | None]
    ) -> tuple[list[Member], Tensor]:
        task, members = self.task, []
        held_out = torch.full((len(folds), task.num_classes), math.nan, dtype=torch.float64)
        for fold in range(int(folds.max()) + 1):
            kept, out = (folds != fold).nonzero()[:, 0], (folds == fold).nonzero()[:, 0]
            member = fit(f"fold-{fold}", kept)
            if member is not None:
                members.append(member)
                held_out[out] = task.logits(member.point, rows=out)
        return members, held_out

    def _steps(self, index: int) -> int:
        return round(self.rule.num_steps[index] * (self.rule.photo_steps if self.augmented else 1))

    def _count(self, index: int) -> None:
        self.num_gradients += self._steps(index) * min(16, len(self.task.labels))

    def _recipe(self, index: int) -> Recipe:
        rule, num_steps = self.rule, self._steps(index)
        lr = 2 * rule.budgets[index] / num_steps
        return Recipe(lr, rule.head_budget * lr, num_steps, num_steps // 10, rule.head_start)

    def _map(self, index: int, of: str = "", rows: Tensor | None = None) -> Member | None:
        task, rule = self.task, self.rule
        wider = rule.budgets[index] / rule.budgets[0]
        width = rule.map_width * task.tensor_std * wider
        body = task.prior.marginal(
            n for n in task.prior.layout.names if n not in set(task.prior.new_names)
        )
        stds = {name: width * rms for name, rms in rms_by_tensor(body).items()}
        prior = with_widths(task.prior, stds)
        prior.provenance |= {"rms_ratio": width, "rms_std": prior.rms_std}
        num_steps = self._steps(index)
        longer = max(num_steps / rule.num_steps[0], 1.0)
        rate = rule.map_lr / (longer * math.sqrt(wider))
        recipe = Recipe(rate, rate, num_steps)
        name = "-".join(filter(None, [f"map-budget-{rule.budgets[index]:g}", of]))
        self._count(index)
        given: Any = {"rows": rows, "prior": prior, "confidence": rule.map_confidence}
        member = task.fit(name, recipe, **given)
        self.prior = prior
        return self._kept(member, name)

    def _fine_tuned(self, index: int) -> Member | None:
        """Fit a member as of a fold, on all examples."""
        self._count(index)
        return self._kept(self.task.fit("fine-tuning", self._recipe(index)), "fine-tuning")

    def _kept(self, member: Member | None, name: str) -> Member | None:
        if member is None or not member.has_learned(self.task.num_classes):
            loss = "" if member is None else f" (its training loss is {member.loss:.2f})"
            self.say(f"{name} did not learn its training examples{loss}: dropped")
            return None
        return member

    def _head_folds(self) -> Tensor:
        num = len(self.task.labels)
        num_folds = min(20 if num <= 1000 else 5, num)  # what is left out matters less and less
        return stratified_folds(self.task.labels, num_folds, self.task.seed)

    def _weighed(
        self, first: Member | None, members: Sequence[Member], share: float, confidence: float
    ) -> tuple[list[Draw], list[str]]:
        chosen = [(m, (1 - share) / len(members), confidence) for m in members if share < 1]
        if first is not None:
            chosen.insert(0, (first, share, self.rule.map_confidence * confidence))
        draws = [
            _draw(index, member.point, weight, factor)
            for index, (member, weight, factor) in enumerate(chosen)
        ]
        return draws, [member.name for member, *_ in chosen]

    def _without_folds(self) -> Committee:
        """Fit what a class of one example allows: MAP and one fine-tuning, both of all examples."""
        rule = self.rule
        first = self._map(0)
        second = self._fine_tuned(0)
        if first is None and second is None:
            self.say("no member learned: the probe is taken instead")
            return self._probe_alone({}, torch.arange(0))
        members = [] if second is None else [second]
        share = 0.0 if first is None else rule.few_share if members else 1.0
        draws, names = self._weighed(first, members, share, rule.few_confidence)
        about: tuple[float, float] = (rule.budgets[0], rule.few_confidence)
        return self._made(draws, names, *about, {}, torch.arange(0))

    def _probe_alone(self, held_out: Mapping[str, Tensor], rows: Tensor) -> Committee:
        draws = [probe_draw(self.task, self.probe)]
        return self._made(draws, ["probe"], 0.0, self.probe.confidence, held_out, rows)

    def _made(
        self,
        draws: list[Draw],
        names: list[str],
        budget: float,
        confidence: float,
        held_out: Mapping[str, Tensor],
        rows: Tensor,
    ) -> Committee:
        chosen = (draws, names, self.probe, budget, confidence, held_out, rows)
        spent = (self.num_gradients, self.task.num_fits, self.probe_seconds)
        return Committee(*chosen, self.prior, self.notes, *spent)


def probe_draw(task: MemberTask, probe: Probe) -> Draw:
    """Return the network at the source's weights with the probe for its head."""
    weights = task.with_head(probe.weight, probe.bias)
    point = PointPosterior(task.prior.layout, weights, task.prior.buffers)
    return _draw(0, point, 1.0, probe.confidence)


def _draw(index: int, point: PointPosterior, weight: float, confidence: float) -> Draw:
    return Draw(0, index, point.weights, point.buffers, point.layout, weight, confidence)
