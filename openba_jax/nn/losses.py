"""Losses over a large vocabulary, a chunk of positions at a time.

The whole logits of a 250k vocabulary at 32 x 380 positions take 12 GB in float32. A loss is
therefore given hidden states and the head, and what it sums is computed chunk by chunk.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.nn import int8
from openba_jax.nn.products import product

GROUPS = "decoder_loss_groups"
"""What a batch may have besides: float32 `[batch, groups]`, 1 where a row is of a group. Losses are
then summed for each group, too."""

MAX_CHUNK_LOGITS = 2**27
"""Logits of one chunk that a device may hold: 512 MiB in float32, and about twice that besides."""


class Head(NamedTuple):
    """What makes logits of hidden states.

    Attributes:
      kernel: `[embed, vocab]`, an `int8.Int8` at will.
      bias: `[vocab]`, or None.
      scale: of the hidden states.
      softcap: bounds logits to `softcap * tanh(logit / softcap)` (Gemma 2); 0: they are not bound.
    """

    kernel: jax.Array
    bias: jax.Array | None
    scale: float = 1.0
    softcap: float = 0.0

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits `[..., vocab]` of `[..., embed]`."""
        if self.scale != 1.0:
            hidden = hidden * self.scale
        kernel, of_pieces = int8.parts(self.kernel)
        logits = product(hidden, kernel.astype(hidden.dtype), preferred=jnp.float32)
        if of_pieces is not None:
            logits = logits * of_pieces[0]
        if self.bias is not None:
            logits = logits + self.bias.astype(jnp.float32)
        return self.softcap * jnp.tanh(logits / self.softcap) if self.softcap else logits


class Loss(Protocol):
    """What training minimises: an argument of the train step."""

    def __call__(
        self, hidden: jax.Array, head: Head, batch: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Sums over target tokens, not means: what is accumulated is divided once.

        Args:
          hidden: `[batch, length, embed]`.
          head: what makes logits of it.
          batch: `decoder_target_tokens` int32 `[batch, length]`, `decoder_loss_weights` float32;
            and what else the loss wants.

        Returns:
          The weighted sum of losses in nats, float32; `weight_sum` and `correct_sum`, float32; of a
          batch with `GROUPS` those of `of_groups`, too.
        """


ChunkSums = Callable[[jax.Array, Any, Any], jax.Array]
"""(logits `[batch, chunk, vocab]`, rows, constants) -> float32 `[n]`, the loss first."""


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """`-log p(target)` in nats, float32 `[...]`; logits `[..., vocab]`, int targets `[...]`."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def chunk_length(batch: int, vocab: int, max_chunk_logits: int = MAX_CHUNK_LOGITS) -> int:
    """Positions of `batch` rows whose logits may be held at once, at least 1.

    The logits of a chunk lie divided over all devices of the mesh in use, if there is one.
    """
    devices = max(1, jax.sharding.get_abstract_mesh().size)  # 0 where there is no mesh.
    return max(1, max_chunk_logits * devices // (batch * vocab))


def split_length(x: jax.Array, chunk: int) -> jax.Array:
    """`[batch, length, ...]` to `[chunks, batch, chunk, ...]`, padded with zeros at the end.

    Chunks run along the length, so that a sharded batch stays sharded.
    """
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def join_length(chunks: jax.Array, length: int) -> jax.Array:
    """The inverse of `split_length`."""
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def token_cross_entropy(
    hidden: jax.Array, head: Head, batch: Any, max_chunk_logits: int = MAX_CHUNK_LOGITS
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The cross entropy of the target tokens, a `Loss`.

    Args:
      hidden: `[batch, length, embed]`.
      head: what makes logits of it.
      batch: `decoder_target_tokens` int32 `[batch, length]`, `decoder_loss_weights` float32.
      max_chunk_logits: bound on `batch * chunk * vocab` over the number of devices.
    """
    weights = batch["decoder_loss_weights"]
    rows = (batch["decoder_target_tokens"], weights, position_groups(batch))
    sums = sum_over_chunks(_cross_entropy_sums, hidden, head, rows, (), max_chunk_logits)
    counts = {"weight_sum": jnp.sum(weights), "correct_sum": sums[1]}
    return sums[0], {**counts, **of_groups(batch, sums[2:])}


def position_groups(batch: Any) -> jax.Array | None:
    """The groups of every position, float32 `[batch, length, groups]`; None without groups."""
    if GROUPS not in batch:
        return None
    groups, weights = batch[GROUPS], batch["decoder_loss_weights"]
    return jnp.broadcast_to(groups[:, None], (*weights.shape, groups.shape[1]))


def group_sums(values: jax.Array, groups: jax.Array | None) -> jax.Array:
    """What the positions of each group sum to; `[0]` without groups.

    Args:
      values: `[batch, length]`.
      groups: `[batch, length, groups]`, a part of `position_groups`.
    """
    if groups is None:
        return jnp.zeros(0, jnp.float32)
    return jnp.einsum("bl,blg->g", values, groups)


def of_groups(batch: Any, losses: jax.Array) -> dict[str, jax.Array]:
    """The sums of a batch by group, for the log.

    Args:
      batch: the batch.
      losses: what `group_sums` of the chunks add up to.

    Returns:
      `group_loss_sums` and `group_weight_sums`, float32 `[groups]`; nothing without groups.
    """
    if GROUPS not in batch:
        return {}
    weights = jnp.sum(batch["decoder_loss_weights"], axis=1) @ batch[GROUPS]
    return {"group_loss_sums": losses, "group_weight_sums": weights}


def sum_over_chunks(
    chunk_sums: ChunkSums,
    hidden: jax.Array,
    head: Head,
    rows: Any,
    constants: Any = (),
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> jax.Array:
    """Sums what a function finds in the logits, without ever holding all of them.

    Where it takes more than one chunk, the pass over the chunks computes the gradients along with
    the loss: to compute logits again in the backward pass would cost a fourth product with the
    vocabulary. Gradients are taken of the first sum, with respect to hidden states and head.

    Args:
      chunk_sums: what to sum.
      hidden: `[batch, length, embed]`.
      head: what makes logits of it.
      rows: tree of arrays `[batch, length, ...]`, of which every chunk gets its part.
      constants: tree of arrays that every chunk gets whole, such as the head of a teacher.
      max_chunk_logits: bound on `batch * chunk * vocab` over the number of devices.

    Returns:
      float32 `[n]`.
    """
    chunk = chunk_length(hidden.shape[0], head.kernel.shape[1], max_chunk_logits)
    if chunk >= hidden.shape[1]:
        return chunk_sums(head.logits(hidden), rows, constants)
    return _sums_of_chunks(
        chunk_sums,
        chunk,
        head.scale,
        head.softcap,
        hidden,
        head.kernel,
        head.bias,
        rows,
        constants,
    )


def _cross_entropy_sums(logits: jax.Array, rows: Any, constants: Any) -> jax.Array:
    """Weighted sums of losses and of right predictions, and losses by group: `[2 + groups]`."""
    del constants
    targets, weights, groups = rows
    losses = cross_entropy(logits, targets) * weights
    correct = jnp.argmax(logits, axis=-1) == targets
    sums = jnp.stack([jnp.sum(losses), jnp.sum(correct * weights)])
    return jnp.concatenate([sums, group_sums(losses, groups)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _sums_of_chunks(
    chunk_sums: ChunkSums,
    chunk: int,
    scale: float,
    softcap: float,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    rows: Any,
    constants: Any,
) -> jax.Array:
    """`chunk_sums`, chunk by chunk."""
    head = Head(_shared(kernel, hidden.dtype), bias, scale, softcap)

    def of_part(part: tuple[jax.Array, Any]) -> jax.Array:
        return chunk_sums(head.logits(part[0]), part[1], constants)

    parts = jax.tree.map(lambda x: split_length(x, chunk), (hidden, rows))
    return jnp.sum(jax.lax.map(of_part, parts), axis=0)


def _sums_and_gradients(
    chunk_sums: ChunkSums,
    chunk: int,
    scale: float,
    softcap: float,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    rows: Any,
    constants: Any,
) -> tuple[jax.Array, Any]:
    """`_sums_of_chunks`, and the gradients of the loss with respect to hidden, kernel, bias."""
    shared = _shared(kernel, hidden.dtype)
    shards = _shards(hidden.shape[0])

    def loss(
        hidden: jax.Array, kernel: jax.Array, bias: jax.Array | None, rows: Any
    ) -> tuple[jax.Array, jax.Array]:
        sums = chunk_sums(Head(kernel, bias, scale, softcap).logits(hidden), rows, constants)
        return sums[0], sums

    # Each device sums the gradients of its own rows over the chunks. They are brought together
    # once, at the end, and not once for each chunk.
    differentiated = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    ahead: tuple[int, ...] = ()
    axes: tuple[str, ...] = ("activation_embed", "activation_vocab")
    if shards > 1:  # Of a single part the axis would cost a copy of the sums.
        differentiated = jax.vmap(differentiated, in_axes=(0, None, None, 0))
        ahead, axes = (shards,), ("activation_batch", *axes)

    def apart(x: jax.Array) -> jax.Array:
        x = split_length(x, chunk)
        return x.reshape(x.shape[0], *ahead, -1, *x.shape[2:])

    def add(total: Any, part: tuple[jax.Array, Any]) -> tuple[Any, jax.Array]:
        hidden, rows = part
        (_, sums), (of_hidden, *others) = differentiated(hidden, shared, bias, rows)
        total = jax.tree.map(lambda a, b: a + b.astype(jnp.float32), total, (sums, *others))
        return (total[0], nn.with_logical_constraint(total[1], axes), total[2]), of_hidden

    parts = jax.tree.map(apart, (hidden, rows))
    first = jax.tree.map(lambda x: x[(0,) * (1 + len(ahead))], parts)
    sums_shape = jax.eval_shape(lambda part: loss(part[0], shared, bias, part[1])[1], first)
    zeros = jax.tree.map(
        lambda x: jnp.zeros((*ahead, *x.shape), jnp.float32), (sums_shape, kernel, bias)
    )
    total, of_hidden = jax.lax.scan(add, zeros, parts)
    sums, of_kernel, of_bias = jax.tree.map(lambda x: jnp.sum(x, axis=0), total) if ahead else total
    # Each device keeps the part of the sum that it keeps of the parameter.
    of_kernel = nn.with_logical_constraint(of_kernel, ("embed", "vocab"))
    of_hidden = of_hidden.reshape(of_hidden.shape[0], hidden.shape[0], *of_hidden.shape[-2:])
    gradients = (join_length(of_hidden, hidden.shape[1]), of_kernel, of_bias)
    return sums, jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, (hidden, kernel, bias))


def _scaled_gradients(
    chunk_sums: ChunkSums,
    chunk: int,
    scale: float,
    softcap: float,
    gradients: Any,
    cotangent: jax.Array,
) -> tuple[Any, ...]:
    """The gradients times what the loss is multiplied by afterwards; none for the others."""
    del chunk_sums, chunk, scale, softcap
    return *jax.tree.map(lambda g: g * cotangent[0].astype(g.dtype), gradients), None, None


_sums_of_chunks.defvjp(_sums_and_gradients, _scaled_gradients)


def _shared(kernel: jax.Array, dtype: Any) -> jax.Array:
    """The kernel as all chunks use it: brought together once, not once for each of them."""
    return nn.with_logical_constraint(
        kernel.astype(dtype), ("activation_embed", "activation_vocab")
    )


def _shards(batch: int) -> int:
    """How many parts the mesh in use divides the rows of a batch into; 1 where it divides none."""
    mesh = jax.sharding.get_abstract_mesh()
    spec = nn.logical_to_mesh_axes(("activation_batch",)) if mesh.size else None
    rule = spec[0] if spec else None
    names = (rule,) if isinstance(rule, str) else rule or ()
    shards = math.prod(mesh.shape[name] for name in names)
    return shards if batch % shards == 0 else 1
