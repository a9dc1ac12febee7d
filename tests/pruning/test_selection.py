from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import CONFIG, random_params

from openba_jax.errors import UserError
from openba_jax.models.registry import named_config
from openba_jax.models.openba.network import logical_axes
from openba_jax.pruning.plan import Plan, pruned_config, relative
from openba_jax.pruning.selection import Widths, select_width, spread_layers, squared_norms
from openba_jax.pruning.transform import take

GOLDEN = Path(__file__).parent / "data" / "prune_mask_golden.json"
ROOT = Plan.identity(CONFIG, "ancestor")
SMALLER = Widths(embed=5, heads=2, mlp=3)


def test_random_masks_are_those_of_the_original() -> None:
    golden = json.loads(GOLDEN.read_text())
    plan = Plan.identity(named_config("openba_15b"), "openba")
    selection = select_width("random", plan, Widths(2560, 20, 6912), seed=golden["seed"])
    embed = selection.keep["embed"]
    assert list(embed[:10]) == golden["hidden"]["first10"]
    assert list(embed[-5:]) == golden["hidden"]["last5"]
    assert sum(embed) == golden["hidden"]["sum"]
    for number, layer in golden["layers"].items():
        stack, i = ("encoder", int(number)) if int(number) < 12 else ("decoder", int(number) - 12)
        assert list(selection.keep[f"{stack}/heads"][i]) == layer["heads"]
        assert list(selection.keep[f"{stack}/mlp"][i][:10]) == layer["ffn_first10"]
        assert sum(selection.keep[f"{stack}/mlp"][i]) == layer["ffn_sum"]


def test_random_draws_like_the_global_generator() -> None:
    # The original seeds the module `random`; here a generator of its own draws.
    random.seed(7)
    embed = sorted(random.sample(range(8), 5))
    heads, mlp = sorted(random.sample(range(4), 2)), sorted(random.sample(range(6), 3))
    keep = select_width("random", ROOT, SMALLER, seed=7).keep
    assert list(keep["embed"]) == embed
    assert list(keep["encoder/heads"][0]) == heads
    assert list(keep["encoder/mlp"][0]) == mlp


def test_random_draws_over_the_loaded_model() -> None:
    parent = ROOT.drop_layers(encoder=[1], decoder=[0, 3]).narrow({"embed": [0, 1, 3, 4, 6, 7]})
    child = parent.narrow(select_width("random", parent, SMALLER, seed=3).keep)
    alone = Plan.identity(pruned_config(parent), "")
    expected = alone.narrow(select_width("random", alone, SMALLER, seed=3).keep)
    assert relative(child, parent) == expected.keep
    assert child.rows("encoder/heads")[1] == ()
    assert set(child.indices("embed")) <= set(parent.indices("embed"))


def test_sizes_that_stay_are_drawn_all_the_same() -> None:
    some = select_width("random", ROOT, Widths(mlp=3), seed=5).keep
    explicit = select_width("random", ROOT, Widths(embed=8, heads=4, mlp=3), seed=5).keep
    assert some == explicit
    assert set(some) == {"encoder/mlp", "decoder/mlp"}


AXES = {
    "token_embedder": {"embedding": ("vocab", "embed")},
    "decoder": {
        "layers": {
            "self_attention": {"query": {"kernel": ("layers", "embed", "heads", "kv")}},
            "mlp": {"wi_0": {"kernel": ("layers", "embed", "mlp")}},
        }
    },
}


def _params(rng: np.random.Generator) -> dict:
    return {
        "token_embedder": {"embedding": rng.normal(size=(5, 6)).astype(np.float32)},
        "decoder": {
            "layers": {
                "self_attention": {
                    "query": {"kernel": rng.normal(size=(3, 6, 4, 2)).astype(np.float32)}
                },
                "mlp": {"wi_0": {"kernel": rng.normal(size=(3, 6, 7)).astype(np.float32)}},
            }
        },
    }


def test_scores_sum_squares_over_all_leaves_with_the_axis() -> None:
    params = _params(np.random.default_rng(0))
    embedding = params["token_embedder"]["embedding"].astype(np.float64)
    query = params["decoder"]["layers"]["self_attention"]["query"]["kernel"].astype(np.float64)
    wi_0 = params["decoder"]["layers"]["mlp"]["wi_0"]["kernel"].astype(np.float64)
    embed = (embedding**2).sum(0) + (query**2).sum((0, 2, 3)) + (wi_0**2).sum((0, 2))
    np.testing.assert_allclose(squared_norms(params, AXES, "embed")["embed"], embed)
    heads = squared_norms(params, AXES, "heads")
    assert list(heads) == ["decoder/heads"]
    np.testing.assert_allclose(heads["decoder/heads"], (query**2).sum((1, 3)))
    with pytest.raises(UserError, match=r"no parameter .* axis experts"):
        squared_norms(params, AXES, "experts")


def test_scores_of_unrolled_layers_are_those_of_scanned_ones() -> None:
    params = _params(np.random.default_rng(1))
    scanned = params["decoder"]["layers"]
    unrolled = {"token_embedder": params["token_embedder"], "decoder": {}}
    axes = {"token_embedder": AXES["token_embedder"], "decoder": {}}
    for i in range(3):
        unrolled["decoder"][f"layers_{i}"] = {
            "self_attention": {
                "query": {"kernel": scanned["self_attention"]["query"]["kernel"][i]}
            },
            "mlp": {"wi_0": {"kernel": scanned["mlp"]["wi_0"]["kernel"][i]}},
        }
        axes["decoder"][f"layers_{i}"] = {
            "self_attention": {"query": {"kernel": ("embed", "heads", "kv")}},
            "mlp": {"wi_0": {"kernel": ("embed", "mlp")}},
        }
    for name in ("embed", "heads", "mlp"):
        one, other = squared_norms(params, AXES, name), squared_norms(unrolled, axes, name)
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_magnitude_keeps_the_largest_and_maps_to_the_root() -> None:

    params = random_params(CONFIG)
    axes = logical_axes(CONFIG)
    # Head 3 of decoder layer 2 is large, and channel 6: positions 1 and 3 in the pruned model.
    params["decoder"]["layers"]["self_attention"]["out"]["kernel"][2, 3] += 10
    params["token_embedder"]["embedding"][:, 6] += 10
    parent = ROOT.drop_layers(decoder=[0]).narrow({"embed": [1, 2, 3, 6, 7]})
    loaded = take(params, axes, relative(parent, ROOT))
    selection = select_width("magnitude", parent, Widths(1, 1), params=loaded, axes=axes)
    assert selection.keep["embed"] == (6,)
    assert selection.keep["decoder/heads"][2] == (3,)
    assert selection.keep["decoder/heads"][0] == ()
    assert 0.5 < selection.record["kept_share"]["embed"] < 1
    assert json.loads(json.dumps(selection.record)) == selection.record
    assert pruned_config(parent.narrow(selection.keep)).num_heads == 1


def test_magnitude_needs_parameters() -> None:
    with pytest.raises(UserError, match="needs the parameters"):
        select_width("magnitude", ROOT, SMALLER)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (Widths(embed=9), "embed from 8 to 9"),
        (Widths(heads=5), "heads from 4 to 5"),
        (Widths(mlp=0), "mlp from 6 to 0"),
    ],
)
@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_refuses_targets_that_are_no_cut(method: str, widths: Widths, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select_width(method, ROOT, widths, seed=0, params={}, axes={})


def test_refuses_an_unknown_method() -> None:
    with pytest.raises(UserError, match="'taylor'; known are random, magnitude"):
        select_width("taylor", ROOT, SMALLER)


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
