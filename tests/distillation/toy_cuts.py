"""A toy model cut by hand, and programs that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openba_jax.checkpoints import training_state
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.transform import take

CUTS: dict[str, dict[str, Any]] = {
    "width": {
        "encoder/layers": [0],
        "decoder/layers": [1],
        "embed": [0, 1, 2, 4, 5, 7, 8, 9, 11, 12, 14, 15],
        "decoder/heads": [0, 2],
        "encoder/heads": [1, 3],
        "encoder/mlp": list(range(4, 20)),
        "decoder/mlp": list(range(16)),
    },
    "other width": {"embed": list(range(12))},
    # Tokens of a batch for 20 rows; the last rows pad.
    "vocabulary": {"vocab": [*range(18), 25, 30, 30, 30, 30, 30]},
}
SMALL_VOCABULARY = 20
"""Ids that a model whose vocabulary was cut may read."""


def cut(source: Path, target: Path, *names: str) -> Path:
    """Cuts a model folder by hand, with a plan."""
    model, params, _, tokenizer = training_state.load_model(source)
    parent = Plan.identity(model, str(source))
    plan = parent.narrow({key: kept for name in names for key, kept in CUTS[name].items()})
    smaller = take(params, model.logical_axes(), relative(plan, parent))
    training_state.create(
        target, pruned_model(plan), smaller, plan=plan.to_dict(), tokenizer=tokenizer
    )
    return target
