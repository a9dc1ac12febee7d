"""`open_vocabulary`: the vocabulary of a file, of whatever kind; and `save_tokenizer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.huggingface_settings import huggingface_settings
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabularies.plain import PlainSentencePiece
from openba_jax.data.vocabularies.sentencepiece_vocabulary import load_pieces, read_tokenizer
from openba_jax.data.vocabularies.settings import (
    TokenizerSettings,
    read_settings,
    settings_path,
    write_settings,
)
from openba_jax.data.vocabularies.t5 import T5Vocabulary
from openba_jax.data.vocabularies.tokenizer_json import TokenizerJson
from openba_jax.errors import UserError
from openba_jax.files import write_atomically

TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "json": "tokenizer.json"}
"""The files that a model folder may hold, by how they are written."""

KINDS: Mapping[str, Callable[[str | Path, TokenizerSettings], Vocabulary]] = {
    "openba": lambda path, settings: OpenBAVocabulary(path, settings=settings),
    "t5": T5Vocabulary,
    "sentencepiece": PlainSentencePiece,
    "json": TokenizerJson,
}


def settings_of(path: str | Path) -> TokenizerSettings:
    """The settings of a tokenizer: of the file beside it, or of Hugging Face's files there.

    Raises:
      UserError: A file cannot be understood.
    """
    found = read_settings(path)
    return found or huggingface_settings(Path(path)) or TokenizerSettings()


def open_vocabulary(path: str | Path, newline: bool | None = None) -> Vocabulary:
    r"""The vocabulary of a tokenizer's file.

    A file that begins as JSON is a `tokenizer.json`. A sentencepiece model is what the settings
    say; without a word it is OpenBA's if padding, end and unknown have its ids, 0, 1 and 2, and
    else one with special tokens of its own.

    Args:
      path: the file; its settings lie beside it.
      newline: `"\n"` is a token of its own, whatever the settings say; OpenBA's vocabularies alone.

    Raises:
      UserError: The file cannot be read, or is no tokenizer.
      UserError: The settings beside it cannot be understood, or do not fit it.
    """
    settings = settings_of(path)
    kind = _kind(Path(path), settings)
    if kind == "openba":
        return OpenBAVocabulary(path, newline, settings)
    if newline or settings.newline:
        raise UserError(
            f"{path} is a vocabulary of the kind {kind}, in which the newline is no token of its "
            "own; leave newline out."
        )
    return KINDS[kind](path, settings)


def is_tokenizer_json(content: bytes) -> bool:
    """Whether a tokenizer's file is a `tokenizer.json`, and no sentencepiece model."""
    return content[:1] == b"{"


def _kind(path: Path, settings: TokenizerSettings) -> str:
    """The kind of a file.

    Raises:
      UserError: The settings name one that there is not, or that the file is not of.
    """
    content = read_tokenizer(path)
    is_json = is_tokenizer_json(content)
    kind = settings.kind
    if kind is not None and kind not in KINDS:
        raise UserError(
            f"{settings_path(path)} has the kind {kind!r}; those that there are: "
            f"{', '.join(KINDS)}."
        )
    if kind is not None and (kind == "json") != is_json:
        raise UserError(f"{settings_path(path)} has the kind {kind!r}, which {path} is not of.")
    if is_json:
        return "json"
    if kind is not None:
        return kind
    return "openba" if follows_t5(path) else "sentencepiece"


def follows_t5(path: Path) -> bool:
    """Whether padding, end and unknown of a sentencepiece model have T5's ids, 0, 1 and 2.

    Raises:
      UserError: The file cannot be read, or is no such model.
    """
    pieces = load_pieces(read_tokenizer(path), path)
    return (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) == (0, 1, 2)


def tokenizer_file(vocabulary: Vocabulary) -> str:
    """The name of a vocabulary's file in a model folder."""
    return TOKENIZER_FILES["json" if vocabulary.kind == "json" else "sentencepiece"]


def save_tokenizer(
    folder: str | Path, vocabulary: Vocabulary | str | Path, name: str | None = None
) -> Path:
    """Writes the file of a tokenizer and, if there is something to say, its settings.

    Args:
      folder: is made where it is missing.
      vocabulary: or the path of its file, whose settings are those beside it.
      name: of the file; by default that of a model folder.

    Returns:
      The path of the file.

    Raises:
      UserError: The file cannot be read.
    """
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = open_vocabulary(vocabulary)
    path = Path(folder) / (name or tokenizer_file(vocabulary))
    content = vocabulary.path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Settings first: a tokenizer without them would be read another way.
    write_settings(path, vocabulary.settings)
    write_atomically(path, content)
    return path
