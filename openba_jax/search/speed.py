"""How long a token takes: greedy decoding, measured on this device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from openba_jax.inference.decoding import generate
from openba_jax.models.base import Model
from openba_jax.parallel import sharding

REPEATS = 5


def milliseconds_per_token(
    model: Model, input_length: int, new_tokens: int, mesh_shape: Sequence[int]
) -> float:
    """The time of an answer to one input divided by its tokens, reading the input included.

    The shortest of some repetitions, without compilation. Layers lie apart, as when serving
    (`inference.loading.unrolled`); all parameters are 0, since time does not depend on them.

    Args:
      model: the model.
      input_length: tokens of the input.
      new_tokens: tokens of the answer; nothing ends it before.
      mesh_shape: data, fsdp, model; as many rows are decoded as the first two divide.
    """
    mesh = sharding.make_mesh(mesh_shape)
    model = model.replace(scan_layers=False)
    shardings = sharding.param_shardings(model.logical_axes(), model.abstract_params(), mesh)

    def zeros() -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.abstract_params())

    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    with sharding.use_mesh(mesh):
        params = jax.jit(zeros, out_shardings=shardings)()
        inputs = jnp.full((rows, input_length), model.padding + 1, jnp.int32)
        key = jax.random.key(0)

        def decode() -> float:
            began = time.perf_counter()
            answer = generate(model, params, inputs, key, max_new_tokens=new_tokens, stop_ids=())
            jax.block_until_ready(answer)
            return time.perf_counter() - began

        decode()
        return 1000 * min(decode() for _ in range(REPEATS)) / new_tokens
