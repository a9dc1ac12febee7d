"""Tokenizers of every kind in Hugging Face's folders, and in model folders."""

from __future__ import annotations

import json
import shutil

import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.checkpoints.tokenizer_files import (
    check_tokenizer_files,
    find_tokenizer,
    write_tokenizer,
)
from openba_jax.data.vocabularies.registry import open_vocabulary, settings_of
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config

TEXTS = ["The capital of France.", "  two\n\tlines", "日本 😀", "<|im_end|></s> x"]
MODEL = model_of(named_config("tiny"))


def change(folder, name, **values):
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


@pytest.fixture(params=["gemma", "llama", "llama3", "smollm"])
def path(request, golden_dir):
    folder = golden_dir("tokenizers", "llama3") / request.param
    return next(each for each in folder.iterdir() if each.stem == "tokenizer")


@pytest.fixture
def t5(tmp_path):
    path = tmp_path / "made" / "spiece.model"
    path.parent.mkdir()
    train_vocabulary([f"one and {i} is {i + 1}" for i in range(200)], 280, path)
    write_settings(path, TokenizerSettings(kind="t5"))
    return path


def same(a, b):
    return all(a.encode_all(TEXTS, s) == b.encode_all(TEXTS, s) for s in (False, True)) and (
        a.bos_id,
        a.adds_bos,
        a.stop_ids,
        a.pad_id,
    ) == (b.bos_id, b.adds_bos, b.stop_ids, b.pad_id)


def test_written_and_read(path, tmp_path):
    old = open_vocabulary(path)
    write_tokenizer(path, tmp_path, old.size, 512)
    # What others read says the same as what is read here.
    for file in tmp_path.glob("*_settings.json"):
        file.unlink()
    change(tmp_path, "config.json", model_type="llama")
    found = find_tokenizer(tmp_path, "sentencepiece")
    assert found == tmp_path / path.name
    new = open_vocabulary(found)
    assert check_tokenizer_files(tmp_path, new) == []
    assert same(new, old)
    model_folder.write_metadata(tmp_path / "native", MODEL, tokenizer=found)
    kept = model_folder.tokenizer_path(tmp_path / "native")
    assert kept.name == path.name
    assert same(open_vocabulary(kept), old)
    assert settings_of(kept).tokenizer_config  # All that a folder of Hugging Face has said of it.


def test_t5(t5, tmp_path):
    old = open_vocabulary(t5)
    folder = tmp_path / "written"
    folder.mkdir()
    write_tokenizer(t5, folder, 384, 512)
    (folder / "spiece_settings.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["extra_ids"]) == ("T5Tokenizer", 100)
    assert config["additional_special_tokens"][0] == "<extra_id_0>"
    found = find_tokenizer(folder, "t5")
    assert same(open_vocabulary(found), old)
    with pytest.raises(UserError, match=r"read as .* the kind t5, and the model needs openba"):
        find_tokenizer(folder, "openba")
    change(folder, "tokenizer_config.json", extra_ids=10)
    with pytest.raises(UserError, match="10 extra_ids"):
        find_tokenizer(folder, "t5")


def test_contradictions(path, tmp_path):
    old = open_vocabulary(path)
    write_tokenizer(path, tmp_path, old.size, 512)
    decoder = {str(old.eos_id + 1): {"content": old.pieces([old.eos_id])[0]}}
    change(tmp_path, "tokenizer_config.json", added_tokens_decoder=decoder)
    with pytest.raises(UserError, match="give the files of one tokenizer"):
        find_tokenizer(tmp_path, "sentencepiece")


def test_another_file_of_the_same_tokenizer(golden_dir, tmp_path):
    """LLaMA 2 has `tokenizer.model` and `tokenizer.json`."""
    source = golden_dir("tokenizers", "llama") / "llama" / "tokenizer.model"
    shutil.copy(source, tmp_path)
    vocabulary = open_vocabulary(tmp_path / "tokenizer.model")
    pieces = vocabulary.pieces(range(vocabulary.piece_count))
    model = {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}}
    change(tmp_path, "tokenizer.json", model=model)
    assert find_tokenizer(tmp_path, "sentencepiece") == tmp_path / "tokenizer.model"
    model["vocab"][pieces[300]], model["vocab"][pieces[301]] = 301, 300
    change(tmp_path, "tokenizer.json", model=model)
    with pytest.raises(UserError, match=r"the id 301, and tokenizer.model the id 300"):
        find_tokenizer(tmp_path, "sentencepiece")


def test_a_folder_has_one_tokenizer(golden_dir, tmp_path):
    golden = golden_dir("tokenizers", "llama3")
    for name in ("llama/tokenizer.model", "llama3/tokenizer.json", "gemma/tokenizer.model"):
        model_folder.write_metadata(tmp_path, MODEL, tokenizer=golden / name)
        assert [file.name for file in tmp_path.glob("tokenizer.*")] == [name.split("/")[1]]
        found = model_folder.tokenizer_path(tmp_path)
        assert settings_of(found) == settings_of(golden / name)
        model_folder.check_tokenizer(tmp_path, golden / name)
        with pytest.raises(UserError, match="is not the tokenizer of the model"):
            model_folder.check_tokenizer(tmp_path, golden / "smollm" / "tokenizer.json")


def test_other_settings_make_another_tokenizer(t5, tmp_path):
    model_folder.write_metadata(tmp_path, MODEL, tokenizer=t5)
    model_folder.check_tokenizer(tmp_path, t5)
    write_settings(t5, TokenizerSettings(kind="t5", tokenizer_config={"chat_template": "x"}))
    model_folder.check_tokenizer(tmp_path, t5)
    write_settings(t5, TokenizerSettings())
    with pytest.raises(UserError, match="is not the tokenizer of the model"):
        model_folder.check_tokenizer(tmp_path, t5)


def test_the_family_says_the_kind(t5):
    with pytest.raises(UserError, match=r'family openba need openba; write {"kind": "openba"}'):
        model_folder.check_tokenizer_kind(MODEL, t5)
    write_settings(t5, TokenizerSettings())
    model_folder.check_tokenizer_kind(MODEL, t5)


def test_a_tokenizer_that_no_settings_make_fit(golden_dir):
    plain = golden_dir("tokenizers", "llama3") / "gemma" / "tokenizer.model"
    with pytest.raises(UserError, match=r"kind sentencepiece, .* need openba; give one whose padd"):
        model_folder.check_tokenizer_kind(MODEL, plain)
    for name in ("tiny_llama", "tiny_t5gemma"):
        model_folder.check_tokenizer_kind(model_of(named_config(name)), plain)


def test_a_decoder_with_the_tokenizer_of_openba_comes_back(t5, tmp_path, caplog):
    for settings in (TokenizerSettings(), TokenizerSettings(kind="t5")):
        write_settings(t5, settings)
        vocabulary = open_vocabulary(t5)
        source = MemoryCheckpoint(named_config("tiny_llama", vocab_size=vocabulary.size))
        source.tokenizer = t5
        folder = tmp_path / vocabulary.kind
        folder.mkdir()
        HuggingFace().write(source, folder)
        assert ("tokenization_openba.py in the folder" in caplog.text) == (settings.kind is None)
        caplog.clear()
        again = open_vocabulary(open_checkpoint(folder).tokenizer)
        assert same(again, vocabulary)
        assert again.special_tokens() == vocabulary.special_tokens()


def test_an_encoder_decoder_pads_with_0(tmp_path):
    vocab = {"<end>": 0, "a": 1, "b": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    token = {"id": 0, "content": "<end>", "special": True, "single_word": False}
    token |= {"lstrip": False, "rstrip": False, "normalized": False}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"version": "1.0", "added_tokens": [token], "model": model}))
    write_settings(file, TokenizerSettings(eos="<end>"))
    with pytest.raises(UserError, match="ends texts with the id 0, which is padding in models of"):
        model_folder.check_tokenizer_kind(MODEL, file)
    model_folder.check_tokenizer_kind(model_of(named_config("tiny_llama")), file)


def test_the_vocabulary_is_small_enough(path, tmp_path):
    with pytest.raises(UserError, match="embedding has 100 rows"):
        write_tokenizer(path, tmp_path, 100, 512)
    assert not list(tmp_path.iterdir())
