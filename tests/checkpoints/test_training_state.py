from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.checkpoint import load_state
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.model import OpenBAModel

MODEL = OpenBAModel(
    OpenBAConfig(
        vocab_size=16,
        embed_dim=4,
        num_heads=2,
        head_dim=2,
        mlp_dim=6,
        encoder_layers=1,
        decoder_layers=2,
    )
)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def some_params(model: OpenBAModel = MODEL, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), model.abstract_params()
    )


def assert_equal(tree: Any, expected: Any) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def on_first_device(tree: Any) -> Any:
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first), tree
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with everything in it, two checkpoints long."""
    (tmp_path / "pieces").write_bytes(b"pieces")
    folder = tmp_path / "model"
    training_state.create(
        folder, MODEL, some_params(), plan={"keep": {}}, tokenizer=tmp_path / "pieces", step=3
    )
    with training_state.Checkpoints(folder) as checkpoints:
        params = some_params(seed=1)
        state = {"params": params, "opt_state": OPTIMIZER.init(params), "step": jnp.asarray(5)}
        checkpoints.save(5, state, {"tokens": 7})
    return folder


def test_a_model_folder_gives_back_what_was_put_in(folder: Path) -> None:
    loaded = training_state.load_model(folder)
    assert loaded.model == MODEL
    assert loaded.plan == {"keep": {}}
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.read_bytes() == b"pieces"
    assert_equal(loaded.params, some_params(seed=1))
    assert_equal(training_state.load_model(folder / "checkpoints" / "3").params, some_params())
    assert model_folder.steps(folder) == [3, 5]
    assert not folder.with_name("model.openba_tmp").exists()


def test_a_folder_without_plan_and_tokenizer_has_none(tmp_path: Path) -> None:
    training_state.create(tmp_path / "model", MODEL, some_params())
    _, _, plan, tokenizer = training_state.load_model(tmp_path / "model")
    assert plan is None
    assert tokenizer is None


def test_parameters_come_in_the_type_that_is_asked_for(folder: Path) -> None:
    half = MODEL.replace(param_dtype="bfloat16")
    params = training_state.restore_params(folder, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert_equal(params, jax.tree.map(lambda x: x.astype("bfloat16"), some_params(seed=1)))


def test_state_comes_back_with_its_own_types(folder: Path) -> None:
    params = some_params(seed=1)
    state = {"params": params, "opt_state": OPTIMIZER.init(params), "step": jnp.asarray(5)}
    restored, data = training_state.restore_state(folder, on_first_device(state))
    assert_equal(restored, state)
    assert data == {"tokens": 7}


def test_a_state_in_memory_can_be_changed_saved_and_restored_with_types(folder: Path) -> None:
    read = open_checkpoint(folder)
    state = load_state(read)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(state["params"]))
    model = MODEL.replace(decoder_layers=1)

    def first_layer(path: Any, leaf: Any) -> Any:
        names = [getattr(key, "key", None) for key in path]
        return leaf[:1] if "decoder" in names and "layers" in names else leaf

    state = jax.tree_util.tree_map_with_path(first_layer, state)
    training_state.create(
        folder.with_name("cut"),
        model,
        state["params"],
        opt_state=state["opt_state"],
        step=state["step"],
        data=read.data,
    )
    params = model.abstract_params()
    target = {
        "params": params,
        "opt_state": jax.eval_shape(OPTIMIZER.init, params),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    restored, data = training_state.restore_state(folder.with_name("cut"), on_first_device(target))
    assert jax.tree.structure(restored) == jax.tree.structure(target)
    assert int(restored["step"]) == 5
    assert data == {"tokens": 7}


def test_without_its_optimizer_nothing_is_resumed(folder: Path) -> None:
    target = {"params": MODEL.abstract_params(), "step": jax.ShapeDtypeStruct((), jnp.int32)}
    target["opt_state"] = jax.eval_shape(OPTIMIZER.init, target["params"])
    with pytest.raises(UserError, match="no optimizer state to go on with; start a new run"):
        training_state.restore_state(folder, on_first_device(target), step=3)
    target["opt_state"] = jax.eval_shape(optax.trace(0.9).init, target["params"])
    with pytest.raises(UserError, match="lacks opt_state/trace/"):
        training_state.restore_state(folder, on_first_device(target), step=5)


@pytest.mark.parametrize("there", ["a file in it", "a model", "a file"])
def test_create_overwrites_nothing(tmp_path: Path, folder: Path, there: str) -> None:
    if there == "a model":
        other = folder
    else:
        other = tmp_path / "other"
        (other if there == "a file" else other / "notes").parent.mkdir(exist_ok=True)
        (other if there == "a file" else other / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"exists already|other is a file; name a folder"):
        training_state.create(other, MODEL, some_params())
    assert model_folder.steps(folder) == [3, 5]


def test_create_clears_what_a_killed_one_left_but_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / "model.openba_tmp"
    model_folder.write_metadata(left, MODEL)
    (left / "checkpoints" / "0.orbax-checkpoint-tmp-1").mkdir(parents=True)
    mine = tmp_path / "model.tmp"
    model_folder.write_metadata(mine, MODEL)
    training_state.create(tmp_path / "model", MODEL, some_params())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.tmp"]
    assert (mine / "config.json").exists()


def test_a_run_leaves_the_folders_of_t5x_alone(tmp_path: Path) -> None:
    model_folder.write_metadata(tmp_path / "theirs", MODEL)
    (tmp_path / "theirs" / "checkpoint_3").mkdir()
    with pytest.raises(UserError, match="is a T5X folder"):
        model_folder.check_usable(tmp_path / "theirs", MODEL)


def test_parameters_must_fit_the_configuration(tmp_path: Path) -> None:
    message = r"given parameters has decoder/layers/mlp/wi_0/kernel .*\(2, 4, 6\).*\(2, 4, 5\)"
    with pytest.raises(UserError, match=message):
        training_state.create(tmp_path / "model", MODEL.replace(mlp_dim=5), some_params())
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_of_another_shape_names_the_tensor(folder: Path) -> None:
    fields = {**MODEL.config.to_dict(), "embed_dim": 8}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"checkpoints/5 has .* of shape \(4,\).* shape \(8,\)"):
        training_state.load_model(folder)
    fields = {**MODEL.config.to_dict(), "tie_embeddings": False}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="lacks params/logits_dense/kernel"):
        training_state.load_model(folder)
    fields = {**MODEL.config.to_dict(), "logits_bias": False}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="logits_dense/bias, which the model does not know"):
        training_state.load_model(folder)


def test_unfinished_checkpoints_do_not_count(folder: Path) -> None:
    unfinished = folder / "checkpoints" / "9.orbax-checkpoint-tmp-17"
    shutil.copytree(folder / "checkpoints" / "5", unfinished)
    (unfinished / "commit_success.txt").unlink()
    assert model_folder.latest_step(folder) == 5
    assert_equal(training_state.load_model(folder).params, some_params(seed=1))
    with training_state.Checkpoints(folder) as checkpoints:
        checkpoints.save(6, {"params": some_params()}, {})
    assert not unfinished.exists()


@pytest.mark.parametrize("gone", ["", "state", "state/manifest.ocdbt", "state/_METADATA"])
def test_a_damaged_checkpoint_says_where_to_go_back(folder: Path, gone: str) -> None:
    """As a copy that was broken off leaves it."""
    path = folder / "checkpoints" / "5" / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    if not gone:
        path.mkdir()
    with pytest.raises(UserError, match="5 is damaged; delete it to go back to step 3"):
        training_state.load_model(folder)
    shutil.rmtree(folder / "checkpoints" / "5")
    assert_equal(training_state.load_model(folder).params, some_params())


def test_old_checkpoints_go_and_some_stay(tmp_path: Path) -> None:
    with training_state.Checkpoints(tmp_path, max_to_keep=2, keep_period=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, {"params": {"kernel": jnp.ones(3)}}, {})
    assert model_folder.steps(tmp_path) == [4, 6, 7]


def test_missing_things_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; a model folder holds a config\.json"):
        training_state.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no checkpoint of step 4; it has 3, 5"):
        training_state.load_model(folder / "checkpoints" / "4")
    with pytest.raises(UserError, match="holds no checkpoint"):
        training_state.restore_params(tmp_path / "nowhere", MODEL)
    (folder / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json is no JSON object"):
        training_state.load_model(folder)


def test_new_empty_and_own_folders_are_usable(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json.tmp").write_text("{")
    for path in (tmp_path / "new", tmp_path / "empty", tmp_path / "begun", folder):
        model_folder.check_usable(path, MODEL.replace(dropout_rate=0.1))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        model_folder.check_usable(tmp_path / "file", MODEL)
    with pytest.raises(UserError, match=r"logits_dense/bias of shape \(16,\); .* shape \(32,\)"):
        model_folder.check_usable(folder, MODEL.replace(vocab_size=32))
