"""The chips that a step can be compiled for: their figures, each with its source, and topologies.

Sources, as of 2025:
  v5e: https://cloud.google.com/tpu/docs/v5e
  v5p: https://cloud.google.com/tpu/docs/v5p
  v6e: https://cloud.google.com/tpu/docs/v6e
  a100: NVIDIA A100 data sheet (SXM, 80 GB) and the NVIDIA Ampere architecture whitepaper
  h100: NVIDIA H100 data sheet (SXM) and the NVIDIA H100 architecture whitepaper
  h200: NVIDIA H200 data sheet (SXM)
The network between hosts is that of NVIDIA's DGX systems: 8 ports of 400 Gbit/s (H100, H200) or
200 Gbit/s (A100) for 8 GPUs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from openba_jax.errors import UserError

GPUS_PER_HOST = 8
"""In a DGX or HGX system."""

GPU_SHARE = 0.9
"""Of a GPU's memory that a program is given: XLA_PYTHON_CLIENT_MEM_FRACTION=0.9. JAX's own default
is 0.75; CUDA's context and NCCL's buffers lie in the rest."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA's CUDA compiler wants to know of a GPU.

    Attributes:
      name: as the driver reports it.
      memory: bytes.
      compute_capability: major and minor number.
      architecture_features: whether code may use what later architectures lack (`sm_90a`).
      multiprocessors: their number.
      cores: float32 units of each.
      shared_memory: bytes of each.
      l2_cache: bytes.
      clock_ghz: at boost.
    """

    name: str
    memory: int
    compute_capability: tuple[int, int]
    architecture_features: bool
    multiprocessors: int
    cores: int
    shared_memory: int
    l2_cache: int
    clock_ghz: float


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as the data sheet has it.

    Attributes:
      name: of the chip, as `--chip` takes it.
      memory: bytes that a program may take.
      memory_source: where that number comes from.
      flops: dense bfloat16 FLOP/s.
      bandwidth: bytes a second between the chip and its memory.
      link: bytes a second in one direction: of one link of a TPU's torus, of all of a GPU's NVLink.
      network: of a GPU, bytes a second in one direction to other hosts; 0 for TPUs.
      wrapped: of a TPU, length from which on an axis of the torus is closed.
      topologies: of a TPU, the usual ones by number of chips.
      gpu: of a GPU, what its compiler wants to know.
    """

    name: str
    memory: int
    memory_source: str
    flops: float
    bandwidth: float
    link: float
    network: float = 0.0
    wrapped: int = 0
    topologies: Mapping[int, str] = dataclasses.field(default_factory=dict)
    gpu: Gpu | None = None

    @property
    def platform(self) -> str:
        """The compiler's: `tpu` or `cuda`."""
        return "cuda" if self.gpu else "tpu"


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired together.

    Attributes:
      chip: each of them.
      shape: of a TPU slice its axes; of GPUs hosts and GPUs in each.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def topology(self) -> str:
        """`2x2x1`, as `--topology` takes it."""
        return "x".join(map(str, self.shape))

    def bandwidth(self, group: Sequence[int]) -> float:
        """Bytes a second that each chip of a group can receive from the others.

        On a torus all links of a chip at the edge of the slice count, whichever axes the group
        spans; so the figure is an upper bound for groups that span some axes only.

        Args:
          group: numbers of devices that exchange something.
        """
        if self.chip.gpu is None:
            wrapped = self.chip.wrapped
            links = sum(1 + (size >= wrapped) for size in self.shape if size > 1)
            return self.chip.link * max(1, links)
        hosts = {number // self.shape[-1] for number in group}
        return self.chip.link if len(hosts) == 1 else self.chip.network


_TORUS_2D = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16"} | {
    256: "16x16"
}
_TORUS_3D = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"} | {
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
}
_OF_THE_COMPILER = "what the compiler leaves to a program"
_OF_A_GPU = f"{GPU_SHARE:.0%} of the data sheet's, which XLA_PYTHON_CLIENT_MEM_FRACTION gives"
_HOPPER = Gpu(
    name="NVIDIA H100 80GB HBM3",
    memory=80_000_000_000,
    compute_capability=(9, 0),
    architecture_features=True,
    multiprocessors=132,
    cores=128,
    shared_memory=228 * 2**10,
    l2_cache=50 * 2**20,
    clock_ghz=1.98,
)
_H200 = dataclasses.replace(_HOPPER, name="NVIDIA H200", memory=141_000_000_000)
_AMPERE = Gpu(
    name="NVIDIA A100-SXM4-80GB",
    memory=80_000_000_000,
    compute_capability=(8, 0),
    architecture_features=False,
    multiprocessors=108,
    cores=64,
    shared_memory=164 * 2**10,
    l2_cache=40 * 2**20,
    clock_ghz=1.41,
)

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e",
            memory=int(15.75 * 2**30),
            memory_source=_OF_THE_COMPILER,
            flops=197e12,
            bandwidth=819e9,
            link=50e9,
            wrapped=16,
            topologies=_TORUS_2D,
        ),
        Chip(
            name="v5p",
            memory=int(95.74 * 2**30),
            memory_source=_OF_THE_COMPILER,
            flops=459e12,
            bandwidth=2765e9,
            link=100e9,
            wrapped=4,
            topologies=_TORUS_3D,
        ),
        Chip(
            name="v6e",
            memory=int(31.25 * 2**30),
            memory_source=_OF_THE_COMPILER,
            flops=918e12,
            bandwidth=1640e9,
            link=100e9,
            wrapped=16,
            topologies=_TORUS_2D,
        ),
        Chip(
            name="a100",
            memory=int(GPU_SHARE * _AMPERE.memory),
            memory_source=_OF_A_GPU,
            flops=312e12,
            bandwidth=2039e9,
            link=300e9,
            network=25e9,
            gpu=_AMPERE,
        ),
        Chip(
            name="h100",
            memory=int(GPU_SHARE * _HOPPER.memory),
            memory_source=_OF_A_GPU,
            flops=989e12,
            bandwidth=3350e9,
            link=450e9,
            network=50e9,
            gpu=_HOPPER,
        ),
        Chip(
            name="h200",
            memory=int(GPU_SHARE * _H200.memory),
            memory_source=_OF_A_GPU,
            flops=989e12,
            bandwidth=4800e9,
            link=450e9,
            network=50e9,
            gpu=_H200,
        ),
    )
}
"""By name."""


def find_slice(name: str, topology: str = "", count: int = 0) -> Slice:
    """The chips that a user names.

    Args:
      name: of the chip.
      topology: such as `2x2x1`; of GPUs hosts x GPUs in each; '' with `count`.
      count: number of chips, instead of a topology.

    Raises:
      UserError: there is no such chip, or no such topology of it.
    """
    if name not in CHIPS:
        raise UserError(f"no chip is called {name!r}; known are {', '.join(CHIPS)}.")
    chip = CHIPS[name]
    if bool(topology) == bool(count):
        raise UserError("give --topology or --chips, and not both.")
    if chip.gpu:
        return Slice(chip, _hosts(name, topology, count))
    known = ", ".join(f"{shape} ({chips})" for chips, shape in chip.topologies.items())
    if count and count not in chip.topologies:
        raise UserError(f"no usual topology of {name} has {count} chips; known are {known}.")
    shape = _sizes(topology or chip.topologies[count])
    axes = len(_sizes(chip.topologies[1]))
    if len(shape) != axes or min(shape) < 1:
        raise UserError(
            f"the topology {topology!r} is none of {name}, which has {axes} axes; known are "
            f"{known}."
        )
    return Slice(chip, shape)


def _hosts(name: str, topology: str, count: int) -> tuple[int, ...]:
    """Hosts and GPUs in each."""
    if topology:
        shape = _sizes(topology)
    elif count <= GPUS_PER_HOST:
        shape = (1, count)
    else:
        shape = (-(-count // GPUS_PER_HOST), GPUS_PER_HOST)
    if len(shape) != 2 or shape[0] < 1 or not 1 <= shape[1] <= GPUS_PER_HOST:
        raise UserError(
            f"the topology {topology!r} is none of {name}; it is hosts x GPUs in each, from 1x1 to "
            f"1x{GPUS_PER_HOST}, then 2x{GPUS_PER_HOST}, 3x{GPUS_PER_HOST}, ..."
        )
    if count and math.prod(shape) != count:
        raise UserError(
            f"{count} {name} fill no whole hosts; take at most {GPUS_PER_HOST} or a multiple of "
            "it, or say with --topology how they stand."
        )
    return shape


def _sizes(topology: str) -> tuple[int, ...]:
    """`2x2x1` as numbers; () where it is no such text."""
    parts = topology.split("x")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()
