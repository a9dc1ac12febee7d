"""Where the questions of each benchmark lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.registry import BENCHMARKS
from openba_jax.paths import local

_FOLDERS = {"arc_e": ("arc_e", "arc_easy", "arc"), "arc_c": ("arc_c", "arc_challenge", "arc")}
"""What the folder of a benchmark may be called, case and punctuation aside, if not as it is."""


def places_of(questions: str | Mapping[str, str], names: Sequence[str]) -> dict[str, Path]:
    """The folder or file of each benchmark.

    Args:
      questions: a folder or file; or a folder with one folder for each benchmark, such as `MMLU`
        or `C-Eval`; or for each benchmark its own.
      names: of the benchmarks, without their templates.

    Raises:
      UserError: a benchmark has none, or the folder has those of other benchmarks alone.
    """
    if isinstance(questions, Mapping):
        missing = [name for name in names if name not in questions]
        if missing:
            raise UserError(f"QUESTIONS names no folder for {missing[0]}; add it.")
        return {name: local(questions[name]) for name in names}
    folder = local(questions)
    places = {name: _below(folder, name) or folder for name in names}
    several = {name for name, place in places.items() if place == folder}
    if several and several != set(places):
        raise UserError(
            f"{folder} has no folder for {min(several)}, and it has some for other benchmarks; "
            "add it, or name all in QUESTIONS: {'mmlu': 'FOLDER', ...}."
        )
    if several and (other := next((n for n in BENCHMARKS if _below(folder, n)), "")):
        raise UserError(
            f"{folder} has a folder for {other} and none for {min(several)}, whose questions these "
            "are not; name its own folder in QUESTIONS."
        )
    return places


def _below(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    below = {_plain(each.name): each for each in sorted(folder.iterdir()) if each.is_dir()}
    return next((below[_plain(n)] for n in _FOLDERS.get(name, (name,)) if _plain(n) in below), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
