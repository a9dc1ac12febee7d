"""Makes the models of a cell, and measures what it ends with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.evaluation.loss import LossOnBatches, local_rows
from openba_jax.inference import loading
from openba_jax.models.counting import parameter_count, train_flops_per_example
from openba_jax.objectives.mixture import get_mixture
from openba_jax.parallel import sharding
from openba_jax.staged.models import ANCESTOR, FROM_SCRATCH, Models
from openba_jax.staged.results import evaluations, score
from openba_jax.study.cells import SHAPE, Cell, Step
from openba_jax.study.origin import origin


@dataclasses.dataclass(frozen=True)
class CellModels(Models):
    """The models of a cell, which lie in the study by key and not by name.

    Attributes:
      keys: of each model of the cell, by its name within the cell.
    """

    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def folder(self, name: str) -> Path:
        """The checkpoint of a name."""
        return super().folder(self.keys[name])

    def losses(self, name: str) -> Path:
        """Where the loss of a model that is only measured lies."""
        return super().losses(self.keys[name])


def run_cell(cell: Cell, steps: Sequence[Step], models: CellModels) -> dict[str, Any]:
    """Does what is not done yet of a cell.

    Returns:
      Its figures, ready for JSON: `recipe`, `tokens`, `seed`, `parameters`, `flops` of an example,
      `curves` (for each stage its `name`, its `start` in tokens, and `tokens` and `losses` of its
      evaluations), `loss_before`, `loss_cut` right after the last cut, `loss` at the end, `losses`
      by denoiser, `scores` if there are questions, and the `origin` of the figures.
    """
    data = models.corpora.data
    curves: list[dict[str, Any]] = []
    before = 0
    for step in steps:
        stage = step.stage
        if stage.name == FROM_SCRATCH:
            models.train_from_scratch(SHAPE, stage, step.window)
        else:
            models.prune_and_recover(step.parent, stage, step.window)
        records = evaluations(models, stage.name)
        curves.append(
            {
                "name": stage.name,
                "start": data.tokens(before),
                "tokens": [data.tokens(record["step"]) for record in records],
                "losses": [record["loss"] for record in records],
            }
        )
        before += step.steps
    last = steps[-1].stage.name
    return {
        "recipe": cell.recipe.name,
        "tokens": cell.tokens,
        "seed": cell.seed,
        "loss_before": evaluations(models, ANCESTOR)[-1]["loss"],
        "loss_cut": None if last == FROM_SCRATCH else curves[-1]["losses"][0],
        "loss": curves[-1]["losses"][-1],
        "curves": [curve for curve in curves if curve["name"] != SHAPE],
        "origin": origin(),
        **figures_of(models, last),
    }


def figures_of(models: Models, name: str) -> dict[str, Any]:
    """What a model is and can: `parameters`, `flops`, `losses` by task, and `scores` if asked."""
    data, model = models.corpora.data, models.model(name)
    figures: dict[str, Any] = {
        "parameters": parameter_count(model),
        "flops": train_flops_per_example(model, data.encoder_length, data.decoder_length),
        "losses": losses_by_task(models, name),
    }
    if data.questions:
        figures["scores"] = score(models.folder(name), data, models.mesh_shape)
    return figures


def losses_by_task(models: Models, name: str) -> dict[str, float]:
    """The held-out loss of each task of the mixture that a study evaluates on."""
    mixture = get_mixture(models.evaluated_on)
    mesh = sharding.make_mesh(models.mesh_shape)
    batches = models.corpora.batches(models.vocabulary(name), mixture.name)
    rows = local_rows(mesh, batches.batch_size)
    placed = loading.load(models.folder(name), models.mesh_shape)
    losses = {}
    for task in mixture.tasks:
        fixed = batches.evaluation_batches(
            models.corpora.data.eval_batches, mixture=get_mixture(task.name), rows=rows
        )
        evaluate = LossOnBatches(placed.model, mesh, fixed, batches.batch_size)
        losses[task.name] = evaluate(placed.params)["loss"]
    return losses
