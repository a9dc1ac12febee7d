"""Scores on disk: computed once, on a machine that holds the model, and cut by anywhere.

`scores.npz` holds an array for each key of the model's axes, and JSON under `about`: the criterion
of each key, where the text came from, and the fingerprint of the checkpoint. It lies beside the
plan of what was cut by it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.files import atomic_path
from openba_jax.pruning.criteria.base import Scores, check_scores

FILE = "scores.npz"
_ABOUT = "about"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SavedScores:
    """Scores, and what they are of.

    Attributes:
      scores: by key.
      methods: the criterion of each key.
      fingerprint: of the checkpoint, see `fingerprint`.
      text: where the calibration text came from; empty if none was looked at.
    """

    scores: Scores
    methods: Mapping[str, str]
    fingerprint: str
    text: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes the file; it appears whole."""
        about = {
            "version": _VERSION,
            "methods": dict(self.methods),
            "fingerprint": self.fingerprint,
            "text": dict(self.text),
        }
        arrays = {key.replace("/", "."): values for key, values in self.scores.items()}
        arrays[_ABOUT] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def criteria_of(self, keys: Sequence[str], where: Path) -> dict[str, str]:
        """The criterion that made the scores of each of some keys.

        Raises:
          UserError: the file, `where`, has no scores of a key.
        """
        self._check(keys, where)
        return {key: self.methods[key] for key in keys}

    def of(self, method: str, keys: Sequence[str], where: Path) -> Scores:
        """The scores of some keys by a criterion.

        Args:
          method: name of the criterion.
          keys: of the model's axes.
          where: the file, for messages.

        Raises:
          UserError: the file has no scores of a key, or has them by another criterion.
        """
        self._check(keys, where)
        for key in keys:
            if (found := self.methods[key]) != method:
                raise UserError(
                    f"{where} scores {key} by {found}, and {method} is asked for; name {found}, or "
                    "other scores."
                )
        return {key: self.scores[key] for key in keys}

    def _check(self, keys: Sequence[str], where: Path) -> None:
        for key in keys:
            if key not in self.scores:
                raise UserError(f"{where} has no scores of {key}; it has {', '.join(self.scores)}.")


def load(path: Path, checkpoint: Checkpoint, source: Path) -> SavedScores:
    """Reads scores of a checkpoint.

    Args:
      path: the file.
      checkpoint: what is to be cut.
      source: where it lies, for messages.

    Raises:
      UserError: the file is missing, is no file of scores, holds a score that is not finite or of
        another shape, or is of another checkpoint.
    """
    found = read(path)
    if found.fingerprint != fingerprint(checkpoint):
        raise UserError(
            f"{path} has the scores of another checkpoint than {source}; score that one."
        )
    check_scores(str(path), found.scores)
    return found


def read(path: Path) -> SavedScores:
    """Reads scores, of whatever checkpoint.

    Raises:
      UserError: the file is missing, or is no file of scores.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(bytes(arrays.pop(_ABOUT)))
        methods, text = about["methods"], about["text"]
        known = about["version"] == _VERSION
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; name a file of scores.") from error
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is no file of scores.") from error
    scores = {name.replace(".", "/"): values for name, values in arrays.items()}
    if not known or set(scores) != set(methods):
        raise UserError(f"{path} is of another version; make it again.")
    return SavedScores(scores, methods, about["fingerprint"], text)


def fingerprint(checkpoint: Checkpoint) -> str:
    """A digest of a checkpoint's configuration and of all its parameters, whatever its format."""
    digest = hashlib.sha256()
    model = checkpoint.model
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    leaves = model.axes.leaves()
    with show_progress("reading the checkpoint for its fingerprint", len(leaves)) as advance:
        for leaf in leaves:
            values = np.ascontiguousarray(checkpoint.read(leaf))
            digest.update(f"{leaf} {values.dtype} {values.shape}".encode())
            digest.update(values.view(np.uint8).data if values.ndim else values.tobytes())
            advance(1)
    return digest.hexdigest()
