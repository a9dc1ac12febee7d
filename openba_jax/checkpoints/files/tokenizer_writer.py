"""The JSON files that `transformers` wants beside the file of a tokenizer, for each kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.huggingface_settings import SPECIAL_TOKENS, TOKENIZER_CONFIG
from openba_jax.data.vocabularies.registry import save_tokenizer
from openba_jax.data.vocabularies.sentencepiece_proto import has_dummy_prefix

SPIECE = "spiece.model"
"""The sentencepiece model of T5, OpenBA and others that follow T5."""


def write_json(file: Path, value: Any) -> None:
    """Writes JSON as Hugging Face does: indented, keys sorted."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def write_openba(vocabulary: Vocabulary, folder: Path, max_length: int) -> None:
    """Writes what the original's tokenizer class needs to give the ids that the model knows.

    Args:
      vocabulary: of this kind.
      folder: the Hugging Face folder.
      max_length: longest input, in tokens.
    """
    ids = vocabulary.special_tokens()
    save_tokenizer(folder, vocabulary, SPIECE)
    special = _t5_roles(vocabulary)
    write_json(folder / SPECIAL_TOKENS, special)
    write_json(
        folder / "added_tokens.json",
        {token: number for token, number in ids.items() if token in ("<R>", "<S>", "<X>", "\n")},
    )
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            **special,
            "auto_map": {"AutoTokenizer": ["tokenization_openba.OpenBATokenizer", None]},
            "clean_up_tokenization_spaces": True,
            "extra_ids": len(special["additional_special_tokens"]),
            "model_max_length": max_length,
            "sp_model_kwargs": {},
            "tokenizer_class": "OpenBATokenizer",
        },
    )


def write_t5(vocabulary: Vocabulary, folder: Path, max_length: int) -> None:
    """Writes what `T5Tokenizer` needs; see `write_openba`."""
    save_tokenizer(folder, vocabulary, SPIECE)
    special = _t5_roles(vocabulary)
    behind = {
        token: i for token, i in vocabulary.special_tokens().items() if i >= vocabulary.piece_count
    }
    sentinels = special["additional_special_tokens"]
    further = sorted(behind.keys() - {*sentinels}, key=lambda token: behind[token])
    special["additional_special_tokens"] = sentinels + further
    write_json(folder / SPECIAL_TOKENS, special)
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            **special,
            "added_tokens_decoder": _added_tokens_decoder(vocabulary),
            "clean_up_tokenization_spaces": True,
            "extra_ids": len(sentinels) if sentinels[0] in behind else 0,
            "model_max_length": max_length,
            "tokenizer_class": "T5Tokenizer",
        },
    )


def _t5_roles(vocabulary: Vocabulary) -> dict[str, Any]:
    """The special tokens of T5 and those that follow it; sentinels by falling ids."""
    ids = vocabulary.special_tokens()
    sentinels = [token for token in ids if token.startswith("<extra_id_")]
    sentinels.sort(key=lambda token: -ids[token])
    return {
        "additional_special_tokens": sentinels,
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }


def write_plain(vocabulary: Vocabulary, folder: Path, max_length: int) -> None:
    """Writes what `LlamaTokenizer` or `GemmaTokenizer` needs; see `write_openba`.

    The class is that of the folder that the tokenizer comes from, or the one that treats the space
    before a text as the model does.
    """
    path = save_tokenizer(folder, vocabulary, "tokenizer.model")
    prefixed = has_dummy_prefix(path.read_bytes())
    name = "LlamaTokenizer" if prefixed else "GemmaTokenizer"
    fields = {"legacy": False} if prefixed else {}
    _write_own(vocabulary, folder, {"tokenizer_class": name, **fields}, max_length)


def write_tokenizer_json(vocabulary: Vocabulary, folder: Path, max_length: int) -> None:
    """Writes `tokenizer.json` and the files beside it; see `write_openba`."""
    save_tokenizer(folder, vocabulary, "tokenizer.json")
    defaults = {"tokenizer_class": "PreTrainedTokenizerFast"}
    _write_own(vocabulary, folder, defaults, max_length)


def _write_own(
    vocabulary: Vocabulary, folder: Path, defaults: Mapping[str, Any], max_length: int
) -> None:
    """Writes the files as they came in, with the ids of now."""
    ids, settings = vocabulary.special_tokens(), vocabulary.settings
    names = {i: token for token, i in ids.items()}
    given = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id}
    roles = {f"{role}_token": names[i] for role, i in given.items() if i in names}
    if settings.pad is not None or vocabulary.pad_id not in (vocabulary.unk_id, vocabulary.eos_id):
        roles["pad_token"] = names[vocabulary.pad_id]
    write_json(folder / SPECIAL_TOKENS, roles)
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            **defaults,
            **settings.tokenizer_config,
            **roles,
            "add_bos_token": vocabulary.adds_bos,
            "added_tokens_decoder": _added_tokens_decoder(vocabulary),
        },
    )


def _added_tokens_decoder(vocabulary: Vocabulary) -> dict[str, Any]:
    """The special tokens by id."""
    return {
        str(i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token, i in vocabulary.special_tokens().items()
    }


WRITERS: Mapping[str, Callable[[Vocabulary, Path, int], None]] = {
    "openba": write_openba,
    "t5": write_t5,
    "sentencepiece": write_plain,
    "json": write_tokenizer_json,
}
"""By the kind of the vocabulary."""
