"""The table of axes, of this package's models and of any tree whose axes have names."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.models.axes import (
    AxisTable,
    Fixed,
    Grouped,
    Joined,
    Leaf,
    axis_table,
    flatten,
    unflatten,
)
from openba_jax.models.registry import families, model_of, named_config
from openba_jax.pruning.plan import canonical

CONFIG = named_config("tiny")


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_table_of_every_family_is_that_of_its_parameters(family: Any) -> None:
    for config in (family.largest, family.largest.replace(scan_layers=False)):
        model = family.model(config)
        table = model.axes
        leaves = jax.tree.leaves(model.abstract_params())
        assert table.count() == sum(int(np.prod(leaf.shape)) for leaf in leaves)
        # From sizes back to a model: the same one.
        assert model.resized(table.sizes) == model
        fields = family.infer(table.sizes, table.paths)
        for name, value in fields.items():
            assert getattr(config, name) == value


def test_unrolled_trees_have_the_table_of_scanned_ones() -> None:
    model = model_of(CONFIG)
    unrolled = model.replace(scan_layers=False)
    found = axis_table(
        unrolled.abstract_params(),
        unrolled.logical_axes(),
        stacks=model.stacks,
        couplings=model.couplings,
    )
    assert found.sizes == model.axes.sizes
    assert found.paths == model.axes.paths


def test_keys_and_leaves() -> None:
    table = model_of(CONFIG).axes
    assert table.stacks == ("encoder", "decoder")
    assert "encoder/kv" in table.sizes
    assert "encoder/kv" not in table.keys
    path = "decoder/layers/mlp/wo/kernel"
    assert table.key(path, "mlp") == "decoder/mlp"
    assert table.key(path, "embed") == "embed"
    assert table.sizes_at(path) == {"mlp": 64, "embed": 32}
    assert table.layers(path) == [0, 1, 2]
    leaf = Leaf(path, 1, "1/mu")
    assert leaf.unrolled == "decoder/layers_1/mlp/wo/kernel"
    assert str(leaf) == "decoder/layers/mlp/wo/kernel[1] of optimizer state 1/mu"


def test_trees_that_contradict_themselves_are_refused() -> None:
    axes = {"a": ("embed",), "b": ("embed", "mlp")}
    shapes = {"a": np.zeros(3), "b": np.zeros((4, 5))}
    with pytest.raises(UserError, match="b has 4 along embed, and others have 3"):
        axis_table(shapes, axes)
    with pytest.raises(UserError, match="for instance at b"):
        axis_table({"a": np.zeros(3)}, axes)
    with pytest.raises(UserError, match="b has shape"):
        axis_table({"a": np.zeros(3), "b": np.zeros(3)}, axes)


GROUPED = AxisTable(
    {"decoder/layers": 2, "embed": 3, "decoder/heads": 6, "decoder/kv_heads": 3, "decoder/kv": 4},
    {},
    (Grouped("decoder/kv_heads", "decoder/heads"), Fixed("kv")),
)


def test_query_heads_go_with_their_groups() -> None:
    keep = canonical(GROUPED, {"decoder/kv_heads": [[0, 2], [1, 2]]})
    assert keep["decoder/heads"] == ((0, 1, 4, 5), (2, 3, 4, 5))
    keep = canonical(GROUPED, {"decoder/heads": [1, 2, 5]})
    assert keep == {"decoder/heads": (1, 2, 5)}
    keep = canonical(GROUPED, {"decoder/heads": [1, 5]})
    assert keep == {"decoder/heads": (1, 5), "decoder/kv_heads": (0, 2)}
    keep = canonical(GROUPED, {"decoder/heads": [0, 3, 5], "decoder/kv_heads": [1, 2]})
    assert keep == {"decoder/heads": (3, 5), "decoder/kv_heads": (1, 2)}
    with pytest.raises(UserError, match=r"keeps \[1, 2\] in the groups of decoder/kv_heads"):
        canonical(GROUPED, {"decoder/heads": [0, 2, 3]})


def test_joined_axes_follow_their_slower_part() -> None:
    axes = {
        "embedding": ("vocab", "embed"),
        "decoder": {"layers": {"query": ("layers", "embed", "joined_kv")}},
    }
    shapes = {"embedding": np.zeros((7, 5)), "decoder": {"layers": {"query": np.zeros((2, 5, 6))}}}
    table = axis_table(shapes, axes, couplings=[Joined("joined_kv", "heads", 2)])
    assert table.sizes["decoder/heads"] == 3
    assert set(table.keys) == {"decoder/layers", "embed", "vocab", "decoder/heads"}


def test_flattening_is_undone() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
