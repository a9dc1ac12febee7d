"""The partitioner under which the network's logical constraints mean something."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from t5x import partitioning

from openba_jax.errors import UserError

Rules = Sequence[tuple[str, str | None]]

ACTIVATION_RULES: Rules = (
    ("activation_batch", "data"),
    ("activation_length", None),
    ("activation_embed", None),
    ("activation_heads", "model"),
    ("activation_kv", None),
    ("activation_mlp", "model"),
    ("activation_vocab", "model"),
)
"""Axes of activations that the network names besides those that T5X knows."""


class Partitioner(partitioning.PjitPartitioner):
    """T5X's partitioner, entering `jax.set_mesh`.

    T5X enters `with mesh:`, under which linen's logical constraints silently do nothing, so that
    XLA alone decides how activations lie. Besides, an axis that the mesh does not divide (20 heads
    on 8 devices) stays whole, as in the native runner, and `num_partitions` holds on the CPU, too.
    """

    def __init__(
        self, *arguments: Any, logical_axis_rules: Rules | None = None, **options: Any
    ) -> None:
        """As T5X's, with rules for activations.

        Args:
          *arguments: of `PjitPartitioner`.
          logical_axis_rules: by default T5X's standard ones; those for activations are added.
          **options: of `PjitPartitioner`.
        """
        rules = logical_axis_rules or partitioning.standard_logical_axis_rules()
        super().__init__(*arguments, logical_axis_rules=[*rules, *ACTIVATION_RULES], **options)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh `data x model`.

        Raises:
          UserError: `num_partitions` does not divide the devices of a CPU.
        """
        devices = jax.devices(self._backend)
        if devices[0].platform != "cpu" or not self._num_partitions or self._ici_mesh_shape:
            return super().mesh
        if len(devices) % self._num_partitions:
            raise UserError(
                f"NUM_PARTITIONS is {self._num_partitions}, which does not divide the "
                f"{len(devices)} devices."
            )
        return Mesh(np.array(devices).reshape(-1, self._num_partitions), ("data", "model"))

    def get_mesh_axes(self, train_state: Any) -> Any:
        """The state with a `PartitionSpec`, or None, for every array."""
        axes = super().get_mesh_axes(train_state)
        shapes = _flat(train_state)
        specs = {name: self._dividing(spec, shapes[name]) for name, spec in _flat(axes).items()}
        return axes.restore_state(traverse_util.unflatten_dict(specs, sep="/"))

    def _dividing(self, spec: Any, array: Any) -> Any:
        if not isinstance(spec, PartitionSpec):
            return spec
        sizes = zip(spec, array.shape, strict=False)
        return PartitionSpec(
            *(name if name and size % self.mesh.shape[name] == 0 else None for name, size in sizes)
        )

    def partition(
        self,
        fn: Callable[..., Any],
        in_axis_resources: Any,
        out_axis_resources: Any,
        static_argnums: int | Sequence[int] = (),
        donate_argnums: int | Sequence[int] = (),
    ) -> _OnMesh:
        """Compiles `fn` for the mesh; see T5X's `BasePartitioner.partition`."""
        compiled = jax.jit(
            fn,
            in_shardings=self._shardings(in_axis_resources),
            out_shardings=self._shardings(out_axis_resources),
            static_argnums=static_argnums,
            donate_argnums=donate_argnums,
        )
        return _OnMesh(compiled, self.mesh, self.logical_axis_rules)

    def _shardings(self, resources: Any) -> Any:
        """The tree with shardings for partition specs, and for None what is replicated."""

        def sharding(spec: PartitionSpec | None) -> NamedSharding:
            return NamedSharding(self.mesh, PartitionSpec() if spec is None else spec)

        return jax.tree.map(
            sharding, resources, is_leaf=lambda x: x is None or isinstance(x, PartitionSpec)
        )


def _flat(train_state: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(train_state.state_dict(), keep_empty_nodes=True, sep="/")


class _OnMesh:
    """A compiled function that is called, and lowered, under a mesh and its rules."""

    def __init__(self, compiled: Any, mesh: Mesh, rules: Rules) -> None:
        self._compiled = compiled
        self._mesh = mesh
        self._rules = rules

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self._entered():
            return self._compiled(*arguments, **options)

    def lower(self, *arguments: Any, **options: Any) -> Any:
        with self._entered():
            return self._compiled.lower(*arguments, **options)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        # Explicit axes would fail in linen's constraints.
        assert all(kind == AxisType.Auto for kind in self._mesh.axis_types)
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(self._rules):
            yield
