"""A model measured on a benchmark: the same path for openba-eval, training and the pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import (
    TOTAL,
    Benchmark,
    Record,
    Result,
    Subjects,
    UnaskableBenchmarkError,
)
from openba_jax.evaluation.results_folder import ResultsFolder


@dataclasses.dataclass(frozen=True)
class Measured:
    """The figures of a model on a benchmark.

    Attributes:
      benchmark: its name.
      subjects: by subject.
      categories: by category of subjects; empty where the benchmark has none.
      total: over all items: a micro average.
      records: by subject.
    """

    benchmark: str
    subjects: dict[str, Result]
    categories: dict[str, Result]
    total: Result
    records: dict[str, list[Record]] = dataclasses.field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON: by subject, by category, and `TOTAL`."""
        return {
            "subjects": {name: result.as_dict() for name, result in self.subjects.items()},
            "categories": {name: result.as_dict() for name, result in self.categories.items()},
            TOTAL: self.total.as_dict(),
        }


def measure(
    benchmark: Benchmark,
    subjects: Subjects,
    asked: AskedModel,
    *,
    folder: ResultsFolder | None = None,
    progress: bool = False,
) -> Measured:
    """Asks all items, subject by subject.

    Args:
      benchmark: how to ask.
      subjects: the items that it loaded.
      asked: the model.
      folder: where records are kept: a subject that it has is not asked again. Where several
        processes take part, all subjects are asked, and the first process writes.
      progress: show a bar on a terminal.

    Raises:
      UnaskableBenchmarkError: no item can be asked.
      UserError: what the model answers is not finite, or records are damaged.
    """
    records: dict[str, list[Record]] = {}
    if folder is not None and jax.process_count() == 1:
        kept = {name: folder.read(name, len(items)) for name, items in subjects.items()}
        records = {name: each for name, each in kept.items() if each is not None}
        for name, each in records.items():
            try:
                benchmark.result(each)
            except (KeyError, TypeError, IndexError, AttributeError) as error:
                raise UserError(
                    f"the records of {name} in {folder.path} are damaged ({error!r}); remove them."
                ) from error
    total, done = sum(map(len, subjects.values())), sum(map(len, records.values()))
    shown = progress and jax.process_index() == 0
    with show_progress(benchmark.label, total, "question", done, shown) as advance:
        for name, items in subjects.items():
            if name in records:
                continue
            records[name] = benchmark.answers(items, asked, advance)
            if folder is not None and jax.process_index() == 0:
                folder.write(name, records[name])
    return summarize(benchmark, {name: records[name] for name in subjects})


def summarize(benchmark: Benchmark, records: dict[str, list[Record]]) -> Measured:
    """The figures of the records of all subjects.

    Raises:
      UnaskableBenchmarkError: no item could be asked.
    """
    every = [record for each in records.values() for record in each]
    if all(record["skipped"] is not None for record in every):
        raise UnaskableBenchmarkError(
            f"none of the {len(every)} questions of {benchmark.label} can be asked; see the "
            "warnings, and give larger TASK_FEATURE_LENGTHS if they are too long."
        )
    by_category: dict[str, list[Record]] = {}
    for name, each in records.items():
        for category in benchmark.categories.get(name, ()):
            by_category.setdefault(category, []).extend(each)
    return Measured(
        benchmark.label,
        {name: benchmark.result(each) for name, each in records.items()},
        {name: benchmark.result(each) for name, each in by_category.items()},
        benchmark.result(every),
        records,
    )
