import json

import jax
import numpy as np
import pytest
from openba_jax.checkpoints.formats.native_arrays import open_native, write_native
from openba_jax.checkpoints.streaming import load_params

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.errors import UserError


@pytest.mark.parametrize("scan_layers", [True, False])
def test_round_trip(make_source, tiny, tmp_path, same, scan_layers):
    dtypes = {"": np.float16, "logits_dense/bias": np.float32}
    source = make_source(tiny.replace(scan_layers=scan_layers), dtypes)
    source.plan = json.dumps({"keep": {}})
    write_native(source, tmp_path)
    read = open_native(tmp_path)
    assert (read.config, read.step, json.loads(read.plan)) == (source.config, 3, {"keep": {}})
    same(source, read)
    same(source, open_native(tmp_path / "checkpoints" / "3"))


def test_model_folder_is_like_any_other(make_source, variant, tmp_path):
    source = make_source(variant)
    write_native(source, tmp_path)
    model = training_state.load_model(tmp_path)
    assert model.config == variant
    expected = load_params(source)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), b), model.params, expected)
    )
    state, data = native.restore_raw(tmp_path)
    assert (int(state["step"]), data) == (3, {})


def test_checkpoints_of_training_are_read(make_source, tiny, tmp_path, same):
    # There a chunk spans all layers.
    source = make_source(tiny)
    training_state.create(tmp_path / "model", tiny, load_params(source), step=3)
    read = open_native(tmp_path / "model")
    same(source, read)


def test_folders_of_before_know_no_rule_of_the_width(make_source, tiny, tmp_path):
    write_native(make_source(tiny), tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["ffn_rule"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert open_native(tmp_path).config == tiny


@pytest.mark.parametrize("plan", [b"{", b"\xff", b"[1]"])
def test_a_damaged_plan_is_named(make_source, tiny, tmp_path, plan):
    write_native(make_source(tiny), tmp_path)
    (tmp_path / "plan.json").write_bytes(plan)
    with pytest.raises(UserError, match=rf"{tmp_path}/plan\.json is no JSON object"):
        open_native(tmp_path)


def test_damaged_or_missing(make_source, tiny, tmp_path):
    write_native(make_source(tiny), tmp_path)
    state = tmp_path / "checkpoints" / "3" / "state"
    largest = max(state.rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_params(open_native(tmp_path))
    (state / "_METADATA").unlink()
    with pytest.raises(UserError, match="_METADATA does not exist"):
        open_native(tmp_path)
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        open_native(tmp_path)


def test_config_of_another_model(make_source, tiny, tmp_path):
    write_native(make_source(tiny), tmp_path)
    for change, message in (
        ({"mlp_dim": 64}, r"mlp/wi_0/kernel has shape \[.*256\], .* \[.*64\]"),
        ({"decoder_layers": 3}, "has shape"),
        ({"qkv_bias": False}, "is not part of the model"),
        ({"tie_embeddings": False}, "parameter logits_dense/kernel is missing"),
    ):
        model_folder.write_metadata(tmp_path, tiny.replace(**change))
        with pytest.raises(UserError, match=message):
            open_native(tmp_path)
