"""One plain-language line per question a reader asks of a run."""

from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Level", "Verdict", "worst"]

Level = Literal["ok", "unknown", "warn", "fail"]
"""``unknown`` says that the run lacks what the question needs; the reason names it."""

SEVERITY: tuple[Level, ...] = ("ok", "unknown", "warn", "fail")


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


def worst(question: str, verdicts: list[Verdict]) -> Verdict:
    """Merge several verdicts on one question: the worst headline leads, every reason is kept.

    Parameters
    ----------
    question
        The question of the merged verdict.
    verdicts
        At least one.
    """
    lead = max(verdicts, key=lambda v: SEVERITY.index(v.level))
    others = [v.reason for v in verdicts if v is not lead]
    return Verdict(question, lead.level, lead.headline, " ".join([lead.reason, *others]))
