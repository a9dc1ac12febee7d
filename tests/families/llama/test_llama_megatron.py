"""LLaMA in Megatron's format, against a numpy account of how its ranks lie."""

import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints.checkpoint import all_leaves
from openba_jax.checkpoints.files.torch_reader import read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.native import Native
from openba_jax.errors import UserError
from openba_jax.models.axes import flatten, unflatten
from openba_jax.models.llama.config import LlamaConfig

TINY = LlamaConfig(
    vocab_size=64,
    embed_dim=16,
    num_heads=4,
    head_dim=6,
    mlp_dim=24,
    decoder_layers=2,
    max_length=32,
)
LAYERS = "language_model/encoder/layers"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "megatron"
    path.mkdir()
    return path


def same(first, second):
    assert first.model.axes.paths == second.model.axes.paths
    for leaf in all_leaves(first):
        a, b = first.read(leaf), second.read(leaf)
        assert a.dtype == b.dtype
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), leaf


def rank_file(folder, rank):
    return next(folder.glob(f"iter_*/mp_rank_{rank:02}/model_optim_rng.pt"))


def arrays(folder, rank):
    found = flatten(read_torch(rank_file(folder, rank))["model"])
    return {name: np.array(tensor.read()) for name, tensor in found.items()}


def rewrite(folder, rank, change):
    """Writes a rank anew; `change` gets its arguments and its arrays."""
    file = rank_file(folder, rank)
    content, held = read_torch(file), arrays(folder, rank)
    change(vars(content["args"]), held)
    specs = {name: TensorSpec(name, a.shape, a.dtype) for name, a in held.items()}
    with TorchWriter(file, {**content, "model": unflatten(specs)}) as writer:
        for name, array in held.items():
            writer.write(specs[name], [lambda a=array: a])


@pytest.mark.parametrize("again", [1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
        {"rope_scaling": "linear", "rope_factor": 2.0},
    ],
)
def test_round_trip(tmp_path, ranks, again, changes):
    source = MemoryCheckpoint(TINY.replace(**changes))
    first, native, second = (tmp_path / name for name in ("first", "native", "second"))
    for path in (first, native, second):
        path.mkdir()
    Megatron(ranks).write(source, first)
    Native().write(Megatron().open(first), native)
    Megatron(again).write(Native().open(native), second)
    read = Megatron().open(second)
    assert read.model.config == source.model.config
    same(source, read)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_of_a_hugging_face_model(tmp_path, folder, ranks):
    """What the authors' loader and saver make of it: rows stay in Hugging Face's order."""
    source = MemoryCheckpoint(TINY)
    (tmp_path / "hf").mkdir()
    HuggingFace().write(source, tmp_path / "hf")
    read = HuggingFace().open(tmp_path / "hf")
    theirs = {name: np.array(tensor.read()) for name, tensor in read.tensors.items()}
    Megatron(ranks).write(read, folder)
    heads, width, size = TINY.num_heads // ranks, TINY.mlp_dim // ranks, TINY.head_dim
    for rank in range(ranks):
        expected = {
            "language_model/encoder/final_norm.weight": theirs["model.norm.weight"],
            "language_model/embedding/word_embeddings/weight": np.split(
                theirs["model.embed_tokens.weight"], ranks
            )[rank],
            "language_model/output_layer/weight": np.split(theirs["lm_head.weight"], ranks)[rank],
        }
        for n in range(TINY.decoder_layers):
            hf, layer = f"model.layers.{n}", f"{LAYERS}.{n}"
            fused = []
            for head in range(rank * heads, (rank + 1) * heads):
                for name in "qkv":
                    rows = theirs[f"{hf}.self_attn.{name}_proj.weight"]
                    fused.append(rows[head * size : (head + 1) * size])
            units = slice(rank * width, (rank + 1) * width)
            columns = slice(rank * heads * size, (rank + 1) * heads * size)
            gated = [theirs[f"{hf}.mlp.{name}_proj.weight"][units] for name in ("gate", "up")]
            output = theirs[f"{hf}.self_attn.o_proj.weight"][:, columns]
            down = theirs[f"{hf}.mlp.down_proj.weight"][:, units]
            after = theirs[f"{hf}.post_attention_layernorm.weight"]
            expected |= {
                f"{layer}.self_attention.query_key_value.weight": np.concatenate(fused),
                f"{layer}.self_attention.dense.weight": output,
                f"{layer}.mlp.dense_h_to_4h.weight": np.concatenate(gated),
                f"{layer}.mlp.dense_4h_to_h.weight": down,
                f"{layer}.input_norm.weight": theirs[f"{hf}.input_layernorm.weight"],
                f"{layer}.post_attention_norm.weight": after,
            }
        held = arrays(folder, rank)
        assert set(held) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(held[name], array, err_msg=name)


def test_vocabulary_is_enlarged_to_a_multiple_of_the_ranks(folder):
    source = MemoryCheckpoint(TINY.replace(vocab_size=63))
    Megatron(4).write(source, folder)
    read = Megatron().open(folder)
    assert read.model.config == TINY
    for name in ("embedding/word_embeddings", "output_layer"):
        whole = read.tensors[f"language_model/{name}/weight"].read()
        assert (whole[63] == whole[62]).all()
        assert (whole[62] != whole[61]).any()


def test_unequal_ranks_are_joined(folder):
    """Pruning may leave the ranks with unequal parts of the feed-forward layer."""
    source = MemoryCheckpoint(TINY)
    Megatron(2).write(source, folder)
    half, cut = TINY.mlp_dim // 2, 5
    held = [arrays(folder, rank) for rank in range(2)]

    def move(rank):
        def change(_, target):
            for n in range(TINY.decoder_layers):
                name = f"{LAYERS}.{n}.mlp.dense_h_to_4h.weight"
                gate, up = (
                    np.concatenate([each[name][part * half :][:half] for each in held])
                    for part in range(2)
                )
                mine = slice(half + cut) if rank == 0 else slice(half + cut, None)
                target[name] = np.concatenate([gate[mine], up[mine]])
                name = f"{LAYERS}.{n}.mlp.dense_4h_to_h.weight"
                down = np.concatenate([each[name] for each in held], axis=1)
                target[name] = down[:, mine].copy()

        return change

    for rank in range(2):
        rewrite(folder, rank, move(rank))
    assert len(arrays(folder, 0)[f"{LAYERS}.0.mlp.dense_h_to_4h.weight"]) == 2 * (half + cut)
    same(source, Megatron().open(folder))


def test_masks_and_stale_groups_of_pruning_are_left_out(folder):
    source = MemoryCheckpoint(TINY)
    Megatron(2).write(source, folder)

    def prune(arguments, held):
        arguments["num_query_groups"] = 32
        held["zs/head_z"] = np.ones(4, np.float32)

    for rank in range(2):
        rewrite(folder, rank, prune)
    same(source, Megatron().open(folder))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("normalization", "LayerNorm", "normalization is 'LayerNorm'"),
        ("swiglu", False, "swiglu is False"),
        ("position_embedding_type", "learned_absolute", "position_embedding_type is 'learned"),
        ("rotary_percent", 0.5, "rotary_percent is 0.5"),
        ("num_experts", 8, "num_experts is 8"),
        ("hidden_size", None, "hidden_size is None"),
        ("tensor_model_parallel_size", 3, "mp_rank_02"),
    ],
)
def test_arguments_that_are_refused(folder, name, value, message):
    Megatron(2).write(MemoryCheckpoint(TINY), folder)
    for rank in range(2):
        rewrite(folder, rank, lambda arguments, _: arguments.update({name: value}))
    with pytest.raises(UserError, match=message):
        Megatron().open(folder)


def test_grouped_queries_are_refused(folder):
    Megatron().write(MemoryCheckpoint(TINY), folder)
    groups = {"group_query_attention": True, "num_query_groups": 2}
    rewrite(folder, 0, lambda arguments, _: arguments.update(groups))
    with pytest.raises(UserError, match="num_query_groups is 2 for 4 heads"):
        Megatron().open(folder)


def test_missing_tensor(folder):
    Megatron(2).write(MemoryCheckpoint(TINY), folder)
    name = f"{LAYERS}.1.mlp.dense_h_to_4h.weight"
    rewrite(folder, 1, lambda _, held: held.pop(name))
    with pytest.raises(UserError, match=r"mp_rank_01.*dense_h_to_4h\.weight is missing"):
        Megatron().open(folder)


def test_odd_gate_and_up(folder):
    Megatron(2).write(MemoryCheckpoint(TINY), folder)
    name = f"{LAYERS}.0.mlp.dense_h_to_4h.weight"
    rewrite(folder, 1, lambda _, held: held.update({name: held[name][1:].copy()}))
    with pytest.raises(UserError, match="23 rows, which cannot be 2 equal parts"):
        Megatron().open(folder)


def test_unknown_family(folder):
    Megatron().write(MemoryCheckpoint(TINY), folder)

    def rename(_, held):
        for name in list(held):
            held[name.replace("language_model/", "other/")] = held.pop(name)

    rewrite(folder, 0, rename)
    with pytest.raises(UserError, match=r"an unknown family; .*: openba, llama"):
        Megatron().open(folder)


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({}, 3, "tensor_parallel 3 does not divide heads 4"),
        ({"num_kv_heads": 2}, 1, "num_kv_heads is 2"),
        ({"qk_norm": True}, 1, "qk_norm is True"),
        ({"model_type": "mistral", "sliding_window": 8}, 1, "sliding_window is 8"),
        ({"rope_theta": 5e5}, 1, "rope_theta is 500000.0"),
        ({"rope_scaling": "llama3"}, 1, "rope_scaling is 'llama3'"),
        ({"bidirectional_inputs": True}, 1, "bidirectional_inputs is True"),
        ({"qkv_bias": True}, 1, "on all projections or on none"),
    ],
)
def test_models_that_megatron_cannot_hold(folder, changes, ranks, message):
    with pytest.raises(UserError, match=message):
        Megatron(ranks).write(MemoryCheckpoint(TINY.replace(**changes)), folder)
    assert not list(folder.iterdir())
