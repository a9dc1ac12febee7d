"""The compilers of chips that are not there: devices that can be compiled for and nothing else."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from openba_jax.errors import UserError
from openba_jax.fit.chips import Gpu, Slice
from openba_jax.fit.environment import quiet

INSTALL = "pip install 'openba_jax[aot]'"
"""What brings the compilers."""

_PACKAGES = {
    "tpu": ("libtpu",),
    "cuda": ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"),
}
"""By platform, modules of which one must be there."""


class Target(NamedTuple):
    """What a step is compiled for.

    Attributes:
      slice: the chips that are meant.
      devices: as many, to make a mesh of.
      stand_in: whether they are CPU devices, since the chip's compiler is absent.
    """

    slice: Slice
    devices: Sequence[jax.Device]
    stand_in: bool

    @property
    def compiler(self) -> str:
        """Whose code it is, in words."""
        if self.stand_in:
            return f"{len(self.devices)} virtual CPU devices, for want of its compiler"
        return f"the compiler of {self.slice.chip.platform.upper()}"


def has_compiler(platform: str) -> bool:
    """Whether the compiler of `tpu` or `cuda` is installed."""
    for module in _PACKAGES[platform]:
        with contextlib.suppress(ModuleNotFoundError):  # Of what stands before the dot.
            if importlib.util.find_spec(module):
                return True
    return False


def target(chips: Slice) -> Target:
    """Devices to compile for: of the chip's compiler, or as many virtual CPUs where it is absent.

    Raises:
      UserError: the compiler knows no such topology, or JAX has made fewer CPU devices already.
    """
    if has_compiler(chips.chip.platform):
        return Target(chips, _compile_only(chips), False)
    with contextlib.suppress(RuntimeError):  # JAX has looked for devices already.
        jax.config.update("jax_num_cpu_devices", chips.count)
    devices = jax.devices("cpu")
    if len(devices) < chips.count:
        raise UserError(
            f"JAX has {len(devices)} CPU devices already, and {chips.count} are to stand for "
            f"{chips.chip.name}; set jax_num_cpu_devices before."
        )
    return Target(chips, devices[: chips.count], True)


def _compile_only(chips: Slice) -> Sequence[jax.Device]:
    chip = chips.chip
    # Chips come by hosts of four; one alone is the first of them.
    topology = chip.topologies[4] if not chip.gpu and chips.count == 1 else chips.topology
    try:
        with quiet():
            if chip.gpu:
                found = topologies.get_topology_desc(
                    topology_name=chip.name,
                    platform="cuda",
                    topology=f"1x{topology}",
                    target_config=target_config(chip.gpu, chip.bandwidth),
                )
            else:
                found = topologies.get_topology_desc(
                    topology_name=f"{chip.name}:{topology}", platform="tpu"
                )
    except jax.errors.JaxRuntimeError as error:
        known = ", ".join(chip.topologies.values())
        why = str(error).splitlines()[0]
        raise UserError(
            f"the compiler refuses the topology {chips.topology} of {chip.name} ({why}); known "
            f"are {known}."
        ) from error
    return found.devices[: chips.count]


def target_config(gpu: Gpu, bandwidth: float) -> str:
    """XLA's description of a GPU, a text of the protocol buffer `GpuTargetConfigProto`.

    Args:
      gpu: what data sheet and whitepaper say; limits below are those of its compute capability in
        the CUDA C++ Programming Guide.
      bandwidth: of the memory, bytes a second.
    """
    major, minor = gpu.compute_capability
    features = "ACCELERATED_FEATURES" if gpu.architecture_features else "NONE"
    of_device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": gpu.shared_memory - 2**10,
        "shared_memory_per_core": gpu.shared_memory,
        "core_count": gpu.multiprocessors,
        "fpus_per_core": gpu.cores,
        "clock_rate_ghz": gpu.clock_ghz,
        "l2_cache_size": gpu.l2_cache,
        "device_memory_size": gpu.memory,
        "memory_bandwidth": int(bandwidth),
    }
    lines = [f"  {name}: {value}" for name, value in of_device.items()]
    capability = f"major: {major} minor: {minor} feature_extension: {features}"
    return "\n".join(
        [
            "gpu_device_info {",
            f"  cuda_compute_capability {{ {capability} }}",
            *lines,
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 patch: 0 }",
            f'device_description_str: "{gpu.name}"',
            "",
        ]
    )
