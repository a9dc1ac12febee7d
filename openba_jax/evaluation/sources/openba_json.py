"""Multiple-choice questions in OpenBA's JSON format.

A folder has one file per subject, `SUBJECT.json`: a list of
`{"demo": [...], "data": {"question": ..., "res1": ..., "res2": ..., "ans": "B"}}` with two to five
options, of which `ans` names the right one by its letter. Demonstrations have the fields of `data`
(docs/original.md, Evaluation).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.score import LETTERS


def load(folder: Path) -> dict[str, list[Question]]:
    """Reads all `*.json` of a folder and below it, or one file; each is a subject of its name.

    Raises:
      UserError: the folder has no `*.json` or two of one name, or a file cannot be read or is no
        list of questions; the message names the file and the number of the question, counted
        from 1.
    """
    below = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    files = [file for file in below if file.is_file() and file.suffix.lower() == ".json"]
    if not files:
        raise UserError(f"{folder} holds no question file (*.json).")
    subjects: dict[str, list[Question]] = {}
    for file in files:
        name = _subject(file)
        if name in subjects:
            raise UserError(f"{folder} has two files of the subject {name}; keep one of them.")
        subjects[name] = read_questions(file)
    return subjects


def read_questions(path: Path) -> list[Question]:
    """Reads one subject.

    Raises:
      UserError: the file cannot be read, or is no list of questions.
    """
    try:
        items = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; convert it.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    if not isinstance(items, list) or not items:
        raise UserError(f"{path} holds no question; a list of questions is expected.")
    return [
        _item(item, f"{path} question {number}", path.stem)
        for number, item in enumerate(items, start=1)
    ]


def _subject(file: Path) -> str:
    if file.stem == TOTAL:
        raise UserError(f"{file}: {TOTAL} is the name of the figures over all files; rename it.")
    return file.stem


def _item(item: Any, place: str, subject: str) -> Question:
    fields = item.get("data") if isinstance(item, Mapping) else None
    if not isinstance(fields, Mapping):
        raise UserError(
            f"{place} is no question: an object with 'data' is expected, which holds 'question', "
            "'res1', 'res2', ... and 'ans'."
        )
    shown = item.get("demo") or []
    if not isinstance(shown, list) or not all(isinstance(demo, Mapping) for demo in shown):
        raise UserError(f"{place}: 'demo' is {_shown(shown)}; it must be a list of questions.")
    demos = tuple(
        _question(demo, f"{place} demo {number}", subject, ())
        for number, demo in enumerate(shown, start=1)
    )
    return _question(fields, place, subject, demos)


def _question(
    fields: Mapping[str, Any], place: str, subject: str, demos: tuple[Question, ...]
) -> Question:
    text = fields.get("question")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: 'question' is {_shown(text)}; it must be text.")
    options = tuple(_options(fields, place))
    answer = fields.get("ans")
    letters = LETTERS[: len(options)]
    if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
        raise UserError(
            f"{place}: 'ans' is {_shown(answer)}; it must be one of the letters "
            f"{', '.join(letters)}, as there are {len(options)} options."
        )
    return Question(text, options, letters.index(answer), place, demos, subject=subject)


def _options(fields: Mapping[str, Any], place: str) -> list[str]:
    found = {name for name in fields if re.fullmatch(r"res\d+", name)}
    names = [f"res{number}" for number in range(1, len(found) + 1)]
    if found != set(names) or not 2 <= len(names) <= len(LETTERS):
        raise UserError(
            f"{place} has the options {', '.join(sorted(found)) or 'none'}; 'res1' to at least "
            f"'res2' and at most 'res{len(LETTERS)}' are expected, with none left out."
        )
    if fields.get("opt_num", len(names)) != len(names):
        raise UserError(
            f"{place} has {len(names)} options, and 'opt_num' is {_shown(fields['opt_num'])}."
        )
    for name in names:
        value = fields[name]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"{place}: {name!r} is {_shown(value)}; it must be text.")
    return [str(fields[name]) for name in names]


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.60}"
