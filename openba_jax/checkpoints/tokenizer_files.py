"""The tokenizer files of a Hugging Face folder (reference §2.4)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from openba_jax.data.vocabulary import Vocabulary
from openba_jax.errors import UserError

MODEL_FILE = "spiece.model"


def find_tokenizer(folder: Path) -> Path | None:
    """The sentencepiece model of a Hugging Face folder, or None."""
    file = folder / MODEL_FILE
    return file if file.is_file() else None


def write_tokenizer(model: Path, folder: Path, vocab_size: int, max_length: int) -> None:
    """Writes what the original tokenizer class needs to give the ids of reference §2.2.

    Args:
      model: the sentencepiece model.
      folder: the Hugging Face folder.
      vocab_size: rows of the embedding.
      max_length: longest encoder input, in tokens.

    Raises:
      UserError: the embedding has fewer rows than the tokenizer has ids.
    """
    vocabulary = Vocabulary(model)
    ids = vocabulary.special_tokens()
    if max(ids.values()) >= vocab_size:
        raise UserError(
            f"{model} has {vocabulary.piece_count} pieces and needs {vocabulary.token_count} ids "
            f"with the special ones, but the embedding has {vocab_size} rows."
        )
    shutil.copyfile(model, folder / MODEL_FILE)
    sentinels = [token for token in ids if token.startswith("<extra_id_")]
    sentinels.sort(key=lambda token: -ids[token])
    special = {
        "additional_special_tokens": sentinels,
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "added_tokens.json",
        {token: number for token, number in ids.items() if token in ("<R>", "<S>", "<X>")},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "auto_map": {"AutoTokenizer": ["tokenization_openba.OpenBATokenizer", None]},
            "clean_up_tokenization_spaces": True,
            "extra_ids": len(sentinels),
            "model_max_length": max_length,
            "sp_model_kwargs": {},
            "tokenizer_class": "OpenBATokenizer",
        },
    )


def write_json(file: Path, value: Any) -> None:
    """Writes JSON as Hugging Face does: indented, keys sorted."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
