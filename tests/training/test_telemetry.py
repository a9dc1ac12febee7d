"""What a run records besides what it must, and that it computes the same with it and without."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_run import ToyBatches, d_ul2_batches, toy_model, toy_train, write_toy_store

from openba_jax.errors import UserError
from openba_jax.training import profiling
from openba_jax.training.records import metrics, trackers
from openba_jax.training.records.telemetry import Telemetry


def records(folder: Path, split: str, name: str = metrics.METRICS) -> list[dict[str, Any]]:
    return [record for record in metrics.read(folder / name) if record["split"] == split]


@pytest.mark.parametrize("text", ["5", "5:", "a:b", "-1:4", "4:4", "5:4", "1:2:3", "１:２"])
def test_windows_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="profile_steps is"):
        profiling.parse_window(text)


def test_steps_are_profiled_once(tmp_path: Path, finished_run: Any, caplog: Any) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="the run ends at step 12"):
        toy_train(folder, profile_steps="10:13")
    assert not folder.exists()
    toy_train(folder, profile_steps="2:4")
    (trace,) = (folder / profiling.FOLDER).rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    assert (folder / metrics.METRICS).read_text() == finished_run.history.read_text()
    toy_train(folder, train_steps=13, profile_steps="2:4")
    assert "Nothing is profiled: the run goes on at step 12" in caplog.text
    assert list((folder / profiling.FOLDER).rglob("*.xplane.pb")) == [trace]


def test_a_trace_ends_with_a_run_that_fails(tmp_path: Path) -> None:
    class Failing(ToyBatches):
        def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
            if step == 5:
                raise RuntimeError("the disk fell out")
            return super().batch(step, rows)

    with pytest.raises(RuntimeError, match="fell out"):
        toy_train(tmp_path / "run", batches=Failing(), profile_steps="3:9")
    assert list((tmp_path / "run" / profiling.FOLDER).rglob("*.xplane.pb"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_toy_store(folder)
    return folder


def test_losses_of_tasks_and_norms_of_blocks_make_up_the_whole(tmp_path: Path, store: Path) -> None:
    batches = d_ul2_batches(store, "ul2")
    shared = {
        "model": toy_model(vocab_size=384),
        "batches": batches,
        "accumulation": 2,  # Groups are divided as rows are.
        **{"train_steps": 4, "log_every": 2, "eval_batches": 0},
    }
    toy_train(tmp_path / "plain", **shared)
    toy_train(tmp_path / "more", telemetry=Telemetry(True, True), **shared)
    plain, more = (records(tmp_path / name, "train") for name in ("plain", "more"))
    blocks = {
        *("grad_norm/encoder/layers", "grad_norm/encoder/other"),
        *("grad_norm/decoder/layers", "grad_norm/decoder/other"),
        *("grad_norm/token_embedder", "grad_norm/logits_dense"),
    }
    tasks = {f"loss/{name}": number for number, name in enumerate(batches.group_names)}
    for before, record in zip(plain, more, strict=True):
        assert {name: record[name] for name in before} == before
        assert blocks <= record.keys() - before.keys() <= blocks | tasks.keys()
        steps = range(record["step"] - 2, record["step"])
        weights = sum(
            batches.batch(step)["decoder_loss_weights"].sum(axis=1) @ batches.groups(step)
            for step in steps
        )
        named = {name: weights[number] for name, number in tasks.items() if weights[number]}
        assert len(named) > 1
        assert named.keys() == record.keys() & tasks.keys()
        whole = sum(record[name] * weight for name, weight in named.items()) / sum(weights)
        assert whole == pytest.approx(record["loss"], rel=1e-5)
        # Norms are means over the steps of an interval, so that this is a bound.
        length = math.sqrt(sum(record[name] ** 2 for name in blocks))
        assert length == pytest.approx(record["grad_norm"], rel=0.05)


def test_batches_without_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ToyBatches does not know which task"):
        toy_train(tmp_path / "run", telemetry=Telemetry(task_losses=True))
    assert not (tmp_path / "run").exists()


class FakeTracker(types.ModuleType):
    """As `wandb` and `trackio`: what they are told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        self.runs: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **settings: Any) -> None:
        self.runs.append(settings)

    def define_metric(self, name: str, step_metric: str) -> None:
        self.runs[-1]["metric"] = (name, step_metric)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        # Weights & Biases takes no step twice, trackio no value of this name.
        assert ("step" in values) == (step is None) == (self.__name__ == "wandb")
        self.logged.append({"step": float(step or 0), **values})

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_trackers_get_what_tensorboard_gets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTracker(name)
    monkeypatch.setitem(sys.modules, name, fake)
    telemetry, folder = Telemetry(tracker=name, project="mine"), tmp_path / "run"
    toy_train(folder, telemetry=telemetry, train_steps=3)
    toy_train(folder, telemetry=telemetry, train_steps=6)
    first, second = fake.runs
    assert first["project"] == "mine"
    assert first["name"] == second["name"]
    assert first["name"].startswith("run-")
    assert json.loads((folder / trackers.FILE).read_text()) == {name: first["name"]}
    losses = [(each["step"], each["train/loss"]) for each in fake.logged if "train/loss" in each]
    assert losses == [(record["step"], record["loss"]) for record in records(folder, "train")]
    assert fake.finished == 2


def test_trackers_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="it must be '' or one of wandb, trackio"):
        Telemetry(tracker="tensorboard")


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="tracker wandb is not installed"):
        Telemetry(tracker="wandb")


def test_a_tracker_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def refuse(**settings: Any) -> None:
        raise RuntimeError("no API key configured\nUse wandb login")

    monkeypatch.setattr(fake, "init", refuse)
    with pytest.raises(UserError, match=r"wandb does not start \(no API key configured\)"):
        toy_train(tmp_path / "run", telemetry=Telemetry(tracker="wandb"))


def test_the_time_that_is_waited_for_batches_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toy_run import SlowBatches

    monkeypatch.setenv("TOY_SLEEPS", "0.2")
    toy_train(tmp_path / "run", batches=SlowBatches(), train_steps=6, eval_batches=0)
    speed = records(tmp_path / "run", "speed", metrics.SPEED)
    assert speed
    assert all(0.5 < record["input_wait"] <= 1 for record in speed)
