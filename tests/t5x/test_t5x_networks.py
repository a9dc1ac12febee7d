"""T5X's own networks: their checkpoints are read, cut, and read again by T5X itself."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

from flax import core, traverse_util
from t5x import adafactor, checkpoints, partitioning, train_state
from t5x.examples.scalable_t5 import network as scalable_network
from t5x.examples.t5 import network as stock_network

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.errors import UserError
from openba_jax.models.axes import flatten
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.plan import Plan, relative
from openba_jax.pruning.stages import Stage
from openba_jax.pruning.transform import mask

NETWORKS = {"t5": stock_network, "scalable_t5": scalable_network}
STEP = 7
SIZES = {
    "vocab_size": 64,
    "emb_dim": 16,
    "num_heads": 4,
    "num_encoder_layers": 3,
    "num_decoder_layers": 4,
    "head_dim": 6,
    "mlp_dim": 20,
}
KINDS = {
    "plain tied": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "gated": {"mlp_activations": ("gelu", "linear")},
}
RULES = [*partitioning.standard_logical_axis_rules(), ("layers", None)]
INPUTS = jnp.asarray([[5, 9, 3, 17, 22, 8, 1], [40, 2, 61, 1, 0, 0, 0]])
TARGETS = jnp.asarray([[4, 7, 33, 12, 1], [9, 9, 1, 0, 0]])
DECODER_INPUTS = jnp.pad(TARGETS[:, :-1], ((0, 0), (1, 0)))
REAL = np.asarray(TARGETS > 0)


def network_of(name, kind, **sizes):
    module = NETWORKS[name]
    return module.Transformer(module.T5Config(**{**SIZES, **KINDS[kind], **sizes}))


@functools.cache
def initial(name, kind):
    network = network_of(name, kind)
    variables = core.unfreeze(
        network.init(jax.random.key(0), INPUTS, DECODER_INPUTS, TARGETS, enable_dropout=False)
    )
    # Norms are ones and would hide a mistake.
    flat = traverse_util.flatten_dict(variables["params"])
    for number, (path, leaf) in enumerate(flat.items()):
        if path[-1] in ("scale", "rel_embedding"):
            noise = jax.random.normal(jax.random.key(number), leaf.shape)
            flat[path] = leaf + 0.3 * noise
    return {**variables, "params": traverse_util.unflatten_dict(flat)}


def logits(network, params):
    found = network.apply({"params": params}, INPUTS, DECODER_INPUTS, TARGETS, enable_dropout=False)
    return np.asarray(found)[REAL]


def own_logits(model, params):
    found = model.module.apply({"params": params}, INPUTS, DECODER_INPUTS, enable_dropout=False)
    return np.asarray(found)[REAL]


def checkpointer(t5x_format, state, folder):
    partitioner = partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=RULES)
    if t5x_format == "legacy":
        return checkpoints.Checkpointer(state, partitioner, str(folder))
    return checkpoints.OrbaxCheckpointManagerInterface(str(folder), state, partitioner)


def save(name, kind, t5x_format, folder):
    """As T5X's trainer leaves it: with the state of its Adafactor, and without config.json."""
    folder.mkdir()
    variables = initial(name, kind)
    optimizer = adafactor.Adafactor(
        1e-3, logical_factor_rules=adafactor.standard_logical_factor_rules()
    )
    state = train_state.FlaxOptimTrainState.create(optimizer, core.freeze(variables))
    state = state.replace_step(jnp.int32(STEP))
    writer = checkpointer(t5x_format, state, folder)
    writer.save(state)
    if t5x_format == "orbax":
        writer.close()


def restored(name, kind, t5x_format, folder, step, **sizes):
    """What T5X's own checkpointer gives its own network of these sizes."""
    network = network_of(name, kind, **sizes)
    variables = core.unfreeze(
        network.init(jax.random.key(1), INPUTS, DECODER_INPUTS, TARGETS, enable_dropout=False)
    )
    zeros = jax.tree.map(jnp.zeros_like, variables["params"])
    state = train_state.InferenceState(
        step=jnp.int32(0), params=zeros, params_axes=core.freeze(variables["params_axes"])
    )
    found = checkpointer(t5x_format, state, folder).restore(step=step)
    shapes = jax.tree.map(jnp.shape, core.unfreeze(found.params))
    assert shapes == jax.tree.map(jnp.shape, core.unfreeze(zeros))
    return network, core.unfreeze(found.params)


VARIANTS = [
    ("t5", "plain tied", "orbax"),
    ("t5", "gated", "legacy"),
    ("scalable_t5", "plain tied", "legacy"),
    ("scalable_t5", "gated", "orbax"),
]


@pytest.mark.parametrize(("name", "kind", "t5x_format"), VARIANTS)
def test_logits_are_those_of_the_network(tmp_path, name, kind, t5x_format, caplog):
    save(name, kind, t5x_format, tmp_path / "theirs")
    with caplog.at_level("WARNING", logger="absl"):
        opened = T5X().open(tmp_path / "theirs")
    assert "the state of another optimizer than adamw" in caplog.text
    config = opened.model.config
    assert (config.family, opened.step) == ("t5", STEP)
    assert config.scan_layers == (name == "scalable_t5")
    assert config.shared_relpos == (name == "t5")
    assert config.gated_mlp == (kind == "gated")
    assert (config.num_heads, config.head_dim) == (4, 6)
    expected = logits(network_of(name, kind), initial(name, kind)["params"])
    found = own_logits(opened.model, load_tree(opened))
    print(f"{name}, {kind}: {np.abs(found - expected).max():.2e}")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(UserError, match="does not have"):
        _ = opened.optimizer


@pytest.mark.parametrize(("name", "kind", "t5x_format"), VARIANTS)
def test_a_cut_checkpoint_is_one_of_the_network(tmp_path, name, kind, t5x_format, monkeypatch):
    monkeypatch.setattr("openba_jax.pruning.apply.FORMATS", {"t5x": T5X(t5x_format)})
    monkeypatch.setattr(
        "openba_jax.pruning.apply.detect", lambda _: SimpleNamespace(name="t5x", open=T5X().open)
    )
    save(name, kind, t5x_format, tmp_path / "theirs")
    stage = Stage("cut", drop_encoder=[0], drop_decoder=[0, 2], heads=3, mlp=12, method="magnitude")
    plan = prune_checkpoint(tmp_path / "theirs", tmp_path / "cut", stage)
    network, params = restored(
        name, kind, t5x_format, tmp_path / "cut", 0,
        num_encoder_layers=2, num_decoder_layers=2, num_heads=3, mlp_dim=12,
    )  # fmt: skip
    found = logits(network, params)
    opened = T5X().open(tmp_path / "theirs")
    keep = relative(plan, Plan.identity(opened.model, plan.source))
    masked = mask(load_tree(opened), opened.model.logical_axes(), keep)
    expected = own_logits(opened.model, masked)
    print(f"{name}, {kind}: {np.abs(found - expected).max():.2e}")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - own_logits(opened.model, load_tree(opened))).max() > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_width_is_one_of_the_network(tmp_path, name):
    save(name, "gated", "orbax", tmp_path / "theirs")
    plan = prune_checkpoint(tmp_path / "theirs", tmp_path / "cut", Stage("cut", embed=10))
    network, params = restored(name, "gated", "orbax", tmp_path / "cut", 0, emb_dim=10)
    kept = list(plan.keep["embed"])
    before = flatten(initial(name, "gated")["params"])
    for path, array in flatten(params).items():
        expected = before[path]
        if 16 in expected.shape:  # No other axis is as long.
            expected = np.take(expected, kept, expected.shape.index(16))
        np.testing.assert_array_equal(array, expected, path)
    opened = T5X().open(tmp_path / "cut")
    np.testing.assert_allclose(
        logits(network, params), own_logits(opened.model, load_tree(opened)), atol=1e-5
    )


@pytest.mark.parametrize(("name", "kind", "t5x_format"), VARIANTS[1:3])
def test_nothing_changes_on_the_way(tmp_path, name, kind, t5x_format):
    save(name, kind, t5x_format, tmp_path / "theirs")
    opened = T5X().open(tmp_path / "theirs")
    opened.optimizer = None
    (tmp_path / "again").mkdir()
    T5X(t5x_format).write(opened, tmp_path / "again")
    _, params = restored(name, kind, t5x_format, tmp_path / "again", STEP)
    before = initial(name, kind)["params"]
    assert jax.tree.all(jax.tree.map(np.array_equal, params, before))


def test_a_shared_bias_is_copied_into_each_layer(tmp_path):
    save("t5", "gated", "orbax", tmp_path / "theirs")
    opened = T5X().open(tmp_path / "theirs")
    opened.optimizer = None
    (tmp_path / "scalable").mkdir()
    opened.model = opened.model.replace(scan_layers=False)
    T5X(network="scalable_t5").write(opened, tmp_path / "scalable")
    network, params = restored("scalable_t5", "gated", "orbax", tmp_path / "scalable", STEP)
    expected = logits(network_of("t5", "gated"), initial("t5", "gated")["params"])
    np.testing.assert_allclose(logits(network, params), expected, atol=1e-5)
    scalable = T5X().open(tmp_path / "scalable")
    assert not scalable.model.config.shared_relpos
    (tmp_path / "stock").mkdir()
    with pytest.raises(UserError, match="the model has one in each layer"):
        T5X(network="t5").write(scalable, tmp_path / "stock")
    with pytest.raises(UserError, match="has no network of T5X's called 't5x'"):
        T5X(network="t5x").write(scalable, tmp_path / "stock")
