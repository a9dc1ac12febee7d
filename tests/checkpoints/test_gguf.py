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
from openba_jax.models import registry
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


@pytest.fixture(scope="module")
def t5_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model as T5's: padding 0, eos 1, unknown 2; sentinels come behind it."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("t5_tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog 0123456789"] * 50),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=60,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
        hard_vocab_limit=False,
    )
    write_settings(folder / "tokenizer.model", TokenizerSettings(kind="t5"))
    return folder / "tokenizer.model"


def checkpoint_of(tokenizer: Path, name: str = "tiny_llama", **changes: Any) -> MemoryCheckpoint:
    rows = -(-open_vocabulary(tokenizer).token_count // 32) * 32
    checkpoint = MemoryCheckpoint(named_config(name, vocab_size=rows, **changes))
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


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tiny_t5_1_1", {"decoder_layers": 2}),
        ("tiny_t5_1_1", {"encoder_layers": 4, "decoder_layers": 1, "relpos_buckets": 16}),
        ("tiny_t5", {"decoder_layers": 2, "scale_tied_logits": False}),
    ],
    ids=["a head of its own", "a deep encoder", "tied"],
)
def test_t5_is_read_back(
    tmp_path: Path, t5_tokenizer: Path, name: str, changes: dict[str, Any]
) -> None:
    source = checkpoint_of(t5_tokenizer, name, **changes)
    Gguf("F32").write(source, tmp_path)
    again = open_checkpoint(tmp_path)
    # Of a head of its own no file says how a tied one would be scaled.
    unscaled = source.model.config.replace(scale_tied_logits=False)
    assert again.model.config.conflicts(unscaled) == {}
    jax.tree.map(np.testing.assert_array_equal, load_tree(again), load_tree(source))
    assert again.tokenizer is not None
    ours, theirs = open_vocabulary(t5_tokenizer), open_vocabulary(again.tokenizer)
    text = "the fox  jumps ﬁne\nover 42 dogs 狐狸"
    assert theirs.kind == "t5"
    assert theirs.encode(text) == ours.encode(text)
    np.testing.assert_array_equal(theirs.sentinels, ours.sentinels)
    assert (theirs.pad_id, theirs.eos_id, theirs.unk_id) == (0, 1, 2)


def test_the_scale_of_tied_logits_moves_into_the_last_norm(
    tmp_path: Path, t5_tokenizer: Path
) -> None:
    source = checkpoint_of(t5_tokenizer, "tiny_t5", decoder_layers=2)
    Gguf("F32").write(source, tmp_path)
    again = open_checkpoint(tmp_path)
    assert again.model.config.conflicts(source.model.config).keys() == {"scale_tied_logits"}
    rows = np.arange(24, dtype=np.int32).reshape(2, 12) + 1
    batch = {"encoder_input_tokens": rows, "decoder_input_tokens": rows[:, :5]}

    def logits(checkpoint: Any) -> np.ndarray:
        model, params = checkpoint.model, load_tree(checkpoint)
        return np.asarray(model.head(params).logits(model.hidden(params, batch)))

    # Sums in another order, nothing more.
    np.testing.assert_allclose(logits(again), logits(source), rtol=1e-5, atol=1e-5)


def test_tied_logits_of_other_writers_are_scaled(
    tmp_path: Path, t5_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint_of(t5_tokenizer, "tiny_t5", decoder_layers=2)
    mapping = registry.family("t5").gguf
    assert mapping is not None
    # llama.cpp's converter writes the norm as it is, and no scale.
    metadata = mapping.metadata(source.model.config)
    del metadata["t5.logit_scale"]
    monkeypatch.setattr(type(mapping), "metadata", lambda *_: dict(metadata))
    monkeypatch.setattr(type(mapping), "factor", lambda *_: 1.0)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "scaled").mkdir()
    Gguf("F32").write(source, tmp_path / "theirs")
    again = open_checkpoint(tmp_path / "theirs")
    assert again.model.config.conflicts(source.model.config) == {}
    jax.tree.map(np.testing.assert_array_equal, load_tree(again), load_tree(source))
    metadata["t5.logit_scale"] = 0.5
    Gguf("F32").write(source, tmp_path / "scaled")
    with pytest.raises(UserError, match=r"t5\.logit_scale is 0\.5; it is 1\.0 in every T5 here"):
        open_checkpoint(tmp_path / "scaled")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_activation": "silu"}, "llama.cpp's T5 knows 'gelu' there"),
        ({"gated_mlp": False}, "llama.cpp's T5 knows 'relu' there"),
        ({"decoder_layers": 5}, "the decoder has 5 layers and the encoder 2"),
        ({"relpos_max_distance": 64}, "relpos_max_distance is 64"),
        ({"shared_relpos": False}, "GGUF holds one for all"),
    ],
)
def test_what_llama_cpp_has_not_in_t5_is_refused(
    tmp_path: Path, t5_tokenizer: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Gguf().write(checkpoint_of(t5_tokenizer, "tiny_t5_1_1", **changes), tmp_path)
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(UserError, match=r"architecture is 'llamb'; those that.*'llama'"):
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
