"""T5 and mT5 in Hugging Face's format."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints.checkpoint import all_leaves
from openba_jax.checkpoints.files.safetensors_file import read_safetensors, write_safetensors
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.checkpoints.registry import detect, open_checkpoint
from openba_jax.errors import UserError
from openba_jax.models.registry import named_config
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage

DATA = Path(__file__).parent / "data"
OLD, NEW = named_config("tiny_t5"), named_config("tiny_t5_1_1", head_dim=6)
CONFIGS = {
    "t5": OLD,
    "t5_1_1": NEW,
    "mt5": NEW.replace(huggingface_type="mt5"),
    "ul2": NEW.replace(mlp_activation="silu", encoder_layers=3),
    "unscaled": OLD.replace(scale_tied_logits=False, mlp_activation="gelu"),
    "gated relu": NEW.replace(mlp_activation="relu", relpos_buckets=16, relpos_max_distance=64),
}


def assert_same(first, second):
    assert first.model.axes.paths == second.model.axes.paths
    for leaf in all_leaves(first):
        a, b = first.read(leaf), second.read(leaf)
        assert a.dtype == b.dtype, leaf
        np.testing.assert_array_equal(a, b, str(leaf))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "hf"
    path.mkdir()
    return path


@pytest.mark.parametrize("weight_format", ["safetensors", "torch"])
@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip(name, folder, weight_format):
    config = CONFIGS[name].replace(dropout_rate=0.1, attention_dropout_rate=0.1)
    config = config.replace(scale_tied_logits=config.tie_embeddings and name != "unscaled")
    source = MemoryCheckpoint(config)
    HuggingFace(weight_format, 40_000).write(source, folder)
    read = HuggingFace().open(folder)
    assert read.model.config == config
    assert_same(source, read)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("writer", [Native(), T5X(), T5X("legacy"), T5X(network="t5")])
def test_other_formats(folder, writer, scan_layers):
    source = MemoryCheckpoint(NEW.replace(scan_layers=scan_layers))
    writer.write(source, folder)
    assert detect(folder).name == writer.name
    opened = open_checkpoint(folder)
    assert_same(source, opened)
    unrolled = isinstance(writer, T5X) and writer.network
    assert opened.model.config.scan_layers == (scan_layers and not unrolled)


@pytest.mark.parametrize("layout", ["orbax", "legacy"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_scalable_t5(folder, layout, scan_layers):
    source = MemoryCheckpoint(NEW.replace(scan_layers=scan_layers, shared_relpos=False))
    T5X(layout, network="scalable_t5").write(source, folder)
    opened = T5X().open(folder)
    assert opened.model.config == source.model.config.replace(scan_layers=True)
    assert_same(source, opened)
    (folder / "config.json").unlink()
    guessed = T5X().open(folder)
    assert guessed.model.config == opened.model.config
    assert guessed.carried == {"t5x_network": "scalable_t5"}


def test_tied_heads_are_copied_where_no_word_of_theirs_means_them(folder):
    HuggingFace().write(MemoryCheckpoint(CONFIGS["unscaled"]), folder)
    tensors = read_safetensors(folder / "model.safetensors")
    head, shared = tensors["lm_head.weight"].read(), tensors["shared.weight"].read()
    np.testing.assert_array_equal(head, shared)
    assert not json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


def test_the_bias_stays_when_the_first_layer_goes(tmp_path):
    prune_checkpoint(
        DATA / "t5", tmp_path / "cut", Stage("cut", drop_encoder=[0], drop_decoder=[0])
    )
    (tmp_path / "hf").mkdir()
    HuggingFace().write(Native().open(tmp_path / "cut"), tmp_path / "hf")
    before = read_safetensors(DATA / "t5" / "model.safetensors")
    after = read_safetensors(tmp_path / "hf" / "model.safetensors")
    bias = "decoder.block.0.layer.0.SelfAttention.{}.weight"
    for name, there in (("relative_attention_bias", 0), ("q", 1)):
        old = bias.format(name).replace("block.0", f"block.{there}")
        np.testing.assert_array_equal(after[bias.format(name)].read(), before[old].read())


# Bad input


def rewrite(folder, change):
    file = folder / "model.safetensors"
    arrays = {name: np.array(t.read()) for name, t in read_safetensors(file).items()}
    change(arrays)
    plan = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    write_safetensors(file, plan, lambda name: [lambda: arrays[name]])


@pytest.fixture
def copied(tmp_path):
    def copy(name, **fields):
        folder = tmp_path / name
        shutil.copytree(DATA / name, folder)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        return folder

    return copy


def test_copies_of_the_embedding_and_the_bias_that_nothing_reads(copied, caplog):
    folder = copied("t5")
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

    def add(arrays):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            arrays[f"{name}.weight"] = arrays["shared.weight"]
        arrays[unread] = np.ones((32, 4), np.float32)

    rewrite(folder, add)
    with caplog.at_level("WARNING", logger="absl"):
        assert HuggingFace().open(folder).model.config.tie_embeddings
    assert f"tensor {unread} is left out" in caplog.text
    rewrite(folder, lambda arrays: arrays["decoder.embed_tokens.weight"].fill(0))
    with pytest.raises(UserError, match=r"should be a copy of shared\.weight"):
        HuggingFace().open(folder)


def test_switches_of_older_and_newer_configurations(copied):
    folder = copied("t5_1_1")
    file = folder / "config.json"
    fields = json.loads(file.read_text())
    del fields["scale_decoder_outputs"]
    # As the published folders say it.
    file.write_text(json.dumps({**fields, "tie_word_embeddings": False}))
    assert not HuggingFace().open(folder).model.config.tie_embeddings
    file.write_text(json.dumps({**fields, "tie_word_embeddings": True}))
    with pytest.raises(UserError, match=r"says that lm_head\.weight is shared\.weight"):
        HuggingFace().open(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "umt5"}, "model_type is 'umt5'"),
        ({"model_type": "longt5"}, "model_type is 'longt5'"),
        ({"feed_forward_proj": "gated-swish"}, "feed_forward_proj is 'gated-swish'"),
        ({"d_model": "24"}, "d_model is '24'"),
        ({"d_ff": 33}, "has shape"),
        ({"eos_token_id": 2}, "eos_token_id is 2"),
        ({"num_decoder_layers": 3}, "is missing"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    ],
)
def test_what_is_refused(copied, fields, message):
    with pytest.raises(UserError, match=message):
        HuggingFace().open(copied("t5", **fields))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_relpos": False}, "biases of positions of their own"),
        ({"dropout_rate": 0.1}, "attention_dropout_rate"),
        ({"huggingface_type": "mt5"}, "mt5 has no scaled logits"),
    ],
)
def test_what_cannot_be_written(folder, changes, message):
    with pytest.raises(UserError, match=message):
        HuggingFace().write(MemoryCheckpoint(OLD.replace(**changes)), folder)
    assert not list(folder.iterdir())
