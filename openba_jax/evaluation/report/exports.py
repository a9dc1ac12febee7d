"""Answers in the files of the original's programs, and in the form of C-Eval's server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.evaluation.benchmarks.base import Record
from openba_jax.evaluation.score import LETTERS
from openba_jax.files import write_atomically, write_json


def write_as_original(
    folder: Path, records: Mapping[str, Sequence[Record]], blank: bool, names_letters: bool
) -> None:
    """Writes `SUBJECT.json` for each subject: JSON lines of `enc`, `dec`, `gold`, `pred`.

    Args:
      folder: where to.
      records: of the subjects.
      blank: a blank stands before the sentinel of prompts.
      names_letters: the decoder says a letter, not an option.
    """
    for subject, each in records.items():
        lines = [
            json.dumps(_line(record, blank, names_letters), ensure_ascii=False) + "\n"
            for record in each
        ]
        write_atomically(folder / f"{subject}.json", "".join(lines))


def write_for_ceval(folder: Path, records: Mapping[str, Sequence[Record]]) -> None:
    """Writes `result.json`: subject -> number of the question -> letter; those skipped have none.

    Args:
      folder: where to.
      records: of the subjects.
    """
    answers = {
        subject: {
            str(number): LETTERS[record["choice"]]
            for number, record in enumerate(each)
            if record["choice"] is not None
        }
        for subject, each in records.items()
    }
    write_json(folder / "result.json", answers)


def _line(record: Record, blank: bool, names_letters: bool) -> dict[str, Any]:
    text = record.get("prompt", record["question"])
    options = [""] if names_letters else record["options"]
    return {
        "enc": f"<S> {text}{' ' if blank else ''}<extra_id_0>",
        "dec": [f"<extra_id_0> {option}" for option in options],
        "gold": LETTERS[record["gold"]],
        "pred": None if record["choice"] is None else LETTERS[record["choice"]],
    }
