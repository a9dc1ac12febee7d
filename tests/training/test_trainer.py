from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from toy_run import ToyBatches, saved_state, toy_config, toy_model, toy_train

from openba_jax import files
from openba_jax.checkpoints import model_folder, training_state
from openba_jax.errors import UserError
from openba_jax.pruning.plan import Plan
from openba_jax.training import train_step
from openba_jax.training.records import metrics


def assert_same_run(folder: Path, expected: Path) -> None:
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    state, data = saved_state(folder)
    expected_state, expected_data = saved_state(expected)
    assert data == expected_data
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        np.testing.assert_array_equal(leaf, other)


@dataclasses.dataclass(frozen=True)
class FailingBatches(ToyBatches):
    fails_at: int = 9

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        if step == self.fails_at:
            raise RuntimeError("the disk fell out")
        return super().batch(step, rows)


def test_finished_run_reports_and_records(finished_run: Any) -> None:
    folder = finished_run.model_dir
    records = metrics.read(finished_run.history)
    train = [record for record in records if record["split"] == "train"]
    evaluations = [record for record in records if record["split"] == "eval"]
    assert [record["step"] for record in train] == [3, 4, 6, 8, 9, 12]
    assert [record["step"] for record in evaluations] == [0, 6, 12]
    assert train[-1]["loss"] == finished_run.train_loss < train[0]["loss"]
    assert evaluations[-1]["loss"] == finished_run.eval_loss < evaluations[0]["loss"]
    seen = [ToyBatches().batch(step) for step in range(12)]
    tokens = sum(
        int((batch[name] > 0).sum())
        for batch in seen
        for name in ("encoder_input_tokens", "decoder_target_tokens")
    )
    assert finished_run.tokens == train[-1]["tokens"] == tokens
    assert model_folder.steps(folder) == [8, 12]
    speeds = metrics.read(folder / "speed.jsonl")
    assert speeds[0]["split"] == "machine"
    assert all(record["mfu"] > 0 for record in speeds[1:])


def test_resumes_after_an_exception(tmp_path: Path, finished_run: Any) -> None:
    with pytest.raises(RuntimeError, match="the disk fell out"):
        toy_train(tmp_path / "run", batches=FailingBatches())
    assert model_folder.latest_step(tmp_path / "run") == 8
    # What the interrupted run wrote after its checkpoint must go again.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "split": "train", "loss": 1.0}\n{"step": 9, "spl')
    result = toy_train(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run.model_dir)
    assert dataclasses.replace(result, model_dir=finished_run.model_dir) == dataclasses.replace(
        finished_run, history=result.history
    )


def test_starts_anew_where_there_is_no_checkpoint_yet(tmp_path: Path, finished_run: Any) -> None:
    with pytest.raises(RuntimeError, match="the disk fell out"):
        toy_train(tmp_path / "run", batches=FailingBatches(fails_at=3))
    assert metrics.read(tmp_path / "run" / "metrics.jsonl")
    toy_train(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run.model_dir)


def test_resumes_after_sigkill(tmp_path: Path, finished_run: Any, start_toy: Any) -> None:
    process = start_toy(tmp_path, "{}", TOY_DIES_AT="10")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    toy_train(tmp_path / "-1x1x1")
    assert_same_run(tmp_path / "-1x1x1", finished_run.model_dir)


def test_goes_on_for_more_steps_and_stands_still_when_done(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    toy_train(folder, train_steps=4)
    before = (folder / "metrics.jsonl").read_text()
    again = toy_train(folder, train_steps=4)
    assert (folder / "metrics.jsonl").read_text() == before
    assert again.train_loss == metrics.read(folder / "metrics.jsonl")[-2]["loss"]
    more = toy_train(folder, train_steps=8)
    assert more.step == 8
    assert more.tokens > again.tokens


def test_starts_from_a_model_with_its_plan_and_tokenizer(tmp_path: Path, finished_run: Any) -> None:
    initial = tmp_path / "initial"
    (tmp_path / "any.model").write_bytes(b"pieces")
    model, params, _, _ = training_state.load_model(finished_run.model_dir)
    plan = Plan.identity(model, "ancestor").to_dict()
    training_state.create(initial, model, params, plan=plan, tokenizer=tmp_path / "any.model")
    result = toy_train(tmp_path / "run", initial_model=str(initial), train_steps=4)
    first = metrics.read(result.history)[0]
    assert (first["step"], first["split"]) == (0, "eval")
    assert first["loss"] == finished_run.eval_loss
    assert model_folder.load_plan(result.model_dir) == plan
    tokenizer = model_folder.tokenizer_path(result.model_dir)
    assert tokenizer is not None
    assert tokenizer.read_bytes() == b"pieces"
    (tmp_path / "other.model").write_bytes(b"others")
    for where in ({"initial_model": str(initial)}, {}):
        folder = tmp_path / "other" if where else result.model_dir
        with pytest.raises(UserError, match=r"other\.model is not the tokenizer of the model in"):
            toy_train(folder, tokenizer=str(tmp_path / "other.model"), **where)
    assert tokenizer.read_bytes() == b"pieces"
    # Once the run has a checkpoint, the model that it started from may go.
    resumed = toy_train(tmp_path / "run", initial_model=str(tmp_path / "gone"), train_steps=6)
    assert resumed.step == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_steps": 0}, "train_steps is 0"),
        ({"accumulation": 3}, "batch_size 8 is not a multiple of accumulation 3"),
        ({"mesh_shape": (1, 2, 2)}, "does not fit 1 devices"),
        ({"train_steps": "10"}, "train_steps is '10'"),
        ({"eval_batches": -1}, "eval_batches is -1"),
        ({"max_to_keep": 0}, "max_to_keep is 0"),
        ({"batches": ToyBatches(vocab=64)}, "token id .* vocab_size is 32"),
        (
            {"model": toy_model(mlp_dim=48)},
            r"mlp/wi_0/kernel .*\(2, 16, 24\).*\(2, 16, 48\)",
        ),
        ({"initial_model": "/nowhere"}, "holds no checkpoint|does not exist"),
        ({"tokenizer": "/nowhere"}, "tokenizer /nowhere cannot be read"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, finished_run: Any, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "run"
    if "model" in changes:
        folder = finished_run.model_dir
    with pytest.raises(UserError, match=message):
        toy_train(folder, **{"train_steps": 20, **changes})


def test_refuses_to_go_on_with_other_batches(tmp_path: Path) -> None:
    toy_train(tmp_path / "run", train_steps=4)
    with pytest.raises(UserError, match=r"data\.batch_size was 8 in .* and is 4 now"):
        toy_train(tmp_path / "run", train_steps=8, batches=ToyBatches(batch_size=4))


def test_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("the only copy")
    with pytest.raises(UserError, match="holds something that is no model"):
        toy_train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_refuses_ids_without_an_embedding_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"token id .* vocab_size is 32"):
        toy_train(tmp_path / "run", batches=ToyBatches(vocab=64))
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_folder_that_another_process_writes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        files.only_process(folder),
        pytest.raises(UserError, match=f"another process is writing .*run .{os.getpid()} on "),
    ):
        toy_train(folder)
    assert not folder.exists()
    # A lock whose process is gone, killed perhaps, keeps nobody out.
    (tmp_path / "run.lock").write_text("1 on nowhere")
    assert toy_train(folder, train_steps=4).step == 4
    assert not (tmp_path / "run.lock").exists()


def test_a_full_disk_ends_in_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Any
) -> None:
    save = training_state.Checkpoints.save

    def save_or_fail(self: training_state.Checkpoints, step: int, *items: Any) -> None:
        if step > 4:  # As tensorstore says it, from a thread of orbax.
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [28]")
        save(self, step, *items)

    with monkeypatch.context() as patch:
        patch.setattr(training_state.Checkpoints, "save", save_or_fail)
        with pytest.raises(UserError, match=r"the disk is full while .*run is written; make room"):
            toy_train(tmp_path / "run")
    assert model_folder.steps(tmp_path / "run") == [4]
    toy_train(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run.model_dir)


def test_too_little_memory_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any, **__: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(train_step, "init_state", out_of_memory)
    with pytest.raises(UserError, match=r"too little memory \(Out of memory allocating 9 bytes"):
        toy_train(tmp_path / "run")


def test_refuses_parameters_that_are_not_finite(tmp_path: Path) -> None:
    model = toy_model()
    params = jax.tree.map(lambda p: np.full(p.shape, np.nan, p.dtype), model.abstract_params())
    training_state.create(tmp_path / "broken", model, params)
    with pytest.raises(UserError, match=r"^[a-z_/0]+ of .*broken.* holds NaN or infinite values"):
        toy_train(tmp_path / "run", initial_model=str(tmp_path / "broken"))
    assert model_folder.latest_step(tmp_path / "run") is None


def test_extra_files_and_the_sharding_table_are_written(tmp_path: Path) -> None:
    toy_train(tmp_path / "run", train_steps=4, extra_files={"config.gin": "A = 1\n"})
    assert (tmp_path / "run" / "config.gin").read_text() == "A = 1\n"
    assert "token_embedder/embedding" in (tmp_path / "run" / "sharding.txt").read_text()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == toy_config().to_dict()
