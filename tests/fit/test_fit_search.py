"""The search, which is told what compiling would find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import pytest

from openba_jax.errors import UserError
from openba_jax.fit import search as search_module
from openba_jax.fit.chips import find_slice
from openba_jax.fit.compilers import Target
from openba_jax.fit.costs import Costs
from openba_jax.fit.fitting import Fit, Memory, Roofline
from openba_jax.fit.report import searched
from openba_jax.fit.search import all_meshes, candidates, search
from openba_jax.fit.steps import Workload, kept_for_backward
from openba_jax.models.registry import model_of, named_config
from openba_jax.training.optimizer import adamw, warmup_constant

LIMIT = find_slice("v5p", count=1).chip.memory


def workload(name: str = "tiny", batch: int = 8) -> Workload:
    return Workload(
        model_of(named_config(name)), adamw(warmup_constant(1e-3)), lengths=(32, 16), batch=batch
    )


@pytest.fixture
def target() -> Target:
    return Target(find_slice("v5p", count=1), jax.devices()[:1], True)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[str, int]]]:
    """Lets compilation find what a function of (remat, rows) says: bytes and seconds of a row."""

    def install(says: Any) -> list[tuple[str, int]]:
        asked: list[tuple[str, int]] = []

        def fit(work: Workload, step: str, mesh: Any, target: Target) -> Fit:
            remat, rows = work.model.config.remat_policy, work.batch // work.accumulation
            asked.append((remat, rows))
            total, seconds = says(remat, rows)
            return Fit(
                step=step,
                mesh=mesh,
                batch=work.batch,
                accumulation=work.accumulation,
                remat=remat,
                chips=target.slice,
                stand_in=True,
                compiler="a test",
                compile_seconds=1.0,
                memory=Memory(0, 0, 0, 0, total, 0, LIMIT),
                model_flops=1e12,
                costs=Costs([], [], {}),
                roofline=Roofline(seconds * work.batch, 0.0),
                ideal_received=0.0,
            )

        monkeypatch.setattr(search_module, "fit", fit)
        return asked

    return install


def test_what_cannot_fit_is_not_compiled_again(target: Target, compiling: Any) -> None:
    """More rows, or a policy that keeps more, take more memory on the same mesh."""
    asked = compiling(lambda remat, rows: (LIMIT // 4 * rows * (2 if remat == "none" else 1), 1.0))
    found = search(workload(), target, batches=[8, 16], compilations=30)
    refused = [each for each in asked if each[1] * (2 if each[0] == "none" else 1) > 4]
    assert refused
    for remat, rows in refused:
        later = asked[asked.index((remat, rows)) + 1 :]
        assert not [each for each in later if each[0] == remat and each[1] >= rows]
    assert found.best is not None
    assert found.best.memory.fits
    assert found.candidates == 3 * (4 + 5)
    assert found.too_large > 0


def test_it_stops_when_nothing_promises_more(target: Target, compiling: Any) -> None:
    asked = compiling(lambda remat, rows: (1, 1e-30))
    found = search(workload(), target, batches=[8])
    assert len(asked) == 1
    assert found.left == 0
    assert "promise nothing faster" in searched(found).replace("\n", " ")


def test_compilations_are_bounded_and_the_rest_is_told(target: Target, compiling: Any) -> None:
    asked = compiling(lambda remat, rows: (1, 1.0 / len(remat)))
    found = search(workload(), target, batches=[8], compilations=3)
    assert len(asked) == 3
    assert found.left == 9
    assert "9 promise" in searched(found)


def test_where_nothing_fits_the_report_says_by_how_much(target: Target, compiling: Any) -> None:
    compiling(lambda remat, rows: (LIMIT + rows * 2**30, 1.0))
    found = search(workload(), target, batches=[8], compilations=20)
    assert found.best is None
    assert "none fits; the smallest does not fit: 1.00 GiB more than a v5p has" in searched(found)


def test_a_state_that_is_too_large_is_refused_before(target: Target) -> None:
    chip = dataclasses.replace(target.slice.chip, memory=1000)
    small = target._replace(slice=dataclasses.replace(target.slice, chip=chip))
    with pytest.raises(UserError, match=r"no setting fits: .* more than it has; take more chips"):
        search(workload(), small, batches=[8])


def test_a_batch_that_nothing_divides_is_refused(target: Target) -> None:
    chips = find_slice("v5p", count=4)
    with pytest.raises(UserError, match="no mesh of 4 devices divides a batch of 3"):
        search(workload(), target._replace(slice=chips), batches=[3], meshes=[(4, 1, 1)])


def test_meshes_use_all_chips_and_divide_the_heads() -> None:
    shapes = all_meshes(workload(), find_slice("v5e", count=8))
    assert (1, 8, 1) in shapes
    assert (2, 2, 2) in shapes
    assert all(data * fsdp * model == 8 and 4 % model == 0 for data, fsdp, model in shapes)
    shared = model_of(named_config("tiny_llama", num_kv_heads=2))
    few = all_meshes(dataclasses.replace(workload(), model=shared), find_slice("v5e", count=8))
    assert max(model for _, _, model in few) == 2


@pytest.mark.parametrize("name", ["tiny", "tiny_llama"])
def test_policies_keep_less_and_less(name: str) -> None:
    work = workload(name)
    kept = [
        kept_for_backward(work.model.replace(remat_policy=remat), work.lengths)
        for remat in ("none", "minimal", "full")
    ]
    assert kept == sorted(kept, reverse=True)
    config = work.model.config
    assert kept[2] >= 4 * sum(work.lengths) * 32  # A layer's input at least.
    assert config.remat_policy == "none"


def test_estimates_follow_the_batch(target: Target) -> None:
    found = candidates(workload(), target, [8], ["none"], [(1, 1, 1)])
    assert [each.rows for each in found] == [8, 4, 2, 1]
    sizes = [each.bytes for each in found]
    assert sizes[0] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[2]))
