"""Questions that are answered in words: prompts, answers up to a stop string, figures of them."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from absl import logging

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import Advance, Benchmark, Record, ignore_progress
from openba_jax.inference.prompts import UnusablePromptError
from openba_jax.inference.stop_strings import StopStrings
from openba_jax.inference.until import answer_until

Figures = dict[str, float]
"""Name of a metric -> its value, from 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A question.

    Attributes:
      query: what is asked.
      references: right answers, the best one first.
      place: where it stands, for messages.
      subject: what it is about, as its file is called.
      intro: what stands in front of everything.
      demos: answered questions in front of it, in order; the last ones are left out where there is
        no room for all.
    """

    query: str
    references: tuple[str, ...]
    place: str = "a question"
    subject: str = ""
    intro: str = ""
    demos: tuple[str, ...] = ()

    def prompts(self) -> Iterator[tuple[str, int]]:
        """Prompts from the longest to the shortest, and how much each leaves out."""
        for left_out in range(len(self.demos) + 1):
            shown = self.demos[: len(self.demos) - left_out]
            yield self.intro + "".join(shown) + self.query, left_out


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Figures over some answers.

    Attributes:
      count: questions, those skipped included, whose answer counts as empty.
      skipped: questions that could not be asked.
      shortened: questions of which something was left out, for lack of room.
      figures: name of a metric -> value from 0 to 1.
      main: the metric for tables.
    """

    count: int
    skipped: int
    shortened: int
    figures: Mapping[str, float]
    main: str

    @property
    def figure(self) -> float:
        """The main metric."""
        return self.figures[self.main]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        counts = {name: getattr(self, name) for name in ("count", "skipped", "shortened")}
        return {"main": self.main, **counts, **self.figures}

    def __str__(self) -> str:
        """For a terminal."""
        if self.skipped == self.count:
            return f"none of {self.count} questions could be asked"
        values = ", ".join(f"{name} {value:.1%}" for name, value in self.figures.items())
        notes = [f"{values} of {self.count}"]
        if self.skipped:
            notes.append(f"{self.skipped} of them skipped and counted as wrong")
        if self.shortened:
            notes.append(f"{self.shortened} of them shortened")
        return ", ".join(notes)


class Generations(Benchmark):
    """A benchmark of answers in words.

    Attributes:
      unit: the name of the main figure.
      stop: strings that end an answer.
      max_new_tokens: longest answer; shorter where the model's targets are.
      most_shots: how many examples there are; 0: questions have none.
      shots: examples at most; None: all that there are.
    """

    unit: ClassVar[str] = "exact_match"
    stop: ClassVar[StopStrings] = StopStrings()
    max_new_tokens: ClassVar[int] = 256
    most_shots: ClassVar[int] = 0
    shots: int | None = None

    @abc.abstractmethod
    def figures(self, records: Sequence[Record]) -> Figures:
        """The figures of some answers.

        Args:
          records: with `prediction`, the answer, which is empty where a question was skipped, and
            `references`.
        """

    def together(self, records: Sequence[Record]) -> Figures:
        """The figures of several subjects: every question counts the same."""
        return self.figures(records)

    def configured(self, template: str = "", preset: str = "", shots: int | None = None) -> Self:
        """The benchmark with other settings, see `Benchmark.configured`."""
        if shots and 0 < self.most_shots < shots:
            raise UserError(
                f"{self.name} has {self.most_shots} examples, and SHOTS is {shots}; take fewer."
            )
        inherited = None if self.most_shots else shots
        chosen = copy.copy(super().configured(template, preset, inherited))
        chosen.shots = shots
        return chosen

    @property
    def settings(self) -> Mapping[str, Any]:
        """Where answers end, and how many examples there are."""
        return {
            "stop": list(self.stop.strings),
            "max_new_tokens": self.max_new_tokens,
            "shots": self.most_shots if self.shots is None else self.shots,
        }

    def answers(
        self, items: Sequence[Item], asked: AskedModel, advance: Advance = ignore_progress
    ) -> list[Record]:
        """Asks questions, see `Benchmark.answers`; one that is skipped is named in a warning."""
        records: list[Record] = []
        framed: dict[int, list[int]] = {}
        for number, item in enumerate(items):
            record = self.record(item)
            try:
                shown = dataclasses.replace(item, demos=item.demos[: self.shots])
                framed[number], record["prompt"], record["left_out"] = _longest(shown, asked)
            except UnusablePromptError as error:
                logging.warning("%s It is skipped and counts as wrong.", error)
                record["skipped"] = str(error)
            records.append(record)
        advance(len(items) - len(framed))
        for number, answer in self.generate(items, framed, asked):
            records[number]["prediction"] = answer.strip()
            advance(1)
        return records

    def generate(
        self, items: Sequence[Item], framed: Mapping[int, list[int]], asked: AskedModel
    ) -> Iterator[tuple[int, str]]:
        """Answers prompts.

        Args:
          items: the questions.
          framed: number of a question -> ids of its prompt.
          asked: the model.

        Yields:
          The number of a question, and its answer.

        Raises:
          UserError: the logits of an answer are not finite.
        """
        numbers = list(framed)
        found = answer_until(
            asked.model,
            asked.params,
            asked.vocabulary,
            list(framed.values()),
            max_new_tokens=min(self.max_new_tokens, asked.decoder_length),
            stop=self.stop,
            batch_size=asked.batch_size,
        )
        for place, answer in found:
            yield numbers[place], answer

    def record(self, item: Item) -> Record:
        """What is known before a question is asked."""
        return {
            "place": item.place,
            "subject": item.subject,
            "prompt": None,
            "left_out": 0,
            "references": list(item.references),
            "prediction": "",
            "skipped": None,
        }

    def result(self, records: Sequence[Record]) -> Metrics:
        """The figures, see `together`."""
        figures = self.together(records)
        skipped = sum(record["skipped"] is not None for record in records)
        shortened = sum(record["left_out"] > 0 for record in records)
        return Metrics(len(records), skipped, shortened, figures, self.unit)


class CorpusGenerations(Generations):
    """A benchmark whose figures are no means over questions, and are not to be taken of a mixture.

    Those of several subjects are the mean of what each subject has.
    """

    def together(self, records: Sequence[Record]) -> Figures:
        """The mean over subjects."""
        subjects: dict[str, list[Record]] = {}
        for record in records:
            subjects.setdefault(record["subject"], []).append(record)
        found = [self.figures(each) for each in subjects.values()]
        return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


def _longest(item: Item, asked: AskedModel) -> tuple[list[int], str, int]:
    """The longest prompt that there is room for: its ids, its text, how much it leaves out.

    Raises:
      UnusablePromptError: there is room for none, or it is no valid Unicode.
    """
    for text, left_out in item.prompts():
        try:
            return asked.frame.prompt(text, item.place), text, left_out
        except UnusablePromptError as error:
            refusal = error
    raise refusal


def share(hits: Sequence[bool]) -> float:
    """The share of hits."""
    return sum(hits) / len(hits)
