"""Adafactor and Muon: what they compute, and where their state lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from toy_run import folder_hashes, saved_state, toy_model, toy_train

from openba_jax.checkpoints import training_state
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding
from openba_jax.training import layer_optimizers, optimizer, train_step
from openba_jax.training.records import metrics

RATE = optimizer.warmup_constant(5e-2)
ADAFACTOR = layer_optimizers.adafactor(RATE, min_size_to_factor=8, momentum=0.9, weight_decay=0.1)
MUON = layer_optimizers.muon(RATE)


def stacked(tree: Any) -> Any:
    """The tree of scanned layers of one with `layers_0`, `layers_1`, ..."""
    found = {}
    for stack, nodes in tree.items():
        layers = sorted(name for name in nodes if name.startswith("layers_"))
        found[stack] = {name: node for name, node in nodes.items() if name not in layers}
        if layers:
            found[stack]["layers"] = jax.tree.map(
                lambda *leaves: jnp.stack(leaves), *(nodes[name] for name in layers)
            )
    return found


def random_like(params: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)


@pytest.mark.parametrize("make", [ADAFACTOR, MUON])
def test_scanned_layers_are_updated_as_layers_one_by_one(make: Any) -> None:
    apart, together = (toy_model(scan_layers=scanned) for scanned in (False, True))
    params = random_like(apart.abstract_params(), 2)
    transformations = [make(model).transformation for model in (apart, together)]
    trees = [params, stacked(params)]
    states = [jax.jit(t.init)(tree) for t, tree in zip(transformations, trees, strict=True)]
    for number in range(2):
        gradient = random_like(params, number)
        gradients = [gradient, stacked(gradient)]
        for n, transformation in enumerate(transformations):
            update = jax.jit(transformation.update)
            updates, states[n] = update(gradients[n], states[n], trees[n])
            trees[n] = optax.apply_updates(trees[n], updates)
    expected, actual = stacked(trees[0]), trees[1]
    assert jax.tree.structure(expected) == jax.tree.structure(actual)
    # Newton and Schulz's steps enlarge what rounding makes of the small singular values.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), expected, actual
    )


def test_muon_makes_the_matrices_of_every_layer_orthogonal() -> None:
    model = toy_model()
    made = layer_optimizers.muon(RATE, weight_decay=0.0, rms=0.2, max_norm=1e9)(model)
    params = random_like(model.abstract_params(), 0)
    gradients = random_like(params, 1)
    state = jax.jit(made.transformation.init)(params)
    updates, _ = jax.jit(made.transformation.update)(gradients, state, params)
    layers = updates["decoder"]["layers"]
    query, out = (layers["self_attention"][name]["kernel"] for name in ("query", "out"))
    for matrices in (
        query.reshape(2, 16, 16),
        out.reshape(2, 16, 16),
        layers["mlp"]["wo"]["kernel"],
    ):
        length = 5e-2 * 0.2 * np.sqrt(max(matrices.shape[1:]))
        singular = np.linalg.svd(np.asarray(matrices) / length)[1]
        assert singular.shape[0] == 2
        assert 0.3 < singular.min() < singular.max() < 1.3
        assert np.median(singular) > 0.6
    # What is no matrix of a layer moves as AdamW's first step does: by the rate, everywhere.
    for leaf in (updates["token_embedder"]["embedding"], layers["pre_mlp_layer_norm"]["scale"]):
        np.testing.assert_allclose(np.abs(leaf), 5e-2, rtol=1e-3)


@pytest.mark.parametrize(
    ("axes", "sides"),
    [
        (("layers", "embed", "heads", "kv"), ((1,), (2, 3))),
        (("layers", "heads", "kv", "embed"), ((1, 2), (3,))),
        (("encoder/embed", "kv_heads", "kv"), ((0,), (1, 2))),
        (("mlp", "embed"), ((0,), (1,))),
        (("vocab", "embed"), None),
        (("embed", "vocab"), None),
        (("heads", "relpos_buckets"), None),
        (("layers", "embed"), None),
        (("layers", "heads", "kv"), None),
    ],
)
def test_which_parameters_are_matrices(axes: Any, sides: Any) -> None:
    found = layer_optimizers.matrix_axes(axes)
    assert (found if found is None else tuple(found)) == sides


@pytest.mark.parametrize("name", ["tiny", "tiny_llama", "tiny_t5", "tiny_t5gemma_unbalanced"])
def test_kernels_of_layers_are_the_matrices_of_every_family(name: str) -> None:
    axes = model_of(named_config(name)).logical_axes()
    for path, leaf in jax.tree.leaves_with_path(axes, is_leaf=lambda n: isinstance(n, tuple)):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        is_kernel = "/layers/" in where and where.endswith("/kernel")
        assert (layer_optimizers.matrix_axes(leaf) is not None) == is_kernel, where


@pytest.mark.parametrize("make", [ADAFACTOR, MUON])
def test_state_lies_as_the_parameters_do(make: Any) -> None:
    mesh = AbstractMesh((2, 2, 2), sharding.MESH_AXES)
    model = toy_model()
    state = train_step.abstract_state(model, make(model), mesh)
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.spec
        for path, leaf in jax.tree.leaves_with_path(state.opt_state)
    }
    wo = "decoder/layers/mlp/wo/kernel"  # [layers, mlp, embed]
    if make is MUON:
        assert specs[f"1/inner_states/muon/inner_state/0/mu/{wo}"] == PartitionSpec(
            None, "model", "fsdp"
        )
    else:
        before = "0/inner_states/decoder/inner_state/0"
        assert specs[f"{before}/v_row/{wo}"] == PartitionSpec(None, "fsdp")
        assert specs[f"{before}/v_col/{wo}"] == PartitionSpec(None, "model")
        assert specs[f"1/ema/{wo}"] == PartitionSpec(None, "model", "fsdp")


@pytest.mark.parametrize("make", [ADAFACTOR, MUON])
def test_trains_saves_and_goes_on(make: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    toy_train(whole, optimizer=make, eval_batches=0)
    toy_train(parts, optimizer=make, eval_batches=0, train_steps=4)
    toy_train(parts, optimizer=make, eval_batches=0)
    assert (parts / metrics.METRICS).read_text() == (whole / metrics.METRICS).read_text()
    jax.tree.map(np.testing.assert_array_equal, *map(training_state.restore_params, (whole, parts)))
    losses = [record["loss"] for record in metrics.read(whole / metrics.METRICS)]
    assert losses[-1] < losses[0] - 0.03


def test_moments_in_bfloat16() -> None:
    made = optimizer.adamw(RATE, moment_dtype="bfloat16")
    model, mesh = toy_model(), sharding.make_mesh()
    adam = next(
        s for s in train_step.abstract_state(model, made, mesh).opt_state if hasattr(s, "mu")
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(adam.mu)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(adam.nu)} == {jnp.dtype("float32")}


@pytest.mark.slow("compiles a step of its own")
def test_the_type_of_moments_may_change(tmp_path: Path, finished_run: Any) -> None:
    made = optimizer.adamw(RATE, moment_dtype="bfloat16")
    folder = Path(shutil.copytree(finished_run.model_dir, tmp_path / "run"))
    assert toy_train(folder, optimizer=made, train_steps=13).step == 13
    saved = saved_state(folder)[0]["opt_state"][1]
    assert {leaf.dtype for leaf in jax.tree.leaves(saved["mu"])} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "make", [optimizer.adamw, layer_optimizers.adafactor, layer_optimizers.muon]
)
def test_other_types_of_moments_are_refused(make: Any) -> None:
    with pytest.raises(UserError, match="moment_dtype is 'float16'"):
        make(RATE, moment_dtype="float16")


def test_another_optimizer_does_not_go_on_with_the_state(finished_run: Any) -> None:
    before = folder_hashes(finished_run.model_dir)
    with pytest.raises(UserError, match="checkpoints/12 "):
        toy_train(finished_run.model_dir, optimizer=MUON, train_steps=13)
    assert folder_hashes(finished_run.model_dir) == before


def test_the_state_can_lie_in_the_memory_of_the_host(tmp_path: Path, finished_run: Any) -> None:
    toy_train(tmp_path / "run", offload=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == finished_run.history.read_text()
    state = train_step.abstract_state(
        toy_model(), MUON(toy_model()), sharding.make_mesh(), offload=True
    )
    kinds = [
        (leaf.sharding.memory_kind, bool(leaf.shape)) for leaf in jax.tree.leaves(state.opt_state)
    ]
    assert set(kinds) == {(sharding.HOST_MEMORY, True), ("device", False)}
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)} == {"device"}


def test_offloading_is_refused_where_there_is_no_such_memory() -> None:
    class Device:
        device_kind = "abacus"

        def addressable_memories(self) -> list[Any]:
            return []

    class OfDevice:
        devices = np.array([Device()])

    with pytest.raises(UserError, match="abacus has no memory pinned_host"):
        sharding.check_offload(OfDevice())  # type: ignore[arg-type]


def test_schedule_of_t5() -> None:
    schedule = optimizer.inverse_square_root(1e-2, 10_000)
    assert [float(schedule(step)) for step in (0, 10_000, 40_000)] == pytest.approx(
        [1e-2, 1e-2, 5e-3]
    )
    with pytest.raises(UserError, match="warmup_steps is 0"):
        optimizer.inverse_square_root(1e-2, 0)


PROGRAM = """
import sys
import jax, numpy as np
from test_layer_optimizers import ADAFACTOR, MUON
from toy_run import ToyBatches, toy_model
from openba_jax.parallel import sharding
from openba_jax.training import train_step

model = toy_model()
for make in (ADAFACTOR, MUON):
    made, ended = make(model), []
    for shape, offload in (((8, 1, 1), False), ((2, 2, 2), True)):
        mesh = sharding.make_mesh(shape)
        state = train_step.init_state(model, made, mesh, offload=offload)
        step = train_step.make_train_step(model, made, mesh, offload=offload)
        rows = sharding.batch_sharding(mesh)
        for number in range(3):
            batch = sharding.global_batch(ToyBatches().batch(number), rows, slice(0, 8), 8)
            state, _ = step(state, batch)
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}
        assert kinds == {"pinned_host" if offload else "device"}, kinds
        ended.append(jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3), *ended)
"""


@pytest.mark.slow("compiles four steps for eight devices")
def test_meshes_give_the_same_parameters(cached_environment: dict[str, str]) -> None:
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **cached_environment,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "PYTHONPATH": f"{here}:{here.parents[1]}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
