from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import MODEL

from openba_jax.errors import UserError
from openba_jax.models.axes import AxisTable, Grouped
from openba_jax.models.registry import model_of, named_config
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.selection import best, drawn, spread_layers, targets_of
from openba_jax.pruning.stages import Stage, apply_stage

GOLDEN = Path(__file__).parent / "data" / "prune_mask_golden.json"
ROOT = Plan.identity(MODEL, "ancestor")
SMALLER = {"embed": 5, "heads": 2, "mlp": 3}


def draw(axes: AxisTable, sizes: dict[str, int], seed: int) -> dict:
    return dict(drawn(axes, targets_of(axes, sizes), seed).keep)


def test_random_masks_are_those_of_the_original() -> None:
    golden = json.loads(GOLDEN.read_text())
    axes = model_of(named_config("openba_15b")).axes
    keep = draw(axes, {"embed": 2560, "heads": 20, "mlp": 6912}, golden["seed"])
    embed = keep["embed"]
    assert list(embed[:10]) == golden["hidden"]["first10"]
    assert list(embed[-5:]) == golden["hidden"]["last5"]
    assert sum(embed) == golden["hidden"]["sum"]
    for number, layer in golden["layers"].items():
        stack, i = ("encoder", int(number)) if int(number) < 12 else ("decoder", int(number) - 12)
        assert list(keep[f"{stack}/heads"][i]) == layer["heads"]
        assert list(keep[f"{stack}/mlp"][i][:10]) == layer["ffn_first10"]
        assert sum(keep[f"{stack}/mlp"][i]) == layer["ffn_sum"]


def test_random_draws_like_the_global_generator() -> None:
    # The original seeds the module `random`; here a generator of its own draws.
    random.seed(7)
    embed = sorted(random.sample(range(8), 5))
    heads, mlp = sorted(random.sample(range(4), 2)), sorted(random.sample(range(6), 3))
    keep = draw(MODEL.axes, SMALLER, 7)
    assert keep["embed"] == embed
    assert keep["encoder/heads"][0] == heads
    assert keep["encoder/mlp"][0] == mlp


def test_random_draws_over_the_loaded_model() -> None:
    parent = ROOT.drop_layers({"encoder": [1], "decoder": [0, 3]})
    parent = parent.narrow({"embed": [0, 1, 3, 4, 6, 7]})
    stage = Stage("s", embed=5, heads=2, mlp=3, seed=3)
    child = apply_stage(stage, parent)
    alone = apply_stage(stage, Plan.identity(pruned_model(parent), ""))
    assert relative(child, parent) == alone.keep
    assert child.rows("encoder/heads")[1] == ()
    assert set(child.indices("embed")) <= set(parent.indices("embed"))


def test_sizes_that_stay_are_drawn_all_the_same() -> None:
    some = apply_stage(Stage("s", mlp=3, seed=5), ROOT)
    explicit = apply_stage(Stage("s", embed=8, heads=4, mlp=3, seed=5), ROOT)
    assert some.keep == explicit.keep
    assert set(some.keep) == {"encoder/mlp", "decoder/mlp"}


def test_layers_are_one_more_scored_key() -> None:
    scores = {"decoder/layers": np.array([3.0, 1.0, 2.0, 2.0])}
    chosen = best(MODEL.axes, scores, {"decoder/layers": 2}, "toy")
    assert chosen.keep == {"decoder/layers": [0, 2]}  # Of equal scores the lower index.
    assert chosen.record["kept_share"] == {"decoder/layers": 5 / 8}
    assert json.loads(json.dumps(chosen.record)) == chosen.record


GROUPED = AxisTable(
    {"decoder/layers": 2, "decoder/heads": 8, "decoder/kv_heads": 4},
    {"decoder/layers/query": ("heads",), "decoder/layers/key": ("kv_heads",)},
    (Grouped("decoder/kv_heads", "decoder/heads"),),
)


def test_members_are_chosen_evenly_within_groups() -> None:
    heads = np.array([[9.0, 8, 1, 2, 7, 6, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]])
    chosen = best(GROUPED, {"decoder/heads": heads}, {"decoder/heads": 4}, "toy")
    assert chosen.keep["decoder/heads"] == [[0, 3, 4, 7], [1, 3, 5, 7]]
    groups = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    scores = {"decoder/heads": heads, "decoder/kv_heads": groups}
    both = best(GROUPED, scores, {"decoder/heads": 2, "decoder/kv_heads": 2}, "toy")
    assert both.keep["decoder/kv_heads"] == [[2, 3], [0, 1]]
    assert both.keep["decoder/heads"] == [[4, 7], [1, 3]]
    with pytest.raises(UserError, match="cannot be cut to 3, which 4 groups"):
        best(GROUPED, {"decoder/heads": heads}, {"decoder/heads": 3}, "toy")


def test_members_are_drawn_within_the_drawn_groups() -> None:
    keep = drawn(GROUPED, {"decoder/heads": 2, "decoder/kv_heads": 2}, 1).keep
    for groups, members in zip(keep["decoder/kv_heads"], keep["decoder/heads"], strict=True):
        assert [member // 2 for member in members] == groups
    with pytest.raises(UserError, match="cannot be cut to 6"):
        drawn(GROUPED, {"decoder/heads": 6}, 1)


def test_members_go_with_their_groups() -> None:
    keep = drawn(GROUPED, {"decoder/kv_heads": 2}, 1).keep
    for groups, members in zip(keep["decoder/kv_heads"], keep["decoder/heads"], strict=True):
        assert members == [2 * group + member for group in groups for member in (0, 1)]
    many = {"decoder/heads": 6, "decoder/kv_heads": 2}
    with pytest.raises(UserError, match=r"heads cannot stay at 6: 2 groups .* have 4"):
        drawn(GROUPED, many, 1)
    scores = {key: np.ones((2, GROUPED.sizes[key])) for key in many}
    with pytest.raises(UserError, match=r"heads cannot stay at 6: 2 groups .* have 4"):
        best(GROUPED, scores, many, "toy")


def test_slices_are_drawn_once_and_cut_alike() -> None:
    # What each rank of the original draws for its own part, all from one seed.
    generator = random.Random(1234)
    embed = sorted(generator.sample(range(4096), 3072))
    parts = [
        (sorted(generator.sample(range(8), 6)), sorted(generator.sample(range(2752), 2048)))
        for _ in range(32)
    ]
    axes = model_of(named_config("llama2_7b")).axes
    targets = targets_of(axes, {"embed": 3072, "heads": 24, "mlp": 8192})
    chosen = drawn(axes, targets, 1234, slices=4)
    assert chosen.keep["embed"] == embed
    for layer, (heads, units) in enumerate(parts):
        for key, width, part in (("heads", 8, heads), ("mlp", 2752, units)):
            expected = [rank * width + index for rank in range(4) for index in part]
            assert chosen.keep[f"decoder/{key}"][layer] == expected
    assert chosen.record["slices"] == 4
    assert "slices" not in drawn(axes, targets, 1234).record


def test_slices_of_groups() -> None:
    keep = drawn(GROUPED, {"decoder/heads": 2, "decoder/kv_heads": 2}, 1, slices=2).keep
    for groups, members in zip(keep["decoder/kv_heads"], keep["decoder/heads"], strict=True):
        assert groups[1] == groups[0] + 2
        assert members[1] == members[0] + 4
        assert [member // 2 for member in members] == groups


@pytest.mark.parametrize(
    ("sizes", "slices", "message"),
    [
        ({"heads": 2}, 4, "heads is to keep 2 indices, which 4 slices do not divide"),
        ({"mlp": 3}, 3, "heads has 4 indices, which 3 slices do not divide"),
    ],
)
def test_slices_that_do_not_divide_are_refused(
    sizes: dict[str, int], slices: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        apply_stage(Stage("s", sizes=sizes, slices=slices), ROOT)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"mlp": 3, "slices": 0}, "has 0 slices"),
        ({"mlp": 3, "slices": 2, "method": "magnitude"}, "2 slices, but draws no sizes"),
        ({"drop_encoder": [1], "slices": 2}, "2 slices, but draws no sizes"),
    ],
)
def test_slices_without_a_draw_are_refused(stage: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Stage("s", **stage)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"embed": 9}, "embed from 8 to 9"),
        ({"heads": 5}, "encoder/heads from 4 to 5"),
        ({"mlp": 0}, "encoder/mlp from 6 to 0"),
        ({"kv": 1}, "no axis 'kv'"),
        ({"decoder/mlpp": 1}, "did you mean decoder/mlp"),
    ],
)
def test_refuses_targets_that_are_no_cut(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        targets_of(MODEL.axes, sizes)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_spread_layers_are_inner_and_far_apart(sizes: tuple[int, int]) -> None:
    depth, count = sizes
    layers = spread_layers(depth, count)
    assert len(set(layers)) == count
    assert all(0 <= layer < depth for layer in layers)
    if count <= depth - 2:
        assert not {0, depth - 1} & set(layers)
        gaps = np.diff([0, *layers, depth - 1])
        assert gaps.max() - gaps.min() <= 1


def test_spread_layers_leaves_one() -> None:
    assert spread_layers(12, 2) == [3, 7]
    with pytest.raises(UserError, match="cannot drop 3 of 3"):
        spread_layers(3, 3)
