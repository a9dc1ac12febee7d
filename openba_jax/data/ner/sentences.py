"""Sentences with labels: read from CoNLL columns and from GNER's JSON."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from openba_jax.data.ner.prompts import answer, labels_of, prompt
from openba_jax.errors import UserError

SEED = 1234
"""Of the order in which types are named; GNER trains with it."""

LABEL_FILE = "label.txt"
JSON = (".json", ".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence.

    Attributes:
      words: its words.
      labels: `O`, `B-TYPE` or `I-TYPE` for each.
      types: those that the prompt names, in its order.
      dataset: where it comes from.
      prompt: what a model is asked.
      place: where it stands, for messages.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...]
    types: tuple[str, ...]
    dataset: str
    prompt: str
    place: str

    @property
    def answer(self) -> str:
        """What a model should answer."""
        return answer(self.words, self.labels)


def read(source: Path, split: str, name_dataset: bool = False) -> dict[str, list[Sentence]]:
    """Reads sentences by data set.

    Args:
      source: a folder of columns, with `SPLIT.txt` and `label.txt`; a folder of such folders, each
        a data set; a JSON file of GNER, or a folder of them.
      split: name of the files of columns, such as `test`.
      name_dataset: prompts that are made here name the data set.

    Raises:
      UserError: there is nothing of all that, a file cannot be read, or a sentence is malformed;
        the message names the file and the line or record.
    """
    if source.is_file():
        return _by_dataset([source])
    column_file = f"{split}.txt"
    folders = [source, *sorted(source.glob("*"))] if source.is_dir() else []
    folders = [folder for folder in folders if (folder / column_file).is_file()]
    files = sorted(source.glob("*")) if source.is_dir() else []
    files = [file for file in files if file.is_file() and file.name.lower().endswith(JSON)]
    if folders and files:
        raise UserError(f"{source} has both columns and JSON; keep them in folders of their own.")
    if folders:
        return {folder.name: read_columns(folder, split, name_dataset) for folder in folders}
    if files:
        return _by_dataset(files)
    raise UserError(
        f"{source} has no sentences: neither {column_file} with {LABEL_FILE}, in it or in its "
        "folders, nor a JSON file of GNER."
    )


def read_columns(folder: Path, split: str, name_dataset: bool = False) -> list[Sentence]:
    """Reads a data set of columns: `word TAB ... TAB label`, with a blank line behind a sentence.

    Types are named in another order for each sentence, as GNER does it: shuffled in place, again
    and again. The order is the same in each run.

    Raises:
      UserError: a file is missing or malformed, or has no sentence.
    """
    types = [line.strip() for line in _lines(folder / LABEL_FILE) if line.strip()]
    if not types or "O" in types:
        raise UserError(f"{folder / LABEL_FILE} names no types, one a line and without O; mend it.")
    path = folder / f"{split}.txt"
    shuffle = random.Random(SEED).shuffle
    known, unknown = set(labels_of(types)), 0
    found = []
    for number, words, labels in _column_sentences(path):
        shuffle(types)
        place = f"{path} line {number}"
        strange = [label for label in labels if label not in known]
        if strange and not unknown:
            logging.warning("%s: %s has no type in %s.", place, strange[0], LABEL_FILE)
        unknown += len(strange)
        named = folder.name if name_dataset else ""
        text = prompt(words, types, named)
        found.append(Sentence(words, labels, tuple(types), folder.name, text, place))
    if unknown:
        logging.warning("%s: %d labels have no type in %s.", path, unknown, LABEL_FILE)
    if not found:
        raise UserError(f"{path} has no sentence.")
    return found


def read_json(path: Path) -> list[Sentence]:
    """Reads GNER's records: one JSON object a line, or a list of them.

    Raises:
      UserError: the file cannot be read, or a record is malformed.
    """
    found = [_sentence(record, place) for place, record in _records(path)]
    if not found:
        raise UserError(f"{path} has no sentence.")
    return found


def _by_dataset(files: list[Path]) -> dict[str, list[Sentence]]:
    found: dict[str, list[Sentence]] = {}
    for path in files:
        for sentence in read_json(path):
            found.setdefault(sentence.dataset, []).append(sentence)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; convert it.") from error


def _lines(path: Path) -> list[str]:
    # Not `splitlines`: a word may be a sign at which that divides.
    return [line.rstrip("\r") for line in _text(path).split("\n")]


def _column_sentences(path: Path) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """The number of the first line, words and labels."""
    rows: list[tuple[str, str]] = []
    lines = _lines(path)
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            columns = line.split("\t")
            if len(columns) < 2 or not columns[0].strip() or not columns[-1].strip():
                raise UserError(
                    f"{path} line {number} is {line!r:.60}; a word and its label are expected, "
                    "with a tab between."
                )
            rows.append((columns[0], columns[-1].strip()))
        elif rows:
            words, labels = zip(*rows, strict=True)
            yield number - len(rows), words, labels
            rows = []


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    text = _text(path)
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}.") from error
        yield from ((f"{path} record {n}", record) for n, record in enumerate(whole, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path} line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number} is not JSON: {error}.") from error


def _sentence(record: Any, place: str) -> Sentence:
    instance = record.get("instance") if isinstance(record, Mapping) else None
    if not isinstance(instance, Mapping):
        raise UserError(f"{place} is no record of GNER; an object with 'instance' is expected.")
    words, labels = (_texts(instance, name, place) for name in ("words", "labels"))
    if len(words) != len(labels) or not words:
        raise UserError(f"{place} has {len(words)} words and {len(labels)} labels; mend it.")
    types = _texts(record, "label_list", place)
    asked = instance.get("instruction_inputs") or prompt(words, types)
    dataset = record.get("dataset") or "ner"
    if not isinstance(asked, str) or not isinstance(dataset, str):
        raise UserError(f"{place}: 'instruction_inputs' and 'dataset' must be text.")
    return Sentence(words, labels, types, dataset, asked, place)


def _texts(fields: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UserError(f"{place}: {name!r} is {value!r:.60}; a list of texts is expected.")
    return tuple(value)
