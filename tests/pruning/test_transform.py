from __future__ import annotations

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from plan_strategies import MODEL, chains, random_params

from openba_jax.errors import UserError
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.transform import mask, take, take_leaf

AXES = MODEL.logical_axes()
PARAMS = random_params(MODEL)
KEEP = {
    "encoder/layers": (0, 2),
    "decoder/layers": (1, 2, 3),
    "embed": (0, 3, 4, 7),
    "vocab": (5, 1, 9, 1, 1),
    "encoder/heads": ((0, 1), (), (2, 3)),
    "decoder/heads": (1, 2),
    "encoder/mlp": (0, 1, 5),
    "decoder/mlp": ((), (0, 1, 2), (3, 4, 5), (0, 2, 4)),
}


def equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_takes_what_is_asked_for() -> None:
    small = take(PARAMS, AXES, KEEP)
    decoder, small_decoder = PARAMS["decoder"]["layers"], small["decoder"]["layers"]
    equal(
        small["token_embedder"]["embedding"],
        PARAMS["token_embedder"]["embedding"][[5, 1, 9, 1, 1]][:, [0, 3, 4, 7]],
    )
    equal(
        small_decoder["mlp"]["wo"]["kernel"][1],
        decoder["mlp"]["wo"]["kernel"][2][[3, 4, 5]][:, [0, 3, 4, 7]],
    )
    equal(
        small["encoder"]["layers"]["self_attention"]["query"]["kernel"][1],
        PARAMS["encoder"]["layers"]["self_attention"]["query"]["kernel"][2][
            np.ix_([0, 3, 4, 7], [2, 3])
        ],
    )
    equal(
        small_decoder["cross_attention"]["key"]["bias"],
        decoder["cross_attention"]["key"]["bias"][1:, 1:3],
    )


@settings(deadline=None, max_examples=8)
@given(chains(2))
def test_any_plan_gives_the_shapes_of_its_config(plans: list[Plan]) -> None:
    first, second = plans
    # The second step is counted within the model that the first one makes.
    small = take(PARAMS, AXES, first.keep)
    smaller = take(small, AXES, second.keep)
    for params, plan in ((small, first), (smaller, second)):
        shapes = jax.tree.map(lambda s: s.shape, pruned_model(plan).abstract_params())
        assert jax.tree.map(np.shape, params) == shapes


def test_steps_give_what_their_sum_gives() -> None:
    root = Plan.identity(MODEL, "ancestor")
    parent = root.drop_layers({"encoder": [1], "decoder": [0]}).narrow({"embed": KEEP["embed"]})
    child = parent.narrow(KEEP)
    stepwise = take(take(PARAMS, AXES, relative(parent, root)), AXES, relative(child, parent))
    equal(stepwise, take(PARAMS, AXES, relative(child, root)))
    equal(stepwise, take(PARAMS, AXES, KEEP))


def test_jit_gives_what_numpy_gives() -> None:
    jitted = jax.jit(lambda params: take(params, AXES, KEEP))(PARAMS)
    equal(jitted, take(PARAMS, AXES, KEEP))
    kept = take(PARAMS, AXES, KEEP)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(kept))


def test_dtype_stays() -> None:
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(take(half, AXES, KEEP))} == {
        jnp.dtype("bfloat16")
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_arrays_are_cut_alike_however_they_lie_in_memory(order: tuple[int, ...]) -> None:
    names = ("layers", "embed", "mlp")
    rows = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    keep = {"x/layers": (0, 2), "embed": (1, 2), "x/mlp": ((0, 1), (2, 3), (2, 4))}
    path = "x/layers/kernel"
    stored = np.ascontiguousarray(rows.transpose(order)).transpose(np.argsort(order))
    found = take_leaf(path, stored, names, keep)
    expected = [[[row[i] for i in keep["x/mlp"][n]] for row in rows[n, 1:3]] for n in (0, 2)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(take_leaf(path, stored[:, :, ::-1], names, {}), rows[:, :, ::-1])


def test_unrolled_layers_are_cut_like_scanned_ones() -> None:
    axes = MODEL.replace(scan_layers=False).logical_axes()
    unrolled = unroll(PARAMS)
    small = take(unrolled, axes, KEEP)
    assert set(small["encoder"]) == {"layers_0", "layers_1", "final_layer_norm"}
    equal(small, unroll(take(PARAMS, AXES, KEEP)))
    masked = mask(unrolled, axes, KEEP)
    equal(masked, unroll(mask(PARAMS, AXES, KEEP)))


def unroll(params: dict) -> dict:
    result = dict(params)
    for stack in ("encoder", "decoder"):
        layers = params[stack]["layers"]
        depth = len(layers["pre_mlp_layer_norm"]["scale"])
        result[stack] = {
            "final_layer_norm": params[stack]["final_layer_norm"],
            **{
                f"layers_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(depth)
            },
        }
    return result


def test_masks_exactly_what_take_drops() -> None:
    masked = mask(PARAMS, AXES, KEEP)
    equal(take(masked, AXES, KEEP), take(PARAMS, AXES, KEEP))
    dropped = masked["decoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert np.count_nonzero(dropped) == 3 * 4 * 3
    assert masked["decoder"]["layers"]["mlp"]["wi_0"]["kernel"].dtype == np.float32
    equal(mask(jax.tree.map(jnp.asarray, PARAMS), AXES, KEEP), masked)


def test_decoder_only_networks_need_nothing_of_their_own() -> None:
    axes = {
        "token_embedder": {"embedding": ("vocab", "embed")},
        "decoder": {
            "layers": {
                "input_norm": {"scale": ("layers", "embed")},
                "attention": {
                    "query": {"kernel": ("layers", "embed", "heads", "kv")},
                    "out": {"kernel": ("layers", "heads", "kv", "embed")},
                },
                # T5X may put the layers second.
                "mlp": {"down": {"kernel": ("mlp", "layers", "embed")}},
            },
            "norm": {"scale": ("embed",)},
        },
        "lm_head": {"kernel": ("embed", "vocab")},
    }
    sizes = {"vocab": 10, "embed": 6, "layers": 3, "heads": 4, "kv": 2, "mlp": 5}
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda names: rng.normal(size=[sizes[name] for name in names]),
        axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    mlp_rows = [[0, 1], [2, 4], [1, 3]]
    keep = {"embed": [1, 2, 5], "layers": [0, 2], "decoder/heads": [3], "decoder/mlp": mlp_rows}
    small = take(params, axes, keep)
    equal(small["lm_head"]["kernel"], params["lm_head"]["kernel"][[1, 2, 5]])
    down = params["decoder"]["layers"]["mlp"]["down"]["kernel"]
    small_down = small["decoder"]["layers"]["mlp"]["down"]["kernel"]
    equal(small_down[:, 1], down[[1, 3], 2][:, [1, 2, 5]])
    equal(
        small["decoder"]["layers"]["attention"]["out"]["kernel"],
        params["decoder"]["layers"]["attention"]["out"]["kernel"][[0, 2]][:, [3]][..., [1, 2, 5]],
    )
    equal(take(mask(params, axes, keep), axes, keep), small)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"encoder/experts": [0]}, "no axis that encoder/experts"),
        ({"logits/vocab": [0]}, "no axis that logits/vocab"),
        ({"embed": [0, 8]}, "embed names 8, but the array has 8"),
        ({"embed": [-1]}, "embed names -1"),
        ({"encoder/mlp": [[0], [1]]}, "encoder/mlp .* one per layer"),
        ({"encoder/mlp": [[0], [1], [1, 2]]}, "encoder/mlp .* equal size"),
        ({"embed": [[0], [1], [2]]}, "belongs to no layer, but embed has one list per layer"),
        ({"embed": [0], "encoder/embed": [0]}, "both embed and encoder/embed"),
    ],
)
def test_refuses_lists_that_do_not_fit(keep: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        take(PARAMS, AXES, keep)


def test_refuses_parameters_without_names() -> None:
    with pytest.raises(UserError, match="for instance at extra"):
        take({**PARAMS, "extra": np.zeros(3)}, AXES, KEEP)


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from openba_jax.models.axes import flatten
from openba_jax.models.registry import model_of, named_config
from openba_jax.pruning.plan import Plan, relative
from openba_jax.pruning.criteria.base import Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import take

model = model_of(named_config("tiny", embed_dim=16, mlp_dim=32, num_heads=4))
axes = model.logical_axes()
rng = np.random.default_rng(0)
params = jax.tree.map(
    lambda shape: rng.normal(size=shape.shape).astype(shape.dtype), model.abstract_params()
)

def scorer(method, params):
    flat = flatten(params)
    def read(leaf):
        return flat[leaf.path] if leaf.layer is None else flat[leaf.path][leaf.layer]
    return lambda method, keys: score(method, Subject(model, read), keys)

mesh = jax.make_mesh((2, 4), ("fsdp", "model"), axis_types=(AxisType.Auto,) * 2)
rules = {"embed": "fsdp", "mlp": "model", "heads": "model", "vocab": "model"}

def spread(tree):
    return jax.tree.map(
        lambda leaf, names: jax.device_put(
            leaf, NamedSharding(mesh, PartitionSpec(*[rules.get(n) for n in names]))
        ),
        tree,
        axes,
    )

root = Plan.identity(model, "root")
assert jax.device_count() == 8
for method in ("random", "magnitude"):
    stage = Stage("s", drop_decoder=(1,), embed=8, heads=4, mlp=16, seed=1, method=method)
    sharded = spread(params)
    plans = [apply_stage(stage, root, scorer=scorer(method, tree)) for tree in (params, sharded)]
    assert plans[0] == plans[1]
    plan = plans[0]
    keep = relative(plan, root)
    expected = take(jax.tree.map(np.asarray, params), axes, keep)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, spread(take(params, axes, keep)))
    small = jax.jit(lambda p: take(p, axes, keep), out_shardings=shardings)(sharded)
    for one, other in zip(jax.tree.leaves(small), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).tobytes() == other.tobytes()
"""


def test_sharded_pruning_gives_the_unsharded_bits() -> None:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_unpruned_parameters_pass_unchanged() -> None:
    equal(take(PARAMS, AXES, {}), PARAMS)
