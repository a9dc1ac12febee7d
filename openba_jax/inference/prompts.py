"""The frames of prompts and answers, the same for generation, evaluation and T5X.

Which one a model reads is the model's to say (`Model.frame`).
"""

from __future__ import annotations

import abc
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from absl import logging

from openba_jax.data.text.documents import Record, column, items_of, parse, read_records
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.paths import address_or_local

PLACE = "{}"
"""Where the prompt stands in a template."""


def read_prompts(prompts: Sequence[str], input_file: str) -> tuple[list[str], list[str]]:
    """Prompts and, for messages, where each of them stands.

    Args:
      prompts: texts, counted from 1.
      input_file: more of them, JSON lines with `inputs` or plain lines; "" for none, "-" for the
        standard input.

    Raises:
      UserError: there is no prompt, one holds half of a surrogate pair, or the file cannot be read.
    """
    texts = list(prompts)
    places = [f"prompt {number}" for number in range(1, len(texts) + 1)]
    if input_file:
        for place, record in _records(input_file):
            texts.append(column(record, "inputs", place))
            places.append(place)
    if not texts:
        raise UserError("there is no prompt; give PROMPTS or an INPUT_FILE.")
    for place, text in zip(places, texts, strict=True):
        _check_unicode(text, place)
    return texts, places


def _records(input_file: str) -> Iterator[tuple[str, Record]]:
    """The records of a file, or of a stream, which is read but once and has no ending to its name.

    A stream holds JSON lines if its first line is an object.
    """
    path = address_or_local(input_file)
    is_stream = input_file == "-" or Path(path).is_fifo() or Path(path).is_char_device()
    if not is_stream:
        yield from read_records([path], "inputs")
        return
    content = sys.stdin.buffer.read() if input_file == "-" else Path(path).read_bytes()
    name = "standard input" if input_file == "-" else input_file
    form = "json" if content.lstrip().startswith(b"{") else "text"
    for number, line in enumerate(items_of(content), 1):
        record = parse(name, number, line, "inputs", form)
        if record is not None:
            yield f"{name} line {number}", record


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


class PromptFrame(abc.ABC):
    """Makes ids of prompts and answers.

    The strings of special tokens that stand in a text, such as `</s>` or `<extra_id_0>`, are text
    unless `parse_special` is set; the first of each is reported in a warning.
    """

    tokens: ClassVar[int]
    """What the frame adds to the tokens of a prompt, at most."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        encoder_length: int,
        decoder_length: int | None = None,
        parse_special: bool = False,
        template: str = PLACE,
    ) -> None:
        """Keeps a vocabulary and the longest lengths, frame included.

        Args:
          vocabulary: the model's.
          encoder_length: tokens of a prompt.
          decoder_length: tokens of an answer; None: any number.
          parse_special: strings of special tokens in prompts and answers become these tokens.
          template: what stands around prompts, `{}` being the prompt, for instance the turns of a
            chat; strings of special tokens in it always become these tokens.

        Raises:
          UserError: the template has not one place for the prompt, or the lengths have no room.
        """
        if template.count(PLACE) != 1:
            raise UserError(f"TEMPLATE is {template!r}; it has one {PLACE}, where the prompt goes.")
        self.vocabulary = vocabulary
        self.encoder_length = encoder_length
        self.decoder_length = decoder_length
        self.parse_special = parse_special
        self._template = template
        self._reported: set[str] = set()
        taken = self.tokens + len(vocabulary.encode(template.replace(PLACE, ""), True))
        if encoder_length <= taken:
            raise UserError(
                f"prompts have {encoder_length} tokens, of which the frame of a prompt takes "
                f"{taken}; give a larger length."
            )

    @abc.abstractmethod
    def framed_prompt(self, body: list[int]) -> list[int]:
        """The ids of a prompt in its frame."""

    @abc.abstractmethod
    def framed_answer(self, body: list[int]) -> list[int]:
        """The ids of an answer in its frame."""

    @property
    @abc.abstractmethod
    def unscored_ids(self) -> tuple[int, ...]:
        """The tokens of an answer that do not count in its score: those of the frame."""

    def prompt(self, text: str, place: str) -> list[int]:
        """The ids that a model reads for a prompt.

        Args:
          text: the prompt.
          place: where it stands, for messages, such as `prompts.jsonl line 3`.

        Raises:
          UnusablePromptError: the prompt is no valid Unicode, or longer than `encoder_length`
            allows.
        """
        body = self._in_template(text, self.encode(text, place))
        most = self.encoder_length - self.tokens
        if len(body) > most:
            raise UnusablePromptError(
                f"{place}: a prompt of {len(body)} tokens exceeds the {most} that fit into the "
                f"encoder length {self.encoder_length}: {text[:60]!r}."
            )
        return self.framed_prompt(body)

    def _in_template(self, text: str, ids: list[int]) -> list[int]:
        """The ids of a prompt, which are `ids` alone, and what stands around it.

        They are encoded as one text: encoded apart, parts would begin with blanks, and blanks
        between them be pieces of their own. Where a prompt spells special tokens that are to stay
        text, this cannot be.
        """
        if self._template == PLACE:
            return ids
        vocabulary = self.vocabulary
        before, behind = self._template.split(PLACE)
        whole = before + text + behind
        apart = [token for part in (before, text, behind) for token in vocabulary.special_in(part)]
        if vocabulary.special_in(whole) == apart and vocabulary.encode(text, True) == ids:
            return vocabulary.encode(whole, True)
        return [*vocabulary.encode(before, True), *ids, *vocabulary.encode(behind, True)]

    def answer(self, text: str, place: str) -> list[int]:
        """The ids of an answer that is to be scored.

        Args:
          text: the answer.
          place: where it stands, for messages.

        Raises:
          UnusablePromptError: the answer is no valid Unicode, has no token to score, or is longer
            than `decoder_length` allows.
        """
        ids = self.framed_answer(self.encode(self.separator + text, place))
        if not text.strip() or all(token in self.unscored_ids for token in ids):
            raise UnusablePromptError(f"{place}: the answer {text!r} has no token to score.")
        if self.decoder_length is not None and len(ids) > self.decoder_length:
            raise UnusablePromptError(
                f"{place}: an answer of {len(ids)} tokens exceeds the decoder length "
                f"{self.decoder_length}: {text[:60]!r}."
            )
        return ids

    @property
    def separator(self) -> str:
        """What stands between a prompt and an answer."""
        return ""

    def encode(self, text: str, place: str) -> list[int]:
        """The ids of a text without its frame; special tokens in it are reported.

        Raises:
          UnusablePromptError: the text is no valid Unicode.
        """
        _check_unicode(text, place)
        for token in self.vocabulary.special_in(text):
            if token not in self._reported:
                self._reported.add(token)
                reading = "as the special token" if self.parse_special else "as plain text"
                logging.warning("%s holds %s, which is read %s.", place, token, reading)
        return self.vocabulary.encode(text, parse_special=self.parse_special)


class SentinelFrame(PromptFrame):
    """`<S> prompt <extra_id_0> </s>` and `<extra_id_0> answer </s>` (docs/original.md, Evaluation).

    So read models that were trained by UL2, and tuned on instructions as OpenBA was.
    """

    tokens: ClassVar[int] = 3

    def framed_prompt(self, body: list[int]) -> list[int]:
        """The prompt of sequential denoising."""
        vocabulary = self.vocabulary
        return [vocabulary.s_id, *body, vocabulary.sentinel(0), vocabulary.eos_id]

    def framed_answer(self, body: list[int]) -> list[int]:
        """The span that the sentinel stands for."""
        return [self.vocabulary.sentinel(0), *body, self.vocabulary.eos_id]

    @property
    def unscored_ids(self) -> tuple[int, ...]:
        """Padding, eos and the sentinel."""
        vocabulary = self.vocabulary
        return vocabulary.pad_id, vocabulary.eos_id, vocabulary.sentinel(0)


class EndFrame(PromptFrame):
    """`prompt </s>` and `answer </s>`, as T5 and Flan-T5 read them."""

    tokens: ClassVar[int] = 1

    def framed_prompt(self, body: list[int]) -> list[int]:
        """The prompt and eos."""
        return [*body, self.vocabulary.eos_id]

    def framed_answer(self, body: list[int]) -> list[int]:
        """The answer and eos."""
        return [*body, self.vocabulary.eos_id]

    @property
    def unscored_ids(self) -> tuple[int, ...]:
        """Padding and eos."""
        return self.vocabulary.pad_id, self.vocabulary.eos_id


class BeginningFrame(PromptFrame):
    """`<s> prompt` and `answer </s>`, for models that go on from a prompt; bos if there is one."""

    tokens: ClassVar[int] = 1

    def framed_prompt(self, body: list[int]) -> list[int]:
        """Bos, unless a template has brought it, and the prompt; eos where there is nothing."""
        vocabulary = self.vocabulary
        begins = vocabulary.adds_bos and body[:1] != [vocabulary.bos_id]
        bos = [vocabulary.bos_id] if begins and vocabulary.bos_id is not None else []
        return [*bos, *body] or [vocabulary.eos_id]

    def framed_answer(self, body: list[int]) -> list[int]:
        """The answer and eos."""
        return [*body, self.vocabulary.eos_id]

    @property
    def unscored_ids(self) -> tuple[int, ...]:
        """What ends an answer."""
        return self.vocabulary.stop_ids

    @functools.cached_property
    def separator(self) -> str:
        """A blank, unless the tokenizer puts one before every text."""
        return "" if self.vocabulary.pieces(self.vocabulary.encode("a"))[0].startswith("▁") else " "


class PairFrame(BeginningFrame):
    """`<s> prompt` and `answer </s>`, read by two stacks: an answer goes on from nothing."""

    @functools.cached_property
    def separator(self) -> str:
        """Nothing."""
        return ""


FRAMES: dict[str, type[PromptFrame]] = {
    "sentinel": SentinelFrame,
    "end": EndFrame,
    "beginning": BeginningFrame,
    "pair": PairFrame,
}
"""By `Model.frame`."""


def frame_of(model: Model, vocabulary: Vocabulary) -> type[PromptFrame]:
    """The frame that a model reads: an encoder-decoder with OpenBA's vocabulary that of OpenBA."""
    if model.layout == "encoder_decoder" and vocabulary.kind == "openba":
        return SentinelFrame
    return FRAMES[model.frame]
