"""What a program is compiled for."""

from __future__ import annotations

import jax


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the mesh in use, which may be of devices that are not here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def on_one_cpu() -> bool:
    """Whether it is a CPU, and not several virtual ones, which stand in for other devices."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = jax.device_count() if mesh.empty else mesh.size
    return devices == 1 and platform() == "cpu"
