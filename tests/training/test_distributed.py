"""Runs on several devices and in several processes: the losses of one device, in one process."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import jax
import numpy as np
from toy_run import toy_train

from openba_jax.checkpoints import training_state
from openba_jax.training import metrics

MESHES = [[8, 1, 1], [2, 2, 2], [1, 2, 4]]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in metrics.read(folder / metrics.METRICS)]


def test_meshes_of_eight_devices_give_the_losses_of_one(
    tmp_path: Path, finished_run: Any, start_toy: Any
) -> None:
    options = {"initial_model": str(finished_run.model_dir), "eval_batches": 0, "train_steps": 8}
    process = start_toy(
        tmp_path,
        json.dumps({"meshes": MESHES, **options}),
        xla_flags="--xla_force_host_platform_device_count=8",
    )
    expected = toy_train(tmp_path / "expected", **options).model_dir
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert len(losses(expected)) == 4
    for mesh in MESHES:
        folder = tmp_path / "x".join(map(str, mesh))
        np.testing.assert_allclose(losses(folder), losses(expected), atol=1e-4, rtol=0)
        # What was saved sharded is read back whole.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
            training_state.restore_params(folder),
            training_state.restore_params(expected),
        )
    table = (tmp_path / "1x2x4" / "sharding.txt").read_text()
    (kernel,) = (line for line in table.splitlines() if line.startswith("decoder/layers/mlp/wo"))
    assert kernel.endswith(" 0.125")


def test_two_processes_train_as_one(tmp_path: Path, finished_run: Any, start_toy: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    options = {"meshes": [[2, 1, 1]], "coordinator": coordinator, "count": 2}
    processes = [start_toy(tmp_path, json.dumps({**options, "index": index})) for index in range(2)]
    outputs = [process.communicate(timeout=600) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    folder = tmp_path / "2x1x1"
    expected = losses(finished_run.model_dir)
    np.testing.assert_allclose(losses(folder), expected, atol=1e-4, rtol=0)
    # Its checkpoint is one that a single process goes on from.
    assert toy_train(folder, train_steps=13).step == 13
