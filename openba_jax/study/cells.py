"""The cells of a study, recipe x tokens x seed, and the models that they share.

A model is known by what made it: its key is a digest of the cut or the training and of the key of
the model before. What two cells make alike, such as the same cut by the same seed, is one model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.paths import local
from openba_jax.pruning.criteria.base import RANDOM
from openba_jax.pruning.stages import Stage, merge_stages
from openba_jax.staged.ancestor import identity_of
from openba_jax.staged.models import (
    ANCESTOR,
    BEFORE,
    FROM_SCRATCH,
    ScheduleWindow,
    pruned_name,
)
from openba_jax.staged.settings import Phase
from openba_jax.study.recipes import Recipe, draws

SHAPE = "shape"
"""The model that random parameters take their shape from."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One recipe with one seed.

    Attributes:
      recipe: what is done.
      tokens: of recovery, padding included.
      seed: of draws, of the order of batches, and of dropout.
    """

    recipe: Recipe
    tokens: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.recipe.name}.{self.tokens}.{self.seed}"


@dataclasses.dataclass(frozen=True)
class Step:
    """A cut and its recovery.

    Attributes:
      parent: name of the model that is cut.
      stage: what is cut, with the tokens of its recovery.
      window: where the recovery stands in the schedule.
      steps: of the recovery; 0: the cut is only measured.
    """

    parent: str
    stage: Stage
    window: ScheduleWindow
    steps: int


def steps_of(cell: Cell, total: int, tokens_per_step: int) -> list[Step]:
    """What a cell does, in order.

    Args:
      cell: the cell.
      total: its steps of training.
      tokens_per_step: positions of a batch.
    """
    recipe, parent, steps = cell.recipe, ANCESTOR, []
    stages = recipe.stages_for(cell.seed)
    if recipe.from_scratch:
        # Which parameters the shape is cut from does not matter, so that all seeds share it.
        merged = dataclasses.replace(merge_stages(recipe.stages, SHAPE), method=RANDOM)
        window = ScheduleWindow(total, part=1)
        return [
            Step(ANCESTOR, merged, window, 0),
            Step(
                SHAPE,
                Stage(FROM_SCRATCH, recover_tokens=total * tokens_per_step),
                window,
                total,
            ),
        ]
    numbers = recipe.steps_of_stages(total)
    for stage, window, count in zip(stages, recipe.windows(total), numbers, strict=True):
        stage = dataclasses.replace(stage, recover_tokens=count * tokens_per_step)
        steps.append(Step(parent, stage, window, count))
        parent = stage.name
    return steps


def keys_of(cell: Cell, steps: Sequence[Step], phase: Phase, eval_every: int) -> dict[str, str]:
    """The key of each model of a cell, by its name within the cell.

    Args:
      cell: the cell.
      steps: what it does.
      phase: how it trains.
      eval_every: steps between evaluations, which D-UL2 moves its rates at.
    """
    keys = {ANCESTOR: ANCESTOR}
    for step in steps:
        stage = step.stage
        training = {
            "phase": dataclasses.asdict(phase),
            "objective": stage.recover_objective,
            "steps": step.steps,
            "window": step.window,
            "seed": cell.seed,
            "eval_every": eval_every,
            "teacher": _teacher(stage, keys, step.parent),
        }
        if stage.name == FROM_SCRATCH:
            keys[FROM_SCRATCH] = _key(FROM_SCRATCH, {"shape": keys[step.parent], **training})
            continue
        cut = {
            "parent": keys[step.parent],
            "name": stage.name,
            "drop": {stack: list(numbers) for stack, numbers in stage.dropped.items()},
            "sizes": stage.all_sizes,
            "vocabulary": stage.vocabulary,
            "method": stage.method if isinstance(stage.method, str) else dict(stage.method),
            "slices": stage.slices,
            "compensation": stage.compensation,
            "seed": [stage.seed, cell.seed] if draws(stage) and stage.name != SHAPE else None,
            "calibration": stage.calibration_batches if stage.looks_at_text else None,
        }
        pruned = _key(pruned_name(stage.name), cut)
        if not step.steps:
            keys[stage.name] = pruned
            continue
        keys[pruned_name(stage.name)] = pruned
        keys[stage.name] = _key(stage.name, {"pruned": pruned, **training})
    return keys


def _teacher(stage: Stage, keys: Mapping[str, str], parent: str) -> Any:
    """What a training depends on of its teacher, ready for JSON."""
    if stage.distillation is None:
        return None
    named = stage.distillation.teacher
    own = {ANCESTOR: ANCESTOR, BEFORE: keys[parent]}
    teacher = own[named] if named in own else [named, identity_of(local(named))]
    return [teacher, stage.distillation.identity()]


def _key(name: str, made_by: Mapping[str, Any]) -> str:
    """The name of a model's folder: a word for the eye, and a digest of what made it."""
    text = json.dumps(made_by, sort_keys=True)
    return f"{name}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"
