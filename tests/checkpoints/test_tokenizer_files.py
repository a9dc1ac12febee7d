"""JSON files of a Hugging Face tokenizer against the ids of the sentencepiece model."""

from __future__ import annotations

import json

import pytest

from openba_jax.checkpoints.tokenizer_files import (
    check_tokenizer_files,
    find_tokenizer,
    write_tokenizer,
)
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError

PIECES = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = [f"The square of {i} is {i * i}, its cube is {i**3}." for i in range(300)]
    return train_vocabulary(texts, PIECES, tmp_path_factory.mktemp("model") / "t.model").path


@pytest.fixture
def folder(model, tmp_path):
    write_tokenizer(model, tmp_path, 512, 512)
    return tmp_path


def change(folder, name, **values):
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


def fast(vocabulary):
    pieces = vocabulary.pieces(range(PIECES))
    return {
        "model": {"type": "Unigram", "vocab": [[piece, -1.0] for piece in pieces]},
        "added_tokens": [
            {"content": token, "id": i} for token, i in vocabulary.special_tokens().items()
        ],
    }


@pytest.mark.parametrize("newline", [False, True])
def test_what_is_written_agrees(model, tmp_path, newline):
    vocabulary = OpenBAVocabulary(model, newline=newline)
    source = tmp_path / "source.model"
    source.write_bytes(model.read_bytes())
    if newline:
        source.with_name("source_settings.json").write_text('{"newline": true}')
    folder = tmp_path / "folder"
    folder.mkdir()
    write_tokenizer(source, folder, 512, 512)
    change(folder, "tokenizer.json", **fast(vocabulary))
    decoder = {str(i): {"content": token} for token, i in vocabulary.special_tokens().items()}
    change(folder, "tokenizer_config.json", added_tokens_decoder=decoder)
    assert check_tokenizer_files(folder, vocabulary) == []
    assert find_tokenizer(folder, "openba") == folder / "spiece.model"
    assert OpenBAVocabulary(folder / "spiece.model").newline == newline
    assert ("\n" in json.loads((folder / "added_tokens.json").read_text())) == newline


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("added_tokens.json", {"<S>": 402}, r"added_tokens.json gives '<S>' the id 402, .* id 401"),
        ("added_tokens.json", {"<sep>": 401}, r"the id 401 to '<sep>', and .* to '<S>'"),
        ("added_tokens.json", {"<sep>": 5}, r"the id 5 to '<sep>', and .* to '<0x02>'"),
        ("added_tokens.json", {"\n": 403}, "the newline as a token, with id 403"),
        ("added_tokens.json", {"<S>": "many"}, "Hugging Face.s form"),
        ("added_tokens.json", {"<S>": None}, "Hugging Face.s form"),
        (
            "tokenizer.json",
            {"added_tokens": [{"content": "<extra_id_0>", "id": 300}]},
            r"tokenizer.json gives '<extra_id_0>' the id 300, and spiece.model the id 399",
        ),
        (
            "tokenizer.json",
            {"model": {"vocab": [["<pad>", 0], ["<unk>", 0], ["</s>", 0]]}},
            r"gives '<unk>' the id 1, and spiece.model the id 2",
        ),
        ("tokenizer.json", {"model": {"vocab": {"<pad>": 3}}}, "'<pad>' the id 3"),
        ("tokenizer.json", {"model": []}, "Hugging Face.s form"),
        ("tokenizer.json", {"added_tokens": [{"id": 3}]}, "Hugging Face.s form"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"0": {"content": "</s>"}}},
            r"tokenizer_config.json gives '</s>' the id 0, and spiece.model the id 1",
        ),
        ("tokenizer_config.json", {"extra_ids": 10}, "has 10 extra_ids"),
        ("tokenizer_config.json", {"eos_token": "<S>"}, r"'<S>' \(id 401\) as eos_token"),
        (
            "special_tokens_map.json",
            {"pad_token": {"content": "[PAD]"}},
            r"'\[PAD\]' \(id unknown\) as pad_token",
        ),
    ],
)
def test_contradictions_are_refused(folder, name, values, message):
    change(folder, name, **values)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=message):
        find_tokenizer(folder, "openba")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, "\x00"])
def test_files_that_are_no_json(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer.json (cannot be read|holds no JSON)"):
        find_tokenizer(folder, "openba")


def test_harmless_differences_are_said(folder, caplog):
    change(folder, "added_tokens.json", **{"<sep>": 450})
    change(folder, "tokenizer_config.json", do_lower_case=True)
    assert find_tokenizer(folder, "openba") == folder / "spiece.model"
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"{folder}/added_tokens.json: the token '<sep>', id 450, is text like any other here.",
        f"{folder}/tokenizer_config.json: do_lower_case=True has no effect here.",
    ]


def test_a_tokenizer_without_its_model_is_said(folder, caplog):
    (folder / "spiece.model").unlink()
    assert find_tokenizer(folder, "openba") is None
    assert (
        "but no spiece.model or tokenizer.json, so the model is read without a tokenizer"
        in caplog.text
    )


def test_a_folder_without_a_tokenizer(tmp_path, caplog):
    assert find_tokenizer(tmp_path, "openba") is None
    assert not caplog.records


def test_too_few_rows(model, tmp_path):
    with pytest.raises(UserError, match="has 300 pieces and needs 403 ids"):
        write_tokenizer(model, tmp_path, 384, 512)
    assert not list(tmp_path.iterdir())
