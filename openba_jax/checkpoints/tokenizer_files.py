"""The tokenizer files of a Hugging Face folder.

One file is what is read: a sentencepiece model, or `tokenizer.json`. The JSON files beside it say
once more which token has which id; where they say something else, text would mean something else
here than there, so they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from openba_jax.checkpoints.files.tokenizer_writer import SPIECE, WRITERS
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.huggingface_settings import read_object
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.data.vocabularies.settings import settings_path
from openba_jax.errors import UserError

FILES: Mapping[str, tuple[str, ...]] = {
    "openba": ("spiece.model", "tokenizer.json"),
    "t5": ("spiece.model", "tokenizer.json"),
    "sentencepiece": ("tokenizer.model", "tokenizer.json", SPIECE),
    "json": ("tokenizer.json",),
}
"""Where tokenizers are looked for, in this order, by the kind that a family has."""


def find_tokenizer(folder: Path, kind: str) -> Path | None:
    """The tokenizer of a Hugging Face folder, or None; logs what differs harmlessly.

    Args:
      folder: the folder.
      kind: of the family's vocabularies; a `tokenizer.json` serves for most.

    Raises:
      UserError: The tokenizer cannot be read, is of another kind, or a file beside it contradicts
        its ids.
    """
    for name in FILES[kind]:
        file = folder / name
        if not file.is_file():
            continue
        vocabulary = open_vocabulary(file)
        # Models of other families may have been trained with a tokenizer of OpenBA's or T5's kind.
        foreign = name == SPIECE and kind == "sentencepiece"
        if vocabulary.kind not in (("openba", "t5") if foreign else (kind, "json")):
            raise UserError(
                f"{file} is read as a vocabulary of the kind {vocabulary.kind}, and the model "
                f'needs {kind}; write {{"kind": "{kind}"}} to {settings_path(name)} beside it.'
            )
        for warning in check_tokenizer_files(folder, vocabulary):
            logging.warning("%s", warning)
        return file
    if others := [name for name in _CHECKED if (folder / name).is_file()]:
        logging.warning(
            "%s has %s but no %s, so the model is read without a tokenizer.",
            folder,
            " and ".join(others),
            " or ".join(FILES[kind]),
        )
    return None


def check_tokenizer_files(folder: Path, vocabulary: Vocabulary) -> list[str]:
    """Compares the JSON files of a Hugging Face tokenizer with the ids of a vocabulary.

    Args:
      folder: with any of `added_tokens.json`, `tokenizer.json`, `tokenizer_config.json` and
        `special_tokens_map.json`.
      vocabulary: of the tokenizer beside them.

    Returns:
      A sentence for each difference that leaves all ids as they are: tokens in rows that are
      padding here, and settings that have no counterpart.

    Raises:
      UserError: A token has another id in one of the files, or its id is another token's here.
      UserError: A file names other tokens for the end, padding and the unknown.
      UserError: A file cannot be read as JSON of its kind.
    """
    model = vocabulary.path.name
    is_json = vocabulary.kind == "json"
    everything = range(vocabulary.token_count if is_json else vocabulary.piece_count)
    ids = {piece: i for i, piece in enumerate(vocabulary.pieces(everything))}
    special = vocabulary.special_tokens()
    for token in special.keys() & {piece.removeprefix("▁") for piece in ids}:
        ids.pop(f"▁{token}", None)  # A special token that the model writes with a space before it.
    ids |= special
    tokens = {i: token for token, i in ids.items()}
    warnings: list[str] = []
    follows_t5 = vocabulary.kind in ("openba", "t5")
    for name, read in _CHECKED.items():
        file = folder / name
        if file == vocabulary.path:
            continue
        content = read_object(file)
        try:
            named = list(read(content))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise UserError(f"{file} is no {name} of Hugging Face's form: {error}.") from error
        for token, number in named:
            _compare(file, token, number, ids, tokens, vocabulary, warnings)
        if follows_t5:  # The roles of others are what these files say.
            _check_t5(file, content, ids, model)
        for setting in ("sp_model_kwargs", "do_lower_case"):
            if content.get(setting):
                warnings.append(f"{file}: {setting}={content[setting]} has no effect here.")
    return warnings


def _check_t5(file: Path, content: Mapping[str, Any], ids: Mapping[str, int], model: str) -> None:
    """Compares the roles of tokens and the number of sentinels with those of T5.

    Raises:
      UserError: They differ.
    """
    for role, expected in (("eos", "</s>"), ("pad", "<pad>"), ("unk", "<unk>")):
        found = content.get(f"{role}_token", expected)
        found = found.get("content") if isinstance(found, dict) else found
        if found not in (None, expected):
            raise UserError(
                f"{file} has {found!r} (id {ids.get(str(found), 'unknown')}) as {role}_token, "
                f"where {model} has {expected!r} (id {ids[expected]}); give the files of one "
                "tokenizer."
            )
    sentinels = sum(token.startswith("<extra_id_") for token in ids)
    if (count := content.get("extra_ids", sentinels)) not in (0, sentinels):
        raise UserError(
            f"{file} has {count} extra_ids, where there are {sentinels} sentinels here "
            f"(<extra_id_0> has id {ids['<extra_id_0>']}); give the files of one tokenizer."
        )


def _compare(
    file: Path,
    token: str,
    number: int,
    ids: Mapping[str, int],
    tokens: Mapping[int, str],
    vocabulary: Vocabulary,
    warnings: list[str],
) -> None:
    """Compares one token; adds a warning where only a row of padding is concerned.

    Raises:
      UserError: The token has another id, or the id another token.
    """
    if ids.get(token) == number:
        return
    model = vocabulary.path.name
    if vocabulary.kind == "openba" and token == "\n" and number == len(tokens):
        raise UserError(
            f"{file} has the newline as a token, with id {number}, and {model} has none; "
            f'write {{"newline": true}} to {settings_path(model)} beside it.'
        )
    if token in ids:
        raise UserError(
            f"{file} gives {token!r} the id {number}, and {model} the id {ids[token]}; give "
            "the files of one tokenizer."
        )
    if number in tokens:
        raise UserError(
            f"{file} gives the id {number} to {token!r}, and {model} to {tokens[number]!r}; "
            "give the files of one tokenizer."
        )
    warnings.append(f"{file}: the token {token!r}, id {number}, is text like any other here.")


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
    """Writes the tokenizer and what its class in `transformers` needs to give the same ids.

    Args:
      model: the file of the tokenizer.
      folder: the Hugging Face folder.
      vocab_size: rows of the embedding.
      max_length: longest encoder input, in tokens.

    Raises:
      UserError: The embedding has fewer rows than the tokenizer has ids.
    """
    vocabulary = open_vocabulary(model)
    vocabulary.check_rows(vocab_size)
    WRITERS[vocabulary.kind](vocabulary, folder, max_length)
