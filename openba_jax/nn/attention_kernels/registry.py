"""The kernels by name, and attention by one of them."""

from __future__ import annotations

import functools

import jax
from absl import logging

from openba_jax.nn.attention import AttentionMask, Dropout, Scores, xla_attention
from openba_jax.nn.attention_kernels import cudnn, splash
from openba_jax.nn.attention_kernels.base import Kernel, UnsupportedError
from openba_jax.nn.attention_kernels.cpu import cpu_attention
from openba_jax.nn.platform import on_one_cpu, platform

KERNELS: dict[str, Kernel] = {
    "xla": Kernel(xla_attention),
    "cudnn": cudnn.KERNEL,
    "splash": splash.KERNEL,
}

AUTO = "auto"
"""Stands for the kernel that `PREFERRED` has for the platform."""

PREFERRED = {"gpu": "cudnn", "tpu": "splash"}
"""Platform -> kernel; elsewhere `xla`, which one CPU computes by `cpu_attention` unless a
configuration names it."""


def attention(
    name: str,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    dropout: Dropout | None = None,
    scores: Scores | None = None,
) -> jax.Array:
    """Softmax attention by a kernel; the other arguments are those of `base.Attend`.

    Where the platform lacks the kernel, or this cannot do what it is asked for, the compiler's own
    attention is used, and a warning says so once. So it is for dropout on the probabilities, which
    only that one has.

    Args:
      name: of `KERNELS`, or `AUTO`.
      query: `[batch, queries, heads, kv]`.
      key: `[batch, keys, kv_heads, kv]`.
      value: like `key`.
      mask: what each query sees.
      dropout: applied to the probabilities.
      scores: how products become scores.

    Returns:
      `[batch, queries, heads, kv]` in the dtype of `value`.
    """
    scores = scores or Scores()
    here, asked = platform(), name
    if name == AUTO:
        name = PREFERRED.get(here, "xla")
    try:
        if name != "xla":
            kernel = KERNELS[name]
            if kernel.platforms and here not in kernel.platforms:
                raise UnsupportedError(f"it does not run on a {here}")
            if dropout is not None:
                raise UnsupportedError("it has no dropout; take attention_dropout_rate = 0 for it")
            return kernel.attend(query, key, value, mask, scores)
    except UnsupportedError as reason:
        _say_once(f"attention is computed by 'xla', not by {name!r}: {reason}.")
    if asked != "xla" and dropout is None and on_one_cpu():
        return cpu_attention(query, key, value, mask, scores)
    return xla_attention(query, key, value, mask, scores, dropout)


@functools.cache
def _say_once(message: str) -> None:
    logging.warning(message)
