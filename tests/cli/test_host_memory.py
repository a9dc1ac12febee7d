"""What a process frees stays with it where JAX computes on the CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from openba_jax.cli.host_memory import keep_freed_memory

assert keep_freed_memory() is (sys.argv[1] == "True")

def touch():
    np.empty(1 << 26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

first = touch()
print(touch() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": "tpu"}, False),
        ({"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"}, False),
    ],
)
def test_freed_memory_is_kept_on_a_cpu_unless_the_user_decides(
    environment: dict[str, str], kept: bool
) -> None:
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(kept)],
        env={**own, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    # 64 MiB are 16,384 pages; with huge pages fewer, and still more than what Python itself does.
    assert (int(done.stdout) < 16) is kept, done.stdout
