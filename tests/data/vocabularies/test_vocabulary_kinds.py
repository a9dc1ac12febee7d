"""Vocabularies of every kind: which file is which, and what special tokens become."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import sentencepiece

from openba_jax.data.vocabularies.registry import open_vocabulary, save_tokenizer
from openba_jax.data.vocabularies.settings import (
    TokenizerSettings,
    read_settings,
    settings_path,
    write_settings,
)
from openba_jax.errors import UserError
from openba_jax.objectives.denoising import Denoiser
from openba_jax.objectives.token_rows import TokenRows

NAMES = ["gemma", "llama", "llama3", "smollm"]
T5 = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def trained(path, settings=None, **options):
    """A sentencepiece model of about 80 pieces, and its settings."""
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice([*"abcdefgh"], 4)) for _ in range(8)) for _ in range(99)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=options.pop("vocab_size", 80),
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    write_settings(path, settings or TokenizerSettings())
    return path


@pytest.fixture
def golden(golden_dir):
    return golden_dir("tokenizers", "llama3")


def tokenizer_of(folder):
    return next(
        folder / name for name in ("tokenizer.model", "tokenizer.json") if (folder / name).exists()
    )


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_transformers(golden, name):
    vocabulary = open_vocabulary(tokenizer_of(golden / name))
    cases = (golden / name / "ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(cases) > 30
    for case in map(json.loads, cases):
        assert vocabulary.encode(case["text"], case["special"]) == case["ids"], case


@pytest.mark.parametrize("name", NAMES)
def test_text_is_text(golden, name):
    vocabulary = open_vocabulary(tokenizer_of(golden / name))
    for token, i in vocabulary.special_tokens().items():
        text = f"a{token}b {token}{token}"
        ids = vocabulary.encode(text)
        assert i not in ids, token
        if not token.startswith("<unk"):
            assert vocabulary.decode(ids) == text
        parsed = vocabulary.encode(text, parse_special=True)
        assert parsed.count(i) == 3
        assert vocabulary.decode(parsed) == text
        assert vocabulary.decode(parsed, skip_special_tokens=True) == "ab "
        assert vocabulary.special_in(text) == [token] * 3
    assert vocabulary.special_in("a < b | c") == []


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_batches_give_the_same(golden, name):
    vocabulary = open_vocabulary(tokenizer_of(golden / name))
    texts = ["a b", "", "</s> <|im_end|>x", "  y\n"]
    for special in (False, True):
        expected = [vocabulary.encode(text, special) for text in texts]
        for threads in (1, -1):
            arrays = vocabulary.encode_arrays(texts, special, threads)
            assert [array.dtype for array in arrays] == [np.int32] * 4
            assert [array.tolist() for array in arrays] == expected
    with pytest.raises(UserError, match="half of a surrogate pair"):
        vocabulary.encode("a\ud800")


@pytest.mark.parametrize("name", NAMES)
def test_saved_again_it_is_the_same(golden, name, tmp_path):
    vocabulary = open_vocabulary(tokenizer_of(golden / name))
    again = open_vocabulary(save_tokenizer(tmp_path, vocabulary))
    assert again.path.name == vocabulary.path.name
    assert (again.fingerprint, again.settings) == (vocabulary.fingerprint, vocabulary.settings)
    assert (again.pad_id, again.bos_id, again.stop_ids) == (
        vocabulary.pad_id,
        vocabulary.bos_id,
        vocabulary.stop_ids,
    )


def test_roles(golden):
    llama = open_vocabulary(golden / "llama" / "tokenizer.model")
    assert (llama.unk_id, llama.bos_id, llama.eos_id, llama.pad_id) == (0, 1, 2, 0)
    assert (llama.kind, llama.adds_bos, llama.size) == ("sentencepiece", True, llama.piece_count)
    gemma = open_vocabulary(golden / "gemma" / "tokenizer.model")
    assert (gemma.pad_id, gemma.eos_id, gemma.bos_id, gemma.unk_id) == (0, 1, 2, 3)
    llama3 = open_vocabulary(golden / "llama3" / "tokenizer.json")
    names = llama3.special_tokens()
    assert llama3.bos_id == names["<|endoftext|>"] >= llama3.piece_count
    assert llama3.eos_id == llama3.pad_id == names["<|im_end|>"]
    assert (llama3.kind, llama3.adds_bos, llama3.unk_id) == ("json", True, None)
    # `[INST]` is an added token that is not special: it is found in every text.
    assert "[INST]" not in names
    assert len(llama3.encode("[INST]")) == 1
    assert llama3.token_count == llama3.piece_count + 4
    smollm = open_vocabulary(golden / "smollm" / "tokenizer.json")
    assert (smollm.bos_id, smollm.eos_id, smollm.adds_bos) == (0, 2, False)
    assert smollm.token_count == smollm.piece_count


def test_ids_that_no_token_has(golden):
    llama = open_vocabulary(golden / "llama" / "tokenizer.model")
    assert llama.decode([llama.size + 5]) == llama.decode([0]) == "<unk>"
    llama3 = open_vocabulary(golden / "llama3" / "tokenizer.json")
    ids = llama3.encode("ab")
    assert llama3.decode([*ids, llama3.size, *ids, -1]) == "ab\ufffdab\ufffd"
    with pytest.raises(UserError, match="embedding has 400 rows"):
        llama3.check_rows(400)
    llama3.check_rows(llama3.size)


def test_t5_has_its_sentinels_behind_the_pieces(tmp_path):
    path = trained(tmp_path / "spiece.model", TokenizerSettings(kind="t5"), **T5)
    vocabulary = open_vocabulary(path)
    pieces = vocabulary.piece_count
    assert (vocabulary.kind, vocabulary.size) == ("t5", pieces + 100)
    assert vocabulary.sentinels.tolist() == list(range(pieces + 99, pieces - 1, -1))
    assert vocabulary.sentinel(0) == pieces + 99
    assert vocabulary.encode("<extra_id_0></s>", parse_special=True) == [pieces + 99, 1]
    with pytest.raises(UserError, match="no token for the prefix <R>"):
        _ = vocabulary.r_id
    with pytest.raises(ValueError, match="<extra_id_100>"):
        vocabulary.sentinel(100)
    # Rows that T5's embedding has beyond them serve for prefixes, if the settings name them.
    named = TokenizerSettings(kind="t5", special=("<R>",), prefixes={"R": "<R>"})
    write_settings(path, named)
    assert open_vocabulary(path).r_id == pieces + 100
    assert open_vocabulary(path).size == pieces + 101


def test_t5_may_have_pieces_for_its_sentinels(tmp_path):
    own = [f"<extra_id_{k}>" for k in range(99, -1, -1)]
    path = trained(
        tmp_path / "spiece.model",
        TokenizerSettings(kind="t5"),
        **T5,
        vocab_size=180,
        user_defined_symbols=own,
    )
    vocabulary = open_vocabulary(path)
    assert vocabulary.size == vocabulary.piece_count
    assert vocabulary.sentinels.tolist() == list(range(102, 2, -1))
    assert vocabulary.encode("ab<extra_id_3>", parse_special=True)[-1] == vocabulary.sentinel(3)
    assert vocabulary.sentinel(3) not in vocabulary.encode("ab<extra_id_3>")


def test_the_kind_is_what_the_settings_say(tmp_path):
    path = trained(tmp_path / "tokenizer.model", **T5)
    assert open_vocabulary(path).kind == "openba"
    write_settings(path, TokenizerSettings(kind="t5"))
    assert open_vocabulary(path).kind == "t5"
    write_settings(path, TokenizerSettings(kind="sentencepiece"))
    assert open_vocabulary(path).kind == "sentencepiece"
    for kind, message in (("bert", "those that there are: openba, t5"), ("json", "is not of")):
        write_settings(path, TokenizerSettings(kind=kind))
        with pytest.raises(UserError, match=message):
            open_vocabulary(path)
    write_settings(path, TokenizerSettings(kind="t5", newline=True))
    with pytest.raises(UserError, match="newline is no token of its own"):
        open_vocabulary(path)


def test_denoising_with_sentinels_of_other_names(golden, tmp_path):
    shutil.copytree(golden / "gemma", tmp_path / "gemma")
    path = tmp_path / "gemma" / "tokenizer.model"
    plain = Denoiser(None, 0.3, 3.0)
    rows = TokenRows(np.arange(20, 60, dtype=np.int32)[None], np.array([40]))
    keys = np.zeros(1, np.uint64)
    with pytest.raises(UserError, match="has no sentinels"):
        plain(rows, keys, open_vocabulary(path), 64, 64)
    sentinels = ("<unused0>", "<unused1>")
    write_settings(path, TokenizerSettings(sentinels=sentinels))
    vocabulary = open_vocabulary(path)
    assert vocabulary.special_tokens().keys() >= {*sentinels}
    with pytest.raises(UserError, match="4 spans and there are 2 sentinels"):
        plain(rows, keys, vocabulary, 64, 64)
    found = Denoiser(None, 0.1, 2.0)(rows, keys, vocabulary, 64, 64)
    first, second = vocabulary.sentinels.tolist()
    targets = found["targets"][0].tolist()
    assert targets[0] == first
    assert targets.count(second) == 1
    assert vocabulary.eos_id in targets
    with pytest.raises(UserError, match="no token for the prefix <S>"):
        Denoiser("S", 0.1, 2.0)(rows, keys, vocabulary, 64, 64)


def test_tokens_behind_a_sentencepiece_model(golden, tmp_path):
    shutil.copytree(golden / "llama", tmp_path / "llama")
    path = tmp_path / "llama" / "tokenizer.model"
    settings = TokenizerSettings(special=("<pad>", "<end>"), pad="<pad>", stop=("<end>",))
    write_settings(path, settings)
    vocabulary = open_vocabulary(path)
    pieces = vocabulary.piece_count
    assert (vocabulary.pad_id, vocabulary.size) == (pieces, pieces + 2)
    assert vocabulary.stop_ids == (2, pieces + 1)
    assert vocabulary.encode("a<end>", parse_special=True)[-1] == pieces + 1
    assert read_settings(path) == settings
    write_settings(path, TokenizerSettings(pad="[PAD]"))
    with pytest.raises(UserError, match=r"name the token '\[PAD\]'"):
        open_vocabulary(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"eos": 3}, "it should be a text"),
        ({"stop": ["a", "a"]}, "each once"),
        ({"prefixes": {"Q": "a"}}, "by the names R, S and X"),
        ({"adds_bos": 1}, "true or false"),
        ({"tokenizer_config": []}, "an object"),
        ({"end": "x"}, "not known: end"),
    ],
)
def test_settings_of_no_form(golden, tmp_path, content, message):
    shutil.copy(golden / "llama" / "tokenizer.model", tmp_path / "tokenizer.model")
    settings_path(tmp_path / "tokenizer.model").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_vocabulary(tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "no model with a vocab"),
        ('{"model": {"vocab": {"a": 0}}}', "is no tokenizer.json: "),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_vocabulary(tmp_path / "tokenizer.json")


def test_a_text_must_end(golden, tmp_path):
    shutil.copy(golden / "llama3" / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match='name it as "eos" in the settings'):
        open_vocabulary(tmp_path / "tokenizer.json")


def test_special_pieces_of_a_unigram_file_are_no_text(tmp_path):
    """As in T5's: `</s>` is a piece with the best score of all."""
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0]]
    pieces += [[c, -3.0] for c in "</s>ab"]
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 2,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": None,
        "added_tokens": [
            {"id": i, "content": pieces[i][0], "special": True, **token} for i in range(3)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    write_settings(path, TokenizerSettings(eos="</s>", pad="<pad>"))
    vocabulary = open_vocabulary(path)
    assert vocabulary.pieces(vocabulary.encode("a</s>b")) == ["▁", *"a</s>b"]
    assert vocabulary.encode("a</s>", parse_special=True)[-1] == 1
    assert vocabulary.unk_id == 2
    assert vocabulary.decode(vocabulary.encode("a</s>b")) == "a</s>b"
