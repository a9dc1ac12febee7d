"""Temporaries of the loss and its gradients over a large vocabulary, in chunks and dense.

python scripts/benchmarks/loss_memory.py [--chip=v5p] [--vocab=250368] [--tokens=4096]

The dense one holds float32 logits of all tokens. With a chip its own compiler, of the extra `aot`,
says what it reserves; otherwise that of this CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from openba_jax.fit.chips import find_slice
from openba_jax.fit.compilers import INSTALL, has_compiler, target
from openba_jax.fit.environment import prepare
from openba_jax.nn.losses import Head, token_cross_entropy
from openba_jax.parallel.sharding import jit_on_mesh, make_mesh, replicated

_CHIP = flags.DEFINE_string("chip", "", "Chip to compile for; by default this CPU.")
_VOCAB = flags.DEFINE_integer("vocab", 250_368, "Rows of the vocabulary.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 4096, "Target positions.", lower_bound=1)
_EMBED = flags.DEFINE_integer("embed", 2560, "Width.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 8, "Rows that share the tokens.", lower_bound=1)


def temporaries(loss: Callable[..., Any], dtype: str, device: jax.Device) -> int:
    """Bytes that the compiler reserves for the loss and its gradients, results apart."""
    mesh = make_mesh((1, 1, 1), [device])
    make = functools.partial(jax.ShapeDtypeStruct, sharding=replicated(mesh))
    shape = (_ROWS.value, _TOKENS.value // _ROWS.value)

    def of(hidden: Any, kernel: Any, targets: Any, weights: Any) -> Any:
        batch = {"decoder_target_tokens": targets, "decoder_loss_weights": weights}
        return loss(hidden, Head(kernel, None), batch)[0]

    compiled = (
        jit_on_mesh(jax.value_and_grad(of, (0, 1)), mesh)
        .lower(  # type: ignore[attr-defined]
            make((*shape, _EMBED.value), dtype),
            make((_EMBED.value, _VOCAB.value), jnp.float32),
            make(shape, jnp.int32),
            make(shape, jnp.float32),
        )
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes


def main(argv: list[str]) -> None:
    """Prints both, and the ratio."""
    del argv
    prepare()
    device = jax.devices()[0]
    if _CHIP.value:
        chips = find_slice(_CHIP.value, count=1)
        if not has_compiler(chips.chip.platform):
            raise SystemExit(f"the compiler of {_CHIP.value} is absent; {INSTALL} brings it.")
        device = target(chips).devices[0]
    dense = functools.partial(token_cross_entropy, max_chunk_logits=2**62)
    found = {
        "dense, float32": temporaries(dense, "float32", device),
        "in chunks, float32": temporaries(token_cross_entropy, "float32", device),
        "in chunks, bfloat16": temporaries(token_cross_entropy, "bfloat16", device),
    }
    print(
        f"{_CHIP.value or 'cpu'}, {_TOKENS.value} tokens, vocabulary {_VOCAB.value}\n"
        "| loss | MiB of temporaries | of dense |\n|---|---:|---:|"
    )
    for name, size in found.items():
        print(f"| {name} | {size / 2**20:.0f} | {size / found['dense, float32']:.1%} |")


if __name__ == "__main__":
    app.run(main)
