"""Chips, their topologies, and the roofline made of their figures."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from openba_jax.errors import UserError
from openba_jax.fit import compilers
from openba_jax.fit.chips import CHIPS, find_slice
from openba_jax.fit.costs import Collective, Costs, Work
from openba_jax.fit.fitting import by_roofline
from openba_jax.parallel.sharding import count_slices


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_has_all_figures(name: str) -> None:
    chip = CHIPS[name]
    assert min(chip.memory, chip.flops, chip.bandwidth, chip.link) > 0
    assert (chip.platform == "cuda") == bool(chip.network)
    for count, topology in chip.topologies.items():
        assert find_slice(name, topology).count == find_slice(name, count=count).count == count


@pytest.mark.parametrize(
    ("name", "topology", "count", "message"),
    [
        ("v9", "2x2", 0, "known are v5e, v5p, v6e, a100, h100, h200"),
        ("v5p", "2x2", 0, r"3 axes; known are 1x1x1 \(1\), 2x2x1 \(4\)"),
        ("v5e", "2xtwo", 0, "is none of v5e"),
        ("v5e", "0x4", 0, "is none of v5e"),
        ("v5e", "", 3, r"no usual topology of v5e has 3 chips; known are 1x1 \(1\)"),
        ("h100", "2x9", 0, "hosts x GPUs in each"),
        ("h100", "", 12, "fill no whole hosts"),
        ("v5p", "2x2x1", 4, "not both"),
        ("v5p", "", 0, "give --topology or --chips"),
    ],
)
def test_mistakes_name_what_is_known(name: str, topology: str, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_slice(name, topology, count)


def test_bandwidth_follows_links_and_hosts() -> None:
    assert find_slice("v5p", "2x2x1").bandwidth(range(4)) == 2 * 100e9
    assert find_slice("v5p", "4x4x4").bandwidth(range(64)) == 6 * 100e9  # Closed in all axes.
    assert find_slice("v5e", "8x8").bandwidth(range(64)) == 2 * 50e9
    hosts = find_slice("h100", "2x8")
    assert hosts.bandwidth((0, 1, 7)) == 450e9
    assert hosts.bandwidth((0, 8)) == 50e9


def test_the_roofline_takes_the_slower_of_products_and_traffic() -> None:
    chips = find_slice("h100", "1x2")
    chip = chips.chip
    counted = Costs(
        work=[Work(3, flops=chip.flops, bytes=1.0), Work(2, flops=1.0, bytes=chip.bandwidth)],
        collectives=[Collective("all-gather", 4, 450e9, (0, 1), ())],
        kernels={},
    )
    roofline = by_roofline(counted, chips)
    assert roofline.computing == pytest.approx(3 + 2)
    assert roofline.communicating == pytest.approx(4)
    assert (roofline.hidden, roofline.exposed) == pytest.approx((5, 9))
    alone = by_roofline(dataclasses.replace(counted, collectives=[]), chips)
    assert alone.communicating == 0


def test_a_gpu_is_described_to_its_compiler() -> None:
    gpu = CHIPS["h100"].gpu
    assert gpu is not None
    text = compilers.target_config(gpu, CHIPS["h100"].bandwidth)
    assert "major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES" in text
    assert "memory_bandwidth: 3350000000000\n" in text
    assert text.count("{") == text.count("}")


def test_devices_that_are_compiled_for_are_one_slice() -> None:
    device = SimpleNamespace(platform="tpu")  # They have no `slice_index`.
    assert count_slices([device, device]) == 1
