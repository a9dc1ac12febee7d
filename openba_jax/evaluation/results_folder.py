"""What was asked already: a folder with the records of every subject, and what they hold for.

RESULTS_DIR/mmlu.ppl_5/settings.json      model, template, lengths, questions
RESULTS_DIR/mmlu.ppl_5/astronomy.jsonl    a line for each question
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Benchmark, Record, Subjects
from openba_jax.evaluation.question import Question
from openba_jax.files import json_text, write_atomically, write_json

SETTINGS = "settings.json"


class ResultsFolder:
    """The records of one benchmark."""

    def __init__(self, folder: Path, benchmark: Benchmark, settings: Mapping[str, Any]) -> None:
        """Opens a folder, or names one that is to be made.

        Args:
          folder: of all benchmarks.
          benchmark: whose records these are.
          settings: what they hold for besides the benchmark's own settings, for JSON.

        Raises:
          UserError: the folder has records for other settings, and the message names one; or
            records without settings, or it is a file.
        """
        self.path = folder / folder_name(benchmark.label)
        # As JSON gives them back.
        whole = {"benchmark": benchmark.name, **benchmark.settings, **settings}
        self._settings: dict[str, Any] = json.loads(json_text(whole, self.path))
        if (file := self.path / SETTINGS).exists():
            before = _read_json(file)
            for name in sorted({*before, *self._settings}):
                if before.get(name) != self._settings.get(name):
                    raise UserError(
                        f"{self.path} has results for {name} = {before.get(name)!r}, and now it "
                        f"is {self._settings.get(name)!r}; name another RESULTS_DIR, or remove "
                        "this folder."
                    )
        elif any(self.path.glob("*.jsonl")):
            raise UserError(
                f"{self.path} has results without {SETTINGS}, which says what they are of; name "
                "another RESULTS_DIR, or remove this folder."
            )
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; name another RESULTS_DIR, or remove it.")

    def read(self, subject: str, count: int) -> list[Record] | None:
        """The records of a subject of so many items; None where it has not been asked.

        Raises:
          UserError: they are damaged.
        """
        file = self._file(subject)
        if not file.exists():
            return None
        try:
            records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(f"{file} is damaged ({error}); remove it.") from error
        if not all(isinstance(each, dict) and "skipped" in each for each in records):
            raise UserError(f"{file} is damaged (a line is no record); remove it.")
        if len(records) != count:
            raise UserError(
                f"{file} has {len(records)} records, and there are {count} questions; remove it."
            )
        return records

    def write(self, subject: str, records: Sequence[Record]) -> None:
        """Writes the records of a subject, whole or not at all."""
        if not (self.path / SETTINGS).exists():
            write_json(self.path / SETTINGS, self._settings)
        file = self._file(subject)
        for record in records:
            json_text(record, file)  # No figure that is none.
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write_atomically(file, "".join(lines))

    def _file(self, subject: str) -> Path:
        return self.path / f"{subject}.jsonl"


def folder_name(label: str) -> str:
    """What the folder of a benchmark is called."""
    return label.replace(":", ".")


def fingerprint(subjects: Subjects) -> str:
    """A sha256 of all items of a benchmark, in hexadecimal."""
    digest = hashlib.sha256()
    for name, items in subjects.items():
        digest.update(repr((name, [_content(item) for item in items])).encode())
    return digest.hexdigest()


def _content(item: Any) -> Any:
    """An item without the place where it stands, demonstrations included."""
    if isinstance(item, Question):
        demos = tuple(_content(demo) for demo in item.demos)
        return item.text, item.options, item.answer, item.passage, demos
    return repr(item)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it.") from error
    return content if isinstance(content, dict) else {}
