"""On chips that are not there, what a kernel of attention needs grows with the length alone."""

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

ROWS, HEADS, KV = 8, 4, 128


def temporaries(chip: str, topology: str, length: int, kernel: str = "auto") -> tuple[int, str]:
    """Bytes on a chip of the gradients of attention, and the compiled text.

    A TPU's rows are packed; cuDNN has no segments, and the rows of a GPU are padded.
    """
    prepare()
    chips = find_slice(chip, topology)
    if not has_compiler(chips.chip.platform):
        pytest.skip(f"the compiler of {chip} is absent; {INSTALL} brings it")
    mesh = make_mesh((1, 2, 2), target(chips).devices)
    packed = chips.chip.platform == "tpu"

    def total(inputs: list[jax.Array], segments: jax.Array) -> jax.Array:
        mask = AttentionMask(causal=True, keys=segments > 0, real_first=True)
        if packed:
            mask = AttentionMask(causal=True, query_segments=segments, key_segments=segments)
        return jnp.sum(jnp.square(attention(kernel, *inputs, mask).astype(jnp.float32)))

    laid = batch_sharding(mesh)
    inputs = [jax.ShapeDtypeStruct((ROWS, length, HEADS, KV), jnp.bfloat16, sharding=laid)] * 3
    segments = jax.ShapeDtypeStruct((ROWS, length), jnp.int32, sharding=laid)
    compiled = jit_on_mesh(jax.grad(total), mesh).lower(inputs, segments).compile()
    return compiled.memory_analysis().temp_size_in_bytes, compiled.as_text() or ""


@pytest.mark.parametrize(("chip", "topology"), [("v5e", "2x2"), ("v5p", "2x2x1")])
def test_splash_does_not_grow_with_the_square_of_the_length(chip: str, topology: str) -> None:
    (short, text), (long, _) = (temporaries(chip, topology, length) for length in (4096, 8192))
    # Forward, and two of the gradients.
    assert text.count('custom_call_target="tpu_custom_call"') == 3
    assert long < 2.5 * short
    assert long < 8192**2 * 4 * 2  # The scores of one row, of which a chip has four.


def test_cudnn_does_not_grow_with_the_square_of_the_length() -> None:
    (short, text), (long, _) = (temporaries("h100", "1x4", length) for length in (4096, 8192))
    if "__cudnn" not in text:
        pytest.skip("cuDNN's library is absent; pip install --no-deps nvidia-cudnn-cu12 brings it")
    assert text.count('custom_call_target="__cudnn$fmhaSoftmax"') == 1
    assert text.count('custom_call_target="__cudnn$fmhaSoftmaxBackward"') == 1
    assert long < 2.5 * short
    scores = 8192**2 * 4 * 2  # Of one row.
    assert long < scores
    # XLA's own attention holds them: the bound tells the two apart.
    assert temporaries("h100", "1x4", 8192, "xla")[0] > 4 * scores
