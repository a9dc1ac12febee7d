"""Runs the tests of T5X and prints, as a row of docs/t5x.md, with which versions they did what.

python scripts/t5x_versions.py
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from openba_jax.t5x.requirement import COMMIT

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "seqio", "clu", "grain", "tensorflow")


def t5x_commit() -> str:
    """The commit of the checkout that Python finds, or the one that the tests are written for."""
    import t5x

    done = subprocess.run(
        ["git", "-C", str(Path(t5x.__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.strip() or f"{COMMIT} (assumed)"
    return found[:7] + found[40:]


def main() -> int:
    """Prints the row; the exit status is that of the tests."""
    tests = Path(__file__).resolve().parent.parent / "tests" / "t5x"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--show-capture=no", "--tb=no", str(tests)],
        capture_output=True,
        text=True,
        check=False,
    )
    summary = [line for line in done.stdout.splitlines() if line.strip()][-1]
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|skipped|errors?)", summary))
    print("| T5X | Python |", " | ".join(PACKAGES), "| tests |")
    print("|---" * (len(PACKAGES) + 3) + "|")
    versions = " | ".join(metadata.version(package) for package in PACKAGES)
    print(f"| {t5x_commit()} | {platform.python_version()} | {versions} | {counts} |")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
