"""The measurements of `gpu.py`: each function is called in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging as py_logging
import math
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attention as attention_benchmark
import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from openba_jax.errors import UserError, exhausted
from openba_jax.fit.steps import abstract_batch, bytes_on_device, kept_for_backward
from openba_jax.inference.decoding import generate
from openba_jax.inference.int8 import int8_weights
from openba_jax.models.base import Model
from openba_jax.models.counting import parameter_count, train_flops_per_example
from openba_jax.models.registry import model_of, named_config
from openba_jax.nn.losses import MAX_CHUNK_LOGITS, token_cross_entropy
from openba_jax.parallel import hardware, memory
from openba_jax.parallel.sharding import batch_sharding, jit_on_mesh, make_mesh, use_mesh
from openba_jax.training import train_step
from openba_jax.training.layer_optimizers import adafactor
from openba_jax.training.optimizer import adamw, optimizer_of, warmup_constant

SHARE = 0.95
"""Of the memory of the card that a step may be estimated to take."""

RATE = warmup_constant(1e-4)
OPTIMIZERS = {
    "adamw": adamw(RATE),
    "bfloat16 moment": adamw(RATE, moment_dtype="bfloat16"),
    "adafactor": adafactor(RATE),
}

CUDNN = "__cudnn$fmha"
"""Begins the names of cuDNN's attention in a compiled program."""


def identity() -> dict[str, Any]:
    """Which card it is."""
    device = jax.devices()[0]
    on_gpu = device.platform in ("cuda", "rocm", "gpu")
    return {"device": device.device_kind, "platform": "gpu" if on_gpu else device.platform}


def card(
    ladder: Sequence[tuple[str, dict[str, Any]]],
    lengths: tuple[int, int],
    most_rows: int,
    least_rows: int,
    tiny: bool,
) -> dict[str, Any]:
    """What the card is and does, and what fits into it.

    Args:
      ladder: names of sizes, and what to change of each.
      lengths: positions of inputs and targets.
      most_rows: of a batch.
      least_rows: a shape fits if so many rows do.
      tiny: whether the command is only tried.

    Raises:
      UserError: no shape fits.
    """
    device, free = jax.devices()[0], memory.free()
    if device.platform == "cpu" and not tiny:
        return identity()
    if free is None:
        raise UserError(f"the {device.device_kind} does not say how much memory it has.")
    peak, bandwidth = hardware.peak_flops(), hardware.peak_bandwidth()
    found = identity() | {
        "backend": device.client.platform_version,
        "jax": jax.__version__,
        "free": free.bytes,
        "peak": peak.flops,
        "peak_source": peak.source,
        "bandwidth": bandwidth.bytes_per_second,
        "bandwidth_source": bandwidth.source,
        "product": _product(512 if tiny else 8192),
        "copy": _copy(2**24 if tiny else 2**31),
        "tiny": tiny,
    }
    for name, config in ladder:
        config = {"dtype": "bfloat16", **config}
        rows = {
            name: _rows(model, optimizer, lengths, SHARE * free.bytes, most_rows)
            for name, model, optimizer in _settings(model_of(named_config(name, **config)))
        }
        if max(rows.values()) >= least_rows:
            return found | {
                "shape": _shape(
                    name, config, lengths, {key: max(1, count) for key, count in rows.items()}
                ),
                "lever_shape": _lever_shape(name, config, lengths, SHARE * free.bytes, most_rows),
            }
    raise UserError(f"the {device.device_kind} has room for none of the shapes.")


def _settings(model: Model) -> Iterator[tuple[str, Model, str]]:
    for policy in ("minimal", "full", "none"):
        yield policy, model.replace(remat_policy=policy), "adamw"
    yield "adafactor", model.replace(remat_policy="minimal"), "adafactor"
    yield "bfloat16", model.replace(remat_policy="minimal", param_dtype="bfloat16"), "adamw"


def _shape(
    name: str, config: dict[str, Any], lengths: tuple[int, int], rows: dict[str, int]
) -> dict[str, Any]:
    model = model_of(named_config(name, **config))
    return {
        "model": name,
        "config": config,
        "parameters": parameter_count(model),
        "layers": [model.axes.depth(stack) for stack in model.stacks],
        "lengths": lengths,
        "rows": rows,
    }


def _lever_shape(
    name: str, config: dict[str, Any], lengths: tuple[int, int], limit: float, most_rows: int
) -> dict[str, Any]:
    """A quarter of the layers, and the rows that fit without rematerialisation."""
    of_shape = named_config(name, **config)
    fewer = {
        field: max(1, getattr(of_shape, field) // 4)
        for field in ("encoder_layers", "decoder_layers")
    }
    model = model_of(named_config(name, **{**config, **fewer}))
    rows = max(1, _rows(model, "adamw", lengths, limit, min(16, most_rows)))
    return _shape(name, {**config, **fewer}, lengths, {"none": rows})


def _rows(model: Model, optimizer: str, lengths: tuple[int, int], limit: float, most: int) -> int:
    """The largest power of two of rows that is estimated to fit; 0 if not even one does.

    What is counted: parameters, moments, float32 gradients, what the forward pass keeps, what the
    backward pass of a layer computes again, and the logits of a chunk with their gradient.
    """
    mesh = _mesh()
    state = train_step.abstract_state(model, optimizer_of(OPTIMIZERS[optimizer], model), mesh)
    fixed = bytes_on_device(state) + 4 * parameter_count(model) + 8 * MAX_CHUNK_LOGITS
    kept = kept_for_backward(model, lengths)
    if model.config.remat_policy != "none":
        layers = sum(model.axes.depth(stack) for stack in model.stacks)
        kept += kept_for_backward(model.replace(remat_policy="none"), lengths) / layers
    fitting = [rows for rows in _powers(most) if fixed + rows * kept <= limit]
    return max(fitting, default=0)


def _powers(most: int) -> Iterator[int]:
    return itertools.takewhile(lambda rows: rows <= most, (2**n for n in itertools.count()))


def _mesh() -> Mesh:
    return make_mesh((1, 1, 1), jax.devices()[:1])


def _product(size: int) -> float:
    """FLOP/s of a square bfloat16 product."""
    a, b = (jax.random.normal(jax.random.key(n), (size, size), jnp.bfloat16) for n in (0, 1))
    return 2.0 * size**3 / _best(jax.jit(jnp.matmul), a, b)


def _copy(size: int) -> float:
    """Bytes a second, read and written, of adding one to an array."""
    x = jnp.ones(size // 4, jnp.float32)
    return 2.0 * x.nbytes / _best(jax.jit(lambda x: x + 1), x)


def _best(function: Callable[..., Any], *arguments: Any, times: int = 10) -> float:
    """Seconds of the fastest call, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    return min(_seconds(function, *arguments) for _ in range(times))


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began


def train(
    model: str,
    config: dict[str, Any],
    rows: int,
    lengths: tuple[int, int],
    optimizer: str = "adamw",
    chunk: int = MAX_CHUNK_LOGITS,
    accumulation: int = 1,
    seconds: float = 8.0,
) -> dict[str, Any]:
    """Steps of training on rows without padding, for about so many seconds."""
    made, mesh = model_of(named_config(model, **config)), _mesh()
    chosen = optimizer_of(OPTIMIZERS[optimizer], made)
    loss = train_step.OfTargets(functools.partial(token_cross_entropy, max_chunk_logits=chunk))
    state = train_step.init_state(made, chosen, mesh)
    step = train_step.make_train_step(made, chosen, mesh, loss=loss, accumulation=accumulation)
    batch = {
        name: jax.random.randint(jax.random.key(1), x.shape, 2, made.config.vocab_size, x.dtype)
        if x.dtype == jnp.int32
        else jnp.ones(x.shape, x.dtype)
        for name, x in abstract_batch(made, lengths, rows, None).items()
    }
    batch = jax.device_put(batch, batch_sharding(mesh))
    with _warnings() as said:
        began = time.perf_counter()
        compiled = step.lower(state, batch).compile()
        compiling = time.perf_counter() - began
    times: list[float] = []
    while len(times) < 2 or (len(times) < 11 and sum(times) < seconds):
        began = time.perf_counter()
        state, metrics = compiled(state, step.seed, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    taken = statistics.median(times[1:])  # The first one loads the program.
    flops = rows * train_flops_per_example(made, *lengths) / taken
    planned = compiled.memory_analysis()
    return {
        "rows": rows,
        "seconds": taken,
        "steps": len(times) - 1,
        "loss": float(metrics["loss_sum"] / metrics["weight_sum"]),
        "tokens_per_second": rows * sum(lengths) / taken,
        "flops_per_second": flops,
        "peak_bytes": _peak_bytes(),
        "argument_bytes": planned.argument_size_in_bytes,
        "temporary_bytes": planned.temp_size_in_bytes,
        "compile_seconds": compiling,
        "cudnn_calls": _cudnn_calls(compiled),
        "warnings": said,
    }


def decode(
    model: str,
    config: dict[str, Any],
    rows: int,
    inputs: int,
    new_tokens: int,
    parts: Sequence[str] = (),
) -> dict[str, Any]:
    """Greedy decoding: what a token costs, and what must be read for it.

    What is read is counted once: the weights of the decoder and of the vocabulary, keys and values
    of the encoder output and, whole, those of the answer.
    """
    made, mesh = model_of(named_config(model, **config)), _mesh()
    with use_mesh(mesh):
        params = _random_params(made)
        if "cache" in parts:
            made = made.replace(kv_cache="int8")
        if "weights" in parts:
            params = int8_weights(made, params)
        prompts = jax.random.randint(
            jax.random.key(1), (rows, inputs), 2, made.config.vocab_size, jnp.int32
        )
        began = time.perf_counter()
        start = jax.jit(functools.partial(made.start_decoding, length=new_tokens))
        state = jax.eval_shape(start, params, prompts)
        reading = _best(start, params, prompts, times=3)
        answer = functools.partial(  # No id ends an answer.
            generate, made, rng=jax.random.key(0), max_new_tokens=new_tokens, stop_ids=()
        )
        answered = answer(params, prompts)
        if int(jnp.min(answered)) < 0:
            raise ValueError("the logits are not finite, so that answers end early")
        compiling = time.perf_counter() - began
        whole = min(_seconds(answer, params, prompts) for _ in range(3))
    weights = {name: tree for name, tree in params.items() if name != "encoder"}
    read = _bytes(weights) + _bytes(state)
    token = (whole - reading) / new_tokens
    bandwidth = hardware.peak_bandwidth().bytes_per_second
    return {
        "rows": rows,
        "seconds_reading": reading,
        "seconds_token": token,
        "tokens_per_second": rows / token,
        "bytes": read,
        "bytes_per_second": read / token,
        "share": None if bandwidth is None else read / token / bandwidth,
        "peak_bytes": _peak_bytes(),
        "compile_seconds": compiling,
    }


def _random_params(model: Model) -> Any:
    """Parameters without compiling the initialisation of every layer: normal, scales near one."""

    def fill(path: Any, leaf: Any) -> jax.Array:
        key = jax.random.key(zlib.crc32(str(path).encode()) % 2**31)
        noise = 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
        return noise + (getattr(path[-1], "key", "") == "scale")

    return jax.tree.map_with_path(fill, model.abstract_params())


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def attention(
    kernel: str, lengths: Sequence[int], rows: int, heads: int, kv: int
) -> dict[str, Any]:
    """A kernel, forward alone and with its gradients, at some lengths: a list of figures."""
    mesh, found, said = _mesh(), [], []
    for length in lengths:
        laid = batch_sharding(mesh)
        shape = (rows, length, heads, kv)
        inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=laid)] * 3
        segments = jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=laid)
        row: dict[str, Any] = {"length": length}
        found.append(row)
        for name in ("total", "gradients"):
            function = getattr(attention_benchmark, name)
            try:
                with _warnings() as now:
                    run = jit_on_mesh(function, mesh, static_argnums=0)
                    compiled = run.lower(kernel, inputs, segments).compile()
                said += now
                if kernel == "cudnn" and not _cudnn_calls(compiled):
                    raise UserError((said or ["its kernel is not in the program."])[-1])
                row[name] = attention_benchmark.seconds(compiled, inputs, segments)
                row[f"{name}_bytes"] = compiled.memory_analysis().temp_size_in_bytes
            except (RuntimeError, ValueError, UserError) as error:
                row[f"{name}_failed"] = reason(error)
    if not any("total" in row or "gradients" in row for row in found):
        raise UserError(found[0]["total_failed"])
    return {"kernel": kernel, "rows": rows, "heads": heads, "kv": kv, "lengths": found}


def reason(error: BaseException) -> str:
    """Why something failed, in a line."""
    if (what := exhausted(error)) is not None:
        return f"out of memory: {what[:200]}"
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line[:300] if isinstance(error, UserError) else f"{type(error).__name__}: {line[:300]}"


def _cudnn_calls(compiled: jax.stages.Compiled) -> int:
    return (compiled.as_text() or "").count(f'custom_call_target="{CUDNN}')


def _peak_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects what is warned of within it, such as a kernel that was asked for in vain."""
    said: list[str] = []
    handler = py_logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.get_absl_logger()
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "identity": identity,
    "card": card,
    "training": train,
    "levers": train,
    "decoding": decode,
    "attention": attention,
}
"""By group of a measurement."""
