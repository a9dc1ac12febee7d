r"""Kills a run at random moments until it is done, and compares what it ends with.

python scripts/benchmarks/kills.py --folder=/tmp/kills

On each mesh a run of UL2 on random tokens is trained once without a stop, and once with SIGKILLs
and SIGTERMs at random moments: while it starts, steps, evaluates or writes. Started again with the
same command each time, it must end with the same parameters, moments and `metrics.jsonl`, bit for
bit; between the meshes losses may differ by 1e-5. The moments are drawn with --seed. Virtual CPU
devices stand for accelerators.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

_FOLDER = flags.DEFINE_string("folder", None, "Where everything is written; new.", required=True)
_KILLS = flags.DEFINE_integer("kills", 20, "SIGKILLs, over all meshes.")
_TERMS = flags.DEFINE_integer("terms", 5, "SIGTERMs, over all meshes.")
_STEPS = flags.DEFINE_integer("steps", 400, "Steps of a run.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")

_MESHES = {"data": "(2, 1, 1)", "divided": "(1, 2, 1)"}
_DEVICES = 2
_REPOSITORY = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str]) -> None:
    """Trains, kills, compares."""
    del argv
    folder = Path(_FOLDER.value).absolute()
    folder.mkdir(parents=True)
    prepare(folder)
    moments = random.Random(_SEED.value)
    signals = [signal.SIGKILL] * _KILLS.value + [signal.SIGTERM] * _TERMS.value
    moments.shuffle(signals)
    losses = {}
    for number, (name, mesh) in enumerate(_MESHES.items()):
        whole = folder / f"{name}.whole"
        seconds = finish(whole, mesh)
        startup = finish(whole, mesh)  # There is nothing left to do.
        mine = signals[number :: len(_MESHES)]
        runs = [folder / f"{name}.killed"]
        for left in range(len(mine), 0, -1):
            if (steps(runs[-1]) or [0])[-1] == _STEPS.value:  # It came to its end: another one.
                runs.append(folder / f"{name}.killed_{len(runs) + 1}")
            remaining = 1 - (steps(runs[-1]) or [0])[-1] / _STEPS.value
            latest = startup + 2 * remaining * seconds / (left + 1)
            interrupt(runs[-1], mesh, mine[left - 1], moments.uniform(0, latest))
        for killed in runs:
            finish(killed, mesh)
            compare(whole, killed)
        losses[name] = read_losses(whole)
    apart = np.abs(np.subtract(*losses.values())).max()
    print(f"between the meshes losses differ by {apart:.1e} at most", flush=True)
    if apart > 1e-5:
        raise SystemExit("error: the meshes differ by more than 1e-5.")


def prepare(folder: Path) -> None:
    """Writes a tokenizer and a token store."""
    from openba_jax.data.store.token_store import store_dtype
    from openba_jax.data.store.writer import TokenStoreWriter
    from openba_jax.data.vocabulary_training import train_vocabulary

    vocabulary = train_vocabulary(
        [f"{i} {i * i} {i**3}" for i in range(200)], 280, folder / "tokenizer.model"
    )
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder / "spans", store_dtype(vocabulary.token_count)) as writer:
        writer.add_groups(rng.integers(3, 40, (400, 24)))


def start(model_dir: Path, mesh: str) -> subprocess.Popen[str]:
    """Starts the run, or starts it again."""
    data = model_dir.parent
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "openba_jax.train"),
            *("--gin_file=gin/models/tiny.gin", "--gin_file=gin/runs/native/pretrain.gin"),
            f"--gin.MODEL_DIR='{model_dir}'",
            f"--gin.TOKEN_STORES=['{data / 'spans'}']",
            f"--gin.VOCABULARY='{data / 'tokenizer.model'}'",
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 28, 'targets': 20}",
            *("--gin.BATCH_SIZE=8", "--gin.HELD_OUT=16", "--gin.EVAL_STEPS=1"),
            *("--gin.EVAL_PERIOD=20", "--gin.CHECKPOINT_PERIOD=7", "--gin.LOG_PERIOD=5"),
            *(f"--gin.TRAIN_STEPS={_STEPS.value}", f"--gin.MESH_SHAPE={mesh}"),
            *("--gin.DROPOUT_RATE=0.1", "--gin.warmup_cosine.warmup_steps=5"),
            *("--gin.warmup_cosine.peak=1e-3", "--gin.TASK_LOSSES=True"),
        ],
        cwd=_REPOSITORY,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            # Programs that are compiled sooner are killed sooner.
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={_DEVICES} "
            "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(data / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def finish(model_dir: Path, mesh: str) -> float:
    """Lets the run come to its end; returns the seconds that it took."""
    began = time.monotonic()
    process = start(model_dir, mesh)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: the run failed with {process.returncode}: {errors}")
    return time.monotonic() - began


def interrupt(model_dir: Path, mesh: str, number: signal.Signals, seconds: float) -> None:
    """Starts the run and sends it a signal some seconds later."""
    process = start(model_dir, mesh)
    try:
        process.communicate(timeout=seconds)
        raise SystemExit(f"error: {model_dir} was done before {number.name}; give more --steps.")
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, errors = process.communicate()
    # Until the trainer takes it over, SIGTERM ends a process as it ends any other.
    if process.returncode not in ({-number, 143} if number == signal.SIGTERM else {-number}):
        raise SystemExit(f"error: after {number.name} code {process.returncode}: {errors}")
    saved = f"checkpoint {steps(model_dir)[-1]}" if steps(model_dir) else "no checkpoint"
    outcome = f"code {process.returncode}, {saved}"
    print(f"{model_dir.name}: {number.name} after {seconds:5.1f} s, {outcome}", flush=True)


def steps(model_dir: Path) -> list[int]:
    """Steps of the checkpoints."""
    folder = model_dir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def compare(whole: Path, killed: Path) -> None:
    """Compares two runs bit for bit."""
    import jax

    from openba_jax.checkpoints.checkpoint import load_state
    from openba_jax.checkpoints.registry import open_checkpoint

    (state, data), (expected, expected_data) = (
        (load_state(opened), dict(opened.data)) for opened in map(open_checkpoint, (killed, whole))
    )
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    texts = [(path / "metrics.jsonl").read_bytes() for path in (killed, whole)]
    if texts[0] != texts[1] or data != expected_data:
        raise SystemExit(f"error: {killed} has other records than {whole}.")
    leaves = len(jax.tree.leaves(state))
    print(f"{killed.name}: {leaves} arrays and metrics.jsonl are the same, bit for bit", flush=True)


def read_losses(model_dir: Path) -> list[float]:
    """All losses of a run, of training and of evaluations."""
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


if __name__ == "__main__":
    app.run(main)
