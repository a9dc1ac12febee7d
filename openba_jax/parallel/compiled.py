"""Keeps compiled programs on disk, so that what was compiled once is read again."""

from __future__ import annotations

from pathlib import Path

import jax


def keep_programs(folder: Path) -> None:
    """Keeps the programs of this process in a folder, and reads those that lie there.

    Where JAX already has a folder, as by `JAX_COMPILATION_CACHE_DIR`, that stays.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
