"""Hugging Face's folders: both ways, and what is refused by name."""

import collections
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.checkpoints.mapping import expand
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.errors import UserError
from openba_jax.models.axes import Leaf
from openba_jax.models.registry import model_of, named_config
from openba_jax.models.t5gemma.config import GLOBAL, LOCAL
from openba_jax.models.t5gemma.huggingface import T5GemmaHuggingFace

DATA = Path(__file__).parent / "data"
TINY = named_config("tiny_t5gemma_unbalanced")
VARIANTS = {
    "tied": TINY,
    "untied": TINY.replace(
        tie_embeddings=False,
        attention_bias=True,
        attention_softcap=0.0,
        final_softcap=0.0,
        decoder_layer_types=(GLOBAL, GLOBAL, LOCAL),
        start_id=4,
        eos_ids=(1, 7),
        rope_theta=500.0,
        decoder_query_pre_attn_scalar=3,
        encoder_sliding_window=5,
        max_decoder_length=77,
        dropout_rate=0.1,
    ),
}


def assert_same(first, second):
    assert first.model.axes.paths == second.model.axes.paths
    for leaf in first.model.axes.leaves():
        a, b = first.read(leaf), second.read(leaf)
        assert a.dtype == b.dtype, leaf
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), leaf


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_mapped_exactly_once(variant):
    axes = model_of(VARIANTS[variant]).axes
    entries = expand(T5GemmaHuggingFace.rows, axes)
    ours = collections.Counter(leaf for entry in entries for leaf in entry.leaves)
    assert ours == collections.Counter(axes.leaves())
    assert set(collections.Counter(entry.theirs for entry in entries).values()) == {1}


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_what_transformers_saved_comes_back(name, tmp_path):
    """The same tensors, and a configuration that says the same."""
    source = open_checkpoint(DATA / name)
    HuggingFace().write(source, tmp_path)
    assert_same(open_checkpoint(tmp_path), source)
    theirs = json.loads((DATA / name / "config.json").read_text())
    ours = json.loads((tmp_path / "config.json").read_text())
    for stack in ("encoder", "decoder"):
        before, after = theirs.pop(stack), ours.pop(stack)
        # A second spelling, and ids that transformers reads from the whole alone.
        assert after.pop("rope_theta") == after["rope_parameters"]["rope_theta"]
        for field in ("eos_token_id", "tie_word_embeddings"):
            assert after.pop(field) == theirs[field]
            before.pop(field)
        assert after == before
    assert ours == theirs


@pytest.mark.parametrize("weights", ["safetensors", "torch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(make_source, variant, weights, tmp_path):
    dtype = np.dtype(ml_dtypes.bfloat16)
    config = VARIANTS[variant].replace(dtype="bfloat16", param_dtype="bfloat16")
    source = make_source(config, {"": dtype})
    (tmp_path / "there").mkdir()
    HuggingFace(weight_format=weights, max_shard_bytes=20_000).write(source, tmp_path / "there")
    found = open_checkpoint(tmp_path / "there")
    assert found.model.config == config
    assert_same(found, source)


def test_round_trips_through_this_package_and_t5x(make_source, tmp_path):
    source = make_source(VARIANTS["untied"])
    for name, writer in (("native", Native()), ("t5x", T5X())):
        (tmp_path / name).mkdir()
        writer.write(source, tmp_path / name)
        found = open_checkpoint(tmp_path / name)
        assert found.model.config == source.model.config
        assert_same(found, source)
    # Sizes follow from the shapes.
    (tmp_path / "t5x" / "config.json").unlink()
    found = open_checkpoint(tmp_path / "t5x")
    assert found.model.axes == source.model.axes


@pytest.mark.parametrize("copied", [True, False])
def test_a_tied_head_may_be_there_as_a_copy(make_source, copied, tmp_path):
    source = make_source(TINY.replace(tie_embeddings=False))
    embedding = source.arrays[Leaf("decoder/token_embedder/embedding")]
    if copied:
        source.arrays[Leaf("decoder/logits_dense/kernel")] = embedding.T
    HuggingFace().write(source, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    if copied:
        assert open_checkpoint(tmp_path).model.config == TINY
    else:
        with pytest.raises(UserError, match=r"lm_head.out_proj.weight should be a copy"):
            open_checkpoint(tmp_path)


def test_defaults_of_transformers_and_older_spellings(tmp_path):
    for file in (DATA / "balanced").iterdir():
        shutil.copy(file, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for stack in ("encoder", "decoder"):
        for name in ("rope_parameters", "layer_types", "bos_token_id", "hidden_activation"):
            del fields[stack][name]
        fields[stack]["rope_theta"] = 500.0
    del fields["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    expected = open_checkpoint(DATA / "balanced").model.config.replace(rope_theta=500.0)
    assert open_checkpoint(tmp_path).model.config == expected


REFUSED = {
    "model_type": ("", "t5gemma2", "'t5gemma2'. T5Gemma 2 has another network"),
    "is_encoder_decoder": ("", False, "is_encoder_decoder is False"),
    "vocab_size": ("encoder", 97, "vocab_size is 97 in the encoder and 96 in the decoder"),
    "hidden_activation": ("decoder", "gelu", "decoder: hidden_activation is 'gelu'"),
    "attn_logit_softcapping": ("encoder", 9.0, "attn_logit_softcapping is 9.0 in the encoder"),
    "rope_parameters": ("encoder", {"rope_type": "yarn"}, "encoder: rotary positions of type"),
    "layer_types": ("decoder", ["chunked_attention"] * 2, "decoder_layer_types has 'chunked"),
    "pad_token_id": ("decoder", 3, "pad_token_id is 3; it is 0 here"),
    "eos_token_id": ("", [7], r"eos_ids is \[7\]"),
    "head_dim": ("decoder", "6", "decoder: head_dim is '6'"),
    "sliding_window": ("encoder", None, "encoder: sliding_window is None"),
    "encoder": ("", 3, "encoder is 3"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_the_network_does_not_have_is_refused_by_name(field, tmp_path):
    part, value, message = REFUSED[field]
    shutil.copy(DATA / "balanced" / "model.safetensors", tmp_path)
    fields = json.loads((DATA / "balanced" / "config.json").read_text())
    (fields[part] if part else fields)[field] = value
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path)


def test_a_width_that_transformers_does_not_take_is_refused(make_source, tmp_path):
    with pytest.raises(UserError, match="decoder_embed_dim is 30 and transformers takes only"):
        HuggingFace().write(make_source(TINY.replace(decoder_embed_dim=30)), tmp_path)
    assert list(tmp_path.iterdir()) == []
