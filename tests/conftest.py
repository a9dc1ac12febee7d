"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

# Tests must not depend on an accelerator that happens to be there, nor take all of its memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile hundreds of small programs and run each a few times: compile five times faster.
_XLA_FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Later XLA lacks the flag, and ends the process at a flag that it does not know.
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS])

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden data beside the checkout; tests that need it are skipped without it."""
    folder = Path(os.environ.get("OPENBA_SHARED_DIR", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"golden data is not at {folder}; set OPENBA_SHARED_DIR to its folder")
    return folder
