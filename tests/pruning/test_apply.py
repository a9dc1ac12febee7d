"""A checkpoint pruned leaf by leaf holds what the transform takes from the whole tree."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from openba_jax.checkpoints import training_state
from openba_jax.checkpoints.checkpoint import load_state, load_tree
from openba_jax.checkpoints.registry import FORMATS, open_checkpoint
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabularies.registry import save_tokenizer
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import model_of
from openba_jax.pruning.apply import PrunedCheckpoint, prune_checkpoint
from openba_jax.pruning.criteria.base import Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.saved_plan import plan_of
from openba_jax.pruning.stages import RANDOM, Stage, apply_stage
from openba_jax.pruning.transform import take
from openba_jax.training import run_folder
from openba_jax.training.optimizer import adamw, warmup_constant

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
MODEL = model_of(CONFIG)
ROWS = (0, 1, 2, *range(9, 200, 3), 250, 250)
STAGES = {
    "layers": Stage("cut", drop_encoder=(1,), drop_decoder=(0, 2)),
    "width": Stage("cut", embed=8, heads=3, mlp=10),
    "all": Stage("cut", (0,), (1, 3), embed=8, heads=3, mlp=10, vocabulary=64),
}


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("method", [RANDOM, "magnitude"])
@pytest.mark.parametrize("name", STAGES)
def test_the_leaves_are_those_of_the_transform(make_source, name, method, scanned):
    stage = dataclasses.replace(STAGES[name], method=method)
    model = MODEL.replace(scan_layers=scanned, tie_embeddings=False)
    source = make_source(model.config)
    parent = Plan.identity(model, "root")
    params, axes = load_tree(source), model.logical_axes()
    rows = ROWS if stage.vocabulary else None

    def scorer(name, keys):
        return score(name, Subject(model, source.read), keys)

    child = apply_stage(stage, parent, scorer=scorer, vocabulary_rows=rows)

    cut = PrunedCheckpoint(source, child, parent)
    expected = take(params, axes, relative(child, parent))
    jax.tree.map(np.testing.assert_array_equal, load_tree(cut), expected)
    assert cut.model == pruned_model(child, like=model)


def test_rows_of_the_vocabulary_are_read_in_slices(make_source):
    source = make_source(CONFIG)
    parent = Plan.identity(MODEL, "root")
    child = parent.narrow({"vocab": ROWS, "embed": range(2, 9)})
    asked = []
    whole = source.read

    def read(leaf, rows=None):
        asked.append(rows)
        return whole(leaf, rows)

    source.read = read
    cut = PrunedCheckpoint(source, child, parent)
    leaf = next(leaf for leaf in cut.model.axes.leaves() if "token_embedder" in leaf.path)
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
        training_state.create(given, MODEL, load_tree(source))
    else:
        given.mkdir()
        FORMATS[kind].write(source, given)
    prune_checkpoint(given, tmp_path / "once", Stage("first", drop_decoder=(1,)))
    plan = prune_checkpoint(
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
    keep = relative(plan, Plan.identity(plan.ancestor_model, str(given)))
    expected = take(load_tree(source), MODEL.logical_axes(), keep)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "once", "twice"]


def test_values_that_are_not_finite_are_refused(tmp_path):
    params = jax.device_get(MODEL.init(jax.random.key(0)))
    params["decoder"]["final_layer_norm"]["scale"] = np.full(12, np.nan, np.float32)
    training_state.create(tmp_path / "model", MODEL, params)
    with pytest.raises(UserError, match="decoder/final_layer_norm/scale holds 8 NaN"):
        prune_checkpoint(tmp_path / "model", tmp_path / "cut", Stage("cut", embed=8))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_cut_leaves_nothing(tmp_path):
    training_state.create(tmp_path / "model", MODEL, MODEL.init(jax.random.key(0)))
    with pytest.raises(UserError, match="decoder layer 4 does not exist"):
        prune_checkpoint(tmp_path / "model", tmp_path / "cut", Stage("cut", drop_decoder=(4,)))
    with pytest.raises(UserError, match=r"needs a tokenizer in the folder"):
        prune_checkpoint(tmp_path / "model", tmp_path / "cut", Stage("cut", vocabulary=128))
    with pytest.raises(UserError, match="no optimizer state to keep"):
        prune_checkpoint(
            tmp_path / "model", tmp_path / "cut", Stage("cut", embed=8), keep_optimizer=True
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["native", "t5x"])
@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "unrolled"])
def test_the_optimizer_is_cut_along(tmp_path, kind, scanned):
    model = MODEL.replace(scan_layers=scanned)
    transformation = adamw(warmup_constant(1e-3)).transformation
    params = model.init(jax.random.key(0))
    gradients = jax.tree.map(lambda x: x + 0.5, params)
    _, state = transformation.update(gradients, transformation.init(params), params)
    training_state.create(
        tmp_path / "given", model, params, opt_state=state, step=7, data={"tokens": 5}
    )
    plan = prune_checkpoint(
        tmp_path / "given",
        tmp_path / "cut",
        STAGES["width"],
        keep_optimizer=True,
        output_format=kind,
    )
    found = load_state(open_checkpoint(tmp_path / "cut"))
    keep = relative(plan, Plan.identity(model, str(tmp_path / "given")))
    assert found["step"] == 7
    _, adam, _, schedule = found["opt_state"]
    assert adam["count"] == schedule["count"] == 1
    before = jax.device_get(state[1])
    for name in ("mu", "nu"):
        expected = take(getattr(before, name), model.logical_axes(), keep)
        jax.tree.map(np.testing.assert_array_equal, adam[name], expected)
    if kind == "native":
        # The trainer finds the optimizer's own types in what was written.
        small = pruned_model(plan, like=model)
        fresh = jax.eval_shape(transformation.init, small.abstract_params())
        target = {"params": small.abstract_params(), "opt_state": fresh}
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), target
        )
        restored, data = training_state.restore_state(tmp_path / "cut", target)
        assert jax.tree.structure(restored["opt_state"]) == jax.tree.structure(fresh)
        assert data == {"tokens": 5}


def test_the_plan_of_another_model_is_refused(tmp_path):
    training_state.create(
        tmp_path / "model",
        MODEL,
        MODEL.init(jax.random.key(0)),
        plan=Plan.identity(MODEL, "x").drop_layers({"decoder": [0]}).to_dict(),
    )
    with pytest.raises(UserError, match=r"describes a model with decoder/layers 3, .* has 4"):
        prune_checkpoint(tmp_path / "model", tmp_path / "cut", Stage("cut", embed=8))
    where = r"model/plan\.json describes a model with decoder/layers 3"
    with pytest.raises(UserError, match=where):
        run_folder.check(
            tmp_path / "run",
            MODEL,
            tokenizer=None,
            initial_model=str(tmp_path / "model"),
            param_dtype=None,
            allow_changes=False,
        )
    checkpoint = tmp_path / "model" / "checkpoints" / "0"
    with pytest.raises(UserError, match=where):
        plan_of(open_checkpoint(checkpoint), checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_newline_token_survives_every_move(tmp_path):
    texts = [f"The square of {i} is {i * i}, its cube {i**3}." for i in range(300)]
    train_vocabulary(texts, 300, tmp_path / "plain.model")
    save_tokenizer(tmp_path / "given", OpenBAVocabulary(tmp_path / "plain.model", newline=True))
    vocabulary = OpenBAVocabulary(tmp_path / "given" / "tokenizer.model")
    (newline,) = vocabulary.encode("\n")
    model = MODEL.replace(vocab_size=vocabulary.size)
    params = jax.device_get(model.init(jax.random.key(0)))
    training_state.create(
        tmp_path / "model", model, params, tokenizer=tmp_path / "given" / "tokenizer.model"
    )
    counts = tmp_path / "counts.txt"
    counts.write_text("".join(f"{i} {1000 - i}\n" for i in range(vocabulary.piece_count)))
    prune_checkpoint(
        tmp_path / "model", tmp_path / "cut", Stage("cut", vocabulary=280), counts=[counts]
    )
    cut = training_state.load_model(tmp_path / "cut")
    pruned = OpenBAVocabulary(cut.tokenizer)
    assert pruned.newline
    assert pruned.piece_count < vocabulary.piece_count
    (kept,) = pruned.encode("\n")
    row = cut.params["token_embedder"]["embedding"][kept]
    np.testing.assert_array_equal(row, params["token_embedder"]["embedding"][newline])
    exported = tmp_path / "exported"
    exported.mkdir()
    FORMATS["huggingface"].write(open_checkpoint(tmp_path / "cut"), exported)
    FORMATS["native"].write(open_checkpoint(exported), tmp_path / "back")
    again = OpenBAVocabulary(tmp_path / "back" / "tokenizer.model")
    assert again.encode("a\nb") == pruned.encode("a\nb")
