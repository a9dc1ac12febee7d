"""The structure: dependencies point one way, families keep to their folders, files are readable."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

import openba_jax

ROOT = Path(openba_jax.__file__).parent
ROOMS = sorted(folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").exists())
MAX_LINES = 500
MAX_FILES = 13

ORDER = (
    *("language", "plotting", "nn", "models", "parallel", "objectives", "data", "checkpoints"),
    *(
        "inference",
        "evaluation",
        "pruning",
        "distillation",
        "training",
        "fit",
        "report",
        "staged",
        "study",
    ),
    *("search", "serving", "inspect"),
)
"""A room may use those before it; `seqio` and `t5x` are bridges, which nothing else uses."""


def packages_used(file: Path) -> set[str]:
    """The packages of `openba_jax` that a module imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    parts = [name.split(".") for name in names if name.startswith("openba_jax.")]
    return {part[1] for part in parts if part[1] in ROOMS}


GRAPH = {
    room: set().union(*map(packages_used, (ROOT / room).rglob("*.py"))) - {room} for room in ROOMS
}


def test_no_room_needs_one_that_needs_it() -> None:
    assert GRAPH["training"] >= {"checkpoints", "models"}  # The graph is not empty.
    list(graphlib.TopologicalSorter(GRAPH).static_order())  # A cycle raises, and is named.


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_use_those_below(room: str) -> None:
    below = ORDER[: ORDER.index(room)] if room in ORDER else ORDER
    bridges = {"seqio"} if room == "t5x" else set()
    assert GRAPH[room] <= {*below, "cli", *bridges}, room


def test_layers_know_no_model() -> None:
    assert not GRAPH["nn"]


def test_a_family_is_known_in_its_folder_alone() -> None:
    families = [folder.name for folder in (ROOT / "models").iterdir() if folder.is_dir()]
    pattern = re.compile(rf"openba_jax\.models\.({'|'.join(families)})\b|OpenBAConfig")
    for file in ROOT.rglob("*.py"):
        place = file.relative_to(ROOT).as_posix()
        if place == "models/registry.py" or place.startswith(
            tuple(f"models/{f}/" for f in families)
        ):
            continue
        assert not pattern.search(file.read_text(encoding="utf-8")), place


def test_files_and_rooms_can_be_read_in_one_sitting() -> None:
    for file in ROOT.rglob("*.py"):
        lines = file.read_text(encoding="utf-8").count("\n")
        assert lines < MAX_LINES, f"{file.relative_to(ROOT)} has {lines} lines"
    for folder in (ROOT, *(path for path in ROOT.rglob("*") if path.is_dir())):
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= MAX_FILES, f"{folder.relative_to(ROOT.parent)} has {len(files)} files"
