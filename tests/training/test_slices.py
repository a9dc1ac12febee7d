"""Meshes over several slices of a TPU, with stand-ins for their chips."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks of a device of a TPU in order to arrange it."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    process_index: int = 0


def slices(count: int) -> list[Chip]:
    """Slices of 2 x 2 x 2 chips."""
    places = itertools.product(range(count), range(2), range(2), range(2))
    return [Chip(n, of, (x, y, z)) for n, (of, z, y, x) in enumerate(places)]


@pytest.mark.parametrize("shape", [(2, 8, 1), (-1, 2, 2), (8, 1, 2)])
def test_data_alone_crosses_slices(shape: tuple[int, ...]) -> None:
    mesh = sharding.make_mesh(shape, slices(2))  # type: ignore[arg-type]
    assert mesh.axis_names == sharding.MESH_AXES
    indices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    halves = np.split(indices, 2)  # Along data.
    assert {tuple(np.unique(half)) for half in halves} == {(0,), (1,)}


@pytest.mark.parametrize("shape", [(1, 16, 1), (1, 4, 4)])
def test_other_axes_do_not_cross_slices(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"does not fit 2 slices: data, .* multiple of 2"):
        sharding.make_mesh(shape, slices(2))  # type: ignore[arg-type]


def test_one_slice_is_arranged_as_before() -> None:
    assert sharding.count_slices(slices(1)) == 1
    assert sharding.make_mesh((1, 8, 1), slices(1)).shape["fsdp"] == 8  # type: ignore[arg-type]
