import json

import jax
import numpy as np
import pytest

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.checkpoint import load_state, load_tree
from openba_jax.checkpoints.formats.native import Native
from openba_jax.errors import UserError
from openba_jax.models.openba.model import OpenBAModel


@pytest.mark.parametrize("scan_layers", [True, False])
def test_round_trip(make_checkpoint, tiny, tmp_path, same, scan_layers):
    dtypes = {"": np.float16, "logits_dense/bias": np.float32}
    source = make_checkpoint(tiny.replace(scan_layers=scan_layers), dtypes)
    source.plan = json.dumps({"keep": {}})
    Native().write(source, tmp_path)
    read = Native().open(tmp_path)
    assert (read.model.config, read.step, json.loads(read.plan)) == (
        source.model.config,
        3,
        {"keep": {}},
    )
    same(source, read)
    same(source, Native().open(tmp_path / "checkpoints" / "3"))


def test_model_folder_is_like_any_other(make_checkpoint, variant, tmp_path):
    source = make_checkpoint(variant)
    Native().write(source, tmp_path)
    loaded = training_state.load_model(tmp_path)
    assert loaded.model.config == variant
    expected = load_tree(source)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), b), loaded.params, expected)
    )
    read = Native().open(tmp_path)
    assert (read.step, read.data, read.optimizer) == (3, {}, None)
    assert sorted(load_state(read)) == ["params", "step"]


def test_checkpoints_of_training_are_read(make_checkpoint, tiny, tmp_path, same):
    # There a chunk spans all layers.
    source = make_checkpoint(tiny)
    training_state.create(tmp_path / "model", source.model, load_tree(source), step=3)
    read = Native().open(tmp_path / "model")
    same(source, read)


def test_folders_of_before_know_no_rule_of_the_width(make_checkpoint, tiny, tmp_path):
    Native().write(make_checkpoint(tiny), tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["ffn_rule"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert Native().open(tmp_path).model.config == tiny


@pytest.mark.parametrize("plan", [b"{", b"\xff", b"[1]"])
def test_a_damaged_plan_is_named(make_checkpoint, tiny, tmp_path, plan):
    Native().write(make_checkpoint(tiny), tmp_path)
    (tmp_path / "plan.json").write_bytes(plan)
    with pytest.raises(UserError, match=rf"{tmp_path}/plan\.json is no JSON object"):
        Native().open(tmp_path)


def test_damaged_or_missing(make_checkpoint, tiny, tmp_path):
    Native().write(make_checkpoint(tiny), tmp_path)
    state = tmp_path / "checkpoints" / "3" / "state"
    largest = max(state.rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_tree(Native().open(tmp_path))
    (state / "_METADATA").unlink()
    with pytest.raises(UserError, match="_METADATA is missing"):
        Native().open(tmp_path)
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        Native().open(tmp_path)


def test_config_of_another_model(make_checkpoint, tiny, tmp_path):
    Native().write(make_checkpoint(tiny), tmp_path)
    for change, message in (
        ({"mlp_dim": 64}, r"mlp/wi_0/kernel has shape \[.*256\], .* \[.*64\]"),
        ({"decoder_layers": 3}, "has shape"),
        ({"qkv_bias": False}, "is not part of the model"),
        ({"tie_embeddings": False}, "parameter logits_dense/kernel is missing"),
    ):
        model_folder.write_metadata(tmp_path, OpenBAModel(tiny.replace(**change)))
        with pytest.raises(UserError, match=message):
            Native().open(tmp_path)
