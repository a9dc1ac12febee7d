"""Runs on several devices and in several processes: the losses of one device, in one process."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from toy_run import saved_state, toy_train

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.training.preemption import SIGTERM_EXIT_CODE
from openba_jax.training.records import metrics

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


def start_two(start_toy: Any, folder: Path, options: str = "{}", **environment: str) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = {"meshes": [[2, 1, 1]], "coordinator": coordinator, "count": 2, **json.loads(options)}
    return [
        start_toy(folder, json.dumps({**shared, "index": index}), **environment)
        for index in range(2)
    ]


def wait_for_records(folder: Path, count: int, processes: list[Any]) -> None:
    deadline = time.monotonic() + 300
    while len(metrics.read(folder / metrics.METRICS)) < count:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.2)


def test_two_processes_train_as_one(tmp_path: Path, finished_run: Any, start_toy: Any) -> None:
    processes = start_two(start_toy, tmp_path)
    outputs = [process.communicate(timeout=600) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    folder = tmp_path / "2x1x1"
    expected = losses(finished_run.model_dir)
    np.testing.assert_allclose(losses(folder), expected, atol=1e-4, rtol=0)
    # Its checkpoint is one that a single process goes on from.
    assert toy_train(folder, train_steps=13).step == 13


@pytest.mark.slow(reason="two processes are started twice")
def test_a_signal_to_one_process_stops_both_and_they_go_on_exactly(
    tmp_path: Path, start_toy: Any
) -> None:
    whole = start_two(start_toy, tmp_path / "whole")
    for process in whole:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    # The first evaluation is recorded before the first step: 12 steps of at least half a second.
    stopped = start_two(start_toy, tmp_path / "stopped", TOY_SLEEPS="0.5")
    folder = tmp_path / "stopped" / "2x1x1"
    wait_for_records(folder, 2, stopped)
    stopped[1].send_signal(signal.SIGTERM)
    for process in stopped:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == SIGTERM_EXIT_CODE, errors
        assert "Traceback" not in errors
    assert 3 < (model_folder.latest_step(folder) or 0) < 12
    for process in start_two(start_toy, tmp_path / "stopped"):
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    expected = tmp_path / "whole" / "2x1x1"
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    (state, data), (expected_state, expected_data) = map(saved_state, (folder, expected))
    assert data == expected_data
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)


@pytest.mark.slow(reason="waits until the processes notice that one of them is gone")
def test_when_one_process_is_killed_the_other_ends_in_bounded_time(
    tmp_path: Path, start_toy: Any
) -> None:
    heartbeat = 10
    processes = start_two(
        start_toy, tmp_path, json.dumps({"heartbeat": heartbeat}), TOY_SLEEPS="0.5"
    )
    wait_for_records(tmp_path / "2x1x1", 2, processes)
    processes[1].kill()
    began = time.monotonic()
    processes[0].communicate(timeout=600)
    assert processes[0].returncode not in (0, None)
    assert time.monotonic() - began < 6 * heartbeat
    processes[1].communicate()
