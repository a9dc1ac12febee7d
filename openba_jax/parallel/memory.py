"""How much memory is free, and whether work fits into it: told before the work begins.

What is compared is what must be there at the least, parameters and the like; what a compiler needs
besides cannot be told beforehand. So nothing is refused that would have gone, and what goes wrong
all the same is one sentence by `hardware.explain_out_of_memory`.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from openba_jax.cli import IGNORE_MEMORY
from openba_jax.errors import UserError

_SYSTEM = Path("/")


class Free(NamedTuple):
    """Memory that is free for this process.

    Attributes:
      bytes: of one device, or of the machine where the devices share its memory.
      where: whose it is, in words.
    """

    bytes: int
    where: str


def sharing() -> int:
    """How many devices of this process share one memory: those of the CPU do."""
    return jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else 1


def free() -> Free | None:
    """What is free for the devices of this process; None where the backend does not say."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return min(host_limits(), default=None)
    stats = [device.memory_stats() for device in devices]
    if any(not each or "bytes_limit" not in each for each in stats):
        return None
    least = min(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in stats)
    return Free(least, f"each {devices[0].device_kind}")


def host_limits(system: Path = _SYSTEM) -> Iterator[Free]:
    """Bytes that are free on this machine, by each of the limits that there are, and whose.

    Args:
      system: where `proc` and `sys` lie.
    """
    for line in _lines(system / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield Free(int(line.split()[1]) * 1024, "this machine")
    for line in _lines(system / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = system / "sys/fs/cgroup", ("memory.max", "memory.current")
            cache = "inactive_file"
        elif "memory" in controllers.split(","):
            root = system / "sys/fs/cgroup/memory"
            names, cache = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        else:
            continue
        # In a container the path may be that of the machine outside; the limit is then at the root.
        inner = root / path.strip("/")
        for folder in (inner, *inner.parents):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                left = limit - used + _cache(folder, cache)
                yield Free(left, "the control group of this process")
            if folder == root:
                break
    if system == _SYSTEM:
        pages = _lines(system / "proc/self/statm")
        used = int(pages[0].split()[0]) * resource.getpagesize() if pages else 0
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield Free(limit - used, "the limit of this process (ulimit -v)")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # Another system, or a kernel that has no such file.
        return []


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none, or `max`."""
    text = "".join(_lines(file)[:1])
    return int(text) if text.isdecimal() else None


def _cache(folder: Path, name: str) -> int:
    """Bytes of files that a control group holds and gives back when memory is wanted."""
    words = (line.split() for line in _lines(folder / "memory.stat"))
    return next((int(value) for key, value in words if key == name), 0)


def bytes_of(tree: Any) -> int:
    """Bytes that arrays take of a device, or of the memory that the devices share.

    Args:
      tree: of anything with shape and dtype; what has a sharding is divided, or copied, as that
        says. What devices with memory of their own leave on the host does not count.
    """
    total, shared = 0, sharing() > 1
    for leaf in jax.tree.leaves(tree):
        place = getattr(leaf, "sharding", None)
        if place is None:
            total += math.prod(leaf.shape) * leaf.dtype.itemsize
        elif jax.default_backend() == "cpu" or place.memory_kind in (None, "device"):
            copies = len(place.addressable_devices) if shared else 1
            total += copies * math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def require(needs: Mapping[str, int], remedy: str, halved: str = "") -> None:
    """Checks that what is needed at the least is free.

    Args:
      needs: bytes by what they are for, as `bytes_of` counts.
      remedy: what would help, as the end of a sentence.
      halved: what would halve the bytes; named where that would be enough.

    Raises:
      UserError: it is not.
    """
    found, needed = free(), sum(needs.values())
    if found is None or needed <= found.bytes or os.environ.get(IGNORE_MEMORY):
        return
    parts = ", ".join(f"{what} {readable(size)}" for what, size in needs.items())
    if halved and needed // 2 <= found.bytes:
        remedy = f"{halved}, or {remedy}"
    raise UserError(
        f"this takes at least {readable(needed)} ({parts}), and {found.where} has "
        f"{readable(max(0, found.bytes))} free; {remedy}. --ignore_memory tries all the same."
    )


def readable(size: int) -> str:
    """Bytes as people read them."""
    for unit, each in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(size) >= 1 << each:
            return f"{size / (1 << each):.1f} {unit}"
    return f"{size} bytes"
