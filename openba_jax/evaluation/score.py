"""The figures of multiple-choice questions: accuracy, its interval, and letters."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

LETTERS = "ABCDE"
"""Of options, in order."""

Z = 1.959963984540054
"""The quantile of the normal distribution for an interval of 95%."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Right answers among all questions, and what guessing would give.

    A question that the model cannot be asked, being too long for instance, counts as answered
    wrongly: the denominator is the same for all models.

    Attributes:
      right: questions answered rightly.
      count: questions, those skipped included.
      chance: expected accuracy of a guess.
      skipped: questions that could not be asked.
      chosen: how often the model chose each letter.
      gold: how often each letter is the right one.
      found: how often the model chose each letter where it is right.
      right_by_length: right answers where likelihoods are divided by characters, as
        lm-evaluation-harness does; None where nothing is divided.
    """

    right: int
    count: int
    chance: float
    skipped: int = 0
    chosen: Mapping[str, int] = dataclasses.field(default_factory=dict)
    gold: Mapping[str, int] = dataclasses.field(default_factory=dict)
    found: Mapping[str, int] = dataclasses.field(default_factory=dict)
    right_by_length: int | None = None

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Self:
        """Counts.

        Args:
          records: of questions, with `options`, `gold` and `choice`, indices of options; the
            choice of one that was skipped is None.
        """
        asked = [record for record in records if record["skipped"] is None]
        right = [record for record in asked if record["choice"] == record["gold"]]
        by_length = [
            each["choice_by_length"] == each["gold"] for each in asked if "choice_by_length" in each
        ]
        return cls(
            right=len(right),
            count=len(records),
            chance=math.fsum(1 / len(record["options"]) for record in records) / len(records),
            skipped=len(records) - len(asked),
            chosen=_letters(record["choice"] for record in asked),
            gold=_letters(record["gold"] for record in records),
            found=_letters(record["choice"] for record in right),
            right_by_length=sum(by_length) if by_length else None,
        )

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Self:
        """What `as_dict` made."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: figures[name] for name in names})

    @property
    def accuracy(self) -> float:
        """Share of right answers among all questions."""
        return self.right / self.count

    figure = accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of 95% for the accuracy, by Wilson (1927)."""
        share, spread = self.accuracy, Z * Z / self.count
        middle = share + spread / 2
        half = Z * math.sqrt((share * (1 - share) + spread / 4) / self.count)
        return (
            max(0.0, (middle - half) / (1 + spread)),
            min(1.0, (middle + half) / (1 + spread)),
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        figures = {
            **dataclasses.asdict(self),
            "accuracy": self.accuracy,
            "interval": list(self.interval),
        }
        if self.right_by_length is not None:
            figures["accuracy_by_length"] = self.right_by_length / self.count
        return figures

    def __str__(self) -> str:
        """For a terminal."""
        if self.skipped == self.count:
            return f"none of {self.count} questions could be asked"
        skipped = f", {self.skipped} of them skipped and counted as wrong" if self.skipped else ""
        return f"{self.accuracy:.1%} of {self.count}{skipped}, chance {self.chance:.1%}"


def _letters(indices: Any) -> dict[str, int]:
    """How often each letter occurs, in the order of letters."""
    counts = collections.Counter(indices)
    return {LETTERS[index]: counts[index] for index in sorted(counts)}
