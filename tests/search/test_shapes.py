"""Estimates are sums of scores; the least damaged shapes within a budget are found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny_ancestor import data_of

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, VOCAB, axis_of
from openba_jax.models.registry import model_of, named_config
from openba_jax.pruning.criteria.base import score_shape
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.stages import apply_stage
from openba_jax.search.budget import Budget
from openba_jax.search.damage import damage_by_curves, damage_by_scores, layers_kept
from openba_jax.search.grid import grid_of
from openba_jax.search.shapes import Shapes, stage_of

FAMILIES = ("tiny", "tiny_llama", "tiny_t5", "tiny_t5gemma_unbalanced")
METHODS = {
    "width_method": "taylor",
    "layer_method": "leave_one_out",
    "compensation": "none",
    "calibration_batches": 1,
}


def _grid(name: str = "tiny", axes=(), **multiples: int):
    return grid_of(model_of(named_config(name)), axes, multiples)


def _scores(grid, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {key: rng.exponential(size=score_shape(grid.axes, key)) for key in grid.moving}


def _shapes(grid, scores, *arguments, **options) -> Shapes:
    return Shapes(grid, scores, damage_by_scores(grid, scores), *arguments, **options)


def test_a_hand_sum() -> None:
    grid = _grid("tiny", ["decoder/layers", "mlp"], mlp=32)
    scores = {
        "decoder/layers": np.array([0.3, 0.1, 0.7]),
        "encoder/mlp": np.stack([np.arange(64) / 1000, np.arange(64)[::-1] / 500]),
        "decoder/mlp": np.stack([np.full(64, 0.01), np.full(64, 5.0), np.arange(64) / 100]),
    }
    found = damage_by_scores(grid, scores)
    # Two of three decoder layers stay, the first and the last, with 32 of 64 units.
    lowest = sum(range(32))
    by_hand = 0.1 + lowest / 1000 + lowest / 500 + 32 * 0.01 + lowest / 100
    assert found[1, 0] == pytest.approx(by_hand)
    assert found[1, 1] == pytest.approx(0.1)
    assert found[0, 1] == pytest.approx(0.4)
    assert found[2, 1] == 0
    assert layers_kept(grid, scores)["decoder/layers"] == [[2], [0, 2], [0, 1, 2]]


@pytest.mark.parametrize("name", FAMILIES)
def test_estimates_are_of_what_the_cut_really_drops(name: str, tmp_path) -> None:
    grid = _grid(name, embed=16, mlp=32)
    scores = _scores(grid)
    found = damage_by_scores(grid, scores)
    places = list(np.ndindex(*grid.shape))
    shapes = _shapes(grid, scores, Budget(parameters=0.5), data_of(tmp_path))
    for at in np.random.default_rng(1).choice(len(places), size=4, replace=False):
        stage = stage_of("cut", shapes.at(places[at]), **METHODS)
        plan = apply_stage(
            stage,
            Plan.identity(grid.model, ""),
            scorer=lambda method, keys: {key: scores[key] for key in keys},
        )
        assert found[places[at]] == pytest.approx(_dropped(grid, scores, plan))
        assert pruned_model(plan) == shapes.at(places[at]).model


def _dropped(grid, scores, plan) -> float:
    """The scores of all that a plan drops, of widths in layers that stay."""
    total = 0.0
    for key, values in scores.items():
        of_layers = grid.axes.layers_key(key)
        if of_layers is None:
            kept = plan.indices(key)
            total += values.sum() - values[list(kept)].sum()
            continue
        for row, kept in zip(values, plan.rows(key), strict=True):
            total += row.sum() - row[list(kept)].sum() if kept else 0.0
    return total


@pytest.mark.parametrize("kind", ["parameters", "bytes", "flops_per_example"])
def test_the_best_shape_within_a_budget_is_the_best_of_all(kind: str, tmp_path) -> None:
    data, budget = data_of(tmp_path), Budget(**{kind: 0.6})
    grid = _grid("tiny", ["decoder/layers", "heads", "mlp"], heads=2, mlp=16)
    scores = _scores(grid)
    shapes = _shapes(grid, scores, budget, data)
    limit = budget.limit_for(budget.cost(grid.model, data))
    best = shapes.propose(limit, 1)[0]
    everything = [shapes.at(place) for place in np.ndindex(*grid.shape)]
    assert best.cost == budget.cost(best.model, data) <= limit
    within = [shape for shape in everything if budget.cost(shape.model, data) <= limit]
    assert best.damage == min(shape.damage for shape in within)
    assert len(within) < len(everything)


def test_candidates_are_not_nearly_the_same(tmp_path) -> None:
    grid = _grid("tiny")
    shapes = _shapes(grid, _scores(grid), Budget(parameters=0.5), data_of(tmp_path))
    whole = {d.name: d.values[-1] for d in grid.dimensions}
    found = shapes.propose(grid.model.axes.count() / 2, 8)
    assert len(found) == 8
    assert [shape.damage for shape in found] == sorted(shape.damage for shape in found)
    for one, other in itertools.combinations(found, 2):
        apart = [abs(one.values[name] - other.values[name]) / whole[name] for name in whole]
        assert max(apart) > 1 / 8


@pytest.mark.parametrize(("score", "cheap"), [(9.0, "decoder"), (0.5, "encoder")])
def test_layers_of_encoder_and_decoder_compete(score: float, cheap: str, tmp_path) -> None:
    grid = _grid("tiny", [LAYERS])
    scores = {"encoder/layers": np.full(2, score), "decoder/layers": np.array([1.0, 9.0, 1.0])}
    shapes = _shapes(grid, scores, Budget(parameters=0.9), data_of(tmp_path))
    best = shapes.propose(grid.model.axes.count() * 0.95, 1)[0]
    assert list(best.sizes) == [f"{cheap}/layers"]


def test_a_budget_that_no_shape_meets_names_the_nearest(tmp_path) -> None:
    grid = _grid("tiny")
    shapes = _shapes(grid, _scores(grid), Budget(parameters=10), data_of(tmp_path))
    least = int(grid.parameters().min())
    with pytest.raises(
        UserError, match=f"no shape is within 10 parameters; the nearest has {least:,}"
    ):
        shapes.propose(10, 2)
    with pytest.raises(UserError, match="encoder/layers 1, decoder/layers 1, embed 4"):
        shapes.check(10)


def test_time_is_measured_of_few_shapes(tmp_path) -> None:
    measured = []

    def measure(model, text: str) -> float:  # A layer of the decoder takes a second.
        measured.append(text)
        return 1000.0 * model.axes.sizes["decoder/layers"]

    grid = _grid("tiny", embed=16, mlp=32)
    budget = Budget(milliseconds_per_token=2000)
    shapes = _shapes(grid, _scores(grid), budget, data_of(tmp_path), measure=measure)
    found = shapes.propose(budget.limit_for(3000), 3)
    assert found
    assert all(shape.model.axes.sizes["decoder/layers"] <= 2 for shape in found)
    assert all(shape.cost <= 2000 for shape in found)
    assert len(set(measured)) < 32
    with pytest.raises(UserError, match="within 500 milliseconds per token; the nearest has 1e"):
        shapes.propose(500, 3)


def test_curves_add_up() -> None:
    grid = _grid("tiny", ["decoder/layers", "mlp"], mlp=32)
    curves = {"decoder/layers": [2.0, 0.5, 0.0], "mlp": [0.7, 0.0]}
    found = damage_by_curves(grid, curves, {})
    assert found.tolist() == [[2.7, 2.0], [1.2, 0.5], [0.7, 0.0]]


def test_rows_of_the_vocabulary_count_once() -> None:
    grid = grid_of(model_of(named_config("tiny")), ["mlp"], vocabularies=[384])
    scores = {VOCAB: np.arange(512.0)} | {
        key: values for key, values in _scores(grid).items() if axis_of(key) != VOCAB
    }
    kept = [*range(200, 512), *[511] * 72]
    found = damage_by_scores(grid, scores, {384: kept})
    assert found[-1].tolist() == [sum(range(200)), 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "there is none of them"),
        ({"parameters": 9, "bytes": 9}, "there is parameters and bytes"),
        ({"parameters": 0}, "above 0"),
        ({"flops_per_example": float("nan")}, "above 0"),
        ({"bytes": 9, "dtype": "float3"}, "'float3'"),
    ],
)
def test_budgets_that_cannot_be_are_named(fields, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget(**fields)


def test_a_budget_above_the_ancestor_leaves_nothing_to_cut() -> None:
    assert Budget(parameters=0.25).limit_for(100) == 25
    assert Budget(milliseconds_per_token=0.25).limit_for(100) == 0.25
    with pytest.raises(UserError, match="nothing has to be cut"):
        Budget(parameters=100).limit_for(100)
