"""A run that is refused, finished or would be another one leaves its folder as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import ToyBatches, folder_hashes, saved_state, toy_model, toy_train

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.errors import UserError
from openba_jax.training.records import metrics


@pytest.fixture
def run(tmp_path: Path, finished_run: Any) -> Path:
    """A finished run of 12 steps."""
    return Path(shutil.copytree(finished_run.model_dir, tmp_path / "run"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "batch size": ({"batches": ToyBatches(batch_size=4)}, r"data\.batch_size was 8 .* is 4 now"),
    "lengths": (
        {"batches": ToyBatches(decoder_length=5)},
        r"data\.decoder_length was 6 .* is 5 now",
    ),
    "data": ({"batches": ToyBatches(repeats=3)}, r"data\.repeats was 4 .* is 3 now"),
    "seed": ({"seed": 1}, "seed was 0 .* is 1 now"),
    "evaluation": ({"eval_batches": 1}, "evaluation_batches was 2 .* is 1 now"),
    "rope": ({"model": toy_model(rope_theta=5e4)}, r"model\.rope_theta was 10000\.0 .* 50000\.0"),
    "epsilon": (
        {"model": toy_model(layer_norm_epsilon=1e-6)},
        r"model\.layer_norm_epsilon was 1e-05 .* is 1e-06",
    ),
    "scale": (
        {"model": toy_model(scale_tied_logits=True)},
        r"model\.scale_tied_logits was False .* is True",
    ),
    "ties": ({"model": toy_model(tie_embeddings=False)}, "lacks|has .* which the model"),
    "sizes": ({"model": toy_model(mlp_dim=48)}, r"\(2, 16, 24\).*\(2, 16, 48\)"),
    "vocabulary": ({"model": toy_model(vocab_size=40)}, "shape"),
    "parameters": (
        {"param_dtype": "bfloat16"},
        r"model\.param_dtype was 'float32' .* is 'bfloat16'",
    ),
    "float16": ({"model": toy_model(dtype="float16")}, "float16.*bfloat16"),
    "float16 parameters": ({"param_dtype": "float16"}, "kept in 'float16'.*PARAM_DTYPE"),
    "accumulation": ({"accumulation": 3}, "not a multiple"),
    "policy": ({"not_finite": "hope"}, "not_finite is 'hope'"),
    "tokenizer": ({"tokenizer": "/nowhere"}, "/nowhere cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_run_changes_nothing(run: Path, name: str) -> None:
    changes, message = REFUSED[name]
    before = folder_hashes(run.parent)
    with pytest.raises(UserError, match=message):
        toy_train(run, train_steps=20, extra_files={"config.gin": "A = 2\n"}, **changes)
    assert folder_hashes(run.parent) == before


@pytest.mark.parametrize("steps", [12, 5])
def test_a_finished_run_changes_nothing(run: Path, finished_run: Any, steps: int) -> None:
    before = folder_hashes(run.parent)
    again = toy_train(run, train_steps=steps, extra_files={"config.gin": "A = 2\n"})
    assert folder_hashes(run.parent) == before
    assert (again.step, again.tokens) == (12, finished_run.tokens)
    assert (again.train_loss, again.eval_loss) == (finished_run.train_loss, finished_run.eval_loss)


def test_a_checkpoint_without_optimizer_state_is_refused(tmp_path: Path, run: Path) -> None:
    loaded = training_state.load_model(run)
    training_state.create(tmp_path / "bare", loaded.model, loaded.params, step=3)
    before = folder_hashes(tmp_path / "bare")
    with pytest.raises(UserError, match="no optimizer state"):
        toy_train(tmp_path / "bare", model=toy_model(dropout_rate=0.0))
    assert folder_hashes(tmp_path / "bare") == before


def test_another_tokenizer_is_refused_unless_allowed(tmp_path: Path, run: Path) -> None:
    (run / "tokenizer.model").write_bytes(b"pieces")
    (tmp_path / "other.model").write_bytes(b"others")
    before = folder_hashes(run)
    with pytest.raises(UserError, match=r"other\.model is not the tokenizer"):
        toy_train(run, train_steps=14, tokenizer=str(tmp_path / "other.model"))
    assert folder_hashes(run) == before


def test_changes_that_do_not_change_the_function_are_free(run: Path) -> None:
    model = toy_model(dropout_rate=0.0, dtype="bfloat16", remat_policy="full")
    assert toy_train(run, train_steps=13, model=model).step == 13
    assert model_folder.load_model(run) == model
    assert all(r["split"] != metrics.CHANGES for r in metrics.read(run / "metrics.jsonl"))


def test_allowed_changes_are_recorded_with_their_step(run: Path) -> None:
    changed: dict[str, Any] = {
        "model": toy_model(rope_theta=5e4),
        "batches": ToyBatches(repeats=3),
        "allow_changes": True,
    }
    toy_train(run, train_steps=14, **changed)
    (record,) = (r for r in metrics.read(run / "metrics.jsonl") if r["split"] == metrics.CHANGES)
    assert record == {
        "step": 12,
        "split": "changes",
        "model.rope_theta": [10000.0, 50000.0],
        "data.repeats": [4, 3],
    }
    # From now on this is the run; going on with it needs no permission and changes nothing more.
    toy_train(run, train_steps=15, **{**changed, "allow_changes": False})
    assert [r["step"] for r in metrics.read(run / "metrics.jsonl") if r["split"] == "changes"] == [
        12
    ]
    with pytest.raises(UserError, match=r"rope_theta was 50000\.0"):
        toy_train(run, train_steps=16)


def test_an_old_checkpoint_that_does_not_know_its_data_goes_on_with_a_warning(
    tmp_path: Path, finished_run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "old"
    abstract = abstract_state()
    state, data = training_state.restore_state(finished_run.model_dir, abstract)
    del data["identity"]
    training_state.create(
        folder, toy_model(), state["params"], opt_state=state["opt_state"], step=12, data=data
    )
    with pytest.raises(UserError, match=r"data\.batch_size was 8"):
        toy_train(folder, train_steps=13, batches=ToyBatches(batch_size=4))
    assert toy_train(folder, train_steps=13).step == 13
    assert "does not say what data it was trained on" in caplog.text
    assert "identity" in saved_state(folder)[1]


def abstract_state(**changes: Any) -> dict[str, Any]:
    from toy_run import toy_optimizer

    from openba_jax.parallel import sharding
    from openba_jax.training import train_step

    state = train_step.abstract_state(toy_model(**changes), toy_optimizer(), sharding.make_mesh())
    return {"params": state.params, "opt_state": state.opt_state, "step": state.step}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_parameters_are_float32_whatever_the_initial_model_has(
    tmp_path: Path, finished_run: Any, dtype: str
) -> None:
    narrow = toy_model(param_dtype=dtype)
    params = training_state.restore_params(finished_run.model_dir, narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    training_state.create(tmp_path / "narrow", narrow, params)
    result = toy_train(
        tmp_path / "run", model=narrow, initial_model=str(tmp_path / "narrow"), train_steps=4
    )
    state, _ = saved_state(result.model_dir)
    floats = [leaf for leaf in jax.tree.leaves(state) if np.asarray(leaf).size > 1]
    assert {np.asarray(leaf).dtype for leaf in floats} == {np.dtype("float32")}
    config = json.loads((result.model_dir / "config.json").read_text())
    assert config["param_dtype"] == "float32"


def test_a_run_in_bfloat16_is_asked_for_and_goes_on_in_bfloat16(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    toy_train(folder, train_steps=4, param_dtype="bfloat16")
    # As older versions left such a run: without an identity, too.
    assert toy_train(folder, train_steps=6).step == 6
    assert model_folder.load_model(folder).config.param_dtype == "bfloat16"
    with pytest.raises(UserError, match=r"param_dtype was 'bfloat16'"):
        toy_train(folder, train_steps=8, param_dtype="float32")
    toy_train(folder, train_steps=8, param_dtype="float32", allow_changes=True)
    assert model_folder.load_model(folder).config.param_dtype == "float32"


def test_an_initial_model_of_another_function_is_refused(tmp_path: Path, finished_run: Any) -> None:
    before = folder_hashes(finished_run.model_dir)
    with pytest.raises(UserError, match=r"model\.rope_theta was 10000\.0"):
        toy_train(
            tmp_path / "run",
            model=toy_model(rope_theta=2e4),
            initial_model=str(finished_run.model_dir),
        )
    assert list(tmp_path.iterdir()) == []
    assert folder_hashes(finished_run.model_dir) == before


def test_a_folder_of_another_function_without_checkpoint_is_refused(tmp_path: Path) -> None:
    model_folder.write_metadata(tmp_path / "run", toy_model(rope_theta=2e4))
    before = folder_hashes(tmp_path)
    with pytest.raises(UserError, match=r"model\.rope_theta was 20000\.0"):
        toy_train(tmp_path / "run")
    assert folder_hashes(tmp_path) == before


@dataclasses.dataclass(frozen=True)
class NoEvaluation(ToyBatches):
    def evaluation_batches(self, count: int, *, rows: slice | None = None) -> Any:
        raise UserError("there is nothing to evaluate on.")


def test_missing_evaluation_examples_are_noticed_before_anything_is_written(run: Path) -> None:
    before = folder_hashes(run.parent)
    with pytest.raises(UserError, match="nothing to evaluate on"):
        toy_train(run, train_steps=20, batches=NoEvaluation())
    assert folder_hashes(run.parent) == before
