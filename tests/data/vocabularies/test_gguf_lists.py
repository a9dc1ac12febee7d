"""GGUF's lists in place of a tokenizer's file."""

from __future__ import annotations

import json

import pytest

from openba_jax.data.vocabularies.gguf import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    gguf_fields,
    tokenizer_json_from_gguf,
)
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.data.vocabularies.settings import write_settings
from openba_jax.errors import UserError

TEXTS = ["Hello 2024\n", "你好 😀", "  a\tb", "Don't <|im_end|>", "x<|im_start|>y [INST]"]


@pytest.fixture
def golden(golden_dir):
    return golden_dir("tokenizers", "smollm")


def test_there_and_back(golden, tmp_path):
    vocabulary = open_vocabulary(golden / "smollm" / "tokenizer.json")
    fields = gguf_fields(vocabulary)
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert len(fields["tokenizer.ggml.tokens"]) == vocabulary.token_count
    assert fields["tokenizer.ggml.token_type"].count(CONTROL) == 3
    text, settings = tokenizer_json_from_gguf({**fields, "tokenizer.chat_template": "{{ x }}"})
    path = tmp_path / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    write_settings(path, settings)
    again = open_vocabulary(path)
    for special in (False, True):
        assert again.encode_all(TEXTS, special) == vocabulary.encode_all(TEXTS, special)
    assert (again.bos_id, again.stop_ids) == (vocabulary.bos_id, vocabulary.stop_ids)
    assert gguf_fields(again) == {**fields, "tokenizer.chat_template": "{{ x }}"} | {
        "tokenizer.ggml.padding_token_id": again.pad_id
    }


def test_words_that_need_no_merges(golden, tmp_path):
    vocabulary = open_vocabulary(golden / "llama3" / "tokenizer.json")
    with pytest.raises(UserError, match="has a name for"):
        gguf_fields(vocabulary)  # Its pattern is a shorter one than LLaMA 3's own.
    content = json.loads(vocabulary.path.read_text(encoding="utf-8"))
    fields = {
        **gguf_fields(open_vocabulary(golden / "smollm" / "tokenizer.json")),
        "tokenizer.ggml.pre": "llama-bpe",
    }
    made, settings = tokenizer_json_from_gguf(fields)
    assert json.loads(made)["model"]["ignore_merges"] == content["model"]["ignore_merges"]
    (tmp_path / "tokenizer.json").write_text(made)
    write_settings(tmp_path / "tokenizer.json", settings)
    again = gguf_fields(open_vocabulary(tmp_path / "tokenizer.json"))
    assert again["tokenizer.ggml.pre"] == "llama-bpe"


@pytest.mark.parametrize(("name", "model"), [("llama", "llama"), ("gemma", "llama")])
def test_sentencepiece(golden, name, model):
    vocabulary = open_vocabulary(golden / name / "tokenizer.model")
    fields = gguf_fields(vocabulary)
    assert fields["tokenizer.ggml.model"] == model
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert tokens == vocabulary.pieces(range(vocabulary.piece_count))
    assert len(fields["tokenizer.ggml.scores"]) == len(types) == vocabulary.token_count
    assert fields["tokenizer.ggml.add_space_prefix"] == (name == "llama")
    assert fields["tokenizer.ggml.bos_token_id"] == vocabulary.bos_id
    special = vocabulary.special_tokens()
    assert all(types[i] == CONTROL for token, i in special.items() if token != "<unk>")
    assert (USER_DEFINED in types) == (name == "gemma")  # <unused0>


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "only gpt2"),
        ({"tokenizer.ggml.merges": None}, "no list tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["a qqq"]}, "no tokens of it"),
        ({"tokenizer.ggml.token_type": [NORMAL]}, "and 1 types"),
        ({"tokenizer.ggml.pre": "unheard"}, "known are command-r, default"),
        ({"tokenizer.ggml.eos_token_id": None}, "which token ends a text"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "has bos 1000000"),
    ],
)
def test_lists_that_do_not_fit(golden, changes, message):
    fields = gguf_fields(open_vocabulary(golden / "smollm" / "tokenizer.json"))
    with pytest.raises(UserError, match=message):
        tokenizer_json_from_gguf({**fields, **changes})
