"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

# Tests must not depend on an accelerator that happens to be there, nor take all of its memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["OPENBA_LANGUAGE"] = "en"  # Whatever the locale of the machine.
# Tests compile hundreds of small programs and run each a few times: compile five times faster.
_XLA_FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Later XLA lacks the flag, and ends the process at a flag that it does not know.
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS])

# Programs that several tests, or processes that they start, have in common are compiled once; the
# workers of pytest-xdist get the folder from the process that starts them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = tempfile.mkdtemp(prefix="openba_jax_programs.")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, _PROGRAMS, ignore_errors=True)

REPOSITORY = Path(__file__).resolve().parent.parent


SHARED = Path(os.environ.get("OPENBA_SHARED_DIR", REPOSITORY.parent / "shared"))


# Each program that XLA compiles for the CPU keeps several memory maps. Linux allows a process
# 65,530; the map after that ends it with a segmentation fault.
_MEMORY_MAPS = Path("/proc/self/maps")
_MAX_MEMORY_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Drops compiled programs after a file of tests where many have gathered."""
    yield
    if "jax" in sys.modules and _MEMORY_MAPS.exists():
        with _MEMORY_MAPS.open("rb") as maps:
            gathered = sum(1 for _ in maps)
        if gathered > _MAX_MEMORY_MAPS:
            sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def golden_dir() -> Callable[..., Path]:
    """Finds outputs of the original: `golden_dir(SET, FILES...)` is the folder of a set.

    The full data in `OPENBA_SHARED_DIR` come first, then the part of them in `tests/golden`. Where
    neither has the set with these files, the test is skipped.
    """

    def find(name: str, *files: str) -> Path:
        for folder in (SHARED / "golden" / name, REPOSITORY / "tests" / "golden" / name):
            if folder.is_dir() and all((folder / file).exists() for file in files):
                return folder
        wanted = " ".join([name, *files])
        pytest.skip(f"tests/golden lacks {wanted}; set OPENBA_SHARED_DIR to the full golden data")

    return find


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data and facts, of any size; without it the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent; set OPENBA_SHARED_DIR to the folder of shared data")
    return SHARED
