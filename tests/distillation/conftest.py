"""A trained ancestor and models that were cut from it; tests must not change them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from toy_run import toy_model, toy_train

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


@pytest.fixture(scope="package")
def ancestor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model that has learnt a little."""
    folder = tmp_path_factory.mktemp("teachers") / "ancestor"
    toy_train(folder, model=toy_model(dropout_rate=0.0), train_steps=40, eval_every=40)
    return folder


@pytest.fixture(scope="package")
def narrow(ancestor: Path) -> Path:
    """Fewer layers, channels, heads and units."""
    return cut(ancestor, ancestor.parent / "narrow", "width")


@pytest.fixture(scope="package")
def few_words(ancestor: Path) -> Path:
    """The same, and a smaller vocabulary with rows that pad."""
    return cut(ancestor, ancestor.parent / "few_words", "width", "vocabulary")
