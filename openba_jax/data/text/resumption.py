"""`Progress`: how far a preparation has come, in memory and, to resume from, on the disk."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging

from openba_jax.data.store.manifest import sibling
from openba_jax.data.text.chunks import Position
from openba_jax.files import write_atomically

NUMBERS = (
    "documents",
    "empty_documents",
    "too_long",
    "bad_items",
    "special_tokens",
    "pairs",
    "tokens",
    "dropped_tokens",
)


class Progress:
    """Everything that the rest of the work depends on.

    Attributes:
      output: prefix of the store; the progress is saved in `OUTPUT.progress`.
      position: where to read on.
      read: bytes of the inputs read so far.
      numbers: counts of each source.
      bad: what is wrong with the first items that could not be used.
      frequencies: how often each id occurs in the store, int64 `[ids]`.
      in_batch: lines of the batch so far.
      rest: their ids that do not fill a group yet, int32.
      mark: how long the writer's files were.
      saved: whether the progress was ever saved.
    """

    def __init__(self, output: Path, token_count: int, sources: int) -> None:
        """The beginning."""
        self.output = output
        self.position = Position()
        self.read = 0
        self.numbers = [dict.fromkeys(NUMBERS, 0) for _ in range(sources)]
        self.bad: list[str] = []
        self.frequencies = np.zeros(token_count, np.int64)
        self.in_batch = 0
        self.rest = np.zeros(0, np.int32)
        self.mark: Mapping[str, int] = {}
        self.saved = False

    @property
    def path(self) -> Path:
        """The file."""
        return sibling(self.output, ".progress")

    def count(self, source: int, ids: np.ndarray, pairs: int) -> None:
        """Counts pairs of a source that were written: int32 `[tokens]`."""
        self.frequencies += np.bincount(ids, minlength=len(self.frequencies))
        self.numbers[source]["pairs"] += pairs
        self.numbers[source]["tokens"] += len(ids)

    def total(self, number: str) -> int:
        """A number of all sources together."""
        return sum(numbers[number] for numbers in self.numbers)

    def save(self, mark: Mapping[str, int]) -> None:
        """Saves everything, at once; `mark` is the writer's, already on the disk."""
        self.mark = mark
        values = {
            "position": dataclasses.asdict(self.position),
            "read": self.read,
            "numbers": self.numbers,
            "bad": self.bad,
            "in_batch": self.in_batch,
            "mark": dict(mark),
        }
        file = io.BytesIO()
        text = json.dumps(values).encode()
        array = np.frombuffer(text, np.uint8)
        np.savez(file, values=array, frequencies=self.frequencies, rest=self.rest)
        write_atomically(self.path, file.getvalue())
        self.saved = True

    def load(self) -> bool:
        """Takes up what was saved; False if nothing was, or it cannot be read."""
        if not self.path.exists():
            return False
        try:
            with np.load(self.path) as file:
                values = json.loads(file["values"].tobytes())
                arrays = file["frequencies"], file["rest"]
            position = Position(**values["position"])
            numbers = [values[name] for name in ("read", "numbers", "bad", "in_batch", "mark")]
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            logging.warning("%s is damaged or of another version; starting anew.", self.path)
            return False
        self.position = position
        self.frequencies, self.rest = arrays
        self.read, self.numbers, self.bad, self.in_batch, self.mark = numbers
        self.saved = True
        return True

    def remove(self) -> None:
        """Forgets what was saved."""
        self.path.unlink(missing_ok=True)
        self.saved = False
