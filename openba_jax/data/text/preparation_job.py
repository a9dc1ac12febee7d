"""`PreparationJob`: what a preparation reads, and by which rule and vocabulary.

Manifests record it, so that a later run knows whether its work is done already.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from openba_jax.cli.progress import show_progress
from openba_jax.data.store.manifest import describe_vocabulary, manifest_path
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.documents import text_files
from openba_jax.data.text.open_files import input_sha256, input_size
from openba_jax.data.text.rules import RecordRule, describe
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError


class PreparationJob:
    """Sources, rule and vocabulary, as manifests record them.

    Within its context the files' fingerprints are computed, in a thread: hashing does not hinder
    Python, so that reading and encoding can go on meanwhile.

    Attributes:
      files: the paths of each source.
      bytes: of all files.
    """

    def __init__(
        self, sources: Sequence[TextSource], rule: RecordRule, vocabulary: Vocabulary
    ) -> None:
        """Finds the files.

        Raises:
          UserError: No file is given, or one does not exist.
          UserError: The weight of a source is not above 0.
        """
        if not any(source.files for source in sources):
            raise UserError("no input file is given; name at least one.")
        weights = [source.weight for source in sources]
        if any(weight is not None and not 0 < weight < float("inf") for weight in weights):
            raise UserError(f"sources have weights {weights}; they must be above 0.")
        self.files = [text_files(source.files) for source in sources]
        self._sizes = [[input_size(path) for path in paths] for paths in self.files]
        self.bytes = sum(map(sum, self._sizes))
        self._sources = sources
        self._parts = {"rule": describe(rule), "vocabulary": describe_vocabulary(vocabulary)}
        self._hashed = 0
        self._stop = threading.Event()
        self._executor = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self) -> PreparationJob:
        """Starts."""
        self._inputs = self._executor.submit(self._fingerprints)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops."""
        self._stop.set()
        self._executor.shutdown()

    @property
    def known(self) -> bool:
        """Whether `described` need not wait any more."""
        return self._inputs.done()

    def described(self, progress: bool = False) -> dict[str, Any]:
        """The part of a manifest that tells jobs apart; waits until all files are hashed.

        Raises:
          UserError: A file cannot be read.
        """
        if not self.known:
            told = self._hashed
            with show_progress("checking", self.bytes, "B", told, progress) as advance:
                while concurrent.futures.wait([self._inputs], 0.1).not_done:
                    told, before = self._hashed, told
                    advance(told - before)
        sources = [
            {"name": source.name, "weight": source.weight, "inputs": inputs}
            for source, inputs in zip(self._sources, self._inputs.result(), strict=True)
        ]
        return {**self._parts, "sources": sources}

    def _fingerprints(self) -> list[list[dict[str, Any]]]:
        """Path, size and sha256 of each file of each source."""
        return [
            [
                {"path": path, "bytes": size, "sha256": input_sha256(path, self._count)}
                for path, size in zip(paths, sizes, strict=True)
            ]
            for paths, sizes in zip(self.files, self._sizes, strict=True)
        ]

    def _count(self, read: int) -> None:
        self._hashed += read
        if self._stop.is_set():
            raise concurrent.futures.CancelledError


def same_job(output: Path, found: dict[str, Any], job: dict[str, Any]) -> bool:
    """Whether files found at an output are those of this job, finished and whole, or unfinished.

    Raises:
      UserError: The files are finished and belong to another job.
    """
    same = _identity(found) == _identity(job)
    if not found["complete"]:
        return same
    if not same:
        raise UserError(
            f"{manifest_path(output)} says that this output was made from other files or by "
            "another rule; choose another output or remove its files."
        )
    return all(
        (path := output.with_name(name)).is_file() and path.stat().st_size == file["bytes"]
        for name, file in found["files"].items()
    )


def _identity(manifest: dict[str, Any]) -> Any:
    """The part of a manifest that tells jobs apart."""
    sources = manifest.get("sources", ())
    vocabulary = manifest.get("vocabulary") or {}
    return (
        manifest.get("rule"),
        {name: vocabulary.get(name) for name in ("sha256", "newline")},
        [{name: source.get(name) for name in ("name", "weight", "inputs")} for source in sources],
    )
