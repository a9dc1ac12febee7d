"""Dependencies between the packages point one way, also where a function imports."""

import ast
import graphlib
from pathlib import Path

import openba_jax

ROOT = Path(openba_jax.__file__).parent


def packages_used(file: Path) -> set[str]:
    """The packages of `openba_jax` that a module imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    parts = [name.split(".") for name in names if name.startswith("openba_jax.")]
    return {part[1] for part in parts if (ROOT / part[1]).is_dir()}


def test_no_package_needs_one_that_needs_it() -> None:
    graph = {
        folder.name: set().union(*map(packages_used, folder.rglob("*.py"))) - {folder.name}
        for folder in ROOT.iterdir()
        if (folder / "__init__.py").exists()
    }
    assert graph["training"] >= {"checkpoints", "models"}  # The graph is not empty.
    order = list(graphlib.TopologicalSorter(graph).static_order())  # A cycle raises, and is named.
    assert order.index("models") < order.index("checkpoints") < order.index("training")


def test_layers_know_no_model() -> None:
    used = set().union(*map(packages_used, (ROOT / "nn").glob("*.py")))
    assert used <= {"nn", "models"}
