"""On TPUs that are not there, what a kernel of attention needs grows with the length alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from openba_jax.fit.chips import find_slice
from openba_jax.fit.compilers import INSTALL, has_compiler, target
from openba_jax.fit.environment import prepare
from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_kernels.registry import attention
from openba_jax.parallel.sharding import batch_sharding, jit_on_mesh, make_mesh

pytestmark = pytest.mark.aot


def temporaries(length: int) -> tuple[int, int]:
    """Bytes on a chip of the gradients of attention over packed rows, and how many kernels run."""
    prepare()
    chips = find_slice("v5p", "2x2x1")
    if not has_compiler(chips.chip.platform):
        pytest.skip(f"the compiler of v5p is absent; {INSTALL} brings it")
    mesh = make_mesh((1, 2, 2), target(chips).devices)

    def total(inputs: list[jax.Array], segments: jax.Array) -> jax.Array:
        mask = AttentionMask(causal=True, query_segments=segments, key_segments=segments)
        return jnp.sum(jnp.square(attention("auto", *inputs, mask).astype(jnp.float32)))

    laid = batch_sharding(mesh)
    inputs = [jax.ShapeDtypeStruct((8, length, 4, 128), jnp.bfloat16, sharding=laid)] * 3
    segments = jax.ShapeDtypeStruct((8, length), jnp.int32, sharding=laid)
    compiled = jit_on_mesh(jax.grad(total), mesh).lower(inputs, segments).compile()
    calls = (compiled.as_text() or "").count('custom_call_target="tpu_custom_call"')
    return compiled.memory_analysis().temp_size_in_bytes, calls


def test_temporaries_do_not_grow_with_the_square_of_the_length() -> None:
    (short, kernels), (long, _) = temporaries(4096), temporaries(8192)
    assert kernels == 3  # Forward, and two of the gradients.
    assert long < 2.5 * short
    assert long < 8192**2 * 4 * 2  # The scores of one row, of which a chip has four.
