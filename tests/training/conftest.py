"""A toy run that many tests look at, and programs that start others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs of this session, or of many where JAX's own variable names a folder."""
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(named) if named else tmp_path_factory.mktemp("compilation_cache")


@pytest.fixture(scope="package", autouse=True)
def compile_once(compilation_cache: Path) -> Iterator[None]:
    """Tests and the processes that they start run few different programs."""
    settings = {
        "jax_compilation_cache_dir": str(compilation_cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def cached_environment(compilation_cache: Path) -> dict[str, str]:
    """The environment of a process that shares the compiled programs."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def start_toy(cached_environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts `toy_run.py` in a process of its own."""

    def start(
        folder: Path, options: str, xla_flags: str = "", **environment: str
    ) -> subprocess.Popen[str]:
        flags = f"{cached_environment.get('XLA_FLAGS', '')} {xla_flags}"
        return subprocess.Popen(
            [sys.executable, str(HERE / "toy_run.py"), str(folder), options],
            env={**cached_environment, "XLA_FLAGS": flags, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="package")
def finished_run(tmp_path_factory: pytest.TempPathFactory, compile_once: None) -> Any:
    """The result of a toy run that nothing interrupted; its folder must not be changed."""
    from toy_run import toy_train

    return toy_train(tmp_path_factory.mktemp("runs") / "finished")
