"""Training of sentencepiece vocabularies, and how well they keep a text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from openba_jax.cli.progress import show_progress
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.objectives.special_ids import OpenBAIds
from openba_jax.paths import check_output_file

TRAINING_THREADS = 8
"""Fixed, whatever the machine has: the number changes the pieces in their last digits."""

TRAINING_SENTENCES = 4_000_000
"""Sentences that the trainer looks at; from longer corpora it draws, by a fixed seed."""

NORMALIZATIONS = ("identity", "nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf")
"""sentencepiece's rules: what a text becomes before it is cut in pieces.

`identity` leaves it as it is, blanks included, so that it comes back exactly. The others turn
newlines and runs of blanks into one blank and drop those at the ends. `nfkc` replaces characters
by those that Unicode counts as compatible (`，！？` become `,!?`), `nmt` also drops control
characters, and `cf` makes letters small. mT5's, and so the original's, is `nmt_nfkc`.
"""

_SENTENCE_CHARACTERS = 1000  # The trainer skips sentences of more than 4192 bytes.


def train_vocabulary(
    texts: Iterable[str],
    size: int,
    output: str | Path,
    *,
    character_coverage: float = 0.9995,
    normalization: str = "identity",
    newline: bool = False,
    kind: str = "openba",
) -> Vocabulary:
    """Trains a unigram model with byte fallback and writes it; same texts, same file.

    Args:
      texts: documents; they are cut at newlines, and longer lines near a space.
      size: number of pieces, the 3 control and 256 byte pieces included.
      output: the `.model` file.
      character_coverage: share of the characters that get a piece; the rest falls back to bytes.
      normalization: one of `NORMALIZATIONS`.
      newline: the newline becomes a token of its own, which the settings beside the model say.
      kind: `openba`, or `t5`, whose special tokens are sentinels alone.

    Raises:
      UserError: The texts give fewer pieces than `size`.
      UserError: The size is too small for the characters of the texts.
      UserError: The newline is to be a token of a kind that has none.
      UserError: Something else is at `output` already, or no file can be written there.
    """
    if kind != "openba" and newline:
        raise UserError(f"a vocabulary of the kind {kind} has no token for the newline.")
    output = check_output_file(output)
    model = io.BytesIO()
    failures: list[BaseException] = []  # The trainer is C++ and makes a RuntimeError of each.

    def sentences() -> Iterator[str]:
        try:
            yield from _sentences(texts)
        except BaseException as error:
            failures.append(error)
            raise

    sentencepiece.set_random_generator_seed(0)
    sentencepiece.set_min_log_level(2)
    try:
        with show_progress(f"training a vocabulary of {size} pieces"):
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=sentences(),
                model_writer=model,
                model_type="unigram",
                vocab_size=size,
                character_coverage=character_coverage,
                byte_fallback=True,
                normalization_rule_name=normalization,
                remove_extra_whitespaces=normalization != "identity",
                pad_id=OpenBAIds.pad_id,
                eos_id=OpenBAIds.eos_id,
                unk_id=OpenBAIds.unk_id,
                bos_id=-1,
                pad_piece="<pad>",
                eos_piece="</s>",
                unk_piece="<unk>",
                input_sentence_size=TRAINING_SENTENCES,
                shuffle_input_sentence=True,
                num_threads=TRAINING_THREADS,
                minloglevel=2,
            )
    except (RuntimeError, OSError) as error:
        if failures:
            raise failures[0] from None
        raise UserError(f"no vocabulary of {size} pieces: {_reason(error)}") from error
    if output.exists() and output.read_bytes() != model.getvalue():
        raise UserError(f"{output} is there already and differs; remove it or choose another.")
    named = None if kind == "openba" else kind
    write_settings(output, TokenizerSettings(kind=named, newline=newline))
    write_atomically(output, model.getvalue())
    return open_vocabulary(output)


class TextSample:
    """A random sample of the texts that are passed through it, the same for the same texts.

    Attributes:
      texts: the sample; of long texts the first `characters` characters.
    """

    def __init__(self, size: int = 1000, characters: int = 10_000) -> None:
        """Takes the number of texts that are wanted, and how much of each is kept at most."""
        self.texts: list[str] = []
        self._size = size
        self._characters = characters

    def through(self, texts: Iterable[str]) -> Iterator[str]:
        """Yields texts as they are, and keeps some of them."""
        rng = np.random.default_rng(0)
        for number, text in enumerate(texts):
            if number < self._size:
                self.texts.append(text[: self._characters])
            elif (place := int(rng.integers(number + 1))) < self._size:
                self.texts[place] = text[: self._characters]
            yield text


def round_trips(vocabulary: Vocabulary, texts: Sequence[str]) -> int:
    """How many texts come back exactly when they are encoded and decoded."""
    encoded = vocabulary.encode_all(texts)
    return sum(vocabulary.decode(ids) == text for ids, text in zip(encoded, texts, strict=True))


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines of at most `_SENTENCE_CHARACTERS` characters."""
    for text in texts:
        for line in text.splitlines():
            while len(line) > _SENTENCE_CHARACTERS:
                end = line.rfind(" ", 1, _SENTENCE_CHARACTERS)
                end = end if end > 0 else _SENTENCE_CHARACTERS
                yield line[:end]
                line = line[end:]
            if line:
                yield line


def _reason(error: Exception) -> str:
    """What the trainer's complaint means."""
    text = str(error)
    if most := re.search(r"set it to a value <= (\d+)", text):
        return f"the texts give at most {most[1]}; give more text or a smaller size."
    if least := re.search(r"smaller than required_chars\D*(\d+) vs (\d+)", text):
        return f"the characters of the texts alone need {least[2]}; give a larger size."
    if not text or "sentences_.empty()" in text:
        return "there is no text."
    return f"sentencepiece says {text.splitlines()[0]}"
