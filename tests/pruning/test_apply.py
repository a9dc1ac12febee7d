"""A checkpoint pruned leaf by leaf holds what the transform takes from the whole tree."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from openba_jax.checkpoints.streaming import load_params

from openba_jax.checkpoints import training_state
from openba_jax.checkpoints.formats.huggingface import write_huggingface
from openba_jax.checkpoints.formats.t5x import write_t5x
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import init_params, logical_axes
from openba_jax.pruning.apply import PrunedSource, prune_model, unread
from openba_jax.pruning.plan import Plan, pruned_config, relative
from openba_jax.pruning.selection import WIDTH_METHODS
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import take

CONFIG = OpenBAConfig(
    vocab_size=256,
    embed_dim=12,
    num_heads=4,
    head_dim=6,
    mlp_dim=16,
    encoder_layers=3,
    decoder_layers=4,
    ffn_rule="v2",
)
ROWS = (0, 1, 2, *range(9, 200, 3), 250, 250)
STAGES = {
    "layers": Stage("cut", drop_encoder=(1,), drop_decoder=(0, 2)),
    "width": Stage("cut", embed=8, heads=3, mlp=10),
    "all": Stage("cut", (0,), (1, 3), embed=8, heads=3, mlp=10, vocabulary=64),
}


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("method", WIDTH_METHODS)
@pytest.mark.parametrize("name", STAGES)
def test_the_leaves_are_those_of_the_transform(make_source, name, method, scanned):
    stage = dataclasses.replace(STAGES[name], method=method)
    config = CONFIG.replace(scan_layers=scanned, tie_embeddings=False)
    source = make_source(config)
    parent = Plan.identity(config, "root")
    params, axes = load_params(source), logical_axes(config)
    rows = ROWS if stage.vocabulary else None
    child = apply_stage(stage, parent, params=params, axes=axes, vocabulary_rows=rows)
    late, late_axes = unread(source)
    assert child == apply_stage(stage, parent, params=late, axes=late_axes, vocabulary_rows=rows)

    cut = PrunedSource(source, child, parent, None)
    expected = take(params, axes, relative(child, parent))
    jax.tree.map(np.testing.assert_array_equal, load_params(cut), expected)
    assert cut.config == pruned_config(child, like=config)


def test_rows_of_the_vocabulary_are_read_in_slices(make_source):
    source = make_source(CONFIG)
    parent = Plan.identity(CONFIG, "root")
    child = parent.narrow({"vocab": ROWS, "embed": range(2, 9)})
    asked = []
    whole = source.read

    def read(leaf, rows=None):
        asked.append(rows)
        return whole(leaf, rows)

    source.read = read
    cut = PrunedSource(source, child, parent, None)
    leaf = next(leaf for leaf in cut.parameters.leaves() if "token_embedder" in leaf.path)
    slices = [slice(start, min(start + 10, len(ROWS))) for start in range(0, len(ROWS), 10)]
    joined = np.concatenate([cut.read(leaf, rows) for rows in slices])
    assert asked[0] == slice(0, ROWS[9] + 1)
    assert asked[-1] == slice(ROWS[slices[-1].start], 251)
    np.testing.assert_array_equal(joined, cut.read(leaf))


@pytest.mark.parametrize("kind", ["native", "t5x", "huggingface"])
def test_any_checkpoint_is_pruned_and_a_second_time(tmp_path, make_source, kind):
    source = make_source(CONFIG, dtypes={"": np.dtype(np.float32)})
    given = tmp_path / "given"
    if kind == "native":
        training_state.create(given, CONFIG, load_params(source))
    else:
        given.mkdir()
        (write_t5x if kind == "t5x" else write_huggingface)(source, given)
    prune_model(given, tmp_path / "once", Stage("first", drop_decoder=(1,)))
    plan = prune_model(
        tmp_path / "once",
        tmp_path / "twice",
        Stage("second", drop_decoder=(3,), embed=8, method="magnitude"),
        output_format="native",
    )
    assert plan.indices("decoder/layers") == (0, 2)
    assert [step["stage"] for step in plan.steps] == ["first", "second", "second"]
    written = tmp_path / "twice"
    assert json.loads((written / "plan.json").read_text()) == plan.to_dict()
    found = training_state.load_model(written)
    keep = relative(plan, Plan.identity(plan.root_config, str(given)))
    expected = take(load_params(source), logical_axes(CONFIG), keep)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "once", "twice"]


def test_values_that_are_not_finite_are_reported(tmp_path, caplog):
    params = jax.device_get(init_params(CONFIG, jax.random.key(0)))
    params["decoder"]["final_layer_norm"]["scale"] = np.full(12, np.nan, np.float32)
    training_state.create(tmp_path / "model", CONFIG, params)
    with caplog.at_level("WARNING", logger="absl"):
        prune_model(tmp_path / "model", tmp_path / "cut", Stage("cut", embed=8))
    assert "decoder/final_layer_norm/scale holds 8 NaN" in caplog.text


def test_what_cannot_be_cut_leaves_nothing(tmp_path):
    training_state.create(tmp_path / "model", CONFIG, init_params(CONFIG, jax.random.key(0)))
    with pytest.raises(UserError, match="decoder layer 4 does not exist"):
        prune_model(tmp_path / "model", tmp_path / "cut", Stage("cut", drop_decoder=(4,)))
    with pytest.raises(UserError, match=r"needs tokenizer\.model in the folder"):
        prune_model(tmp_path / "model", tmp_path / "cut", Stage("cut", vocabulary=128))
    with pytest.raises(UserError, match="has no optimizer state"):
        prune_model(
            tmp_path / "model", tmp_path / "cut", Stage("cut", embed=8), keep_optimizer=True
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
