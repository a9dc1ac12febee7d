"""The grid: exhaustive, counted right, and consistent with what holds between axes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, Grouped, axis_of
from openba_jax.models.counting import parameter_count
from openba_jax.models.registry import model_of, named_config
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.search.grid import Grid, grid_of

FAMILIES = (
    "tiny",
    "tiny_llama",
    "tiny_t5",
    "tiny_t5_1_1",
    "tiny_t5gemma",
    "tiny_t5gemma_unbalanced",
)


def _model(name: str, **changes):
    return model_of(named_config(name, **changes))


def _kept(grid: Grid) -> dict[str, list[list[int]]]:
    """The first layers."""
    return {
        key: [list(range(n + 1)) for n in range(grid.axes.sizes[key])]
        for key in grid.moving
        if axis_of(key) == LAYERS
    }


def _some(grid: Grid, count: int) -> list[tuple[int, ...]]:
    places = list(np.ndindex(*grid.shape))
    chosen = np.random.default_rng(0).choice(len(places), size=count, replace=False)
    return [places[0], *(places[i] for i in chosen), places[-1]]


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_of_the_models(name: str) -> None:
    grid = grid_of(_model(name), multiples={"embed": 8, "mlp": 16})
    counts, kept = grid.parameters(), _kept(grid)
    for place in _some(grid, 3):
        model = grid.model_at(place, kept)
        assert counts[place] == parameter_count(model)
        assert dict(model.axes.sizes) == grid.sizes_at(place)
    assert counts[tuple(n - 1 for n in grid.shape)] == parameter_count(grid.model)


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_are_those_of_the_models(name: str) -> None:
    grid = grid_of(_model(name), multiples={"embed": 8, "mlp": 16})
    kept = _kept(grid)
    found = grid.interpolated(lambda model: model.forward_flops(48, 24), kept)
    for place in _some(grid, 3):
        exact = grid.model_at(place, kept).forward_flops(48, 24)
        assert found[place] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_shape_is_one_that_a_cut_can_make(name: str) -> None:
    grid = grid_of(_model(name), multiples={"embed": 16, "mlp": 32})
    plan = Plan.identity(grid.model, "")
    for place in _some(grid, 2):
        sizes = grid.sizes_at(place)
        cut = apply_stage(Stage("cut", sizes={key: sizes[key] for key in grid.moving}), plan)
        assert dict(pruned_model(cut).axes.sizes) == sizes


def test_the_grid_is_all_that_there_is() -> None:
    model = _model("tiny")
    grid = grid_of(model, ["decoder/layers", "heads", "mlp"], {"mlp": 32})
    sizes = model.axes.sizes
    everything = {
        parameter_count(
            model.resized(
                {
                    **sizes,
                    "decoder/layers": layers,
                    **dict.fromkeys(("encoder/heads", "decoder/heads"), heads),
                    **dict.fromkeys(("encoder/mlp", "decoder/mlp"), mlp),
                }
            )
        )
        for layers, heads, mlp in itertools.product((1, 2, 3), (1, 2, 3, 4), (32, 64))
    }
    assert set(grid.parameters().ravel().tolist()) == everything
    assert grid.shape == (3, 4, 2)


def test_depths_of_stacks_and_widths_move_by_themselves() -> None:
    grid = grid_of(_model("tiny"))
    assert [d.name for d in grid.dimensions] == [
        *("encoder/layers", "decoder/layers", "embed", "heads", "mlp")
    ]
    assert grid.dimensions[3].keys == ("encoder/heads", "decoder/heads")
    assert grid.dimensions[4].values == (8, 16, 24, 32, 40, 48, 56, 64)


def test_groups_keep_equally_many_members() -> None:
    grid = grid_of(_model("tiny_llama", num_heads=8, num_kv_heads=4))
    (coupling,) = [c for c in grid.axes.couplings if isinstance(c, Grouped)]
    assert {"kv_heads", "heads"} <= {d.name for d in grid.dimensions}
    found = set()
    for place in np.ndindex(*grid.shape):
        sizes = grid.sizes_at(place)
        found.add((sizes[coupling.outer], sizes[coupling.inner]))
    assert found == {(g, g * m) for g in (1, 2, 3, 4) for m in (1, 2)}


def test_a_group_takes_its_members_along_where_these_do_not_move() -> None:
    grid = grid_of(_model("tiny_llama", num_heads=8, num_kv_heads=4), ["kv_heads"])
    assert [grid.sizes_at(place)["decoder/heads"] for place in np.ndindex(4)] == [2, 4, 6, 8]


def test_sizes_of_an_axis_in_two_stacks_move_in_proportion() -> None:
    grid = grid_of(_model("tiny_t5gemma_unbalanced"), ["embed"])
    whole = grid.axes.sizes
    assert whole["encoder/embed"] != whole["decoder/embed"]
    half = grid.sizes_at([len(grid.dimensions[0].values) // 2 - 1])
    shares = [half[key] / whole[key] for key in ("encoder/embed", "decoder/embed")]
    assert shares == pytest.approx([0.5, 0.5], abs=0.13)


def test_a_default_multiple_is_one_that_hardware_likes() -> None:
    dimensions = {
        d.name: d.values for d in grid_of(_model("openba_15b"), ["embed", "mlp"]).dimensions
    }
    assert dimensions["embed"] == (512, 1024, 1536, 2048, 2560, 3072, 3584, 4096)
    assert dimensions["mlp"] == (*range(1408, 11_008, 1408), 11_008)


@pytest.mark.parametrize(
    ("axes", "multiples", "message"),
    [
        (["mpl"], {}, "'mpl', and the model has no such axis to cut; did you mean mlp"),
        (["mlp", "encoder/mlp"], {}, "named twice"),
        (["vocab"], {}, "'vocab'"),
        ([], {"hats": 3}, "'hats'"),
        ([], {"mlp": 0}, "multiple of mlp is 0"),
    ],
)
def test_axes_that_cannot_move_are_named(axes, multiples, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid_of(_model("tiny"), axes, multiples)


def test_a_grid_that_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match=r"shapes, and a search looks at 4,000,000"):
        grid_of(_model("openba_15b"), multiples={"mlp": 1})
    assert math.prod(grid_of(_model("openba_15b")).shape) < 300_000
