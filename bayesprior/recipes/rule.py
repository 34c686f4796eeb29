"""The constants of the transfer rule; how they were chosen stands in ``benchmarks/RESULTS.md``."""

from dataclasses import dataclass

from bayesprior.recipes.head_priors import NOISE_WIDTH

__all__ = ["RULE", "Rule"]


@dataclass(frozen=True)
class Rule:
    """The constants.

    Attributes
    ----------
    budgets, num_steps
        How far a fold member's weights may drift in all, in units of `feature_noise`, and in how
        many steps: the narrow and the wide one, of which one is chosen out of fold.
    photo_steps
        Factor on the steps where training examples are augmented.
    head_budget
        Drift of the head in its prior's units, as a share of the budget.
    head_start
        Factor on the MAP head that fold members start from.
    num_folds
        At most; no more than the smallest class has examples.
    search_from
        Training examples from which on the wide budget is tried: with fewer the choice is noise.
    map_width
        Standard deviation of the prior in units of `feature_noise` by tensor, at the narrow
        budget; it grows with the budget. It is about a quarter of the rms weight on small
        networks, where that was measured, and a thirtieth on MobileNet, which a quarter ruins.
    map_lr
        Rate of the MAP in its prior's coordinates. In longer runs and under wider priors it is
        lower: how far the weights can drift grows with the root of the width.
    map_confidence
        Factor on the MAP's logits: its head is narrow, which decides directions, not confidence.
    map_share
        Its share of the committee.
    few_share
        Its share where a class has one or two examples: beside a fine-tuning of all of them, since
        one of half of them is much weaker. Those of the two halves decide the confidence.
    few_confidence
        Confidence where a class has a single example. Over draws of six tasks the best one was
        .26 to 2.4.
    confidence_std
        Of the log confidence, a priori.
    probe_lead
        Standard errors out of fold, and nats, that the probe must be better by to be taken
        instead. Many, since out of fold it is single members that lose: in three of 27 validation
        fits they were behind by 2.3 to 3.2, and each of these committees was better by far.
    guess_lead
        Standard errors that are enough where the committee is no better than guessing.
    """

    budgets: tuple[float, float] = (2.0, 12.0)
    num_steps: tuple[int, int] = (100, 200)
    photo_steps: float = 0.5
    head_budget: float = 0.15
    head_start: float = 0.3
    num_folds: int = 4
    search_from: int = 50
    map_width: float = NOISE_WIDTH
    map_lr: float = 0.05
    map_confidence: float = 2.4
    map_share: float = 0.25
    few_share: float = 0.5
    few_confidence: float = 0.8
    confidence_std: float = 0.3
    probe_lead: tuple[float, float] = (4.0, 0.01)
    guess_lead: float = 2.0


RULE = Rule()
