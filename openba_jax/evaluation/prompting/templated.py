"""Benchmarks of choices with templates: MMLU, CMMLU, C-Eval, ARC, PIQA and those of the harness."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from absl import logging

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import CORRECTED, ORIGINAL, Record, Subjects
from openba_jax.evaluation.benchmarks.choices import ChoiceBenchmark, mean_log_likelihood
from openba_jax.evaluation.choosing import FramedLetters, FramedQuestion
from openba_jax.evaluation.prompting.framing import frame_question
from openba_jax.evaluation.prompting.original import with_mistakes
from openba_jax.evaluation.prompting.template import Template, Templates, numbered
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.report import exports as original_files
from openba_jax.evaluation.sources.questions import Reading, read_questions


@dataclasses.dataclass(frozen=True)
class TemplatedChoices(ChoiceBenchmark):
    """Questions put by a template.

    Attributes:
      name: in the registry.
      reading: what of a source is read.
      templates: by name.
      template_name: of the one in use.
      family: whose mistakes `original.with_mistakes` knows.
      preset: `corrected` or `original`.
      shots: demonstrations at most; None: as the template says.
      subject_names: what subjects are called in prompts.
      subject_categories: subject -> its categories.
      original_demo_splits: where the original takes demonstrations from, if from elsewhere.
    """

    exports: ClassVar[bool] = True

    name: str
    reading: Reading
    templates: Templates
    template_name: str
    family: str = ""
    preset: str = CORRECTED
    shots: int | None = None
    subject_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    subject_categories: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    original_demo_splits: tuple[str, ...] = ()

    @property
    def template(self) -> Template:
        """The template in use."""
        template = self.templates[self.template_name]
        if self.preset == ORIGINAL:
            template = with_mistakes(self.family, self.template_name, template)
        return template

    @property
    def most_shots(self) -> int:
        """Demonstrations at most."""
        return self.template.shots if self.shots is None else self.shots

    @property
    def label(self) -> str:
        """The name with the template, as it may be asked for."""
        return f"{self.name}:{self.template_name}"

    def configured(
        self, template: str = "", preset: str = CORRECTED, shots: int | None = None
    ) -> Self:
        """The benchmark with another template, see `Benchmark.configured`."""
        template = template or self.template_name
        if template not in self.templates:
            close = difflib.get_close_matches(template, self.templates, 1)
            hint = f"did you mean {close[0]}? It has" if close else "it has"
            raise UserError(
                f"{self.name} has no template {template!r}; {hint} {', '.join(self.templates)}."
            )
        chosen = dataclasses.replace(self, template_name=template, preset=preset, shots=shots)
        if shots and not chosen.template.answer:
            raise UserError(
                f"the template {template} of {self.name} shows no demonstrations, and SHOTS is "
                f"{shots}; take another template."
            )
        return chosen

    @property
    def settings(self) -> Mapping[str, Any]:
        """Template, preset and demonstrations."""
        return {"template": self.template_name, "preset": self.preset, "shots": self.most_shots}

    @property
    def categories(self) -> Mapping[str, Sequence[str]]:
        """Subject -> its categories."""
        return self.subject_categories

    def load(self, source: Path) -> Subjects:
        """Reads the questions, see `Benchmark.load`."""
        reading = dataclasses.replace(self.reading, demos=self.most_shots)
        if self.preset == ORIGINAL and self.original_demo_splits:
            reading = dataclasses.replace(
                reading, demo_splits=self.original_demo_splits, drawn=True
            )
        subjects = read_questions(source, reading)
        if self.subject_names and "{subject}" in self.template.query:
            unknown = [name for name in subjects if name not in self.subject_names]
            if unknown:
                raise UserError(
                    f"{source}: {self.name} has no subject {unknown[0]}, whose name stands in "
                    "the prompts of this template; rename the file, or take another template."
                )
        short = sum(len(q.demos) < self.most_shots for each in subjects.values() for q in each)
        if short:
            logging.warning(
                "%s: %d questions of %s have fewer than %d demonstrations in the data.",
                *(source, short, self.name, self.most_shots),
            )
        return subjects

    def framed(
        self, question: Question, asked: AskedModel, record: Record
    ) -> FramedQuestion | FramedLetters:
        """The question as ids, see `ChoiceBenchmark.framed`."""
        subject = self.subject_names.get(question.subject, question.subject)
        framed, text, shots = frame_question(
            *(question, self.template, asked, self.most_shots, subject),
            as_original=self.preset == ORIGINAL,
        )
        record.update(prompt=numbered(text), shots=shots)
        return framed

    def export(self, folder: Path, records: Mapping[str, Sequence[Record]]) -> None:
        """Writes the original's files; for C-Eval also `result.json`, which its server takes."""
        letters = self.template.scoring == "letters" or self.template.names_letters
        original_files.write_as_original(folder, records, self.template.blank, letters)
        if self.name == "ceval":
            original_files.write_for_ceval(folder, records)

    def scores(self, sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The scores of the options."""
        if self.template.scoring == "perplexity":
            return mean_log_likelihood(sums, tokens)
        return sums

    @property
    def normalizes(self) -> bool:
        """Whether the harness also gives an accuracy by length in characters."""
        return self.template.scoring == "likelihood" and not self.template.names_letters
