"""What goes wrong during weeks of training: signals, damaged checkpoints, NaN, full disks."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_run import ToyBatches, folder_hashes, saved_state, toy_model, toy_optimizer, toy_train

from openba_jax.checkpoints import checksums, model_folder, training_state
from openba_jax.errors import UserError
from openba_jax.parallel import sharding
from openba_jax.training import train_step
from openba_jax.training.preemption import SIGTERM_EXIT_CODE
from openba_jax.training.records import metrics

HERE = Path(__file__).resolve().parent


def assert_same_run(folder: Path, expected: Path) -> None:
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    (state, data), (expected_state, expected_data) = map(saved_state, (folder, expected))
    assert data == expected_data
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        np.testing.assert_array_equal(leaf, other)


@dataclasses.dataclass(frozen=True)
class SignalledBatches(ToyBatches):
    """Sends a signal to its own process when it is asked for a certain step."""

    number: int = signal.SIGTERM
    at: int = 7

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        if step == self.at:
            os.kill(os.getpid(), self.number)
        return super().batch(step, rows)


# Between two records of the log, at a checkpoint, and after one.
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_preempted_run_goes_on_bit_for_bit(
    tmp_path: Path, finished_run: Any, capfd: pytest.CaptureFixture[str], at: int
) -> None:
    folder = tmp_path / "run"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    batches = SignalledBatches(at=at)
    with pytest.raises(SystemExit) as stopped:
        toy_train(folder, batches=batches)
    assert stopped.value.code == SIGTERM_EXIT_CODE == 143
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    said = capfd.readouterr().err
    saved = model_folder.latest_step(folder)
    assert saved is not None
    assert f"stopped by SIGTERM at step {saved}; start again" in said
    assert batches.at <= saved <= batches.at + 1
    toy_train(folder)
    assert_same_run(folder, finished_run.model_dir)


def test_control_c_saves_and_goes_on_bit_for_bit(tmp_path: Path, finished_run: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy_train(tmp_path / "run", batches=SignalledBatches(number=signal.SIGINT))
    assert model_folder.latest_step(tmp_path / "run") in (7, 8)
    toy_train(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run.model_dir)


def test_a_skipping_run_that_is_preempted_goes_on_bit_for_bit(tmp_path: Path) -> None:
    batches = {"whole": ToyBatches(), "stopped": SignalledBatches()}
    toy_train(tmp_path / "whole", not_finite="skip")
    with pytest.raises(SystemExit):
        toy_train(tmp_path / "stopped", batches=batches["stopped"], not_finite="skip")
    toy_train(tmp_path / "stopped", not_finite="skip")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_main_ends_with_the_code_of_its_signal(
    tmp_path: Path, cached_environment: dict[str, str]
) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "from openba_jax import cli\n"
        "from toy_run import SlowBatches, toy_train\n"
        f"def main(argv): toy_train({str(tmp_path / 'run')!r}, batches=SlowBatches())\n"
        "cli.run(main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**cached_environment, "PYTHONPATH": str(HERE.parents[1]), "TOY_SLEEPS": "0.5"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: len(metrics.read(tmp_path / "run" / "metrics.jsonl")) > 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == SIGTERM_EXIT_CODE, errors
    assert "stopped by SIGTERM at step" in errors
    assert "Traceback" not in errors
    assert model_folder.latest_step(tmp_path / "run")


def test_a_second_signal_ends_at_once(tmp_path: Path, start_toy: Any) -> None:
    process = start_toy(tmp_path, "{}", TOY_SLEEPS="5")
    wait_for(lambda: (tmp_path / "-1x1x1" / "metrics.jsonl").exists(), process)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, errors
    assert time.monotonic() - began < 3
    assert "SIGTERM: saving after this step" in errors
    assert "Traceback" not in errors


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def state_files(folder: Path, step: int) -> list[Path]:
    """The files of a checkpoint's state, the largest first."""
    found = (folder / "checkpoints" / str(step) / "state").rglob("*")
    data = [path for path in found if path.is_file() and path.name != checksums.FILE]
    return sorted(data, key=lambda path: path.stat().st_size, reverse=True)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(content), 64):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda folder: truncate(state_files(folder, 12)[0]),
    "flipped": lambda folder: flip(state_files(folder, 12)[0]),
    "half copied": lambda folder: [path.unlink() for path in state_files(folder, 12)[::2]],
    "its data": lambda folder: flip(folder / "checkpoints" / "12" / "data" / "metadata"),
    "its checksums": lambda folder: flip(folder / "checkpoints" / "12" / "state" / checksums.FILE),
    "an item": lambda folder: shutil.rmtree(folder / "checkpoints" / "12" / "state"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_found_and_the_last_whole_one_used(
    tmp_path: Path, finished_run: Any, kind: str
) -> None:
    folder = Path(shutil.copytree(finished_run.model_dir, tmp_path / "run"))
    DAMAGES[kind](folder)
    before = folder_hashes(tmp_path)
    with pytest.raises(
        UserError,
        match=r"12 is damaged; delete it to go back to step 8 \(in training, set FALL_BACK",
    ):
        toy_train(folder, train_steps=14)
    assert folder_hashes(tmp_path) == before
    if kind not in ("its data",):  # Where parameters alone are read, the data item is not.
        with pytest.raises(UserError, match="12 is damaged"):
            training_state.restore_params(folder)
    if kind == "flipped":
        toy_train(folder, fall_back=True)
        assert_same_run(folder, finished_run.model_dir)
        kept = {name for name in before if name.startswith("run/checkpoints/12/state/")}
        moved = folder_hashes(folder / "damaged" / "12")
        assert {name.removeprefix("run/checkpoints/12/") for name in kept} <= moved.keys()


def test_without_an_earlier_checkpoint_there_is_nothing_to_fall_back_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    toy_train(folder, train_steps=2)
    flip(state_files(folder, 2)[0])
    before = folder_hashes(folder)
    with pytest.raises(UserError, match="2 is damaged; there is no earlier one"):
        toy_train(folder, fall_back=True)
    assert folder_hashes(folder) == before


def test_a_checkpoint_of_an_older_version_has_no_checksums(
    tmp_path: Path, finished_run: Any
) -> None:
    folder = Path(shutil.copytree(finished_run.model_dir, tmp_path / "run"))
    for path in folder.rglob(checksums.FILE):
        path.unlink()
    assert toy_train(folder, train_steps=13).step == 13


def test_parts_of_the_files_cover_all(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 100)
    checksums.write(tmp_path)
    assert checksums.find_damage(tmp_path) is None
    flip(tmp_path / "3")
    found = [checksums.find_damage(tmp_path, (part, 3)) for part in range(3)]
    assert sorted(filter(None, found)) == ["the content of 3 has changed"]
    assert checksums.find_damage(tmp_path, contents=False) is None
    truncate(tmp_path / "3")
    assert checksums.find_damage(tmp_path, contents=False) == "3 has 50 bytes instead of 100"


@dataclasses.dataclass(frozen=True)
class PoisonedBatches(ToyBatches):
    """Batches whose loss is NaN at certain steps: a weight is infinite where there is no target."""

    at: tuple[int, ...] = (5,)

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        batch = super().batch(step, rows)
        if step in self.at:
            weights = batch["decoder_loss_weights"].copy()
            weights[0, 0] = np.inf
            return {**batch, "decoder_loss_weights": weights}
        return batch


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"began with finite parameters.*'skip' \(step 4 is saved"):
        toy_train(tmp_path / "run", batches=PoisonedBatches())
    assert model_folder.steps(tmp_path / "run") == [4]


def test_steps_that_are_not_finite_can_be_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = toy_train(folder, batches=PoisonedBatches(at=(5, 6, 7)), not_finite="skip")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    train = {r["step"]: r for r in records if r["split"] == "train"}
    assert [r["skipped"] for r in train.values()] == [0, 0, 1, 3, 3, 3]
    assert "loss" not in train[8]  # Both of its steps were skipped.
    assert result.train_loss is not None
    assert saved_state(folder)[1]["skipped"] == {"total": 3, "in_a_row": 0}
    again = tmp_path / "again"
    with pytest.raises(UserError, match=r"3 steps in a row .* max_skipped is 2"):
        toy_train(again, batches=PoisonedBatches(at=(5, 6, 7)), not_finite="skip", max_skipped=2)
    assert model_folder.steps(again) == [4]


def test_a_skipped_step_touches_neither_parameters_nor_moments() -> None:
    mesh = sharding.make_mesh()
    model = toy_model(dropout_rate=0.0)
    step = train_step.make_train_step(model, toy_optimizer(), mesh, skip_not_finite=True)
    good = jax.tree.map(jnp.asarray, ToyBatches().batch(0))
    bad = jax.tree.map(jnp.asarray, PoisonedBatches(at=(0,)).batch(0))
    state, _ = step(train_step.init_state(model, toy_optimizer(), mesh), good)
    before = jax.tree.map(np.array, state)
    after, sums = step(state, bad)
    assert bool(sums["skipped"])
    assert float(sums["loss_sum"]) == float(sums["grad_norm"]) == 0
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    adam, expected = (
        next(part for part in each.opt_state if hasattr(part, "mu")) for each in (after, before)
    )
    jax.tree.map(np.testing.assert_array_equal, adam, expected)
    # The rate that the log shows is the one that is applied: the schedule counts every step.
    (schedule,) = (p for p in after.opt_state if isinstance(p, optax.ScaleByScheduleState))
    assert int(schedule.count) == 2


def test_a_disk_that_fills_while_the_log_is_written(
    tmp_path: Path, finished_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = metrics.MetricWriter.write

    def write_or_fail(self: Any, split: str, step: int, values: Any) -> None:
        if step > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, split, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricWriter, "write", write_or_fail)
        with pytest.raises(UserError, match=r"the disk is full while .*run is written"):
            toy_train(tmp_path / "run")
    assert model_folder.steps(tmp_path / "run") == [4, 8]
    toy_train(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run.model_dir)


def test_a_small_disk_ends_in_one_sentence(tmp_path: Path, cached_environment: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        program = (
            f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
            "from openba_jax import cli\n"
            "from toy_run import toy_train, toy_model\n"
            f"def main(argv): toy_train({str(disk / 'run')!r}, max_to_keep=None, "
            "model=toy_model(mlp_dim=4096), train_steps=12, checkpoint_every=1)\n"
            "cli.run(main)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**cached_environment, "PYTHONPATH": str(HERE.parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "the disk is full while" in errors[0]
        assert "Traceback" not in done.stderr
        steps = model_folder.steps(disk / "run")
        assert steps
        training_state.restore_params(disk / "run", toy_model(mlp_dim=4096))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
