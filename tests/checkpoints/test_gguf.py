"""GGUF: what is written is read back, and is what Hugging Face's folder holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.files.gguf_file import (
    deinterleaved,
    interleaved,
    read_gguf,
    stored_type,
    write_gguf,
)
from openba_jax.checkpoints.formats.gguf import FILE, Gguf
from openba_jax.checkpoints.registry import detect, open_checkpoint
from openba_jax.data.vocabularies.registry import open_vocabulary, save_tokenizer
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.errors import UserError
from openba_jax.models.registry import named_config

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

VARIANTS = {
    "many heads": {},
    "grouped": {"num_kv_heads": 2, "tie_embeddings": True, "head_dim": 16},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "llama3": {
        "rope_scaling": "llama3",
        "rope_factor": 32.0,
        "rope_theta": 500_000.0,
        "head_dim": 16,
    },
    "linear": {"rope_scaling": "linear", "rope_factor": 4.0},
    "qwen2": {"model_type": "qwen2", "num_kv_heads": 2, "qkv_bias": True},
    "qwen3": {"model_type": "qwen3", "qk_norm": True},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model as LLaMA's: unknown 0, bos 1, eos 2, byte fallback."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog 0123456789"] * 50),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    write_settings(folder / "tokenizer.model", TokenizerSettings(bos="<s>", eos="</s>"))
    return folder / "tokenizer.model"


def checkpoint_of(tokenizer: Path, **changes: Any) -> MemoryCheckpoint:
    rows = -(-open_vocabulary(tokenizer).token_count // 32) * 32
    checkpoint = MemoryCheckpoint(named_config("tiny_llama", vocab_size=rows, **changes))
    checkpoint.tokenizer = tokenizer
    return checkpoint


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_what_is_written_is_read_back(
    tmp_path: Path, tokenizer: Path, changes: dict[str, Any]
) -> None:
    source = checkpoint_of(tokenizer, **changes)
    Gguf("F32").write(source, tmp_path)
    assert detect(tmp_path).name == detect(tmp_path / FILE).name == "gguf"
    again = open_checkpoint(tmp_path / FILE)
    assert again.model.config.conflicts(source.model.config) == {}
    jax.tree.map(np.testing.assert_array_equal, load_tree(again), load_tree(source))
    text = "the fox  jumps\nover 42 dogs 狐狸"
    assert again.tokenizer is not None
    ours, theirs = open_vocabulary(tokenizer), open_vocabulary(again.tokenizer)
    assert theirs.encode(text) == ours.encode(text)
    assert (theirs.bos_id, theirs.eos_id) == (ours.bos_id, ours.eos_id)


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 0.0), ("Q8_0", 1 / 127)])
def test_types(tmp_path: Path, tokenizer: Path, kind: Any, tolerance: float) -> None:
    source = checkpoint_of(tokenizer)
    Gguf(kind).write(source, tmp_path)
    _, tensors = read_gguf(tmp_path / FILE)
    number = int(gguf.GGMLQuantizationType[kind])
    assert {tensor.kind for tensor in tensors.values()} == {0, number}
    for found, given in zip(
        jax.tree.leaves(load_tree(open_checkpoint(tmp_path))),
        jax.tree.leaves(load_tree(source)),
        strict=True,
    ):
        np.testing.assert_allclose(found, given, atol=tolerance, rtol=0)


def test_vectors_stay_exact_and_odd_rows_are_not_cut_into_blocks() -> None:
    assert stored_type((64,), "Q8_0") == "F32"
    assert stored_type((8, 64), "Q8_0") == "Q8_0"
    assert stored_type((8, 48), "Q8_0") == "F16"


def test_pairs() -> None:
    rows = np.arange(12.0, dtype=np.float32)[:, None]
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    np.testing.assert_array_equal(deinterleaved(interleaved(rows, 2), 2), rows)


def test_what_cannot_be_said_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    def refused(message: str, checkpoint: MemoryCheckpoint) -> None:
        with pytest.raises(UserError, match=message):
            Gguf().write(checkpoint, tmp_path)
        assert not list(tmp_path.iterdir())

    refused("llama.cpp's network of this architecture", checkpoint_of(tokenizer, sliding_window=4))
    without = checkpoint_of(tokenizer)
    without.tokenizer = None
    refused("give one with --tokenizer", without)
    refused("the family openba has no GGUF format", MemoryCheckpoint(named_config("tiny")))


def test_damage_is_named(tmp_path: Path, tokenizer: Path) -> None:
    Gguf().write(checkpoint_of(tokenizer), tmp_path)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"is no GGUF file, or is damaged|ends within"):
        open_checkpoint(tmp_path)
    (tmp_path / FILE).write_bytes(content.replace(b"llama", b"llamb"))
    with pytest.raises(UserError, match="architecture is 'llamb'; those that can be read: 'llama'"):
        open_checkpoint(tmp_path)
    (tmp_path / FILE).write_bytes(content)
    shutil.copy(tmp_path / FILE, tmp_path / "other.gguf")
    with pytest.raises(UserError, match="holds 2 GGUF files"):
        open_checkpoint(tmp_path)


def edited(folder: Path, **changes: Any) -> Path:
    """The file of a folder with other metadata, `__` for a dot; None takes a key out."""
    metadata, tensors = read_gguf(folder / FILE)
    kept = {key: value for key, value in metadata.items() if not key.startswith("GGUF.")}
    for end, value in changes.items():
        key = end.replace("__", ".")
        kept[key if key.startswith("tokenizer.") else f"llama.{key}"] = value
    kept = {key: value for key, value in kept.items() if value is not None}
    plan = {name: (tensor.shape, "F32") for name, tensor in tensors.items()}
    write_gguf(folder / "edited.gguf", kept, plan, lambda name: tensors[name].read())
    return folder / "edited.gguf"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": "three"}, "metadata of a wrong type or value: invalid literal"),
        ({"block_count": None}, "lacks llama.block_count"),
        ({"attention__head_count": 0}, "metadata of a wrong type or value"),
        ({"attention__head_count": [4, 4, 4]}, "metadata of a wrong type or value"),
        ({"rope__dimension_count": 4}, "rope.dimension_count is 4 of 8; only whole heads"),
        ({"rope__scaling__type": "yarn"}, "type is 'yarn'; 'linear' can be read"),
        ({"tokenizer__ggml__model": "bert"}, "edited.gguf, tokenizer: .* model 'bert'"),
        ({"tokenizer__ggml__eos_token_id": 9999}, "edited.gguf, tokenizer: .* has eos 9999"),
    ],
)
def test_metadata_that_cannot_be_read(
    tmp_path: Path, tokenizer: Path, changes: dict[str, Any], message: str
) -> None:
    Gguf("F32").write(checkpoint_of(tokenizer), tmp_path)
    with pytest.raises(UserError, match=message):
        open_checkpoint(edited(tmp_path, **changes))


def test_a_factor_without_a_type_is_linear(tmp_path: Path, tokenizer: Path) -> None:
    Gguf("F32").write(checkpoint_of(tokenizer), tmp_path)
    for key in ("rope__scaling__factor", "rope__scale_linear"):
        config = open_checkpoint(edited(tmp_path, **{key: 4.0})).model.config
        assert (config.rope_scaling, config.rope_factor) == ("linear", 4.0)


def test_a_file_without_tokenizer(tmp_path: Path, tokenizer: Path, caplog) -> None:
    Gguf("F32").write(checkpoint_of(tokenizer), tmp_path)
    path = edited(tmp_path, tokenizer__ggml__model=None)
    assert open_checkpoint(path).tokenizer is None
    assert "has no tokenizer, so the model is read without one" in caplog.text


def test_save_tokenizer_keeps_what_gguf_said(tmp_path: Path, tokenizer: Path) -> None:
    Gguf().write(checkpoint_of(tokenizer), tmp_path)
    again = open_checkpoint(tmp_path)
    assert again.tokenizer is not None
    saved = save_tokenizer(tmp_path / "saved", again.tokenizer)
    assert open_vocabulary(saved).stop_ids == open_vocabulary(tokenizer).stop_ids
