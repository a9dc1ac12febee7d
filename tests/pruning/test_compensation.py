"""Compensation: layers run by themselves, and fits that must be exact are."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from calibrated import batch_of, subject_of, tiny, weights
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, flatten, join
from openba_jax.models.base import Model
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.pruning.apply import PrunedCheckpoint
from openba_jax.pruning.compensation.one_layer import OneLayer
from openba_jax.pruning.compensation.refit import check_compensation, refitted
from openba_jax.pruning.compensation.ridge import Moments, fit
from openba_jax.pruning.plan import Plan, relative


def checkpoint_of(model: Model, params: Any) -> MemoryCheckpoint:
    checkpoint, flat = MemoryCheckpoint(model.config), flatten(params)
    for leaf in checkpoint.arrays:
        values = flat[leaf.path]
        checkpoint.arrays[leaf] = values if leaf.layer is None else values[leaf.layer]
    return checkpoint


FAMILIES = ("tiny", "tiny_llama", "tiny_t5_1_1", "tiny_t5gemma_unbalanced")


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_one_by_one_are_the_network(name: str) -> None:
    model = tiny(name)
    params = weights(model)
    checkpoint = checkpoint_of(model, params)
    batch = batch_of(model, 1)
    encoded = output = None
    for stack in model.stacks:
        x = None
        for layer in range(model.axes.depth(stack)):
            one = OneLayer.of(model, stack, layer)
            own = one.params(checkpoint.read, layer)
            seen = one.run(own, batch, x, encoded)
            assert {site.path.split("/")[1] for site in seen.sites} == {LAYERS}
            x = seen.left
        output = one.run(own, batch, x, encoded, skip=True).finished
        encoded = output if stack == "encoder" else encoded
    np.testing.assert_allclose(output, model.hidden(params, batch), rtol=2e-4, atol=2e-4)


def doubled(model: Model, params: Any, axis: str, stacks: tuple[str, ...]) -> tuple[Any, Any]:
    """Parameters whose indices n and n + half of an axis act alike, and what a cut keeps of it.

    What makes them is the same, what reads them is not: a fit can add up what reads them.
    """
    axes, keep = model.axes, {}
    keys = [join(stack, axis) for stack in stacks if join(stack, axis) in axes.sizes] or [axis]
    changed = dict(flatten(params))
    for path, names in axes.paths.items():
        for place, name in enumerate(names):
            key, width = axes.cut_by(path, name)
            reads = path.endswith(("out/kernel", "wo/kernel")) and name != "embed"
            reads |= axis == "embed" and path.split("/")[-2] in (
                *("query", "key", "value", "wi_0", "wi_1", "wi", "logits_dense"),
            )
            if key not in keys or reads:
                continue
            place += changed[path].ndim - len(names)
            half = axes.sizes[key] // 2 * width
            first = np.take(changed[path], range(half), axis=place)
            changed[path] = np.concatenate([first, first], axis=place)
    for key in keys:
        keep[key] = list(range(axes.sizes[key] // 2))
    tree: Any = {}
    for path, values in changed.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = values
    return tree, keep


@functools.lru_cache
def compiled(model: Model) -> Any:
    def loss(params: Any, batch: Any) -> Any:
        total, sums = token_cross_entropy(model.hidden(params, batch), model.head(params), batch)
        return total / sums["weight_sum"]

    return jax.jit(loss)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        *(("tiny", axis) for axis in ("mlp", "heads", "embed")),
        ("tiny_t5_1_1", "heads"),
        pytest.param(
            *("tiny_t5gemma_unbalanced", "mlp"), marks=pytest.mark.slow(reason="a fourth family")
        ),
    ],
)
def test_a_fit_adds_up_what_acts_alike(name: str, axis: str) -> None:
    model = tiny(name)
    if axis == "embed":
        model = model.replace(tie_embeddings=False)
    params, kept = doubled(model, weights(model), axis, model.stacks)
    whole = checkpoint_of(model, params)
    root = Plan.identity(model, "")
    plan = root.narrow(kept)
    cut = PrunedCheckpoint(whole, plan, root)
    calibration = subject_of(model, params).calibration
    with refitted(whole, cut, relative(plan, root), calibration, "ridge") as (fitted, record):
        small = load_tree(fitted)
    assert record["error_after"] < 0.01 * record["error_before"]
    assert record["projections"] >= sum(model.axes.depth(stack) for stack in model.stacks)
    losses = [
        [float(compiled(m)(p, batch)) for batch in calibration.batches]
        for m, p in ((model, params), (cut.model, load_tree(cut)), (cut.model, small))
    ]
    of_whole, of_cut, of_fit = np.asarray(losses)
    assert np.all(np.abs(of_fit - of_whole) < 0.1 * np.abs(of_cut - of_whole) + 1e-3)


def test_fitted_layers_read_what_the_fits_before_them_made() -> None:
    model = tiny("tiny")
    params = weights(model)
    whole = checkpoint_of(model, params)
    root = Plan.identity(model, "")
    kept = {"mlp": list(range(40)), "heads": [0, 2]}
    keep = {f"{stack}/{axis}": v for stack in model.stacks for axis, v in kept.items()}
    plan = root.narrow({**keep, "embed": list(range(24)), "decoder/layers": [0, 2]})
    cut = PrunedCheckpoint(whole, plan, root)
    calibration = subject_of(model, params).calibration
    done = []
    with refitted(whole, cut, relative(plan, root), calibration, "ridge", done.append) as (
        fitted,
        record,
    ):
        assert len(done) == model.axes.depth("encoder") + 2
        assert 0 < record["error_after"] < record["error_before"]
        tree = flatten(load_tree(fitted))
    assert all(np.isfinite(leaf).all() for leaf in tree.values())
    assert {path: leaf.shape for path, leaf in tree.items()} == {
        path: leaf.shape for path, leaf in flatten(load_tree(cut)).items()
    }


def test_the_layer_before_learns_what_dropped_ones_did() -> None:
    model = tiny("tiny")
    params = weights(model)
    # Layer 1 writes nothing.
    decoder = params["decoder"]["layers"]
    for block in ("self_attention", "cross_attention"):
        for leaf in decoder[block]["out"].values():
            leaf[1] = 0
    decoder["mlp"]["wo"]["kernel"][1] = 0
    if "bias" in decoder["mlp"]["wo"]:
        decoder["mlp"]["wo"]["bias"][1] = 0
    root = Plan.identity(model, "")
    plan = root.narrow({"decoder/layers": [0, 2]})
    whole = checkpoint_of(model, params)
    cut = PrunedCheckpoint(whole, plan, root)
    calibration = subject_of(model, params).calibration
    with refitted(whole, cut, relative(plan, root), calibration, "ridge") as (fitted, record):
        same = load_tree(fitted)
    # What added nothing leaves nothing to learn.
    assert record["projections"] == 1
    assert record["error_before"] == pytest.approx(0, abs=1e-6)
    wo = same["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    np.testing.assert_allclose(wo[0], decoder["mlp"]["wo"]["kernel"][0], atol=1e-4)
    params = weights(model)
    whole = checkpoint_of(model, params)
    cut = PrunedCheckpoint(whole, plan, root)
    with refitted(whole, cut, relative(plan, root), calibration, "ridge") as (fitted, record):
        assert 0 < record["error_after"] < 0.9 * record["error_before"]


def test_least_squares_with_a_bias_and_without() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)) + 1.0
    z, target = x[:, :4] + 0.1 * rng.normal(size=(200, 4)), rng.normal(size=(6, 3))
    moments = Moments(200.0, z.T @ z, z.T @ x, x.T @ x, z.sum(0), x.sum(0))
    start = target[:4]
    plain = fit(moments, target, start, ridge=0.0, has_bias=False)
    np.testing.assert_allclose(plain.kernel, np.linalg.lstsq(z, x @ target, rcond=None)[0])
    assert plain.after == pytest.approx(np.square(z @ plain.kernel - x @ target).sum())
    assert plain.before == pytest.approx(np.square(z @ start - x @ target).sum())
    assert plain.scale == pytest.approx(np.square(x @ target).sum())
    ones = np.hstack([z, np.ones((200, 1))])
    both = fit(moments, target, start, ridge=0.0, has_bias=True)
    expected = np.linalg.lstsq(ones, x @ target, rcond=None)[0]
    np.testing.assert_allclose(both.kernel, expected[:-1])
    np.testing.assert_allclose(both.shift, expected[-1])
    shifted = fit(moments, target, start, ridge=0.0, has_bias=True, only_bias=True)
    np.testing.assert_array_equal(shifted.kernel, start)
    np.testing.assert_allclose(shifted.shift, (x @ target - z @ start).mean(0))
    assert plain.before > shifted.after > both.after
    held = fit(moments, target, start, ridge=1e9, has_bias=False)
    np.testing.assert_allclose(held.kernel, start, rtol=1e-6)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(UserError, match="no compensation is called 'rigde'"):
        check_compensation("rigde")
    model = tiny("tiny_llama")
    params = weights(model)
    whole, root = checkpoint_of(model, params), Plan.identity(model, "")
    plan = root.narrow({"decoder/mlp": list(range(8))})
    cut = PrunedCheckpoint(whole, plan, root)
    calibration = subject_of(model, params).calibration
    with (
        pytest.raises(UserError, match="no projection of what was cut has a bias"),
        refitted(whole, cut, relative(plan, root), calibration, "bias"),
    ):
        pass
