from __future__ import annotations

import json
from pathlib import Path

import pytest
from plan_strategies import MODEL

from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.stages import (
    LLAMA_STAGES,
    OPENBA_V2_STAGES,
    Stage,
    apply_stage,
    merge_stages,
)

DATA = Path(__file__).parent / "data"
ROOT = Plan.identity(model_of(named_config("openba_15b")), "openba")
# 120,000 pieces, the special tokens, and padding.
ROWS = (*range(120_000), *range(250_100, 250_203), *[250_100] * 89)


def staged() -> list[Plan]:
    plans = [ROOT]
    for stage in OPENBA_V2_STAGES:
        rows = ROWS if stage.vocabulary else None
        plans.append(apply_stage(stage, plans[-1], vocabulary_rows=rows))
    return plans


def test_the_published_schedule_gives_the_published_sizes() -> None:
    rows = json.loads((DATA / "stages.json").read_text())["stages"]
    plans = staged()
    assert len(plans) == len(rows)
    names = ["openba_15b", *(stage.name for stage in OPENBA_V2_STAGES)]
    for plan, row, name in zip(plans, rows, names, strict=True):
        config = pruned_model(plan).config
        assert config.encoder_layers == row["encoder_layers"]
        assert config.decoder_layers == row["decoder_layers"]
        assert config.embed_dim == row["hidden_size"]
        assert config.mlp_dim == row["ffn_hidden_size"]
        assert config.num_heads == row["num_heads"]
        # Not sizes: a pruned model keeps them of its ancestor.
        kept = ("max_encoder_length", "max_decoder_length", "ffn_rule")
        expected = named_config(name, **{field: getattr(config, field) for field in kept})
        assert config == expected
    trained = {row["name"]: row["train_tokens"] for row in rows}
    for stage, row in zip(OPENBA_V2_STAGES, rows[1:], strict=True):
        assert stage.recover_tokens == (trained[row["name"]] or 0)


def test_the_published_schedule_keeps_the_published_layers() -> None:
    golden = json.loads((DATA / "layer_pruning.json").read_text())
    plan = staged()[-1]
    assert list(plan.indices("encoder/layers")) == golden["kept_if_0_based"]["enc"]
    assert list(plan.indices("decoder/layers")) == golden["kept_if_0_based"]["dec"]
    assert [step["stage"] for step in plan.steps] == [
        stage.name for stage in OPENBA_V2_STAGES if stage.name != "stage5_3_8b"
    ]


def test_the_published_cut_of_llama_gives_the_published_sizes() -> None:
    plan = Plan.identity(model_of(named_config("llama2_7b")), "llama")
    for stage in LLAMA_STAGES:
        plan = apply_stage(stage, plan)
    assert pruned_model(plan).config == named_config("llama2_3_4b")
    assert set(range(32)) - set(plan.indices("decoder/layers")) == {7, 13, 18, 24}


def test_all_at_once_reaches_the_same_shape() -> None:
    merged = merge_stages(OPENBA_V2_STAGES)
    assert merged.recover_tokens == 800_000_000_000
    assert merged.recover_objective == "o_ul2"
    plan, last = apply_stage(merged, ROOT, vocabulary_rows=ROWS), staged()[-1]
    assert pruned_model(plan) == pruned_model(last)
    for key in ("encoder/layers", "decoder/layers", "vocab"):
        assert plan.indices(key) == last.indices(key)


def test_merging_keeps_the_last_word() -> None:
    merged = merge_stages(
        [
            Stage("a", drop_encoder=[1], embed=6, method="magnitude", seed=1, recover_tokens=5),
            Stage("b", drop_decoder=[2], mlp=4, embed=4, seed=2),
            Stage("d", drop={"decoder": [0], "vision": [3]}),
            Stage("c", recover_tokens=7, recover_objective="ul2"),
        ]
    )
    assert merged == Stage(
        "all_at_once",
        drop_encoder=(1,),
        drop_decoder=(2, 0),
        drop={"vision": (3,)},
        sizes={"embed": 4, "mlp": 4},
        method="random",
        seed=2,
        recover_tokens=12,
        recover_objective="ul2",
    )
    with pytest.raises(UserError, match="no stages"):
        merge_stages([])


def test_width_is_drawn_before_layers_go() -> None:
    root = Plan.identity(MODEL, "root")
    both = apply_stage(Stage("s", drop_encoder=(0,), mlp=3, seed=9), root)
    width = apply_stage(Stage("s", mlp=3, seed=9), root)
    assert both.keep == width.drop_layers({"encoder": [0]}).keep
    assert [step["method"] for step in both.steps] == ["random", "drop_layers"]


def test_refuses_what_cannot_be_done() -> None:
    root = Plan.identity(MODEL, "root")
    with pytest.raises(UserError, match="stage v cuts the vocabulary to 200"):
        apply_stage(Stage("v", vocabulary=200), root)
    with pytest.raises(UserError, match="encoder/mlp from 6 to 7"):
        apply_stage(Stage("w", mlp=7), root)
    with pytest.raises(UserError, match="encoder layer 1 is to be dropped twice"):
        apply_stage(merge_stages([Stage("a", drop_encoder=[1])] * 2), root)
    with pytest.raises(UserError, match="'guess'; known are random"):
        apply_stage(Stage("m", mlp=3, method="guess"), root)
    with pytest.raises(UserError, match="by magnitude, which needs the parameters"):
        apply_stage(Stage("m", mlp=3, method="magnitude"), root)
    with pytest.raises(UserError, match=r"no axis 'mpl' .* did you mean mlp"):
        apply_stage(Stage("m", sizes={"mpl": 3}), root)
    with pytest.raises(UserError, match="no axis 'vocab'"):
        apply_stage(Stage("m", sizes={"vocab": 3}), root)
    with pytest.raises(UserError, match=r"keeps 3 in encoder/mlp and 6 in decoder/mlp"):
        apply_stage(Stage("m", sizes={"encoder/mlp": 3}), root)


def test_any_axis_can_be_named() -> None:
    root = Plan.identity(MODEL, "root")
    named = apply_stage(Stage("s", sizes={"mlp": 3, "heads": 2}, seed=9), root)
    assert named.keep == apply_stage(Stage("s", mlp=3, heads=2, seed=9), root).keep
    drawn = apply_stage(Stage("s", sizes={"decoder/layers": 2}), root)
    assert len(drawn.indices("decoder/layers")) == 2
    assert drawn.indices("encoder/layers") == (0, 1, 2)


def test_a_size_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="gives mlp twice, 4 and 3"):
        Stage("s", mlp=4, sizes={"mlp": 3})
    both = Stage("s", drop_decoder=(1,), sizes={"decoder/layers": 2})
    with pytest.raises(UserError, match="names decoder layers to drop and a number"):
        apply_stage(both, ROOT)


def test_stacks_are_dropped_from_by_name() -> None:
    root = Plan.identity(MODEL, "root")
    named = apply_stage(Stage("s", drop={"encoder": [0], "decoder": [1, 2]}), root)
    assert named == apply_stage(Stage("s", drop_encoder=[0], drop_decoder=[1, 2]), root)
    with pytest.raises(UserError, match=r"decoder layers to drop twice, in drop and in drop_dec"):
        Stage("s", drop_decoder=[1], drop={"decoder": [1]})
    with pytest.raises(UserError, match="no stack 'vision' of layers; it has encoder, decoder"):
        apply_stage(Stage("s", drop={"vision": [1]}), root)
