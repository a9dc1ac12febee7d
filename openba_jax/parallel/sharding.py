"""From logical axes to devices: the mesh, the rules, and what each parameter gets.

See docs/architecture.md#logical-axes-are-the-only-fact.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from openba_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "model")

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

DEFAULT_RULES: Rules = (
    # Parameters: `fsdp` splits what is stored, `model` splits what is computed.
    ("layers", None),
    ("embed", "fsdp"),
    ("encoder/embed", "fsdp"),
    ("heads", "model"),
    ("kv_heads", "model"),
    ("joined_kv", "model"),
    ("kv", None),
    ("relpos_buckets", None),
    ("mlp", "model"),
    ("vocab", "model"),
    # Activations, which the network constrains.
    ("activation_batch", ("data", "fsdp")),
    ("activation_length", None),
    ("activation_embed", None),
    ("activation_heads", "model"),
    ("activation_kv", None),
    ("activation_mlp", "model"),
    ("activation_vocab", "model"),
)
"""Which mesh axes divide which logical axis."""

HOST_MEMORY = "pinned_host"
"""The memory of the host that devices read and write by themselves."""

LARGE_PARAMETER = 2**20
"""Elements from which on a parameter that no axis divides is worth a warning."""


def make_mesh(
    shape: Sequence[int] = (-1, 1, 1), devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A `data x fsdp x model` mesh over all devices.

    Between the slices of a TPU, which the network of the data centre joins, lies `data` alone: its
    gradients are all that goes there.

    Args:
      shape: sizes of the three axes; one of them may be -1: what is left.
      devices: by default all devices of all processes.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or `data` is no multiple of the
        number of slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(shape)
    known = math.prod(size for size in sizes if size != -1)
    if len(sizes) != len(MESH_AXES) or sizes.count(-1) > 1 or known < 1:
        raise UserError(
            f"mesh_shape is {tuple(shape)}; it needs three sizes (data, fsdp, model), "
            "of which one may be -1."
        )
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh_shape {tuple(shape)} does not fit {len(devices)} devices; "
            "the product of its sizes must be the number of devices."
        )
    # Explicit axes, the default of `jax.make_mesh`, fail in linen's constraints.
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    if count_slices(devices) > 1:
        return Mesh(across_slices(sizes, devices), MESH_AXES, axis_types=axis_types)
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=axis_types, devices=devices)


def count_slices(devices: Sequence[Any]) -> int:
    """How many slices of a TPU the devices are of; 1 on other platforms."""
    # A device that is only compiled for is of one slice, and has no number of it.
    return len(
        {getattr(device, "slice_index", 0) if device.platform == "tpu" else 0 for device in devices}
    )


def across_slices(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """The devices of several slices as an array of some sizes; the first axis crosses slices.

    Raises:
      UserError: the first size is no multiple of the number of slices.
    """
    slices = count_slices(devices)
    data, *within = sizes
    if data % slices:
        raise UserError(
            f"mesh_shape {tuple(sizes)} does not fit {slices} slices: data, the one axis that may "
            f"cross them, must be a multiple of {slices}."
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *within), (slices, *[1] * len(within)), devices
    )


@contextlib.contextmanager
def use_mesh(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
    """Within it, the network's logical constraints mean this mesh and these rules."""
    # Under a bare `with mesh:` linen's constraints would silently do nothing.
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def jit_on_mesh(
    function: Callable[..., Any], mesh: Mesh, rules: Rules = DEFAULT_RULES, **options: Any
) -> Callable[..., Any]:
    """`jax.jit` of a function in which the network's logical constraints mean this mesh.

    Args:
      function: what to compile.
      mesh: the mesh.
      rules: what divides what.
      **options: of `jax.jit`.

    Returns:
      The compiled function, with `lower` as that of `jax.jit`.
    """
    compiled = jax.jit(function, **options)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with use_mesh(mesh, rules):
            return compiled(*arguments)

    def lower(*arguments: Any) -> Any:
        with use_mesh(mesh, rules):
            return compiled.lower(*arguments)

    call.lower = lower  # type: ignore[attr-defined]
    return call


def partition_spec(
    axes: Sequence[str], shape: Sequence[int], mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> PartitionSpec:
    """How one array lies on the mesh.

    A mesh axis that does not divide the size of its logical axis, that an earlier axis of the same
    array took, or that the mesh lacks, leaves that axis whole.

    Args:
      axes: logical names, e.g. `('layers', 'embed', 'mlp')`.
      shape: sizes of those axes.
      mesh: the mesh.
      rules: what divides what.

    Raises:
      UserError: no rule speaks of a logical axis.
    """
    known = dict(rules)
    taken: set[str] = set()
    entries: list[tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        if name not in known:
            raise UserError(f"no sharding rule speaks of the logical axis {name!r}; add one.")
        rule = known[name]
        names = (rule,) if isinstance(rule, str) else rule or ()
        names = tuple(n for n in names if mesh.shape.get(n, 1) > 1)
        divides = size % math.prod(mesh.shape[n] for n in names) == 0
        if not names or not divides or taken & set(names):
            entries.append(None)
        else:
            taken |= set(names)
            entries.append(names)
    return PartitionSpec(*entries)


def param_shardings(axes: Any, shapes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Shardings of a whole tree.

    Args:
      axes: tree of tuples of logical names.
      shapes: the same tree of anything with a `shape`.
      mesh: the mesh.
      rules: what divides what.

    Returns:
      The same tree of `NamedSharding`.

    Raises:
      UserError: no rule speaks of a logical axis.
    """
    return jax.tree.map(
        lambda names, leaf: NamedSharding(mesh, partition_spec(names, leaf.shape, mesh, rules)),
        axes,
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def state_shardings(state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """How the state of an optimizer lies: what belongs to a parameter as that parameter.

    A leaf belongs to the parameter whose path ends its own. Of one that lacks an axis of it, such
    as a factor of Adafactor's second moment, the axes that are left lie as they do there. What
    belongs to none, or has other axes, every device holds whole.

    Args:
      state: tree of anything with a `shape`.
      params: tree of anything with a `shape`; nested dicts.
      shardings: the same tree of `NamedSharding`.
      mesh: the mesh.

    Returns:
      The tree of `state` with `NamedSharding` for leaves.
    """
    known = {
        path: (leaf.shape, sharding.spec)
        for (path, leaf), sharding in zip(
            jax.tree.leaves_with_path(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        first = next(
            (n for n in range(len(path), 0, -1) if not isinstance(path[n - 1], DictKey)), 0
        )
        shape, spec = known.get(path[first:], ((), PartitionSpec()))
        entries, axes = [], iter(zip(shape, (*spec, *[None] * len(shape)), strict=False))
        for size in leaf.shape:
            found = next((entry for of_param, entry in axes if of_param == size), _NO_AXIS)
            if found is _NO_AXIS:
                return replicated(mesh)
            entries.append(found)
        return NamedSharding(mesh, PartitionSpec(*entries))

    return jax.tree.map_with_path(of_leaf, state)


_NO_AXIS = object()


def check_offload(mesh: Mesh) -> None:
    """Checks that the devices of a mesh reach memory of their host, where moments can lie.

    Raises:
      UserError: they do not.
    """
    device = mesh.devices.flat[0]
    if HOST_MEMORY not in {memory.kind for memory in device.addressable_memories()}:
        raise UserError(
            f"{device.device_kind} has no memory {HOST_MEMORY} to keep the state of the optimizer "
            "in; leave it on the devices."
        )


def in_host_memory(sharding: NamedSharding, leaf: Any) -> NamedSharding:
    """The same sharding in the memory of the host; numbers stay on the device."""
    return sharding.with_memory_kind(HOST_MEMORY) if leaf.shape else sharding


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, for arrays `[batch, ...]`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def local_rows(sharding: NamedSharding, batch_size: int) -> slice:
    """The rows of a global batch that this process must build: the smallest range that holds them.

    Args:
      sharding: of the batch.
      batch_size: rows of the global batch, a multiple of the devices that share them.
    """
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    ranges = [index[0].indices(batch_size) for index in indices if index is not None]
    return slice(min(start for start, _, _ in ranges), max(stop for _, stop, _ in ranges))


def global_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, rows: slice, batch_size: int
) -> dict[str, jax.Array]:
    """Makes global arrays from the rows that this process built.

    Args:
      batch: arrays `[stop - start of rows, ...]`.
      sharding: of the global batch.
      rows: what `local_rows` said.
      batch_size: rows of the global batch.

    Returns:
      Arrays `[batch_size, ...]`.
    """

    def globalise(local: np.ndarray) -> jax.Array:
        def of_device(index: tuple[slice, ...] | None) -> np.ndarray:
            start, stop, _ = (index or (slice(None),))[0].indices(batch_size)
            return local[start - rows.start : stop - rows.start]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, of_device)

    return {name: globalise(array) for name, array in batch.items()}


def to_host(array: jax.Array) -> np.ndarray:
    """The whole of a global array, on every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def sharding_table(shapes: Any, shardings: Any) -> str:
    """One line per parameter: name, shape, what divides it, share of it that each device holds."""
    lines = []
    for (path, leaf), sharding in zip(
        jax.tree.leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
    ):
        share = math.prod(sharding.shard_shape(leaf.shape)) / max(1, math.prod(leaf.shape))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        lines.append(f"{name:60s} {leaf.shape!s:28s} {sharding.spec!s:50s} {share:.4g}")
    return "\n".join(lines) + "\n"


def large_unsharded(shapes: Any, shardings: Any, minimum: int = LARGE_PARAMETER) -> list[str]:
    """Names of parameters of at least `minimum` elements that every device holds whole.

    On a mesh that has only a `data` axis nothing is meant to be divided, and the list is empty.
    """
    names = []
    for (path, leaf), sharding in zip(
        jax.tree.leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
    ):
        mesh = sharding.mesh
        meant = mesh.shape["fsdp"] * mesh.shape["model"] > 1
        if meant and math.prod(leaf.shape) >= minimum and sharding.is_fully_replicated:
            names.append(jax.tree_util.keystr(path, simple=True, separator="/"))
    return names
