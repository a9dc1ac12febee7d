"""What Hugging Face's files beside a tokenizer say of it."""

from __future__ import annotations

import json
import shutil

import pytest

from openba_jax.data.vocabularies.registry import open_vocabulary, settings_of
from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError


@pytest.fixture
def folder(golden_dir, tmp_path):
    """The file of LLaMA 3's kind, without settings."""
    source = golden_dir("tokenizers", "llama3") / "llama3" / "tokenizer.json"
    shutil.copy(source, tmp_path / "tokenizer.json")
    return tmp_path


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_roles_by_name(folder):
    write(
        folder,
        tokenizer_config={
            "bos_token": "<|endoftext|>",
            "eos_token": {"content": "<|im_end|>", "lstrip": False},
            "add_bos_token": False,
            "chat_template": "{{ x }}",
            "added_tokens_decoder": {"450": {"content": "<|endoftext|>"}},
            "name_or_path": "somewhere",
        },
        config={"model_type": "llama", "eos_token_id": 5},
    )
    vocabulary = open_vocabulary(folder / "tokenizer.json")
    names = vocabulary.special_tokens()
    assert (vocabulary.bos_id, vocabulary.eos_id) == (names["<|endoftext|>"], names["<|im_end|>"])
    assert not vocabulary.adds_bos
    kept = vocabulary.settings.tokenizer_config
    assert kept["chat_template"] == "{{ x }}"
    assert not {"added_tokens_decoder", "name_or_path"} & kept.keys()
    (folder / "chat_template.jinja").write_text("{{ y }}")
    kept = settings_of(folder / "tokenizer.json").tokenizer_config
    assert kept["chat_template"] == "{{ y }}"


def test_roles_by_id(folder):
    write(folder, tokenizer_config={})
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    write(folder, config={"model_type": "llama"}, generation_config={"eos_token_id": ends})
    vocabulary = open_vocabulary(folder / "tokenizer.json")
    assert vocabulary.stop_ids == tuple(ends)
    assert vocabulary.bos_id is None
    assert vocabulary.pad_id == vocabulary.eos_id


def test_settings_of_ones_own_come_first(folder):
    write(
        folder, tokenizer_config={"eos_token": "<|im_end|>"}, tokenizer_settings={"eos": "[INST]"}
    )
    assert settings_of(folder / "tokenizer.json") == TokenizerSettings(eos="[INST]")


def test_a_model_folder_is_not_hugging_faces(folder):
    write(folder, config={"family": "openba"})
    assert settings_of(folder / "tokenizer.json") == TokenizerSettings()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config": {"model_type": "t5"}}, "t5"),
        ({"config": {"model_type": "mt5"}}, "t5"),
        ({"tokenizer_config": {"tokenizer_class": "T5TokenizerFast"}}, "t5"),
        ({"config": {"model_type": "openba"}}, None),
        ({"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}}, None),
    ],
)
def test_the_kind_of_a_sentencepiece_model(tmp_path, files, kind):
    write(tmp_path, **files)
    assert settings_of(tmp_path / "spiece.model").kind == kind


def test_tokens_beside_a_sentencepiece_model(golden_dir, tmp_path):
    source = golden_dir("tokenizers", "llama") / "llama" / "tokenizer.model"
    shutil.copy(source, tmp_path / "tokenizer.model")
    pieces = open_vocabulary(tmp_path / "tokenizer.model").piece_count
    write(tmp_path, added_tokens={"<pad>": pieces}, tokenizer_config={"pad_token": "<pad>"})
    vocabulary = open_vocabulary(tmp_path / "tokenizer.model")
    assert (vocabulary.pad_id, vocabulary.size) == (pieces, pieces + 1)
    write(tmp_path, tokenizer_config=[])
    with pytest.raises(UserError, match="holds no JSON object"):
        open_vocabulary(tmp_path / "tokenizer.model")
