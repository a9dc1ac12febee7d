"""Looking into a network while it runs, whatever its family.

A probe sees every module after its call and says what is to be kept: scores of activations, second
moments for refitting, hidden states for distillation. It looks at the blocks that all families are
made of (`Projection`, norms, layers), so that no network knows what is looked at.

What a probe keeps passes through the scan over the layers, and is all that is held: it should
reduce what it sees.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.nn.attention_layer import CrossAttention

COLLECTION = "intermediates"
"""The collection that scans over layers stack (`layer_stack.run_layers`)."""

Probe = Callable[[nn.Module, tuple[Any, ...], Any], Mapping[str, jax.Array]]
"""(module, the arguments of its call, what it returned) -> what to keep, by name."""

Observations = dict[str, jax.Array]
"""By `path of the module/name`, such as `decoder/layers/mlp/wo/square`; inside of layers an axis of
layers leads, also where the layers are not scanned."""

_LAYER = re.compile(r"layers(?:_(\d+))?")


@contextlib.contextmanager
def probing(probe: Probe) -> Iterator[None]:
    """Within it, calls of modules are probed; apply them with `mutable=[COLLECTION]`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "__call__":
            for name, value in probe(context.module, args, result).items():
                context.module.sow(COLLECTION, name, value)
        return result

    with nn.intercept_methods(intercept):
        yield


def observations(variables: Mapping[str, Any]) -> Observations:
    """What a probe kept.

    Args:
      variables: those that `apply` returned, of which `COLLECTION` is read.

    Raises:
      ValueError: a module that is called more than once was probed.
    """
    found: Observations = {}
    layers: dict[str, dict[int, jax.Array]] = {}
    for path, values in _flatten(variables.get(COLLECTION, {})).items():
        if len(values) > 1:
            raise ValueError(f"{path} was observed {len(values)} times; probe what is called once")
        parts = path.split("/")
        numbers = [(i, m[1]) for i, part in enumerate(parts) if (m := _LAYER.fullmatch(part))]
        if numbers and numbers[0][1] is not None:
            place, number = numbers[0]
            name = "/".join([*parts[:place], "layers", *parts[place + 1 :]])
            layers.setdefault(name, {})[int(number)] = values[0]
        else:
            found[path] = values[0]
    for name, by_number in layers.items():
        found[name] = jnp.stack([by_number[number] for number in sorted(by_number)])
    return found


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of a stack: `y, _ = layer(x, ...)`."""
    return _LAYER.fullmatch(module.name or "") is not None


def reads_memory(module: nn.Module) -> bool:
    """Whether a projection reads the encoder output, and not the stack that it is part of."""
    return isinstance(module.parent, CrossAttention) and module.name in ("key", "value")


def path_of(module: nn.Module) -> str:
    """The path of a module below the network, with `layers` for `layers_<n>`."""
    return "/".join(_LAYER.sub("layers", part) for part in module.path)


def _flatten(tree: Any, prefix: str = "") -> dict[str, tuple[jax.Array, ...]]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, tuple[jax.Array, ...]] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}/{key}" if prefix else str(key))
    return flat
