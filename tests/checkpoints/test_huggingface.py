import dataclasses
import json
import shutil

import numpy as np
import pytest

from openba_jax.checkpoints.files.safetensors_file import read_safetensors, write_safetensors
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.errors import UserError
from openba_jax.models.openba.widths import ffn_hidden_size, v1_width


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "hf"
    path.mkdir()
    return path


@pytest.mark.parametrize("weight_format", ["safetensors", "torch"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_round_trip(make_checkpoint, variant, dtype, folder, same, weight_format, max_shard_bytes):
    variant = variant.replace(param_dtype=dtype.name, dtype=dtype.name, embedding_dropout=False)
    source = make_checkpoint(variant)
    HuggingFace(weight_format, max_shard_bytes).write(source, folder)
    read = HuggingFace().open(folder)
    assert read.model.config == variant
    same(source, read)
    sharded = max_shard_bytes < 10**9
    assert len(list(folder.glob("*.index.json"))) == sharded
    assert (len(list(folder.glob("*-of-*"))) > 3) == sharded


def test_types_may_differ_between_tensors(make_checkpoint, tiny, folder, same):
    # As the original's converter leaves them: all in float16 but the bias of the logits.
    source = make_checkpoint(tiny, {"": np.float16, "logits_dense/bias": np.float32})
    HuggingFace().write(source, folder)
    same(source, HuggingFace().open(folder))


@pytest.mark.parametrize("style", ["v1", "v2"])
def test_golden_conversion_of_megatron(golden_dir, style):
    folder = golden_dir("megatron_ckpt") / f"{style}_style" / "hf_expected"
    config = HuggingFace().open(folder).model.config
    assert config.mlp_dim == {"v1": 256, "v2": 96}[style]
    assert config.tie_embeddings
    assert not config.scale_tied_logits
    assert config.param_dtype == "float16"


@pytest.mark.parametrize("model", ["a", "b", "c"])
@pytest.mark.parametrize("weight_format", ["safetensors", "torch"])
def test_golden_files_come_back_bit_for_bit(golden_dir, folder, model, weight_format):
    golden = golden_dir(f"model_{model}")
    source = HuggingFace().open(golden)
    HuggingFace(weight_format).write(source, folder)
    again = HuggingFace().open(folder)
    assert again.model.config == source.model.config
    original = read_safetensors(golden / "model.safetensors")
    assert set(original) == set(again.tensors)
    for name, tensor in original.items():
        assert again.tensors[name].read().tobytes() == tensor.read().tobytes()
    written = json.loads((folder / "config.json").read_text())
    for name, value in json.loads((golden / "config.json").read_text()).items():
        if name == "ffn_hidden_size":  # many numbers mean one width
            assert v1_width(written[name]) == v1_width(value)
        else:
            assert written[name] == value, name


def test_embedding_aliases_are_left_aside(golden_dir):
    golden = golden_dir("model_b", "pytorch_model.bin")
    folder_with_aliases = HuggingFace().open(golden)
    assert "encoder.embed_tokens.weight" not in folder_with_aliases.tensors


def test_width_rules(tiny):
    published = tiny.replace(embed_dim=4096, mlp_dim=11_008)
    assert v1_width(16_384) == 11_008
    assert ffn_hidden_size(published) == 16_384
    assert ffn_hidden_size(published.replace(ffn_rule="v2")) == 11_008
    v2 = tiny.replace(embed_dim=2560, mlp_dim=6912)
    assert v1_width(ffn_hidden_size(v2)) == 6912
    for width in range(256, 20_000, 256):
        number = ffn_hidden_size(tiny.replace(mlp_dim=width))
        assert v1_width(number) == width
        assert number == width or width > 512  # 256 and 512 are right under both rules.
    with pytest.raises(UserError, match="--ffn_rule=v2"):
        ffn_hidden_size(tiny.replace(mlp_dim=100))


def test_tokenizer_files(make_checkpoint, tiny, folder, golden_dir):
    model = golden_dir("vocab") / "old.model"
    source = make_checkpoint(tiny.replace(vocab_size=896))
    source.tokenizer = model
    HuggingFace().write(source, folder)
    assert (folder / "spiece.model").read_bytes() == model.read_bytes()
    assert json.loads((folder / "added_tokens.json").read_text()) == {
        "<R>": 860,
        "<S>": 861,
        "<X>": 862,
    }
    assert json.loads((folder / "tokenizer_config.json").read_text())["extra_ids"] == 100
    assert HuggingFace().open(folder).tokenizer == folder / "spiece.model"
    source = make_checkpoint(tiny)
    source.tokenizer = model
    with pytest.raises(UserError, match=r"760 pieces and needs 863 ids .* has 256 rows"):
        HuggingFace().write(source, folder)


# Bad input


@pytest.fixture
def sharded(make_checkpoint, tiny, folder):
    HuggingFace(max_shard_bytes=40_000).write(make_checkpoint(tiny), folder)
    return folder


def edit(file, **changes):
    fields = json.loads(file.read_text())
    for name, value in changes.items():
        if value is None:
            del fields[name]
        else:
            fields[name] = value
    file.write_text(json.dumps(fields))


def rewrite(file, change):
    """Writes a safetensors file anew, with other tensors."""
    arrays = {name: np.array(t.read()) for name, t in read_safetensors(file).items()}
    change(arrays)
    plan = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    write_safetensors(file, plan, lambda name: [lambda: arrays[name]])


def refused(folder, *words):
    with pytest.raises(UserError) as caught:
        HuggingFace().open(folder)
    for word in words:
        assert word in str(caught.value)


def test_missing_shard(sharded):
    next(sharded.glob("*-00002-of-*")).unlink()
    refused(sharded, "model-00002-of-", "is missing", "says that it holds")


def test_index_names_a_tensor_that_is_not_there(sharded):
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={**weight_map, "ghost": weight_map["lm_head.bias"]})
    refused(sharded, "index.json says that", "holds tensor ghost, which is not there")


def test_index_leaves_the_folder(sharded):
    index = sharded / "model.safetensors.index.json"
    edit(index, weight_map={"x": "../other/model.safetensors"})
    refused(sharded, "../other/model.safetensors, which is no file of its folder")


def test_shard_holds_a_tensor_that_the_index_does_not_name(sharded):
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    shard = weight_map.pop("lm_head.bias")
    edit(index, weight_map=weight_map)
    refused(sharded, shard, "tensor lm_head.bias is not in")


@pytest.fixture
def single(make_checkpoint, tiny, folder):
    HuggingFace().write(make_checkpoint(tiny.replace(tie_embeddings=False)), folder)
    return folder


def test_missing_tensor(single):
    name = "decoder.block.1.inter_attn.kv.weight"
    rewrite(single / "model.safetensors", lambda arrays: arrays.pop(name))
    refused(single, f"tensor {name} is missing")


def test_extra_tensor(single):
    rewrite(single / "model.safetensors", lambda a: a.update(more=np.zeros(2, np.float32)))
    refused(single, "model.safetensors: tensor more is not part of the model")


def test_wrong_shape(single):
    name = "encoder.block.0.self_attn.o.weight"
    rewrite(single / "model.safetensors", lambda a: a.update({name: a[name][:, :-1].copy()}))
    refused(single, "model.safetensors", name, "[12, 23]", "[12, 24]")


@pytest.mark.parametrize("name", ["encoder.final_layernorm.weight", "shared_embedding.weight"])
@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_weights_of_other_types(single, name, dtype):
    rewrite(single / "model.safetensors", lambda a: a.update({name: a[name].astype(dtype)}))
    refused(single, f"model.safetensors: tensor {name} has type {dtype}")


def test_alias_that_is_no_copy(single):
    alias = "encoder.embed_tokens.weight"
    rewrite(
        single / "model.safetensors",
        lambda arrays: arrays.update({alias: arrays["shared_embedding.weight"] + 1}),
    )
    refused(single, alias, "should be a copy of shared_embedding.weight")


@pytest.mark.parametrize(
    ("prefix", "wrapper"), [("_orig_mod.", "torch.compile"), ("module.", "DataParallel")]
)
def test_names_of_a_wrapped_model(single, prefix, wrapper):
    def wrap(arrays):
        for name in list(arrays):
            arrays[f"{prefix}{name}"] = arrays.pop(name)

    rewrite(single / "model.safetensors", wrap)
    refused(single, f"begins with {prefix}, as {wrapper} names it; save the model inside")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.model"]
)
def test_pointers_of_git_lfs(single, name):
    if name == "pytorch_model.bin":
        (single / "model.safetensors").unlink()
    (single / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9")
    if name == "tokenizer.model":
        with pytest.raises(UserError, match=r"tokenizer\.model is a pointer of Git LFS"):
            OpenBAVocabulary(single / name)
        return
    refused(single, f"{name} is a pointer of Git LFS and not the file itself; run `git lfs pull`")


def test_truncated_weights(single):
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(single, "model.safetensors is cut short: tensor lm_head.bias")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"ffn_hidden_size": 999},
            ["config.json: ffn_hidden_size is 999", "width 768", "width 256"],
        ),
        ({"num_layers": 2}, ["tensor encoder.block.1.", "missing"]),
        ({"num_decoder_layers": 1}, ["tensor decoder.block.1.", "not part of the model"]),
        ({"add_qkv_bias": False}, ["self_attn.qkv.bias is not part"]),
        ({"add_ffn_bias": True}, ["mlp.fc_in.bias is missing"]),
        ({"hidden_size": 16}, ["shape", "[256, 12]", "[256, 16]"]),
        ({"num_heads": 5}, ["self_attn.qkv.weight", "[72, 12]", "[90, 12]"]),
        ({"tie_word_embeddings": True}, ["lm_head.weight should be a copy"]),
        ({"model_type": "mamba"}, ["model_type is 'mamba'"]),
        ({"model_type": None}, ["model_type is None"]),
        ({"hidden_size": "wide"}, ["hidden_size is 'wide'"]),
        ({"eos_token_id": 2}, ["eos_token_id is 2"]),
        ({"num_layers": 10**9}, ["config.json: encoder_layers is 1000000000"]),
        ({"ffn_hidden_size": 10**400}, ["config.json: ffn_hidden_size is 1000"]),
        ({"kv_channels": 7}, ["config.json: head_dim is 7"]),
    ],
)
def test_config_that_contradicts_the_tensors(single, changes, words):
    edit(single / "config.json", **changes)
    refused(single, *words)


def test_config_that_is_no_json(single):
    (single / "config.json").write_text("{")
    refused(single, "config.json is not JSON")
    (single / "config.json").unlink()
    refused(single, "config.json does not exist")


def test_json_without_bottom(single):
    (single / "config.json").write_text("[" * 100_000)
    refused(single, "config.json is not JSON")
    shutil.copy(single / "config.json", single / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is no safetensors file"):
        read_safetensors(single / "model.safetensors")


def test_one_file_goes_before_shards(make_checkpoint, tiny, sharded, same):
    source = make_checkpoint(tiny, seed=1)
    (sharded / "other").mkdir()
    HuggingFace().write(source, sharded / "other")
    shutil.copy(sharded / "other" / "model.safetensors", sharded)  # As transformers has it.
    same(source, HuggingFace().open(sharded))


def test_folder_without_weights(single):
    (single / "model.safetensors").unlink()
    refused(single, "holds no weights")


def test_both_rules_of_the_width_are_read(make_checkpoint, tiny, folder):
    source = make_checkpoint(tiny.replace(mlp_dim=768, ffn_rule="v2"))
    HuggingFace().write(source, folder)
    assert json.loads((folder / "config.json").read_text())["ffn_hidden_size"] == 768
    config = HuggingFace().open(folder).model.config
    assert (config.mlp_dim, config.ffn_rule) == (768, "v2")


def test_leaves_of_different_types_cannot_be_joined(make_checkpoint, tiny, folder):
    source = make_checkpoint(tiny, {"query/kernel": np.float16})
    with pytest.raises(UserError, match=r"different types .*self_attn\.qkv\.weight"):
        HuggingFace().write(source, folder)


def test_config_defaults_are_those_of_the_original(make_checkpoint, tiny, folder):
    config = dataclasses.replace(tiny, tie_embeddings=True, scale_tied_logits=True)
    config = config.replace(dropout_rate=0.1, attention_dropout_rate=0.1, max_decoder_length=256)
    config = config.replace(qkv_bias=False, logits_bias=False, embedding_dropout=False)
    HuggingFace().write(make_checkpoint(config), folder)
    written = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size", "hidden_size", "kv_channels", "ffn_hidden_size", "model_type"}
    sizes |= {"num_layers", "num_decoder_layers", "num_heads"}
    for name in set(written) - sizes:
        edit(folder / "config.json", **{name: None})
    assert HuggingFace().open(folder).model.config == config
