"""The product of activations and a kernel, whose gradients a CPU's compiler computes fast."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from openba_jax.nn.platform import on_one_cpu


def product(
    inputs: jax.Array, kernel: jax.Array, rank: int = 1, preferred: Any = None
) -> jax.Array:
    """Contracts the last `rank` axes of the inputs with the first ones of the kernel.

    Args:
      inputs: `[..., *in]`.
      kernel: `[*in, *out]`, of the same dtype.
      rank: how many axes `in` are.
      preferred: type of the result; None: that of the inputs.

    Returns:
      `[..., *out]`.
    """
    if inputs.dtype == jnp.float32 and on_one_cpu():
        return cast(jax.Array, _cpu_product(rank, inputs, kernel))
    return _product(rank, inputs, kernel, preferred)


def _product(rank: int, inputs: jax.Array, kernel: jax.Array, preferred: Any = None) -> jax.Array:
    ahead = inputs.ndim - rank
    contracted = (tuple(range(ahead, inputs.ndim)), tuple(range(rank)))
    dimensions = (contracted, ((), ()))
    return jax.lax.dot_general(inputs, kernel, dimensions, preferred_element_type=preferred)


# JAX's own rule makes the kernel's gradient transposed and then turns it round. XLA's CPU compiler
# undoes that by copying the gradient of the outputs transposed, and computes the product of the two
# without its fast library: half as fast in all.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cpu_product(rank: int, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return _product(rank, inputs, kernel)


def _forward(rank: int, inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _product(rank, inputs, kernel), (inputs, kernel)


def _backward(rank: int, saved: Any, of_outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    rows, out = tuple(range(inputs.ndim - rank)), tuple(range(rank, kernel.ndim))
    ahead = tuple(range(len(rows), of_outputs.ndim))
    of_inputs = jax.lax.dot_general(of_outputs, kernel, ((ahead, out), ((), ())))
    of_kernel = jax.lax.dot_general(inputs, of_outputs, ((rows, rows), ((), ())))
    return of_inputs, of_kernel


_cpu_product.defvjp(_forward, _backward)
