"""Every family's steps, compiled by the compilers of TPUs and GPUs that are not there.

    bash scripts/test_aot.sh

Sizes are those of a run where memory is short - rows, lengths, vocabulary - and of a toy elsewhere.
"""

from __future__ import annotations

import functools
import math

import jax
import pytest

from openba_jax.fit import hlo
from openba_jax.fit.chips import find_slice
from openba_jax.fit.compilers import INSTALL, Target, has_compiler, target
from openba_jax.fit.costs import Costs, costs
from openba_jax.fit.environment import prepare
from openba_jax.fit.steps import STEPS, Workload
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel.sharding import make_mesh
from openba_jax.training.optimizer import adamw, warmup_constant

pytestmark = pytest.mark.aot

FAMILIES = ("tiny", "tiny_t5_1_1", "tiny_llama", "tiny_t5gemma")
CHIPS = {"v5e": "2x2", "v5p": "2x2x1", "h100": "1x4"}
MESHES = ((1, 4, 1), (1, 2, 2))
ROWS, LENGTHS, NEW_TOKENS, VOCAB = 64, (576, 384), 32, 2**18
MOST_TEMPORARIES = 4 * 2**30
"""On a device. Its logits alone, not in chunks, would take 6 GiB in float32."""


@functools.cache
def devices(name: str) -> Target:
    prepare()
    chips = find_slice(name, CHIPS[name])
    if not has_compiler(chips.chip.platform):
        pytest.skip(f"the compiler of {name} is absent; {INSTALL} brings it")
    return target(chips)


@functools.cache
def compiled(
    family: str, step: str, chip: str, mesh: tuple[int, int, int]
) -> tuple[hlo.Module, Costs, int]:
    """The program of a step, its costs, bytes of temporaries on a device."""
    config = named_config(family, vocab_size=VOCAB, dtype="bfloat16", remat_policy="minimal")
    work = Workload(
        model_of(config),
        adamw(warmup_constant(1e-3)),
        LENGTHS,
        ROWS,
        new_tokens=NEW_TOKENS,
    )
    made = STEPS[step](work, make_mesh(mesh, devices(chip).devices)).lowered.compile()
    module = hlo.parse(made.as_text() or "")
    jax.clear_caches()
    return module, costs(module), made.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_holds_no_logits_and_gathers_no_batch(
    family: str, chip: str, mesh: tuple[int, int, int]
) -> None:
    module, found, temporaries = compiled(family, "train", chip, mesh)
    data, fsdp, model = mesh
    whole = ROWS // (data * fsdp) * LENGTHS[1] * VOCAB // model
    assert temporaries < MOST_TEMPORARIES
    assert _largest(module) < whole
    if chip != "h100":  # Every family has attention that splash can do.
        assert found.kernels["tpu_custom_call"] > 0
    assert found.by_kind()["all-gather"][1] > 0
    assert {"reduce-scatter", "all-reduce"} & set(
        found.by_kind()
    )  # A v5e's compiler may sum whole.
    lengths = {*LENGTHS, sum(LENGTHS)}
    gathered = [
        array.shape
        for each in found.collectives
        if each.kind == "all-gather"
        for array in each.types
        if array.dtype in ("f32", "bf16")
    ]
    assert gathered
    if model == 1:  # Otherwise activations may well be brought together over `model`.
        assert not [shape for shape in gathered if lengths & set(shape)]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_reads_the_inputs_once(family: str, chip: str) -> None:
    module, found, temporaries = compiled(family, "decode", chip, MESHES[0])
    assert temporaries < MOST_TEMPORARIES
    # The logits of one token, of the rows of one device or of all, and nothing larger than a cache.
    assert _largest(module) < ROWS * LENGTHS[1] * VOCAB // math.prod(MESHES[0])
    # Products that read all inputs stand outside of the loop over tokens: they run once a layer.
    depth = max(model_of(named_config(family)).axes.depth(s) for s in _stacks(family))
    often = [each for each in found.work if each.times >= NEW_TOKENS * depth]
    assert often
    of_inputs = 2 * ROWS // math.prod(MESHES[0]) * LENGTHS[0] * 32 * 32
    assert max(each.flops for each in often) < of_inputs * 8
    assert max(each.times for each in found.work) <= NEW_TOKENS * (depth + 1)


def _stacks(family: str) -> tuple[str, ...]:
    return model_of(named_config(family)).stacks


def _largest(module: hlo.Module) -> int:
    """Elements of the largest floating-point array that is made anywhere."""
    return max(
        array.size
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
        for array in instruction.results
        if array.dtype in ("f32", "bf16")
    )
