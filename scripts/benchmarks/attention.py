r"""What the kernels of attention cost, forward and backward, at several lengths.

python scripts/benchmarks/attention.py
TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python scripts/benchmarks/attention.py --topology=v5e:2x2

Packed rows, once with and once without causality. With a topology the compiler of that chip
compiles, which takes no chip (`pip install libtpu`), and memory alone is known; without one, the
first device here runs it.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_kernels.registry import KERNELS, attention
from openba_jax.parallel.sharding import batch_sharding, jit_on_mesh, make_mesh


def total(kernel: str, inputs: list[jax.Array], segments: jax.Array) -> jax.Array:
    """A sum over one bidirectional and one causal attention."""
    packed = {"query_segments": segments, "key_segments": segments}
    masks = AttentionMask(keys=segments > 0, **packed), AttentionMask(causal=True, **packed)
    results = [attention(kernel, *inputs, mask) for mask in masks]
    return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in results)


def gradients(kernel: str, inputs: list[jax.Array], segments: jax.Array) -> list[jax.Array]:
    """Those of `total`."""
    return jax.grad(total, argnums=1)(kernel, inputs, segments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", default="", help="such as v5e:2x2 or v5p:2x2x1")
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[576, 1152, 2304])
    parser.add_argument("--rows", type=int, default=8, help="on each device")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv", type=int, default=128)
    options = parser.parse_args()
    if options.topology:
        described = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
        devices = described.devices
    else:
        devices = jax.devices()[:1]
    mesh = make_mesh((len(devices), 1, 1), devices)
    print(
        f"{devices[0].device_kind}, {options.rows} rows, {options.heads} x {options.kv}, bfloat16"
    )
    print("| length | kernel | MiB of temporaries | ms |\n|---:|---|---:|---:|")
    for length in options.lengths:
        shape = (options.rows * len(devices), length, options.heads, options.kv)
        laid = batch_sharding(mesh)
        inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=laid)] * 3
        segments = jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=laid)
        for kernel in options.kernels:
            run = jit_on_mesh(gradients, mesh, static_argnums=0)
            compiled = run.lower(kernel, inputs, segments).compile()
            mebibytes = compiled.memory_analysis().temp_size_in_bytes / 2**20
            spent = "" if options.topology else f"{1e3 * seconds(compiled, inputs, segments):.1f}"
            print(f"| {length} | {kernel} | {mebibytes:.0f} | {spent} |", flush=True)


def seconds(compiled: jax.stages.Compiled, *shapes: object) -> float:
    """The best of five runs."""

    def filled(x: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(jnp.ones(x.shape, x.dtype), x.sharding)

    arguments = jax.tree.map(filled, shapes)
    jax.block_until_ready(compiled(*arguments))
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    main()
