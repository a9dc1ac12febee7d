"""The frame of prompts and answers, the same for generation, evaluation and T5X.

A model that was tuned on instructions reads `<S> prompt <extra_id_0> </s>` and answers
`<extra_id_0> answer </s>` (docs/original.md, Evaluation).
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import logging

from openba_jax.data.text.documents import column, read_records
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.paths import address_or_local

FRAME_TOKENS = 3
"""What the frame adds to the tokens of a prompt."""


def read_prompts(prompts: Sequence[str], input_file: str) -> tuple[list[str], list[str]]:
    """Prompts and, for messages, where each of them stands.

    Args:
      prompts: texts, counted from 1.
      input_file: more of them, JSON lines with `inputs` or plain lines; "" for none.

    Raises:
      UserError: there is no prompt, one holds half of a surrogate pair, or the file cannot be read.
    """
    texts = list(prompts)
    places = [f"prompt {number}" for number in range(1, len(texts) + 1)]
    if input_file:
        for place, record in read_records([address_or_local(input_file)], "inputs"):
            texts.append(column(record, "inputs", place))
            places.append(place)
    if not texts:
        raise UserError("there is no prompt; give PROMPTS or an INPUT_FILE.")
    for place, text in zip(places, texts, strict=True):
        _check_unicode(text, place)
    return texts, places


class UnusablePromptError(UserError):
    """A prompt or an answer that cannot be framed."""


def _check_unicode(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusablePromptError(
            f"{place} holds {text[error.start]!r}, half of a pair that makes a character; write "
            "the character itself."
        ) from error


class PromptFrame:
    """Makes ids of prompts and answers.

    The strings of special tokens that stand in a text, such as `</s>` or `<extra_id_0>`, are text
    unless `parse_special` is set; the first of each is reported in a warning.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        encoder_length: int,
        decoder_length: int | None = None,
        parse_special: bool = False,
    ) -> None:
        """Keeps a vocabulary and the longest lengths, frame included.

        Args:
          vocabulary: the model's.
          encoder_length: tokens of a prompt.
          decoder_length: tokens of an answer; None: any number.
          parse_special: strings of special tokens in prompts and answers become these tokens.
        """
        self.vocabulary = vocabulary
        self.encoder_length = encoder_length
        self.decoder_length = decoder_length
        self.parse_special = parse_special
        self._reported: set[str] = set()

    def prompt(self, text: str, place: str) -> list[int]:
        """Encoder ids of a prompt.

        Args:
          text: the prompt.
          place: where it stands, for messages, such as `prompts.jsonl line 3`.

        Raises:
          UnusablePromptError: the prompt is no valid Unicode, or longer than `encoder_length`
            allows.
        """
        vocabulary, body = self.vocabulary, self._encode(text, place)
        most = self.encoder_length - FRAME_TOKENS
        if len(body) > most:
            raise UnusablePromptError(
                f"{place}: a prompt of {len(body)} tokens exceeds the {most} that fit into the "
                f"encoder length {self.encoder_length}: {text[:60]!r}."
            )
        return [vocabulary.s_id, *body, vocabulary.sentinel(0), vocabulary.eos_id]

    def answer(self, text: str, place: str) -> list[int]:
        """Decoder ids of an answer that is to be scored.

        Args:
          text: the answer.
          place: where it stands, for messages.

        Raises:
          UnusablePromptError: the answer is no valid Unicode, has no token to score, or is longer
            than `decoder_length` allows.
        """
        vocabulary, body = self.vocabulary, self._encode(text, place)
        ids = [vocabulary.sentinel(0), *body, vocabulary.eos_id]
        if not text.strip() or all(token in self.unscored_ids for token in ids):
            raise UnusablePromptError(f"{place}: the answer {text!r} has no token to score.")
        if self.decoder_length is not None and len(ids) > self.decoder_length:
            raise UnusablePromptError(
                f"{place}: an answer of {len(ids)} tokens exceeds the decoder length "
                f"{self.decoder_length}: {text[:60]!r}."
            )
        return ids

    @property
    def unscored_ids(self) -> tuple[int, int, int]:
        """The tokens of an answer that do not count in its score: padding and the frame."""
        vocabulary = self.vocabulary
        return vocabulary.pad_id, vocabulary.eos_id, vocabulary.sentinel(0)

    def _encode(self, text: str, place: str) -> list[int]:
        _check_unicode(text, place)
        for token in self.vocabulary.special_in(text):
            if token not in self._reported:
                self._reported.add(token)
                reading = "as the special token" if self.parse_special else "as plain text"
                logging.warning("%s holds %s, which is read %s.", place, token, reading)
        return self.vocabulary.encode(text, parse_special=self.parse_special)
