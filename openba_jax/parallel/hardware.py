"""The machine: its peak FLOP/s, the denominator of MFU, its memory and the bandwidth of that."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from openba_jax.errors import UserError, exhausted

# Dense bfloat16 peaks per device, FLOP/s, from the vendors' data sheets. The first name that the
# device kind contains counts, so longer names stand before their beginnings.
_PEAKS = {
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5e": 197e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}

# Bytes a second between a GPU and its memory, from the same data sheets.
_BANDWIDTHS = {
    "B200": 8.0e12,
    "GH200": 4.0e12,
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100 NVL": 3.9e12,
    "H100": 3.35e12,
    "A100 80GB PCIe": 1.935e12,
    "A100-SXM4-80GB": 2.039e12,
    "A100": 1.555e12,  # Both forms with 40 GB.
    "L40S": 0.864e12,
    "L40": 0.864e12,
    "L4": 0.3e12,
}


class Peak(NamedTuple):
    """What the devices could do.

    Attributes:
      flops: FLOP/s of all devices together, or None if unknown.
      source: where the number comes from, in words.
    """

    flops: float | None
    source: str


class Bandwidth(NamedTuple):
    """How fast the memory of a device could be read.

    Attributes:
      bytes_per_second: of one device, or None if unknown.
      source: where the number comes from, in words.
    """

    bytes_per_second: float | None
    source: str


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Within it, memory that runs out, of devices or of the machine, ends in one sentence.

    Raises:
      UserError: they do.
    """
    try:
        yield
    except Exception as error:
        if (what := exhausted(error)) is None:
            raise
        raise UserError(
            f"there is too little memory ({what}); take a smaller batch or shorter lengths, and in "
            "training more ACCUMULATION or a remat_policy."
        ) from error


def describe() -> dict[str, str | int]:
    """Kind and number of devices, number of processes."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def peak_flops() -> Peak:
    """Peak of all devices of all processes: from the table, or measured where there is only a CPU.

    Host devices made by `--xla_force_host_platform_device_count` share one CPU.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return Peak(_measured() * jax.process_count(), "float32 matrix product, measured")
    for name, flops in _PEAKS.items():
        if name in device.device_kind:
            return Peak(flops * jax.device_count(), f"{name}, bfloat16, data sheet")
    return Peak(None, f"{device.device_kind} is not in the table")


def peak_bandwidth() -> Bandwidth:
    """That of the memory of a GPU, from the table."""
    kind = jax.devices()[0].device_kind
    for name, bandwidth in _BANDWIDTHS.items():
        if name in kind:
            return Bandwidth(bandwidth, f"{name}, data sheet")
    return Bandwidth(None, f"{kind} is not in the table")


@functools.cache
def _measured(size: int = 1024, repetitions: int = 4) -> float:
    """Best rate of a square float32 product on the first local device."""
    matrix = jax.device_put(jnp.ones((size, size), jnp.float32), jax.local_devices()[0])
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(repetitions):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
