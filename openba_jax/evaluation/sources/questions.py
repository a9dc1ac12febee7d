"""The questions of a benchmark by subject, each with the demonstrations that may be shown."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.sources import openba_json
from openba_jax.evaluation.sources.schemas import question_of
from openba_jax.evaluation.sources.tables import (
    SPLITS,
    Table,
    kind_of,
    question_files,
    read_tables,
)

LONGEST_SUBJECT = 200
"""Bytes of the name of a subject, after which files of results are called."""

SEED = 42
"""With which the original draws demonstrations."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What of a source is read.

    Attributes:
      name: of the benchmark, and of the subject where the source names none.
      options: how many options a question may have.
      split: which is asked.
      demo_splits: the first of these that is there gives demonstrations.
      demos: how many demonstrations a question may have.
      drawn: they are drawn as the original does, `random.sample` with the seed 42; else they are
        the first.
      file_pattern: what the names of the files of this benchmark, or of folders above them, match,
        where a folder holds those of several.
      other_pattern: what those of another benchmark match, which are not read.
    """

    name: str
    options: tuple[int, ...]
    split: str = "test"
    demo_splits: tuple[str, ...] = ("dev",)
    demos: int = 5
    drawn: bool = False
    file_pattern: str = ""
    other_pattern: str = ""


def read_questions(source: Path, reading: Reading) -> dict[str, list[Question]]:
    """Reads the questions.

    Args:
      source: a folder or a file.
      reading: what of it is read.

    Returns:
      Subject -> questions.

    Raises:
      UserError: there are none, files are of several kinds or not UTF-8, or a question is
        malformed or has another number of options; the message names it.
    """
    kind = kind_of(source)
    files = _own(question_files(source), source, reading)
    if kind == ".json":
        subjects = _from_json(files, source, reading)
    else:
        subjects = _from_tables(read_tables(source, files), source, reading)
    for questions in subjects.values():
        for question in questions:
            _check_options(question, reading)
    for name in subjects:
        if "/" in name or "\0" in name or len(name.encode()) > LONGEST_SUBJECT:
            raise UserError(
                f"{source}: the subject {name!r:.60} cannot name a file of results; rename it, "
                f"without '/' and within {LONGEST_SUBJECT} bytes."
            )
    if TOTAL in subjects:
        raise UserError(f"{source}: {TOTAL} is the name of the figures over all subjects; rename.")
    return subjects


def _own(files: Sequence[Path], source: Path, reading: Reading) -> list[Path]:
    """The files of the benchmark, where the folder may hold those of another one."""
    if not reading.file_pattern:
        return list(files)

    def matching(pattern: str) -> list[Path]:
        names = {
            file: str(file.relative_to(source.parent if source.is_file() else source))
            for file in files
        }
        return [file for file in files if re.search(pattern, names[file], re.IGNORECASE)]

    others = set(matching(reading.other_pattern))
    own = matching(reading.file_pattern) or [file for file in files if file not in others]
    if files and not own:
        raise UserError(
            f"{source} has no file of {reading.name}; {files[0]} is of another benchmark; name a "
            "folder that has some, or leave this benchmark out."
        )
    return own


def _from_json(files: Sequence[Path], source: Path, reading: Reading) -> dict[str, list[Question]]:
    subjects: dict[str, list[Question]] = {}
    for file in files:
        name = _without_split(file.stem)
        if name in subjects:
            raise UserError(f"{source} has two files of the subject {name}; keep one of them.")
        questions = openba_json.read_questions(file)
        subjects[name] = [dataclasses.replace(each, subject=name) for each in questions]
    return subjects


def _from_tables(
    tables: Sequence[Table], source: Path, reading: Reading
) -> dict[str, list[Question]]:
    by_split: dict[str, dict[str, list[Question]]] = {}
    for table in tables:
        for place, fields in table.rows:
            subject = fields.get("subject") or table.subject or reading.name
            question = dataclasses.replace(question_of(fields, place), subject=str(subject))
            by_split.setdefault(table.split, {}).setdefault(str(subject), []).append(question)
    split = next(iter(by_split)) if len(by_split) == 1 else reading.split
    if split not in by_split:
        found = ", ".join(name or "unnamed" for name in by_split)
        raise UserError(
            f"{source} has the splits {found}, and {reading.name} asks {reading.split}; name a "
            "folder or a file that has it."
        )
    shown = next((by_split[name] for name in reading.demo_splits if name in by_split), {})
    return {
        subject: [
            dataclasses.replace(question, demos=demos)
            for demos in [_demos(shown.get(subject, []), reading)]
            for question in questions
        ]
        for subject, questions in by_split[split].items()
    }


def _demos(questions: Sequence[Question], reading: Reading) -> tuple[Question, ...]:
    count = min(reading.demos, len(questions))
    if reading.drawn:
        return tuple(random.Random(SEED).sample(list(questions), count))
    return tuple(questions[:count])


def _check_options(question: Question, reading: Reading) -> None:
    for each in (question, *question.demos):
        if len(each.options) not in reading.options:
            allowed = " or ".join(map(str, reading.options))
            raise UserError(
                f"{each.place} has {len(each.options)} options where {allowed} are expected by "
                f"{reading.name}."
            )


def _without_split(name: str) -> str:
    """The name of a file without the split that ends it."""
    match = re.fullmatch(rf"(.+)_({'|'.join(SPLITS)})", name)
    return match[1] if match else name
