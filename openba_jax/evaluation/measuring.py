"""A model measured on a benchmark: the same path for openba-eval, training and the pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import TOTAL, Benchmark, Record, Result, Subjects


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of a model on a benchmark.

    Attributes:
      benchmark: its name.
      subjects: by subject.
      categories: by category of subjects; empty where the benchmark has none.
      total: over all items: a micro average.
    """

    benchmark: str
    subjects: dict[str, Result]
    categories: dict[str, Result]
    total: Result

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON: by subject, by category, and `TOTAL`."""
        return {
            "subjects": {name: result.as_dict() for name, result in self.subjects.items()},
            "categories": {name: result.as_dict() for name, result in self.categories.items()},
            TOTAL: self.total.as_dict(),
        }


def measure(benchmark: Benchmark, subjects: Subjects, asked: AskedModel) -> Measured:
    """Asks all items, subject by subject.

    Args:
      benchmark: how to ask.
      subjects: the items that it loaded.
      asked: the model.

    Raises:
      UserError: no item can be asked, or what the model answers is not finite.
    """
    records = {name: benchmark.answers(items, asked) for name, items in subjects.items()}
    return summarize(benchmark, records)


def summarize(benchmark: Benchmark, records: dict[str, list[Record]]) -> Measured:
    """The figures of the records of all subjects.

    Raises:
      UserError: no item could be asked.
    """
    every = [record for each in records.values() for record in each]
    if all(record["skipped"] is not None for record in every):
        raise UserError(
            f"none of the {len(every)} questions of {benchmark.name} can be asked; see the "
            "warnings, and give larger TASK_FEATURE_LENGTHS if they are too long."
        )
    by_category: dict[str, list[Record]] = {}
    for name, each in records.items():
        if (category := benchmark.categories.get(name)) is not None:
            by_category.setdefault(category, []).extend(each)
    return Measured(
        benchmark.name,
        {name: benchmark.result(each) for name, each in records.items()},
        {name: benchmark.result(each) for name, each in by_category.items()},
        benchmark.result(every),
    )
