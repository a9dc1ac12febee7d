"""What made a figure: the code and the machine, so that figures of two can be told apart."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from openba_jax.version import __version__


def origin() -> dict[str, str]:
    """The code and the machine of this process, ready for JSON.

    Returns:
      `openba_jax`: its version, with the commit where it runs from a clone, and `+changes` where
      files of that were edited; `jax`: its version; `devices`: how many and which; `machine`: the
      processor.
    """
    devices = jax.devices()
    return {
        "openba_jax": __version__ + _commit(),
        "jax": jax.__version__,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "machine": _processor(),
    }


def sentences(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each origin that cells have: which it is, and of how many cells where there are more."""
    counts: dict[str, int] = {}
    for cell in cells:
        known = cell.get("origin")
        text = (
            "openba_jax {openba_jax}, jax {jax}, {devices}, {machine}".format(**known)
            if known
            else "code and machine that were not written down"
        )
        counts[text] = counts.get(text, 0) + 1
    if len(counts) < 2:
        return [f"Made by {text}." for text in counts]
    return [f"{number} cells were made by {text}." for text, number in counts.items()]


def _commit() -> str:
    """Of the clone that this file lies in; nothing where it lies in none."""
    folder = Path(__file__).resolve().parent
    try:
        tracked = _git(folder, "ls-files", "--error-unmatch", "origin.py")
        described = _git(folder, "describe", "--always", "--exclude=*", "--dirty=+changes")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({described})" if tracked else ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())
