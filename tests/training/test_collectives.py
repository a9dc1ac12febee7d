"""What the devices of a mesh send each other in a step of training, read from the compiled program.

Results are the same whatever is sent; only this shows that no device receives the logits, or the
activations of the whole global batch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

VOCAB, EMBED, BATCH, LENGTHS = 4096, 64, 16, (48, 40)

PROGRAM = f"""
import functools, json, sys
import jax, jax.numpy as jnp
from openba_jax.fit import hlo
from openba_jax.fit.costs import costs
from openba_jax.nn import losses
from openba_jax.models.registry import model_of, named_config
from openba_jax.training import optimizer, train_step
from openba_jax.parallel import sharding

mesh_shape, accumulation, chunked = json.loads(sys.argv[1])
loss = losses.token_cross_entropy
if chunked:
    loss = functools.partial(loss, max_chunk_logits={BATCH * 10 * VOCAB} // 8)
model = model_of(named_config(
    "tiny", vocab_size={VOCAB}, embed_dim={EMBED}, mlp_dim=192, num_heads=4, head_dim=16
))
mesh = sharding.make_mesh(mesh_shape)
adamw = optimizer.adamw(optimizer.warmup_constant(1e-3))
rows = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh))
encoder, decoder = (({BATCH}, length) for length in {LENGTHS})
batch = {{
    "encoder_input_tokens": rows(encoder, jnp.int32),
    "decoder_input_tokens": rows(decoder, jnp.int32),
    "decoder_target_tokens": rows(decoder, jnp.int32),
    "decoder_loss_weights": rows(decoder, jnp.float32),
}}
loss = train_step.OfTargets(loss)
step = train_step.make_train_step(model, adamw, mesh, accumulation=accumulation, loss=loss)
state = train_step.abstract_state(model, adamw, mesh)
text = step.lower(state, batch).compile().as_text()
found = costs(hlo.parse(text)).collectives
summed = sum(
    each.times
    for each in found
    if each.kind in ("all-reduce", "reduce-scatter")
    for array in each.types
    if {VOCAB} // mesh_shape[2] in array.shape and array.size >= {EMBED} * {VOCAB} // 8
)
print(f"summed {{summed}}")
print(text)
"""


def received(
    environment: dict[str, str], mesh: list[int], accumulation: int, chunked: bool
) -> tuple[list[tuple[int, ...]], int]:
    """Shapes of what devices gather or exchange, floating point alone; and how often in a step they
    sum the gradient of the vocabulary.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([mesh, accumulation, chunked])],
        env={**environment, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # XLA warns where it has to bring an array together whole in order to divide it anew.
    assert "Involuntary full rematerialization" not in done.stderr
    lines = re.findall(r"= (.*) (?:all-gather|all-to-all)(?:-start)?\(", done.stdout)
    assert lines
    shapes = re.findall(r"(?:f32|bf16)\[([\d,]*)\]", " ".join(lines))
    summed = int(done.stdout.partition("summed ")[2].split()[0])
    return [tuple(map(int, shape.split(","))) for shape in shapes], summed


@pytest.mark.parametrize(
    ("mesh", "accumulation", "chunked"),
    [([2, 2, 2], 1, False), ([2, 2, 2], 2, False), ([2, 2, 2], 1, True), ([1, 2, 4], 1, False)],
)
def test_neither_logits_nor_the_whole_batch_are_gathered(
    cached_environment: dict[str, str], mesh: list[int], accumulation: int, chunked: bool
) -> None:
    data, _, model = mesh
    shapes, summed = received(cached_environment, mesh, accumulation, chunked)
    kernel = (EMBED, VOCAB // model)
    of_vocabulary = [shape for shape in shapes if {VOCAB, VOCAB // model} & set(shape)]
    assert of_vocabulary
    assert all(tuple(sorted(shape)) == kernel for shape in of_vocabulary)
    if chunked:  # Brought together once, not once for each chunk.
        assert len(of_vocabulary) == 1
        # Over `data`, over `fsdp`, and that of the embedding; not once for each of 4 chunks.
        assert 1 <= summed <= 3
    rows = BATCH // accumulation
    activations = [shape for shape in shapes if set(LENGTHS) & set(shape)]
    assert data == 1 or all(rows not in shape for shape in activations)
