"""Recipes and cells: what they refuse, how tokens are divided, and which models are shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.pruning.stages import Stage
from openba_jax.staged.models import FROM_SCRATCH
from openba_jax.staged.settings import Phase
from openba_jax.study.cells import Cell, keys_of, steps_of
from openba_jax.study.recipes import Recipe

LAYERS, WIDTH = Stage("layers", drop_decoder=[1]), Stage("width", mlp=48)
TWO = Recipe("two", [LAYERS, WIDTH])
PHASE = Phase("ul2", 1e-3, 1e-4)
KL = Distillation("ancestor")


def _keys(recipe: Recipe, seed: int = 0, steps: int = 10) -> dict[str, str]:
    cell = Cell(recipe, steps * 7, seed)
    return keys_of(cell, steps_of(cell, steps, 7), PHASE, 5)


def test_shares_divide_all_steps() -> None:
    assert TWO.steps_of_stages(11) == [6, 5]
    assert Recipe("a", [LAYERS, WIDTH], shares=[1, 3]).steps_of_stages(10) == [2, 8]
    for total in range(1, 50):
        shares = [0.3, 1.1, 0.9]
        stages = [LAYERS, WIDTH, Stage("embed", embed=24)]
        assert sum(Recipe("a", stages, shares=shares).steps_of_stages(total)) == total


def test_schedules_go_on_or_begin_anew() -> None:
    assert [tuple(w) for w in TWO.windows(10)] == [(10, 0, 1), (10, 5, 2)]
    anew = Recipe("two", [LAYERS, WIDTH], schedule="per_stage")
    assert [tuple(w) for w in anew.windows(10)] == [(5, 0, 1), (5, 0, 2)]


def test_a_recipe_speaks_for_all_of_its_stages() -> None:
    stages = Recipe("a", [LAYERS, WIDTH], method="magnitude", distillation=KL).stages_for(2)
    assert {stage.method for stage in stages} == {"magnitude"}
    assert all(stage.distillation is KL for stage in stages)
    assert stages[0].seed == LAYERS.seed + 2


def test_a_stage_takes_the_methods_of_the_axes_that_it_cuts() -> None:
    by = {"layers": "block_influence", "*": "taylor"}
    fewer, both = Stage("fewer", sizes={"layers": 2}), Stage("both", mlp=8, sizes={"layers": 2})
    stages = Recipe("a", [fewer, WIDTH, both, LAYERS], method=by).stages_for(0)
    assert [stage.method for stage in stages] == [
        {"layers": "block_influence"},
        {"*": "taylor"},
        by,
        "random",
    ]


def test_cells_share_what_they_make_alike() -> None:
    plain = Recipe("ce", [WIDTH], method="magnitude")
    taught = Recipe("kl", [WIDTH], method="magnitude", distillation=KL)
    first, other, later = _keys(plain), _keys(taught), _keys(plain, seed=1)
    assert first["width.pruned"] == other["width.pruned"] == later["width.pruned"]
    assert len({first["width"], other["width"], later["width"]}) == 3
    # What a seed draws, or what looks at batches, is its own.
    assert _keys(TWO)["layers.pruned"] == _keys(TWO, seed=1)["layers.pruned"]
    for method in ("random", "taylor", {"mlp": "taylor"}):
        drawn = Recipe("r", [WIDTH], method=method)
        assert _keys(drawn)["width.pruned"] != _keys(drawn, seed=1)["width.pruned"]


def test_every_setting_that_changes_a_model_changes_its_key() -> None:
    keys = {
        _keys(recipe, steps=steps)["width"]
        for recipe in (
            Recipe("a", [WIDTH]),
            Recipe("a", [Stage("width", mlp=40)]),
            Recipe("a", [WIDTH], method="magnitude"),
            Recipe("a", [WIDTH], distillation=KL),
            Recipe("a", [WIDTH], distillation=Distillation("before")),
            Recipe("a", [WIDTH], distillation=Distillation("ancestor", weight=0.7)),
            Recipe("a", [Stage("width", mlp=48, recover_objective="d_ul2")]),
        )
        for steps in (10, 12)
    }
    assert len(keys) == 12  # "before" the only stage is the ancestor.


def test_another_teacher_at_the_same_place_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"one")
    recipe = Recipe("a", [WIDTH], distillation=Distillation(str(tmp_path)))
    first = _keys(recipe)
    assert first == _keys(recipe)
    (tmp_path / "weights").write_bytes(b"two")
    assert first["width"] != _keys(recipe)["width"]


def test_random_parameters_have_the_shape_that_all_seeds_share() -> None:
    scratch = Recipe("s", [LAYERS, WIDTH], from_scratch=True)
    cell = Cell(scratch, 70, 3)
    shape, training = steps_of(cell, 10, 7)
    assert shape.steps == 0
    assert shape.stage.all_sizes == {"mlp": 48}
    assert training.stage.name == FROM_SCRATCH
    assert _keys(scratch)["shape"] == _keys(scratch, seed=1)["shape"]
    assert _keys(scratch)[FROM_SCRATCH] != _keys(scratch, seed=1)[FROM_SCRATCH]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a/b"}, "'a/b'"),
        ({"stages": []}, "no stages"),
        ({"stages": [LAYERS, LAYERS]}, "names of their own"),
        ({"stages": [Stage("a", mlp=3, recover_tokens=9)]}, "gives the tokens"),
        ({"shares": [1]}, r"the shares \[1\] for 2 stages"),
        ({"shares": [1, 0]}, "more for the last"),
        ({"schedule": "linear"}, "'linear'; known are one_cosine and per_stage"),
        ({"from_scratch": True, "distillation": KL}, "without a teacher"),
    ],
)
def test_recipes_that_cannot_be_are_named(settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**{"name": "a", "stages": [LAYERS, WIDTH], **settings})
