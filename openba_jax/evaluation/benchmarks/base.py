"""What a benchmark is: items by subject, what a model makes of each, and the figures of that.

There are two kinds: choices (`choices.Choices`) and generations. Both make one `Record` for each
item, skipped ones included; every figure is a function of records. So a subject whose records are
on disk need not be asked again, and averages over categories and over all items are taken in the
same way, whatever the figure is.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel

CORRECTED, ORIGINAL = "corrected", "original"
PRESETS = (CORRECTED, ORIGINAL)
"""Without the mistakes of the original (docs/evaluation.md), or with them."""

TOTAL = "total"
"""What the figures over all subjects stand under; no subject has this name."""

Subjects = Mapping[str, Sequence[Any]]
"""Name of a subject -> its items, in the order of their file."""

Record = dict[str, Any]
"""What became of one item: a line of the log, JSON. `place` says where the item stands; `skipped`
is why it could not be asked, or None. The other keys are the benchmark's."""

Advance = Callable[[int], object]
"""Is told how many more items are done."""


def ignore_progress(count: int) -> None:
    """Where nobody looks."""
    del count


class UnaskableBenchmarkError(UserError):
    """A model cannot be asked a whole benchmark; other benchmarks are not concerned."""


class Result(Protocol):
    """Figures over some records."""

    @property
    def count(self) -> int:
        """Items, those skipped included."""

    @property
    def skipped(self) -> int:
        """Items that could not be asked; they are part of every denominator."""

    @property
    def figure(self) -> float:
        """The one figure for tables and plots, from 0 to 1."""

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""

    def __str__(self) -> str:
        """For a terminal."""


class Benchmark(abc.ABC):
    """Items, how they are put, and what figures come of it.

    Attributes:
      name: by which it is asked for.
      unit: what `Result.figure` is, such as `accuracy`.
      exports: whether `export` writes files of other programs.
    """

    name: str
    unit: ClassVar[str]
    exports: ClassVar[bool] = False

    @abc.abstractmethod
    def load(self, source: Path) -> Subjects:
        """Reads the items.

        Args:
          source: a folder or a file.

        Raises:
          UserError: there is none, or one is malformed; the message names the file and the item.
        """

    @abc.abstractmethod
    def answers(
        self, items: Sequence[Any], asked: AskedModel, advance: Advance = ignore_progress
    ) -> list[Record]:
        """Asks the items of one subject.

        Args:
          items: as `load` made them.
          asked: the model.
          advance: is told of progress.

        Returns:
          A record for each item, in their order. An item that cannot be asked has a reason below
          `skipped`, and counts as failed.

        Raises:
          UnaskableBenchmarkError: the model lacks what every item needs.
          UserError: what the model answers is not finite.
        """

    @abc.abstractmethod
    def result(self, records: Sequence[Record]) -> Result:
        """The figures of some records, of one subject or of several."""

    def configured(self, template: str = "", preset: str = "", shots: int | None = None) -> Self:
        """The benchmark with other settings.

        Args:
          template: name of one of its templates; "": the one in use.
          preset: whether mistakes of the original are made, for benchmarks that know some.
          shots: demonstrations at most; None: as usual.

        Raises:
          UserError: it has no such settings.
        """
        del preset
        if shots:
            raise UserError(
                f"{self.name} shows no demonstrations, and SHOTS is {shots}; leave SHOTS out."
            )
        if template:
            raise UserError(f"{self.name} has no templates; ask for it without {template!r}.")
        return self

    def export(self, folder: Path, records: Mapping[str, Sequence[Record]]) -> None:
        """Writes answers in the files of other programs, if `exports`.

        Args:
          folder: where to; it may not be there yet.
          records: by subject.
        """
        raise NotImplementedError(f"{self.name} has no files of other programs")

    @property
    def label(self) -> str:
        """What its figures stand under."""
        return self.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """What figures depend on besides model, lengths and items, for JSON."""
        return {}

    @property
    def categories(self) -> Mapping[str, Sequence[str]]:
        """Subject -> its categories, where it has some."""
        return {}
