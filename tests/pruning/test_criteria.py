"""Criteria that look at text: against what they mean, computed another way."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import LENGTH, ROWS, batch_of, cuttable, subject_of, tiny, weights

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, axis_of, flatten
from openba_jax.models.base import Model
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.pruning.calibration import Calibration
from openba_jax.pruning.criteria.base import Subject, score_shape
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.transform import take

FAMILIES = (
    "tiny",
    "tiny_llama",
    pytest.param("tiny_t5", marks=pytest.mark.slow(reason="heads joined with channels, again")),
)


def loss_of(model: Model, params: Any, batch: Any) -> Any:
    total, sums = token_cross_entropy(model.hidden(params, batch), model.head(params), batch)
    return total / sums["weight_sum"]


@functools.lru_cache
def jitted(model: Model) -> Any:
    return jax.jit(functools.partial(loss_of, model))


@pytest.mark.parametrize("name", FAMILIES)
def test_taylor_is_what_the_loss_does_when_a_group_is_scaled(name: str) -> None:
    model = tiny(name)
    params = weights(model)
    subject = subject_of(model, params, shape=(1, 1, 1))
    keys = cuttable(model)
    scores, squares = (score(method, subject, keys) for method in ("taylor", "fisher"))
    axes = flatten(model.logical_axes())
    gradient = jax.jit(jax.grad(functools.partial(loss_of, model)))
    products = [
        {
            path: np.asarray(g) * flatten(params)[path]
            for path, g in flatten(gradient(params, batch)).items()
        }
        for batch in subject.calibration.batches
    ]
    for key in keys:
        assert scores[key].shape == score_shape(model.axes, key)
        # The last index in the last layer: all weights that a cut would take, scaled together.
        last = model.axes.sizes[key] - 1
        of_layers = model.axes.layers_key(key)
        depth = model.axes.sizes[of_layers] if of_layers else 0
        slopes = []
        for product_of in products:
            effect = 0.0
            for path, names in axes.items():
                product = product_of[path]
                for place, axis in enumerate(names):
                    own, width = model.axes.cut_by(path, axis) if axis != LAYERS else ("", 1)
                    if axis == LAYERS:
                        own = model.axes.key(path, LAYERS)
                    if own != key:
                        continue
                    part = np.take(product, range(last * width, (last + 1) * width), axis=place)
                    if of_layers is not None:
                        part = np.take(part, [depth - 1], axis=names.index(LAYERS))
                    effect += part.sum()
            slopes.append(effect)
        where = (depth - 1, last) if of_layers else (last,)
        np.testing.assert_allclose(
            scores[key][where], np.abs(slopes).mean(), rtol=1e-3, atol=1e-6, err_msg=key
        )
        np.testing.assert_allclose(
            squares[key][where], np.square(slopes).mean(), rtol=1e-3, atol=1e-9, err_msg=key
        )


def test_taylor_of_a_unit_is_the_slope_of_the_loss_along_it() -> None:
    model = tiny("tiny")
    params = weights(model)
    subject = subject_of(model, params, shape=(1, 1, 1))
    slopes = []
    for batch in subject.calibration.batches:

        def scaled(factor: Any, batch: Any = batch) -> Any:
            changed = jax.tree.map(jnp.asarray, params)
            mlp = changed["decoder"]["layers"]["mlp"]
            for name, at in (("wi_0", np.s_[1, :, 5]), ("wi_1", np.s_[1, :, 5])):
                mlp[name]["kernel"] = mlp[name]["kernel"].at[at].multiply(factor)
            mlp["wo"]["kernel"] = mlp["wo"]["kernel"].at[1, 5].multiply(factor)
            return loss_of(model, changed, batch)

        slopes.append(float(jax.jit(jax.grad(scaled))(1.0)))
    found = score("taylor", subject, ["decoder/mlp"])["decoder/mlp"][1, 5]
    biases = "bias" in params["decoder"]["layers"]["mlp"]["wi_0"]
    assert not biases
    assert found == pytest.approx(np.abs(slopes).mean(), rel=1e-3)


@pytest.mark.parametrize("name", ["tiny_t5gemma_unbalanced"])
def test_leaving_a_layer_out_is_the_loss_of_the_cut_model(name: str) -> None:
    model = tiny(name)
    params = weights(model)
    subject = subject_of(model, params, shape=(1, 1, 1))
    keys = [key for key in cuttable(model) if axis_of(key) == LAYERS]
    found = score("leave_one_out", subject, keys)
    root = Plan.identity(model, "")
    for key in keys:
        layers = [i for i in range(model.axes.sizes[key]) if i != 1]
        plan = root.narrow({key: layers})
        small = take(params, model.logical_axes(), relative(plan, root))
        cut, total, whole, count = pruned_model(plan, like=model), 0.0, 0.0, 0.0
        for batch in subject.calibration.batches:
            weight = float(batch["decoder_loss_weights"].sum())
            total += float(jitted(cut)(small, batch)) * weight
            whole += float(jitted(model)(params, batch)) * weight
            count += weight
        assert found[key][1] == pytest.approx((total - whole) / count, abs=2e-5)


def test_layers_go_in_turn() -> None:
    model = tiny("tiny")
    params = weights(model)
    # Layer 1 adds nothing to the stream: it goes first.
    for block in ("self_attention", "cross_attention"):
        params["decoder"]["layers"][block]["out"]["kernel"][1] = 0
        params["decoder"]["layers"][block]["out"].get("bias", np.zeros(2))[1] = 0
    params["decoder"]["layers"]["mlp"]["wo"]["kernel"][1] = 0
    subject = subject_of(model, params, shape=(1, 1, 1))
    ranks = score("leave_out_in_turn", subject, ["decoder/layers"])["decoder/layers"]
    assert sorted(ranks) == [0, 1, 2]
    once = score("leave_one_out", subject, ["decoder/layers"])["decoder/layers"]
    assert ranks[np.argmin(once)] == 0
    influence = score("block_influence", subject, ["decoder/layers"])["decoder/layers"]
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert np.argmin(influence) == 1


@pytest.mark.parametrize("method", ["activation", "activation_l2_variance"])
@pytest.mark.parametrize("name", FAMILIES)
def test_activations_leave_padding_out(name: str, method: str) -> None:
    model = tiny(name)
    params = weights(model)
    keys = [key for key in cuttable(model) if axis_of(key) != LAYERS]
    tight, padded = (score(method, subject_of(model, params, padding), keys) for padding in (0, 3))
    for key in keys:
        assert tight[key].shape == score_shape(model.axes, key)
        assert np.all(tight[key] >= 0)
        assert np.any(tight[key] > 0)
        np.testing.assert_allclose(tight[key], padded[key], rtol=2e-3, atol=1e-5, err_msg=key)


def test_activations_are_those_of_the_network() -> None:
    model = tiny("tiny")
    params = weights(model)
    subject = subject_of(model, params, shape=(1, 1, 1))
    found = score("activation", subject, ["encoder/mlp", "encoder/heads", "embed"])
    values: dict[str, list] = {"mlp": [], "out": []}
    for batch in subject.calibration.batches:
        _, state = model.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            enable_dropout=False,
            method="hidden_states",
            mutable=["intermediates"],
            capture_intermediates=True,
        )
        seen = state["intermediates"]["encoder"]["layers"]
        norm = seen["pre_mlp_layer_norm"]["__call__"][0]
        mlp = params["encoder"]["layers"]["mlp"]
        gate = np.einsum("nble,nem->nblm", norm, mlp["wi_0"]["kernel"])
        hidden = (
            gate / (1 + np.exp(-gate)) * np.einsum("nble,nem->nblm", norm, mlp["wi_1"]["kernel"])
        )
        real = batch["encoder_input_tokens"] > 0
        rows = (np.abs(hidden) * real[..., None]).sum(axis=2) / real.sum(axis=1)[:, None]
        values["mlp"].append(rows)
    expected = np.concatenate(values["mlp"], axis=1).mean(axis=1)
    np.testing.assert_allclose(found["encoder/mlp"], expected, rtol=1e-4)


SHARDED = """
import jax, numpy as np
from calibrated import cuttable, subject_of, tiny, weights
from openba_jax.models.axes import LAYERS, axis_of
from openba_jax.pruning.criteria.registry import score

model = tiny("tiny")
params = weights(model)
assert jax.device_count() == 8
for method in ("taylor", "activation", "block_influence", "leave_one_out"):
    layers = method in ("block_influence", "leave_one_out")
    keys = [key for key in cuttable(model) if layers == (axis_of(key) == LAYERS)]
    one, eight = (
        score(method, subject_of(model, params, shape=shape), keys)
        for shape in ((1, 1, 1), (2, 2, 2))
    )
    for key in keys:
        np.testing.assert_allclose(one[key], eight[key], rtol=1e-3, atol=1e-5, err_msg=key)
"""


def test_a_sharded_model_has_the_same_scores() -> None:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_scored_is_said() -> None:
    model = tiny("tiny")
    params = weights(model)
    subject = subject_of(model, params)
    with pytest.raises(UserError, match="no pruning criterion is called 'tailor'"):
        score("tailor", subject, ["embed"])
    with pytest.raises(UserError, match="activation scores no layers"):
        score("activation", subject, ["decoder/layers"])
    with pytest.raises(UserError, match="block_influence scores layers, and embed is none"):
        score("block_influence", subject, ["embed"])
    with pytest.raises(UserError, match="give calibration batches"):
        score("taylor", Subject(model, subject.read), ["embed"])
    with pytest.raises(UserError, match="calibration set is empty"):
        Calibration([], 8, subject.calibration.mesh)
    none = {**batch_of(model, 0), "decoder_loss_weights": np.zeros((ROWS, LENGTH), np.float32)}
    with pytest.raises(UserError, match="batch 0 of the calibration set has no target token"):
        Calibration([none], 8, subject.calibration.mesh)
    params["decoder"]["layers"]["mlp"]["wo"]["kernel"][1, 0, 0] = np.inf
    with pytest.raises(UserError, match="decoder/layers/mlp/wo/kernel holds NaN or infinite"):
        score("taylor", subject_of(model, params), ["embed"])
