r"""Training and decoding on a CPU: this package, the original in PyTorch, T5X's T5, in one run.

    python scripts/benchmarks/cpu.py --torch_python=PYTHON --output=cpu.json

PYTHON is an interpreter with torch, safetensors and numpy. Every peer is a process of its own, with
the same weights as far as the networks are the same, the same batches, float32, and as many
threads; they take turns, one run each, and the medians of the runs count. What is compared:

train     loss and gradients of one batch, without an update of parameters, without dropout
decode    reading the inputs and `--new_tokens` greedy tokens, with the cache of keys and values

by

ours      this package as its commands run it on a CPU: the model's defaults and
          `cli.host_memory`; the loss and the answers are checked against PyTorch's
torch     `scripts/openba_in_torch.py`, eager, the cache grown by concatenation as in Hugging Face's
          `generate`
t5x       T5X's own T5 network of the same sizes, trained through T5X's `loss_fn`; needs T5X
          (docs/t5x.md), for instance by OPENBA_T5X_PATH, and is left out with a word where it
          cannot be imported; it has no part in `decode`

Rates are given by the clock (`tokens_per_second`, of encoder and decoder positions in training, of
new tokens in decoding) and by the processor's time over all threads, which other work on the
machine disturbs less. With one thread:
`taskset -c 0 python scripts/benchmarks/cpu.py ... --threads=1`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {
    "vocab_size": 8192,
    "embed_dim": 256,
    "num_heads": 4,
    "head_dim": 64,
    "mlp_dim": 768,
    "encoder_layers": 4,
    "decoder_layers": 12,
    "tie_embeddings": False,
    "logits_bias": False,
}
PEERS = ("ours", "torch", "t5x")
WORK = ("train", "decode")
NEVER = 1_000_000
"""An end-of-sequence id that no network finds, so that all decode to the end."""

Run = Callable[[], Any]


# The drivers' side.


class Peer:
    """A process that runs one kind of work whenever it is told to."""

    def __init__(self, name: str, python: str, arguments: list[str], environment: Any) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [python, __file__, f"--peer={name}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.runs: list[dict[str, float]] = []
        self.first = self._read()  # What the first run gave, which compiles.

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}.")
        return dict(json.loads(line))

    def run(self) -> None:
        """Lets it run once."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.runs.append(self._read())

    def end(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def rates(self, tokens: int) -> dict[str, Any]:
        """Medians, and the fastest and slowest run."""
        seconds, work = ([run[key] for run in self.runs] for key in ("seconds", "processor"))
        return {
            "tokens_per_second": tokens / statistics.median(seconds),
            "tokens_per_processor_second": tokens / statistics.median(work),
            "seconds": [min(seconds), statistics.median(seconds), max(seconds)],
            "processor_seconds": [min(work), statistics.median(work), max(work)],
            "page_faults": statistics.median(run["page_faults"] for run in self.runs),
        }


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    passed = [f"--folder={folder}"] + [
        f"--{name}={getattr(arguments, name)}"
        for name in ("threads", "batch", "encoder_length", "decoder_length", "new_tokens")
    ]
    flags = os.environ.get("XLA_FLAGS", "")
    if arguments.threads == 1:
        flags += " --xla_cpu_multi_thread_eigen=false"
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "XLA_FLAGS": flags}
    pythons = {"ours": sys.executable, "torch": arguments.torch_python, "t5x": sys.executable}
    subprocess.run([sys.executable, __file__, "--peer=write", *passed], check=True, env=environment)
    tokens = {
        "train": arguments.batch * (arguments.encoder_length + arguments.decoder_length),
        "decode": arguments.batch * arguments.new_tokens,
    }
    found: dict[str, Any] = {}
    for work in arguments.work:
        peers = [
            Peer(name, pythons[name], [*passed, f"--work={work}"], environment)
            for name in arguments.peers
            if not (name == "t5x" and work == "decode")
        ]
        gone = [peer for peer in peers if "missing" in peer.first]
        for peer in gone:
            print(f"{peer.name} is left out: {peer.first['missing']}", flush=True)
        peers = [peer for peer in peers if peer not in gone]
        check(work, {peer.name: peer.first["result"] for peer in peers})
        for _ in range(arguments.runs):
            for peer in peers:
                peer.run()
        found[work] = {peer.name: peer.rates(tokens[work]) for peer in peers}
        for peer in peers:
            peer.end()
        show(work, found[work])
    return found


def check(work: str, results: dict[str, Any]) -> None:
    """Ends where this package and PyTorch do not compute the same."""
    if not {"ours", "torch"} <= set(results):
        return
    ours, torch = results["ours"], results["torch"]
    if work == "train":
        if abs(ours / torch - 1) > 1e-4:
            raise SystemExit(f"the losses differ: {ours} here, {torch} in PyTorch.")
    else:
        same = [a == b for x, y in zip(ours, torch, strict=True) for a, b in zip(x, y, strict=True)]
        print(f"decode: {statistics.mean(same):.1%} of the tokens are PyTorch's", flush=True)
        if statistics.mean(same) < 0.9:  # Two of nearly the same logit may change places.
            raise SystemExit("the answers differ.")


def show(work: str, found: dict[str, Any]) -> None:
    """Prints rates, and ratios to each peer."""
    ours = found.get("ours")
    for name, rates in found.items():
        text = f"{work:7s} {name:6s} {rates['tokens_per_second']:8.0f} tokens/s"
        text += f" {rates['tokens_per_processor_second']:8.0f} tokens/s of the processor"
        if ours and name != "ours":
            for key in ("tokens_per_second", "tokens_per_processor_second"):
                text += f"   ours {ours[key] / rates[key]:.2f}x"
        print(text, flush=True)


# The peers' side.


def serve(prepare: Callable[[], tuple[Run, Callable[[Any], Any]]]) -> None:
    """Runs once for each line that comes in, and writes what it took."""
    import resource

    try:
        run, plain = prepare()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"result": plain(run())}), flush=True)
    run()
    for _ in sys.stdin:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start, work = time.perf_counter(), time.process_time()
        run()
        measured = {
            "seconds": time.perf_counter() - start,
            "processor": time.process_time() - work,
            "page_faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
        }
        print(json.dumps(measured), flush=True)


def batch_of(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Encoder tokens, decoder tokens, targets: int32 arrays."""
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = (
        (arguments.batch, arguments.encoder_length),
        (arguments.batch, arguments.decoder_length),
    )
    encoder, targets = (rng.integers(3, SHAPE["vocab_size"], shape, np.int32) for shape in shapes)
    return encoder, np.pad(targets[:, :-1], ((0, 0), (1, 0))), targets


def write(arguments: argparse.Namespace) -> None:
    """Writes the model, random, in both formats."""
    import jax

    from openba_jax.checkpoints.formats.huggingface import HuggingFace
    from openba_jax.checkpoints.registry import open_checkpoint
    from openba_jax.checkpoints.training_state import create

    model = our_model()
    native, torch = (Path(arguments.folder, name) for name in ("native", "torch"))
    create(native, model, jax.jit(model.init)(jax.random.key(0)))
    torch.mkdir()
    HuggingFace().write(open_checkpoint(native), torch)


def our_model() -> Any:
    """The model, as a configuration makes it by default."""
    from openba_jax.models.openba.config import OpenBAConfig
    from openba_jax.models.registry import model_of

    return model_of(OpenBAConfig(**SHAPE))


def our_run(arguments: argparse.Namespace) -> tuple[Run, Callable[[Any], Any]]:
    """This package."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from openba_jax.cli import host_memory
    from openba_jax.inference import decoding
    from openba_jax.parallel import sharding
    from openba_jax.training import train_step

    host_memory.keep_freed_memory()
    model, mesh = our_model(), sharding.make_mesh()
    params = jax.device_put(jax.jit(model.init)(jax.random.key(0)))
    encoder, decoder, targets = map(jnp.asarray, batch_of(arguments))
    batch = {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": decoder,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": jnp.ones(targets.shape, jnp.float32),
    }
    if arguments.work == "train":

        def gradients(params: Any, batch: Any) -> Any:
            return train_step.summed_gradients(model, params, batch, None, 1)

        step = sharding.jit_on_mesh(gradients, mesh)
        return (
            lambda: jax.block_until_ready(step(params, batch)),
            lambda result: float(result[1]["loss_sum"]),
        )
    return (
        lambda: np.asarray(
            decoding.generate(
                model,
                params,
                encoder,
                jax.random.key(0),
                max_new_tokens=arguments.new_tokens,
                stop_ids=(NEVER,),
            )
        ),
        lambda answers: answers.tolist(),
    )


def torch_run(arguments: argparse.Namespace) -> tuple[Run, Callable[[Any], Any]]:
    """The original's network in PyTorch."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import torch
    from openba_in_torch import OpenBA, training_loss
    from safetensors.torch import load_file

    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.folder, "torch")
    weights = load_file(folder / "model.safetensors")
    network = OpenBA(weights, json.loads((folder / "config.json").read_text()))
    encoder, decoder, targets = (torch.from_numpy(x).long() for x in batch_of(arguments))
    real = torch.ones_like(encoder)
    if arguments.work == "train":
        for weight in weights.values():
            weight.requires_grad_()

        def step() -> float:
            for weight in weights.values():
                weight.grad = None
            loss = training_loss(network, encoder, real, decoder, targets)
            loss.backward()
            return loss.item()

        return step, float
    return (
        lambda: network.generate(encoder, real, arguments.new_tokens),
        lambda answers: answers.tolist(),
    )


def t5x_run(arguments: argparse.Namespace) -> tuple[Run, Callable[[Any], Any]]:
    """T5X's T5, a network of the same sizes."""
    sys.path += [path for path in os.environ.get("OPENBA_T5X_PATH", "").split(":") if path]
    import functools

    import jax
    import jax.numpy as jnp
    import seqio
    from t5x import models
    from t5x.examples.t5 import network as t5_network

    module = t5_network.Transformer(
        t5_network.T5Config(
            vocab_size=SHAPE["vocab_size"],
            dtype="float32",
            emb_dim=SHAPE["embed_dim"],
            num_heads=SHAPE["num_heads"],
            head_dim=SHAPE["head_dim"],
            mlp_dim=SHAPE["mlp_dim"],
            num_encoder_layers=SHAPE["encoder_layers"],
            num_decoder_layers=SHAPE["decoder_layers"],
            mlp_activations=("silu", "linear"),
            dropout_rate=0.0,
            logits_via_embedding=False,
        )
    )
    vocabulary = seqio.PassThroughVocabulary(SHAPE["vocab_size"], eos_id=1)
    model = models.EncoderDecoderModel(module, vocabulary, vocabulary, None)
    encoder, decoder, targets = map(jnp.asarray, batch_of(arguments))
    batch = {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": decoder,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": jnp.ones(targets.shape, jnp.float32),
    }
    shapes = {"encoder_input_tokens": (1, 2), "decoder_input_tokens": (1, 2)}
    init = jax.jit(functools.partial(model.get_initial_variables, input_shapes=shapes))
    params = init(jax.random.PRNGKey(0))["params"]

    @jax.jit
    def step(params: Any, batch: Any) -> Any:
        (loss, _), gradients = jax.value_and_grad(model.loss_fn, has_aux=True)(params, batch, None)
        return loss, gradients

    return (
        lambda: jax.block_until_ready(step(params, batch)),
        lambda result: float(result[0]),
    )


def main() -> None:
    """Runs the comparison, or one peer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--encoder_length", type=int, default=256)
    parser.add_argument("--decoder_length", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--peer", choices=(*PEERS, "write"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer == "write":
        write(arguments)
    elif arguments.peer:
        arguments.work = arguments.work[0]
        prepare = {"ours": our_run, "torch": torch_run, "t5x": t5x_run}[arguments.peer]
        serve(lambda: prepare(arguments))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(arguments, Path(folder))
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
