"""Run folders, read for a report."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.training.records import metrics

CONFIG = "config.gin"
"""In a model folder: the settings of the run's last start."""

STEPS, TOKENS = "steps", "tokens"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run has written down.

    Attributes:
      name: by which a report tells it from others.
      folder: its model folder.
      records: by split, in the order of their steps.
    """

    name: str
    folder: Path
    records: Mapping[str, Sequence[Mapping[str, Any]]]

    def series(self, split: str, key: str, over: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of a key over steps or tokens: float64 `[n]` twice.

        Args:
          split: whose records.
          key: the name of the value; records without it, or without a number, are passed over.
          over: `STEPS` or `TOKENS`.
        """
        found = [
            (record["step"], record[key])
            for record in self.records.get(split, ())
            if isinstance(record.get(key), int | float)
        ]
        steps, values = np.array(found, np.float64).reshape(-1, 2).T
        return (steps if over == STEPS else self.tokens_at(steps)), values

    def tokens_at(self, steps: np.ndarray) -> np.ndarray:
        """Tokens that were seen by some steps; between records they grow evenly."""
        train = self.records.get("train", ())
        known = np.array([(0, 0), *((r["step"], r["tokens"]) for r in train)], np.float64)
        return np.interp(steps, *known.T)

    def last(self, split: str, key: str) -> float | None:
        """The last value of a key, None where there is none."""
        _, values = self.series(split, key, STEPS)
        return float(values[-1]) if len(values) else None

    def typical(self, split: str, key: str) -> float | None:
        """The median of the values of a key, None where there is none."""
        _, values = self.series(split, key, STEPS)
        return float(np.median(values)) if len(values) else None

    @property
    def step(self) -> int:
        """The last step that it has written of."""
        return max(record["step"] for records in self.records.values() for record in records)

    @functools.cached_property
    def tasks(self) -> Mapping[str, str]:
        """The tasks with losses of their own, and the split that these are in.

        D-UL2 measures its denoisers on held-out batches; of other mixtures the losses are those of
        training (`TASK_LOSSES`).
        """
        found: dict[str, str] = {}
        for split in ("denoisers", "train"):
            for record in self.records.get(split, ()):
                for key in record:
                    if key.startswith("loss/"):
                        found.setdefault(key.removeprefix("loss/"), split)
        return found

    @functools.cached_property
    def settings(self) -> Mapping[str, str]:
        """What `config.gin` binds; nothing where there is none."""
        path = self.folder / CONFIG
        if not path.is_file():
            return {}
        return dict(_bindings(path.read_text(encoding="utf-8")))


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Reads run folders.

    Raises:
      UserError: a folder is no run, has no record yet, cannot be read, or is named twice.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not (path / metrics.METRICS).is_file():
            what = f"has no {metrics.METRICS}" if path.is_dir() else "is no folder"
            raise UserError(f"{path} is no run of openba-train: it {what}; name a MODEL_DIR.")
    places = [path.resolve() for path in paths]
    if twice := next((p for n, p in enumerate(places) if p in places[:n]), None):
        raise UserError(f"{twice} is named twice; name every run once.")
    runs = []
    for name, path in zip(_short_names(places), paths, strict=True):
        records: dict[str, list[Mapping[str, Any]]] = {}
        for file in (metrics.METRICS, metrics.SPEED):
            for record in metrics.read(path / file):
                records.setdefault(record["split"], []).append(record)
        if not records:
            raise UserError(f"{path} has no record yet; wait until its run has begun.")
        runs.append(Run(name, path, records))
    return runs


def _short_names(places: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    for length in range(1, max(len(place.parts) for place in places)):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _bindings(text: str) -> list[tuple[str, str]]:
    """Names and values of a configuration as gin prints it; lines that go on are indented."""
    joined = re.sub(r"\\?\n[ \t]+", " ", text)
    found = re.findall(r"^([\w./]+) = (.*)$", joined, re.MULTILINE)
    return [(name, " ".join(value.split())) for name, value in found]
