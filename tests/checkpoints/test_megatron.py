import shutil
import zipfile

import jax
import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.files.tensors import FileTensor
from openba_jax.checkpoints.files.torch_reader import read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.inspection import InspectedCheckpoint
from openba_jax.errors import UserError
from openba_jax.models.axes import flatten


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "megatron"
    path.mkdir()
    return path


@pytest.fixture(params=["v1", "v2"])
def style(request):
    return request.param


@pytest.fixture
def golden(golden_dir, style):
    return golden_dir("megatron_ckpt") / f"{style}_style"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_round_trip(make_checkpoint, tiny, dtype, folder, same, ranks):
    source = make_checkpoint(tiny.replace(param_dtype=dtype.name, dtype=dtype.name))
    Megatron(ranks).write(source, folder)
    read = Megatron().open(folder)
    padded = -(-256 // (128 * ranks)) * 128 * ranks
    assert read.model.config == source.model.config.replace(vocab_size=padded)
    assert read.step == source.step
    same(source, read, vocab=256)
    bias, rows = (
        read.read(leaf) for leaf in read.model.axes.leaves() if "vocab" in axes(read, leaf)
    )
    for array in (bias, rows):
        assert (array[255:] == array[255]).all()  # the last row fills the padding


def axes(source, leaf):
    return source.model.axes.paths[leaf.path]


def test_biases_of_the_feed_forward_layer(make_checkpoint, tiny, folder, same):
    source = make_checkpoint(tiny.replace(mlp_bias=True))
    Megatron(2).write(source, folder)
    same(source, Megatron().open(folder))


def test_golden_ranks_equal_the_converted_tensors(golden, same):
    expected = HuggingFace().open(golden / "hf_expected")
    cast = InspectedCheckpoint(Megatron().open(golden), np.dtype(np.float16))
    for leaf in expected.model.axes.leaves():
        a, b = expected.read(leaf), cast.read(leaf)
        assert (a == b).all()  # the bias of the logits stays in float32 there


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_golden_change_of_ranks_is_exact(golden, folder, same, ranks):
    source = Megatron().open(golden)
    Megatron(ranks).write(source, folder)
    again = Megatron().open(folder)
    same(source, again, vocab=source.model.config.vocab_size)


def test_two_ranks_are_written_as_the_original_writes_them(golden, folder):
    source = Megatron().open(golden)
    Megatron(2).write(source, folder)
    for rank in range(2):
        place = f"iter_0000001/mp_rank_{rank:02}/model_optim_rng.pt"
        ours, theirs = read_torch(folder / place), read_torch(golden / place)
        assert set(ours) == set(theirs)
        a, b = flatten(ours["model"]), flatten(theirs["model"])
        assert set(a) == set(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert a[name].read().tobytes() == b[name].read().tobytes(), name
        arguments = vars(ours["args"])
        for name, value in vars(theirs["args"]).items():
            assert arguments[name] == value
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == "1"


def test_golden_logits(golden_dir):
    golden = golden_dir("megatron_ckpt") / "v1_style"
    with np.load(golden / "io.npz") as arrays:
        io = dict(arrays)
    source = Megatron().open(golden)
    logits = jax.jit(
        lambda params: source.model.module.apply(
            {"params": params},
            io["input_ids"],
            io["decoder_input_ids"],
            encoder_segment_ids=io["attention_mask"],
            enable_dropout=False,
        )
    )(load_tree(source))
    real = io["decoder_attention_mask"] == 1
    vocab = io["megatron_logits"].shape[-1]
    tolerance = {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(logits[..., :vocab][real], io["megatron_logits"][real], **tolerance)
    np.testing.assert_allclose(logits[real], io["hf_logits_float32"][real], **tolerance)


# Bad input


@pytest.fixture
def two_ranks(make_checkpoint, tiny, folder):
    Megatron(2).write(make_checkpoint(tiny), folder)
    return folder


def rank_file(folder, rank):
    return folder / f"iter_0000003/mp_rank_{rank:02}/model_optim_rng.pt"


def rewrite(file, change):
    """Writes a rank anew, with other content."""
    content = read_torch(file)
    flat = flatten(content["model"])
    arrays = {name: np.array(t.read()) for name, t in flat.items() if isinstance(t, FileTensor)}
    change(content, arrays)
    specs = {name: TensorSpec(name, a.shape, a.dtype) for name, a in arrays.items()}
    tree = {}
    for name, spec in specs.items():
        *path, key = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[key] = spec
    with TorchWriter(file, {**content, "model": tree}) as writer:
        for name, array in arrays.items():
            writer.write(specs[name], [lambda a=array: a])


def refused(folder, *words):
    with pytest.raises(UserError) as caught:
        Megatron().open(folder)
    for word in words:
        assert word in str(caught.value)


def test_missing_rank(two_ranks):
    shutil.rmtree(rank_file(two_ranks, 1).parent)
    refused(two_ranks, "mp_rank_01", "does not exist")


def test_superfluous_rank(two_ranks):
    shutil.copytree(rank_file(two_ranks, 1).parent, rank_file(two_ranks, 2).parent)
    refused(two_ranks, "holds mp_rank_02", "tensor_model_parallel_size 2")


def test_truncated_rank(two_ranks):
    file = rank_file(two_ranks, 1)
    file.write_bytes(file.read_bytes()[:5000])
    refused(two_ranks, "mp_rank_01/model_optim_rng.pt", "cut short")


def test_tensor_missing_on_one_rank(two_ranks):
    name = "language_model/decoder/layers.1.mlp.w2.weight"
    rewrite(rank_file(two_ranks, 1), lambda _, arrays: arrays.pop(name))
    refused(two_ranks, "mp_rank_01", name, "missing")


def test_tensor_missing_on_both_ranks(two_ranks):
    name = "language_model/decoder/layers.1.mlp.w2.weight"
    for rank in (0, 1):
        rewrite(rank_file(two_ranks, rank), lambda _, arrays: arrays.pop(name))
    refused(two_ranks, name, "missing")


def test_tensor_on_one_rank_only(two_ranks):
    rewrite(rank_file(two_ranks, 1), lambda _, arrays: arrays.update(more=np.zeros(1, np.float32)))
    refused(two_ranks, "mp_rank_01", "tensor more is not on rank 0")


WHOLE = "language_model/encoder/final_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, a: a.pop(WHOLE), [WHOLE, "missing"]),
        (lambda _, a: a.update({WHOLE: a[WHOLE] + 1}), [WHOLE, "differs"]),
        (lambda _, a: a.update({WHOLE: a[WHOLE][1:].copy()}), [WHOLE, "differs"]),
        (lambda content, _: content.update(iteration=500), ["iteration 500", "rank 0 of 3"]),
    ],
)
def test_ranks_of_different_saves(two_ranks, change, words):
    rewrite(rank_file(two_ranks, 1), change)
    refused(two_ranks, "mp_rank_01", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content, _: content.update(checkpoint_version=0), ["checkpoint_version is 0"]),
        (lambda content, _: content.pop("checkpoint_version"), ["checkpoint_version is None"]),
        (lambda content, _: setattr(content["args"], "mlp_type", "GeGLU"), ["mlp_type", "GeGLU"]),
    ],
)
def test_other_layouts_and_architectures(two_ranks, change, words):
    rewrite(rank_file(two_ranks, 0), change)
    refused(two_ranks, *words)


def test_shapes_that_do_not_fit(two_ranks):
    name = "language_model/encoder/layers.0.self_attention.query_key_value.weight"
    rewrite(rank_file(two_ranks, 1), lambda _, a: a.update({name: a[name][:, 1:].copy()}))
    refused(two_ranks, "mp_rank_01", name, "[36, 11]", "[36, 12]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 3}, ["query_key_value.weight", "[72, 12]", "[54, 12]"]),
        ({"ffn_hidden_size": 999}, ["model_optim_rng.pt: ffn_hidden_size is 999", "width 256"]),
        ({"decoder_num_layers": 3}, ["decoder/layers.2.", "missing"]),
        ({"pipeline_model_parallel_size": 2}, ["pipeline"]),
        ({"hidden_size": "x"}, ["hidden_size is 'x'"]),
    ],
)
def test_arguments_that_contradict_the_tensors(two_ranks, changes, words):
    for rank in (0, 1):
        rewrite(rank_file(two_ranks, rank), lambda c, _: vars(c["args"]).update(changes))
    refused(two_ranks, *words)


def test_no_arguments(two_ranks):
    rewrite(rank_file(two_ranks, 0), lambda content, _: content.pop("args"))
    refused(two_ranks, "mp_rank_00", "holds no training arguments")


def test_dictionaries_that_hold_themselves(two_ranks):
    file = rank_file(two_ranks, 0)
    pickled = (
        b"\x80\x02}(X\x05\x00\x00\x00model}q\x00X\x01\x00\x00\x00ah\x00s"
        b"X\x04\x00\x00\x00argscargparse\nNamespace\n)R"
        b"X\x12\x00\x00\x00checkpoint_versionG\x40\x08\x00\x00\x00\x00\x00\x00u."
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
    shutil.rmtree(rank_file(two_ranks, 1).parent)
    refused(two_ranks, "mp_rank_00/model_optim_rng.pt is damaged: a dictionary in it holds itself")


def test_no_checkpoint(folder):
    refused(folder, "holds no mp_rank_00")
    (folder / "latest_checkpointed_iteration.txt").write_text("../../etc")
    refused(folder, "'../../etc', which is no iteration")


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({}, 3, "tensor_parallel 3 does not divide heads 4"),
        ({"num_heads": 16, "mlp_dim": 264, "ffn_rule": "v2"}, 16, "does not divide mlp 264"),
        ({"tie_embeddings": False}, 1, "logits_dense/kernel differs from the embedding"),
        ({"scale_tied_logits": True}, 1, "scales its logits"),
        ({"qkv_bias": False}, 1, "has biases"),
    ],
)
def test_models_that_megatron_cannot_hold(make_checkpoint, tiny, folder, changes, ranks, message):
    with pytest.raises(UserError, match=message):
        Megatron(ranks).write(make_checkpoint(tiny.replace(**changes)), folder)


def test_unequal_ranks_are_joined(two_ranks, make_checkpoint, tiny, same):
    # Pruning may leave rank 0 with more of the feed-forward layer than rank 1
    # (docs/original.md#width-pruning).
    cut = 10
    first, second = (read_torch(rank_file(two_ranks, rank)) for rank in (0, 1))
    moved = {
        name: tensor.read()[:cut] if ".w2." not in name else tensor.read()[:, :cut]
        for name, tensor in flatten(second["model"]).items()
        if ".mlp." in name
    }
    moved = {name: np.array(array) for name, array in moved.items()}
    del first

    def grow(_, arrays):
        for name, more in moved.items():
            arrays[name] = np.concatenate([arrays[name], more], axis=int(".w2." in name))

    def shrink(_, arrays):
        for name in moved:
            w2 = ".w2." in name
            arrays[name] = (arrays[name][:, cut:] if w2 else arrays[name][cut:]).copy()

    rewrite(rank_file(two_ranks, 0), grow)
    rewrite(rank_file(two_ranks, 1), shrink)
    same(make_checkpoint(tiny), Megatron().open(two_ranks))


def test_arguments_that_are_no_data_are_dropped(make_checkpoint, tiny, folder):
    source = make_checkpoint(tiny)
    source.carried = {"train_iters": 7, "hidden_size": 1, "odd": object()}
    Megatron().write(source, folder)
    carried = Megatron().open(folder).carried
    assert (carried["train_iters"], carried["hidden_size"]) == (7, 12)
    assert "odd" not in carried
