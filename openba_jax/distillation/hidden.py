"""Hidden states: the residual stream of a student against that of its teacher.

A student that was cut from its teacher has some of its layers and channels, and the plans say
which: nothing is projected. What a student's layer leaves in the stream is compared with what its
next layer finds in the teacher's, where layers lie between that the student lacks: so they learn
what the missing ones did, and the last layer has the aim that the logits have, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.models.axes import LAYERS, join
from openba_jax.models.base import Batch, Model
from openba_jax.nn import probes

STREAM = "stream"
EMBED = "embed"

_SMALLEST = 1e-6
"""Mean square of a stream below which differences are no longer put in relation to it."""


@dataclasses.dataclass(frozen=True)
class Match:
    """The layers of one stack that are compared.

    Attributes:
      stack: its name.
      of_student: numbers of the student's layers.
      of_teacher: for each of them that of the teacher's.
      channels: of the teacher's stream, which the student has; None: all. Equal matches are one
        compiled program, which is given the channels: see `kept_channels`.
    """

    stack: str
    of_student: tuple[int, ...]
    of_teacher: tuple[int, ...]
    channels: tuple[int, ...] | None = dataclasses.field(compare=False)


def matches(keep: Mapping[str, Any], teacher: Model, layers: str) -> tuple[Match, ...]:
    """What is compared.

    Args:
      keep: what the student keeps of the teacher, see `descent.descent`.
      teacher: the teacher.
      layers: `"all"`, or the `"last"` of each stack.
    """
    found = []
    for stack in teacher.stacks:
        depth = teacher.axes.depth(stack)
        kept = keep.get(join(stack, LAYERS), tuple(range(depth)))
        of_teacher = (*(layer - 1 for layer in kept[1:]), depth - 1)
        first = len(kept) - 1 if layers == "last" else 0
        channels = keep.get(join(stack, EMBED), keep.get(EMBED))
        found.append(
            Match(
                stack,
                tuple(range(first, len(kept))),
                of_teacher[first:],
                None if channels is None else tuple(channels),
            )
        )
    return tuple(found)


def kept_channels(matched: Sequence[Match]) -> dict[str, np.ndarray]:
    """The channels that a student has of its teacher's streams.

    Returns:
      For each stack of which it lacks some: their numbers, int32 `[channels of the student]`.
    """
    return {
        match.stack: np.asarray(match.channels, np.int32)
        for match in matched
        if match.channels is not None
    }


def streams(matched: Sequence[Match], channels: Mapping[str, Any]) -> probes.Probe:
    """A probe that keeps the streams after layers.

    Args:
      matched: what is compared.
      channels: the only ones to keep, by stack; all of a stack that is not there.
    """
    stacks = {join(match.stack, LAYERS): match.stack for match in matched}

    def probe(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> dict[str, jax.Array]:
        del arguments
        path = probes.path_of(module) if probes.is_layer(module) else ""
        if path not in stacks:
            return {}
        stream, kept = result[0], channels.get(stacks[path])
        return {STREAM: stream if kept is None else stream[..., jnp.asarray(kept)]}

    return probe


def hidden_error(
    matched: Sequence[Match],
    student: probes.Observations,
    teacher: probes.Observations,
    model: Model,
    batch: Batch,
) -> jax.Array:
    """Squared differences as a share of the square of the teacher's stream, a sum over targets.

    Each position is put in relation to the teacher's stream there; the mean is taken over the
    layers of all stacks. A position of the last stack weighs what its target weighs; those of
    another stack share the weight that their row has. So the sums of micro-batches add up.

    Args:
      matched: what is compared.
      student: observed by `streams`, all channels.
      teacher: the same of the teacher, in the channels that the student has.
      model: the student.
      batch: the batch.

    Returns:
      float32 scalar.
    """
    weights = batch["decoder_loss_weights"]
    real = model.real_tokens(batch)
    total = jnp.float32(0)
    for match in matched:
        name = f"{join(match.stack, LAYERS)}/{STREAM}"
        mine = student[name][jnp.array(match.of_student)].astype(jnp.float32)
        wanted = teacher[name][jnp.array(match.of_teacher)].astype(jnp.float32)
        share = jnp.mean(jnp.square(mine - wanted), axis=-1) / jnp.maximum(
            jnp.mean(jnp.square(wanted), axis=-1), _SMALLEST
        )
        if match.stack == model.stacks[-1]:
            of_positions = weights
        else:
            there = real[match.stack].astype(jnp.float32)
            count = jnp.maximum(jnp.sum(there, axis=1, keepdims=True), 1.0)
            of_positions = there / count * jnp.sum(weights, axis=1, keepdims=True)
        total += jnp.sum(share * of_positions)
    return total / sum(len(match.of_student) for match in matched)
