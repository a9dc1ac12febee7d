"""JAX without accelerators: what must be so before it is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",  # There is no metadata server to ask about a TPU.
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # Any will do; without one the library complains.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Nothing here holds a TPU that another process could miss.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def prepare() -> None:
    """Imports JAX, keeps it off the accelerators of this machine, and libraries quiet."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    with quiet():
        import jax

    jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, what libraries write to the error stream themselves is dropped.

    While they are loaded, they complain of drivers that nobody needs here.
    """
    saved = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
