"""Runs one layer of a network by itself, whatever its family.

The network is made with a single layer in each stack, and only what that layer needs is read. What
enters it is put in its place; the compiler leaves out all that nothing is asked of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.models.axes import LAYERS, Leaf, join, stack_of, unflatten
from openba_jax.models.base import Batch, Model, Params
from openba_jax.nn import probes
from openba_jax.nn.layers import Projection
from openba_jax.pruning.plan import Plan, pruned_model

Read = Callable[[Leaf], np.ndarray]


class Site(NamedTuple):
    """A projection that was called.

    Attributes:
      path: of its kernel, with `layers` for the layer.
      in_axes: names of the axes that it reads.
      out_axes: names of the axes that it writes.
      memory: whether it reads the encoder output.
      inputs: what it read, `[batch, length, ...]`.
      outputs: what it made of it.
    """

    path: str
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    memory: bool
    inputs: jax.Array
    outputs: jax.Array


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a run saw.

    Attributes:
      entered: what the layer read, `[batch, length, embed]`.
      left: what it made of it.
      finished: the output of the network's stack: of the encoder its output, of the decoder what
        logits are made of.
      sites: the projections in the layer, in the order of their calls.
    """

    entered: jax.Array
    left: jax.Array
    finished: jax.Array
    sites: tuple[Site, ...]


@dataclasses.dataclass(frozen=True)
class OneLayer:
    """A layer of a model.

    Attributes:
      model: the network with this layer alone, in each stack one.
      stack: name of the layer's stack.
    """

    model: Model
    stack: str

    @classmethod
    def of(cls, model: Model, stack: str, layer: int) -> OneLayer:
        """The layer of a model by number."""
        run = model.replace(scan_layers=False, remat_policy="none", param_dtype="float32")
        alone = {join(each, LAYERS): [0] for each in model.stacks} | {join(stack, LAYERS): [layer]}
        plan = Plan.identity(model, "").narrow(alone)
        return cls(pruned_model(plan, like=run), stack)

    def params(self, read: Read, layer: int) -> Params:
        """The layer's parameters and those outside of layers, float32.

        Args:
          read: reads a leaf of the whole model.
          layer: number of the layer there.
        """
        found = {}
        for path in self.model.axes.paths:
            inside = stack_of(path)
            if inside is None:
                found[path] = jnp.asarray(read(Leaf(path)), jnp.float32)
            elif inside == self.stack:
                values = jnp.asarray(read(Leaf(path, layer)), jnp.float32)
                found[Leaf(path, 0).unrolled] = values
        return unflatten(found)

    def run(
        self,
        params: Params,
        batch: Batch,
        entering: jax.Array | None = None,
        encoded: jax.Array | None = None,
        skip: bool = False,
    ) -> Seen:
        """Runs the layer; to be traced.

        Args:
          params: as `params` gives them.
          batch: of the model's layout.
          entering: what the layer reads, `[batch, length, embed]`; None: the embedded tokens, as if
            it were the first one.
          encoded: the encoder output, for a layer of the decoder.
          skip: the layer hands on what it reads.
        """
        entered: list[jax.Array] = []
        left: list[jax.Array] = []
        finished: list[jax.Array] = []
        sites: list[Site] = []

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module, method = context.module, context.method_name
            if method == "encode" and not module.path:
                if encoded is not None:
                    return encoded
                output = call(*args, **kwargs)
                finished.append(output)
                return output
            if method != "__call__":
                return call(*args, **kwargs)
            path = probes.path_of(module)
            if probes.is_layer(module):
                if stack_of(f"{path}/x") != self.stack:
                    return args[0], None
                x = args[0] if entering is None else entering
                entered.append(x)
                result = (x, None) if skip else call(x, *args[1:], **kwargs)
                left.append(result[0])
                return result
            if isinstance(module, Projection) and stack_of(f"{path}/x") == self.stack:
                result = call(*args, **kwargs)
                axes = module.in_axes, module.out_axes
                memory = probes.reads_memory(module)
                sites.append(Site(f"{path}/kernel", *axes, memory, args[0], result))
                return result
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            hidden = self.model.apply_hidden(params, batch, None)
        output = finished[0] if finished and self.stack != self.model.stacks[-1] else hidden
        return Seen(entered[0], left[0], output, tuple(sites))


def groups(sites: tuple[Site, ...], wanted: Callable[[Site], bool]) -> list[tuple[int, ...]]:
    """Numbers of sites that read one and the same array, in the order of their calls.

    Args:
      sites: as one run saw them.
      wanted: which of them.
    """
    found: dict[int, list[int]] = {}
    for number, site in enumerate(sites):
        if wanted(site):
            found.setdefault(id(site.inputs), []).append(number)
    return [tuple(numbers) for numbers in found.values()]
