from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec
from toy_run import ToyBatches, toy_model

from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding

MESH = AbstractMesh((2, 2, 2), sharding.MESH_AXES)


def test_mesh_takes_what_is_left_and_has_automatic_axes() -> None:
    mesh = sharding.make_mesh((-1, 1, 1))
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "model": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize("shape", [(-1, -1, 1), (1, 1), (3, 5, 7), (0, 1, 1), (-1, 64, 64)])
def test_mesh_that_fits_nothing_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="mesh_shape"):
        sharding.make_mesh(shape)


def test_specs_follow_the_rules() -> None:
    def spec(axes: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
        return sharding.partition_spec(axes, shape, MESH)

    assert spec(("layers", "embed", "mlp"), (3, 4, 6)) == PartitionSpec(None, ("fsdp",), ("model",))
    # What does not divide stays whole, and so does what would take a mesh axis twice.
    assert spec(("embed", "mlp"), (4, 5)) == PartitionSpec(("fsdp",), None)
    assert spec(("vocab", "mlp"), (4, 4)) == PartitionSpec(("model",), None)
    assert spec(("activation_batch",), (6,)) == PartitionSpec(None)
    assert spec(("activation_batch",), (8,)) == PartitionSpec(("data", "fsdp"))
    with pytest.raises(UserError, match="logical axis 'mpl'"):
        spec(("embed", "mpl"), (4, 4))


@pytest.mark.parametrize("name", ["openba_15b", "stage4_3_8b", "openba_v2_3_4b"])
def test_no_large_parameter_of_the_published_models_stays_whole(name: str) -> None:
    model = model_of(named_config(name))
    shapes = model.abstract_params()
    shardings = sharding.param_shardings(model.logical_axes(), shapes, MESH)
    assert sharding.large_unsharded(shapes, shardings) == []
    table = sharding.sharding_table(shapes, shardings).splitlines()
    assert len(table) == len(jax.tree.leaves(shapes))
    (embedding,) = (line for line in table if line.startswith("token_embedder/embedding"))
    assert embedding.endswith(" 0.25")


def test_large_parameters_that_stay_whole_are_named() -> None:
    model = model_of(named_config("stage4_3_8b", embed_dim=2561, mlp_dim=6913))
    shapes = model.abstract_params()
    shardings = sharding.param_shardings(model.logical_axes(), shapes, MESH)
    assert "decoder/layers/mlp/wo/kernel" in sharding.large_unsharded(shapes, shardings)
    only_data = AbstractMesh((8, 1, 1), sharding.MESH_AXES)
    shardings = sharding.param_shardings(model.logical_axes(), shapes, only_data)
    assert sharding.large_unsharded(shapes, shardings) == []


def test_rules_know_every_axis_of_the_network() -> None:
    model = toy_model(tie_embeddings=False, mlp_bias=True)
    assert set(jax.tree.leaves(model.logical_axes())) <= {
        name for name, _ in sharding.DEFAULT_RULES
    }


def test_global_batch_of_all_rows_is_the_batch() -> None:
    batch_sharding = sharding.batch_sharding(sharding.make_mesh())
    rows = sharding.local_rows(batch_sharding, 8)
    assert rows == slice(0, 8)
    batch = ToyBatches().batch(3)
    placed = sharding.global_batch(batch, batch_sharding, rows, 8)
    for name, array in batch.items():
        assert placed[name].sharding == batch_sharding
        np.testing.assert_array_equal(placed[name], array)


@settings(deadline=None, max_examples=25)
@given(
    st.permutations(["layers", "embed", "heads", "kv", "mlp", "vocab"]),
    st.lists(st.integers(1, 12), min_size=6, max_size=6),
)
def test_every_spec_is_valid(axes: list[str], shape: list[int]) -> None:
    spec = sharding.partition_spec(axes, shape, MESH)
    entries = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
    taken = [name for names in entries for name in names]
    assert len(taken) == len(set(taken))
    # Raises where a size is not divisible.
    assert len(jax.sharding.NamedSharding(MESH, spec).shard_shape(tuple(shape))) == 6
