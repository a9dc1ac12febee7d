"""A small model, its parameters, and hypothesis strategies for plans."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from openba_jax.models.base import Model
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import model_of
from openba_jax.pruning.plan import Plan, pruned_model

CONFIG = OpenBAConfig(
    vocab_size=12,
    embed_dim=8,
    num_heads=4,
    head_dim=2,
    mlp_dim=6,
    encoder_layers=3,
    decoder_layers=4,
)


MODEL = model_of(CONFIG)


def random_params(model: Model, seed: int = 0) -> dict[str, Any]:
    """Parameters that are all different from zero, biases and scales too, as numpy arrays."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape.shape, scale=0.3).astype(shape.dtype),
        model.abstract_params(),
    )


@st.composite
def subsets(draw, size: int, count: int | None = None) -> tuple[int, ...]:
    """An ascending, non-empty choice of indices."""
    count = draw(st.integers(1, size)) if count is None else count
    return tuple(sorted(draw(st.permutations(range(size)))[:count]))


@st.composite
def keeps(draw, config: OpenBAConfig) -> dict:
    """Lists for a model, of all forms."""
    keep = {}
    if draw(st.booleans()):
        keep["embed"] = draw(subsets(config.embed_dim))
    if draw(st.booleans()):
        rows = draw(st.permutations(range(config.vocab_size)))
        rows = rows[: draw(st.integers(1, config.vocab_size))]
        keep["vocab"] = (*rows, *[rows[0]] * draw(st.integers(0, 2)))
    depths = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for stack, depth in depths.items():
        if draw(st.booleans()):
            keep[f"{stack}/layers"] = draw(subsets(depth))
    for name, size in {"heads": config.num_heads, "mlp": config.mlp_dim}.items():
        if draw(st.booleans()):
            count = draw(st.integers(1, size))
            for stack, depth in depths.items():
                if draw(st.booleans()):
                    keep[f"{stack}/{name}"] = draw(subsets(size, count))
                else:
                    keep[f"{stack}/{name}"] = tuple(
                        draw(subsets(size, count)) for _ in range(depth)
                    )
    return keep


@st.composite
def chains(draw, length: int) -> list[Plan]:
    """Plans that follow each other: one's ancestor is the model that the last one makes."""
    model, plans = MODEL, []
    for number in range(length):
        plans.append(
            Plan(model.config.to_dict(), "ancestor", draw(keeps(model.config)), ({"n": number},))
        )
        model = pruned_model(plans[-1])
    return plans


def compose(first: Plan, second: Plan) -> Plan:
    """The plan that does `first`, then `second`, whose ancestor is the model that `first` makes."""
    assert pruned_model(first).axes.sizes == second.axes.sizes
    keep = {**first.keep, **first.to_ancestor(second.keep)}
    return Plan(first.ancestor, first.source, keep, (*first.steps, *second.steps))
