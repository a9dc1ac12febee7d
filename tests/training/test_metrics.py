from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.evaluation.loss import averages
from openba_jax.parallel import hardware
from openba_jax.training.records import event_file, metrics


def test_tensorflow_reads_the_events(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    events = event_file.EventFile(tmp_path, purge_step=7)
    events.write(8, {"train/loss": 1.5, "train/accuracy": 0.25})
    events.write(300, {"eval/loss": -2.0})
    events.close()
    (path,) = tmp_path.iterdir()
    version, start, *records = tensorflow.compat.v1.train.summary_iterator(str(path))
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, 1)
    assert [(r.step, [(v.tag, v.simple_value) for v in r.summary.value]) for r in records] == [
        (8, [("train/loss", 1.5), ("train/accuracy", 0.25)]),
        (300, [("eval/loss", -2.0)]),
    ]


def test_files_are_in_order_though_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard reads them by name; the last one says what is dropped of the others."""
    written: list[Path] = []
    for seconds in (5_000_000_000, 4_000_000_000, 4_000_000_000, 6_000_000_000):
        monkeypatch.setattr(event_file.time, "time_ns", lambda now=seconds: now * 10**9)
        monkeypatch.setattr(event_file.time, "time", lambda now=seconds: float(now))
        event_file.EventFile(tmp_path).close()
        (new,) = set(tmp_path.iterdir()) - set(written)
        written.append(new)
    assert written == sorted(written)


def test_an_event_file_imports_no_tensorflow() -> None:
    code = (
        "import sys, openba_jax.training.records.event_file; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_records_after_the_restored_step_are_cut_away(tmp_path: Path) -> None:
    writer = metrics.MetricWriter(tmp_path, 0)
    for step in (5, 10, 15):
        writer.write("train", step, {"loss": 1.0 / step})
        writer.write("speed", step, {"mfu": None})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "sp')
    writer = metrics.MetricWriter(tmp_path, 10)
    writer.write("eval", 10, {"loss": 0.5})
    writer.close()
    assert metrics.read(tmp_path / "metrics.jsonl") == [
        {"step": 5, "split": "train", "loss": 0.2},
        {"step": 10, "split": "train", "loss": 0.1},
        {"step": 10, "split": "eval", "loss": 0.5},
    ]
    assert [record["step"] for record in metrics.read(tmp_path / "speed.jsonl")] == [5, 10]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    metrics.MetricWriter(tmp_path, 0).close()
    assert metrics.read(tmp_path / "metrics.jsonl") == []


def test_absent_file_has_no_records(tmp_path: Path) -> None:
    assert metrics.read(tmp_path / "metrics.jsonl") == []


def test_averages_weigh_by_tokens() -> None:
    steps = [
        {"loss_sum": np.float32(6), "correct_sum": np.float32(1), "weight_sum": np.float32(2)},
        {"loss_sum": np.float32(2), "correct_sum": np.float32(7), "weight_sum": np.float32(6)},
    ]
    assert averages(steps) == {"loss": 1.0, "accuracy": 1.0, "targets": 8.0}
    nothing = {name: np.float32(0) for name in steps[0]}
    with pytest.raises(UserError, match="no target token"):
        averages([nothing])


def test_speed_counts_tokens_positions_and_flops() -> None:
    peak = hardware.Peak(1e4, "made up")
    speed = metrics.speed(10, 2.0, 60, 8, 500.0, peak, 0.5)
    assert speed == {
        "steps_per_second": 5.0,
        "tokens_per_second": 30.0,
        "positions_per_second": 40.0,
        "mfu": 0.25,
        "input_wait": 0.25,
    }
    assert metrics.speed(10, 2.0, 60, 8, 500.0, hardware.Peak(None, "?"))["mfu"] is None


def test_peak_of_a_cpu_is_measured_and_plausible() -> None:
    peak = hardware.peak_flops()
    assert "measured" in peak.source
    assert peak.flops is not None
    assert 1e8 < peak.flops < 1e14


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("abacus", None),
    ],
)
def test_peak_of_an_accelerator_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, kind: str, flops: float | None
) -> None:
    class Device:
        platform = "accelerator"
        device_kind = kind

    monkeypatch.setattr(hardware.jax, "devices", lambda: [Device(), Device()])
    monkeypatch.setattr(hardware.jax, "device_count", lambda: 2)
    peak = hardware.peak_flops()
    assert peak.flops == (None if flops is None else 2 * flops)


def test_lines_stand_in_for_the_bar_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "QUIET_SECONDS", 1e6)
    progress = metrics.Progress(20, 0, "small")
    progress.update(10, {"train": {"loss": 3.0}})
    progress.update(20, {"train": {"loss": 3.0}})
    progress.update(20, {"train": {"loss": 2.0}, "speed": {"mfu": 0.5, "tokens_per_second": 1234}})
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["small: step 20/20, loss 2.0000, 1,234 tokens/s, MFU 50.0%"]


def test_a_line_says_of_which_step_an_evaluation_is_and_what_time_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "QUIET_SECONDS", 0.0)
    progress = metrics.Progress(20, 4, "small")
    evaluated = {"loss": 3.0, "step": 2.0}
    progress.update(5, {"eval": evaluated})
    progress.update(6, {"eval": evaluated})
    progress.update(7, {"eval": {"loss": 2.0}})
    shown = [re.sub(r"\d\d:\d\d", "MM:SS", line) for line in capsys.readouterr().err.splitlines()]
    assert shown == [
        "small: step 5/20, eval 3.0000 at step 2, MM:SS left",
        "small: step 6/20, eval 3.0000 at step 2, MM:SS left",
        "small: step 7/20, eval 2.0000 at step 7, MM:SS left",
    ]


def test_what_a_loss_adds_is_averaged_over_the_steps_that_have_it() -> None:
    step = {"loss_sum": 6.0, "correct_sum": 1.0, "weight_sum": 2.0, "grad_norm": 1.0}
    step |= {"learning_rate": 0.5, "tokens": 9}
    taught = {**step, "weight_sum": 6.0, "divergence_sum": 3.0}
    record = metrics.train_record([step, taught], 18)  # type: ignore[list-item]
    assert (record["loss"], record["divergence"]) == (1.5, 0.5)
    assert "divergence" not in metrics.train_record([taught, step], 18)  # type: ignore[list-item]


def test_losses_of_groups_are_averaged_over_the_steps_that_have_them() -> None:
    step = {"loss_sum": 6.0, "correct_sum": 1.0, "weight_sum": 2.0, "grad_norm": 1.0}
    step |= {"learning_rate": 0.5, "tokens": 9}
    grouped = {**step, "group_loss_sums": [2.0, 4.0, 0.0], "group_weight_sums": [1.0, 1.0, 0.0]}
    other = {**step, "group_loss_sums": [6.0], "group_weight_sums": [2.0]}
    again = {**grouped, "group_loss_sums": [4.0, 2.0, 0.0], "skipped": True, "grad_norm": 0.0}
    names = ("a", "b", "c")
    record = metrics.train_record([step, other, grouped, again], 36, names)  # type: ignore[list-item]
    assert {key: value for key, value in record.items() if "/" in key} == {"loss/a": 3, "loss/b": 3}
    assert record["grad_norm"] == 1.0
