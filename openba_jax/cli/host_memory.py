"""Memory of a process that computes on a CPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os

ACCELERATORS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin")
"""Packages with which JAX looks for other devices first."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # Of malloc.h.
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the allocator keep what is freed, up to 2 GiB, where JAX computes on the CPU.

    XLA allocates the temporaries of a program anew with every call. By default glibc gives them
    back to the kernel, which then clears every page again when it is first touched: a fifth of the
    time of a training step. What the environment says of the allocator is left as it is.

    Call it before there are threads: those that have had memory keep a heap of their own.

    Returns:
      Whether it was done.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms != "cpu" and (platforms or any(map(importlib.util.find_spec, ACCELERATORS))):
        return False
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:  # Another C library.
        return False
    done = [mallopt(_ARENA_MAX, 1), mallopt(_MMAP_THRESHOLD, _LARGEST)]
    return all([*done, mallopt(_TRIM_THRESHOLD, _LARGEST)])
