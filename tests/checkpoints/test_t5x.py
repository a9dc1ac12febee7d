import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.t5x import T5X, find_checkpoint
from openba_jax.errors import UserError


@pytest.fixture(params=["orbax", "legacy"])
def t5x_format(request):
    return request.param


@pytest.mark.parametrize("scan_layers", [True, False])
def test_round_trip(make_checkpoint, tiny, tmp_path, same, t5x_format, scan_layers):
    dtypes = {"": np.float16, "logits_dense/bias": np.float32}
    source = make_checkpoint(tiny.replace(scan_layers=scan_layers), dtypes)
    T5X(t5x_format).write(source, tmp_path)
    for path in (tmp_path, tmp_path / "checkpoint_3"):
        read = T5X(config=source.model.config).open(path)
        assert (read.model.config, read.step) == (source.model.config, 3)
        same(source, read)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_sizes_follow_from_the_shapes(
    make_checkpoint, variant, tmp_path, same, caplog, scan_layers
):
    source = make_checkpoint(variant.replace(scale_tied_logits=False, scan_layers=scan_layers))
    T5X().write(source, tmp_path)
    (tmp_path / "config.json").unlink()  # as T5X leaves it
    with caplog.at_level("WARNING", logger="absl"):
        read = T5X().open(tmp_path)
    assert read.model.config == source.model.config
    same(source, read)
    (message,) = caplog.messages
    assert message == (
        f"{tmp_path} has no config.json: sizes are those of its tensors, and these are guessed: "
        "dropout_rate=0.0, attention_dropout_rate=0.0, dtype='float32', "
        "max_encoder_length=1024, max_decoder_length=1024, scale_tied_logits=False, "
        "embedding_dropout=True, layer_norm_epsilon=1e-05, rope_theta=10000.0, "
        "initializer_std=0.02, ffn_rule='v1'; put a config.json there where they are wrong."
    )
    caplog.clear()
    T5X(config=source.model.config).open(tmp_path)
    assert not caplog.messages


def test_what_lies_beside_is_read(make_checkpoint, tiny, tmp_path, t5x_format):
    source = make_checkpoint(tiny.replace(dropout_rate=0.25, max_encoder_length=77))
    T5X(t5x_format).write(source, tmp_path)
    assert T5X().open(tmp_path / "checkpoint_3").model.config == source.model.config


def test_newest_checkpoint_is_taken(make_checkpoint, tiny, tmp_path, t5x_format):
    source = make_checkpoint(tiny)
    for source.step in (10, 9):
        T5X(t5x_format).write(source, tmp_path)
    assert find_checkpoint(tmp_path).name == "checkpoint_10"
    (tmp_path / "checkpoint_11.tmp-1700000000").mkdir()  # as T5X leaves when it is killed
    assert find_checkpoint(tmp_path).name == "checkpoint_10"


def test_bad_input(make_checkpoint, tiny, tmp_path, t5x_format):
    with pytest.raises(UserError, match="is no T5X checkpoint"):
        T5X().open(tmp_path)
    source = make_checkpoint(tiny)
    T5X(t5x_format).write(source, tmp_path)
    with pytest.raises(UserError, match=r"mlp/wi_0/kernel has shape .*256"):
        T5X(config=tiny.replace(mlp_dim=64)).open(tmp_path)
    folder = tmp_path / "checkpoint_3"
    index = folder / ("checkpoint" if t5x_format == "legacy" else "state/_METADATA")
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(UserError, match="is damaged"):
        T5X().open(tmp_path)


def test_legacy_arrays_that_are_missing_or_elsewhere(make_checkpoint, tiny, tmp_path):
    from flax import serialization

    T5X("legacy").write(make_checkpoint(tiny), tmp_path)
    folder = tmp_path / "checkpoint_3"
    array = folder / "target.token_embedder.embedding"
    array.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="array target/token_embedder/embedding is missing"):
        T5X().open(tmp_path)
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    spec = content["optimizer"]["target"]["token_embedder"]["embedding"]
    spec["kvstore"]["path"] = "../elsewhere"
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError, match="lies outside of the checkpoint"):
        T5X().open(tmp_path)


def test_legacy_chunks_that_are_zeros_or_missing(make_checkpoint, tiny, tmp_path, same):
    source = make_checkpoint(tiny)
    for leaf, array in source.arrays.items():
        if leaf.path.endswith("/bias"):
            array[...] = 0
    T5X("legacy").write(source, tmp_path)
    same(source, T5X().open(tmp_path))
    next(tmp_path.glob("checkpoint_3/target.encoder.layers.mlp.wo.kernel/[0-9]*")).unlink()
    with pytest.raises(UserError, match=r"mlp/wo/kernel is damaged, or a file of it is missing"):
        load_tree(T5X().open(tmp_path))


def test_small_arrays_inside_the_legacy_index(make_checkpoint, tiny, tmp_path, same):
    # T5X keeps what is not partitioned in the index itself.
    from flax import serialization

    source = make_checkpoint(tiny)
    T5X("legacy").write(source, tmp_path)
    file = tmp_path / "checkpoint_3" / "checkpoint"
    content = serialization.msgpack_restore(file.read_bytes())
    norm = content["optimizer"]["target"]["encoder"]["final_layer_norm"]
    for name in norm:
        norm[name] = next(
            a
            for leaf, a in source.arrays.items()
            if leaf.path.endswith(f"encoder/final_layer_norm/{name}")
        )
    file.write_bytes(serialization.msgpack_serialize(content))
    same(source, T5X().open(tmp_path))


@pytest.mark.t5x
def test_t5x_reads_and_writes_the_same(make_checkpoint, tiny, tmp_path, same, t5x_format):
    checkpoints = pytest.importorskip("t5x.checkpoints")
    import jax
    import jax.numpy as jnp
    from flax import core
    from flax.linen import partitioning as flax_partitioning
    from t5x import partitioning, train_state

    def axes_tree(tree):
        return {
            name if isinstance(value, dict) else f"{name}_axes": axes_tree(value)
            if isinstance(value, dict)
            else flax_partitioning.AxisMetadata(names=value)
            for name, value in tree.items()
        }

    source = make_checkpoint(tiny)
    params = jax.tree.map(jnp.asarray, load_tree(source))
    axes = core.freeze(axes_tree(source.model.logical_axes()))
    state = train_state.InferenceState(step=jnp.int32(3), params=params, params_axes=axes)
    rules = [*partitioning.standard_logical_axis_rules(), ("layers", None)]
    partitioner = partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=rules)

    def checkpointer(folder):
        if t5x_format == "legacy":
            return checkpoints.Checkpointer(state, partitioner, str(folder))
        return checkpoints.OrbaxCheckpointManagerInterface(str(folder), state, partitioner)

    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    T5X(t5x_format).write(source, tmp_path / "ours")
    restored = checkpointer(tmp_path / "ours").restore(step=3)
    found = core.unfreeze(restored.params)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, params))
    writer = checkpointer(tmp_path / "theirs")
    writer.save(state)
    if t5x_format == "orbax":
        writer.close()
    same(source, T5X().open(tmp_path / "theirs"))
