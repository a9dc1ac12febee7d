"""`open_vocabulary`: the vocabulary of a file, of whatever kind; and `save_tokenizer`."""

from __future__ import annotations

from pathlib import Path

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabularies.settings import write_settings
from openba_jax.files import write_atomically

TOKENIZER_FILE = "tokenizer.model"
"""The sentencepiece model of a model folder."""


def open_vocabulary(path: str | Path, newline: bool | None = None) -> Vocabulary:
    r"""The vocabulary of a tokenizer's file.

    Args:
      path: the file; its settings lie beside it.
      newline: `"\n"` is a token of its own, whatever the settings say; OpenBA's vocabularies alone.

    Raises:
      UserError: The file cannot be read, or is no tokenizer.
      UserError: The settings beside it cannot be understood.
    """
    return OpenBAVocabulary(path, newline)


def save_tokenizer(
    folder: str | Path, vocabulary: Vocabulary | str | Path, name: str = TOKENIZER_FILE
) -> Path:
    """Writes the file of a tokenizer and, if there is something to say, its settings.

    Args:
      folder: is made where it is missing.
      vocabulary: or the path of its file, whose settings are those beside it.
      name: of the file.

    Returns:
      The path of the file.

    Raises:
      UserError: The file cannot be read.
    """
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = open_vocabulary(vocabulary)
    path = Path(folder) / name
    content = vocabulary.path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Settings first: a tokenizer without them would be read another way.
    write_settings(path, vocabulary.settings)
    write_atomically(path, content)
    return path
