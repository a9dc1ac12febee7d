"""The tokenizer files of a Hugging Face folder.

The sentencepiece model, `spiece.model`, is what is read. The JSON files beside it say once more
which token has which id; where they say something else, text would mean something else here than
there, so they are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary, save_tokenizer
from openba_jax.data.vocabularies.settings import settings_path
from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import SENTINELS

MODEL_FILE = "spiece.model"


def find_tokenizer(folder: Path) -> Path | None:
    """The sentencepiece model of a Hugging Face folder, or None; logs what differs harmlessly.

    Raises:
      UserError: The model cannot be read, or a file beside it contradicts its ids.
    """
    file = folder / MODEL_FILE
    if file.is_file():
        for warning in check_tokenizer_files(folder, open_vocabulary(file)):
            logging.warning("%s", warning)
        return file
    if others := [name for name in _CHECKED if (folder / name).is_file()]:
        logging.warning(
            "%s has %s but no %s, so the model is read without a tokenizer.",
            folder,
            " and ".join(others),
            MODEL_FILE,
        )
    return None


def check_tokenizer_files(folder: Path, vocabulary: Vocabulary) -> list[str]:
    """Compares the JSON files of a Hugging Face tokenizer with the ids of a vocabulary.

    Args:
      folder: with any of `added_tokens.json`, `tokenizer.json`, `tokenizer_config.json` and
        `special_tokens_map.json`.
      vocabulary: of the sentencepiece model beside them.

    Returns:
      A sentence for each difference that leaves all ids as they are: tokens in rows that are
      padding here, and settings that have no counterpart.

    Raises:
      UserError: A token has another id in one of the files, or its id is another token's here.
      UserError: A file names other tokens for the end, padding and the unknown.
      UserError: A file cannot be read as JSON of its kind.
    """
    ids = {piece: i for i, piece in enumerate(vocabulary.pieces(range(vocabulary.piece_count)))}
    ids |= vocabulary.special_tokens()
    tokens = {i: token for token, i in ids.items()}
    warnings: list[str] = []
    for name, read in _CHECKED.items():
        file = folder / name
        content = _read_object(file)
        try:
            named = list(read(content))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise UserError(f"{file} is no {name} of Hugging Face's form: {error}.") from error
        for token, number in named:
            _compare(file, token, number, ids, tokens, warnings)
        for role, expected in (("eos", "</s>"), ("pad", "<pad>"), ("unk", "<unk>")):
            found = content.get(f"{role}_token", expected)
            found = found.get("content") if isinstance(found, dict) else found
            if found not in (None, expected):
                raise UserError(
                    f"{file} has {found!r} (id {ids.get(str(found), 'unknown')}) as {role}_token, "
                    f"where {MODEL_FILE} has {expected!r} (id {ids[expected]}); give the files of "
                    "one tokenizer."
                )
        if (count := content.get("extra_ids", SENTINELS)) != SENTINELS:
            raise UserError(
                f"{file} has {count} extra_ids, where there are {SENTINELS} sentinels here "
                f"(<extra_id_0> has id {ids['<extra_id_0>']}); give the files of one tokenizer."
            )
        for setting in ("sp_model_kwargs", "do_lower_case"):
            if content.get(setting):
                warnings.append(f"{file}: {setting}={content[setting]} has no effect here.")
    return warnings


def _compare(
    file: Path,
    token: str,
    number: int,
    ids: Mapping[str, int],
    tokens: Mapping[int, str],
    warnings: list[str],
) -> None:
    """Compares one token; adds a warning where only a row of padding is concerned.

    Raises:
      UserError: The token has another id, or the id another token.
    """
    if ids.get(token) == number:
        return
    if token == "\n" and number == len(tokens):
        raise UserError(
            f"{file} has the newline as a token, with id {number}, and {MODEL_FILE} has none; "
            f'write {{"newline": true}} to {settings_path(MODEL_FILE)} beside it.'
        )
    if token in ids:
        raise UserError(
            f"{file} gives {token!r} the id {number}, and {MODEL_FILE} the id {ids[token]}; give "
            "the files of one tokenizer."
        )
    if number in tokens:
        raise UserError(
            f"{file} gives the id {number} to {token!r}, and {MODEL_FILE} to {tokens[number]!r}; "
            "give the files of one tokenizer."
        )
    warnings.append(f"{file}: the token {token!r}, id {number}, is text like any other here.")


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object; give the files of one tokenizer.")
    return content


def _added_tokens(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for token, number in content.items():
        yield token, int(number)


def _fast_tokenizer(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """A list of pieces with scores (unigram), or ids by piece (BPE), and tokens beside them."""
    vocab = content.get("model", {}).get("vocab", ())
    if isinstance(vocab, dict):
        yield from ((piece, int(number)) for piece, number in vocab.items())
    else:
        yield from ((entry[0], number) for number, entry in enumerate(vocab))
    for token in content.get("added_tokens", ()):
        yield token["content"], int(token["id"])


def _tokenizer_config(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for number, token in content.get("added_tokens_decoder", {}).items():
        yield token["content"], int(number)


def _special_tokens_map(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    yield from ()  # It names roles, but no ids.


_CHECKED: dict[str, Callable[[dict[str, Any]], Iterator[tuple[str, int]]]] = {
    "added_tokens.json": _added_tokens,
    "tokenizer.json": _fast_tokenizer,
    "tokenizer_config.json": _tokenizer_config,
    "special_tokens_map.json": _special_tokens_map,
}


def write_tokenizer(model: Path, folder: Path, vocab_size: int, max_length: int) -> None:
    """Writes what the original tokenizer class needs to give the ids that the model knows.

    Args:
      model: the sentencepiece model.
      folder: the Hugging Face folder.
      vocab_size: rows of the embedding.
      max_length: longest encoder input, in tokens.

    Raises:
      UserError: The embedding has fewer rows than the tokenizer has ids.
    """
    vocabulary = open_vocabulary(model)
    vocabulary.check_rows(vocab_size)
    ids = vocabulary.special_tokens()
    save_tokenizer(folder, vocabulary, MODEL_FILE)
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
        {token: number for token, number in ids.items() if token in ("<R>", "<S>", "<X>", "\n")},
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
