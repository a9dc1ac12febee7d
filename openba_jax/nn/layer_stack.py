"""The layers of a stack, scanned or unrolled, with or without rematerialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def run_layers(
    layer: type[nn.Module],
    config: Any,
    depth: int,
    x: jax.Array,
    *arguments: Any,
    static: Sequence[int] = (),
    per_layer: Sequence[Any] = (),
) -> jax.Array:
    """Applies the layers of the module in whose compact method it is called.

    Their parameters lie below `layers`, an axis `layers` first, or below `layers_0`, `layers_1`...

    Args:
      layer: `layer(config)(x, *per_layer, *arguments)` gives the next `x`, and None for `nn.scan`.
      config: what `layer` is made with; `scan_layers` and `remat_policy` are read here.
      depth: number of layers.
      x: `[batch, length, embed]`.
      *arguments: the same for all layers.
      static: positions of arguments that are Python values, counted from `x` as 1 with those of
        `per_layer`, for rematerialisation.
      per_layer: arrays `[depth, ...]`, of which each layer gets its own.

    Returns:
      `[batch, length, embed]`.
    """
    policy = REMAT_POLICIES[config.remat_policy]
    if policy is not None:
        layer = nn.remat(
            layer,
            policy=policy,
            prevent_cse=not config.scan_layers,
            static_argnums=tuple(static),
        )
    if config.scan_layers:
        x, _ = nn.scan(
            layer,
            variable_axes={"params": 0, "cache": 0, "encoded": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(*(0 for _ in per_layer), *(nn.broadcast for _ in arguments)),
            length=depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, name="layers")(x, *per_layer, *arguments)
        return x
    for number in range(depth):
        own = (values[number] for values in per_layer)
        x, _ = layer(config, name=f"layers_{number}")(x, *own, *arguments)
    return x
