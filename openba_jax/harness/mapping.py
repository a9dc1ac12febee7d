"""What of a request a model reads as its inputs and what as its targets.

The harness thinks of one text, a context and its continuation. An encoder-decoder reads the context
in the encoder and the continuation in the decoder (docs/harness.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from absl import logging

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.evaluation.continuations import Continuation
from openba_jax.inference.prompts import PromptFrame, frame_of
from openba_jax.models.base import Model


class PlainFrame(PromptFrame):
    """The tokens of texts alone, with nothing around them."""

    tokens: ClassVar[int] = 0

    def framed_prompt(self, body: list[int]) -> list[int]:
        """The prompt; where there is nothing, the beginning of a text or the end of another."""
        vocabulary = self.vocabulary
        empty = vocabulary.eos_id if vocabulary.bos_id is None else vocabulary.bos_id
        return body or [empty]

    def framed_answer(self, body: list[int]) -> list[int]:
        """The answer."""
        return body

    @property
    def unscored_ids(self) -> tuple[int, ...]:
        """Every token counts."""
        return ()


MAPPINGS = ("frame", "plain")
"""`frame`: within what the model was trained with, `<S> context <extra_id_0>` and
`<extra_id_0> continuation` for OpenBA; `plain`: tokens of the texts alone."""


class RequestMapping:
    """Makes ids of the harness's requests; what is too long loses its beginning, never its frame.

    Attributes:
      frame: what stands around contexts and continuations.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        mapping: str,
        max_length: int,
        parse_special: bool,
    ) -> None:
        """Keeps a vocabulary.

        Args:
          model: the model.
          vocabulary: its vocabulary.
          mapping: one of `MAPPINGS`.
          max_length: the longest context of an encoder, the longest text of a decoder, in tokens;
            0: as long as the model was made for.
          parse_special: strings of special tokens in requests become these tokens.

        Raises:
          UserError: the mapping is unknown, or the length leaves no room.
        """
        if mapping not in MAPPINGS:
            raise UserError(f"mapping is {mapping!r}; it is one of {', '.join(MAPPINGS)}.")
        self._one_sequence = model.layout == "decoder_only"
        self._encoder_length, self._decoder_length = model.config.lengths
        if max_length < 0:
            raise UserError(f"max_length is {max_length}; it must be at least 1, or 0.")
        self._whole = sum(model.config.lengths)
        if max_length:
            self._encoder_length = self._whole = max_length
        kind = PlainFrame if mapping == "plain" else frame_of(model, vocabulary)
        self.frame = kind(vocabulary, self._encoder_length, parse_special=parse_special)
        self._apart = mapping == "frame" and not self._one_sequence
        self._warned: set[str] = set()

    def continuation(self, context: str, continuation: str, place: str) -> Continuation:
        """A continuation that is to be scored.

        Blanks at the end of the context count to the continuation, as in the harness. Its tokens
        are those that both together have beyond the tokens of the context; but in the frame of an
        encoder-decoder it is encoded alone, without blanks in front.

        Args:
          context: the context, which may be empty.
          continuation: what follows.
          place: what it is, for messages.

        Raises:
          UserError: the continuation has no token, is longer than the model's targets, or one of
            both is no valid Unicode.
        """
        before = self.frame.encode(context.rstrip(), place)
        if self._apart:
            # As `openba-eval` has it: a decoder begins with the answer, not with a blank.
            body = self.frame.encode(continuation.lstrip(" ") or continuation, place)
        else:
            whole = self.frame.encode(context + continuation, place)
            # Where pieces reach across the border, there may be nothing beyond.
            body = whole[len(before) :] or self.frame.encode(continuation, place)
        if not body:
            raise UserError(f"{place}: the continuation {continuation!r} has no token to score.")
        return self._pair(before, body, place)

    def prompt(self, context: str, room: int, place: str) -> list[int]:
        """The ids of a context that is to be answered, with room for so many tokens.

        Raises:
          UserError: there is no room for a context, or it is no valid Unicode.
        """
        most = self._whole - room if self._one_sequence else self._encoder_length
        if most <= self.frame.tokens:
            raise UserError(
                f"answers of {room} tokens leave no room for a context in {self._whole}; give a "
                "smaller max_gen_toks."
            )
        return self._context(self.frame.encode(context, place), most, place)

    def windows(self, text: str, place: str) -> Iterator[Continuation]:
        """A text in parts, each scored once with as much of what precedes it as there is room for.

        A decoder's windows are those of the harness. An encoder-decoder reads what precedes a part
        in the encoder, and the part, as long as its targets may be, in the decoder.

        Raises:
          UserError: the text is no valid Unicode.
        """
        ids = self.frame.encode(text, place)
        if self._one_sequence:
            yield from self._windows_of_one_sequence(ids, place)
            return
        length = self._decoder_length - self._added
        for start in range(0, len(ids), length):
            context = ids[max(0, start - self._encoder_length + self.frame.tokens) : start]
            yield self._pair(context, ids[start : start + length], place)

    def _windows_of_one_sequence(self, ids: list[int], place: str) -> Iterator[Continuation]:
        length = self._whole
        for start in range(0, len(ids), length):
            part = ids[start : start + length]
            if start == 0:
                yield self._pair([], part, place)
            else:
                # The last token before the part is read for the first of it; the rest is room.
                context = ids[start - 1 - (length - len(part)) : start]
                yield self._scored(context, part)

    def _pair(self, before: list[int], body: list[int], place: str) -> Continuation:
        most = self._whole - len(body) if self._one_sequence else self._encoder_length
        if self._one_sequence:
            most += 1  # The last token of the continuation is not read.
        longest = self._whole if self._one_sequence else self._decoder_length - self._added
        if len(body) > longest or most < self.frame.tokens:
            raise UserError(
                f"{place}: a continuation of {len(body)} tokens exceeds the {longest} that the "
                "model was made for."
            )
        return self._scored(self._context(before, most, place), body)

    def _scored(self, inputs: list[int], body: list[int]) -> Continuation:
        targets = self.frame.framed_answer(body)
        start = self._leading
        return Continuation(tuple(inputs), tuple(targets), slice(start, start + len(body)))

    def _context(self, body: list[int], most: int, place: str) -> list[int]:
        room = most - self.frame.tokens
        if len(body) > room and "context" not in self._warned:
            self._warned.add("context")
            logging.warning(
                "%s: a context of %d tokens exceeds the %d that fit; its beginning is left out, "
                "as is that of others.",
                *(place, len(body), room),
            )
        return self.frame.framed_prompt(body[max(0, len(body) - room) :])

    @property
    def _leading(self) -> int:
        """Tokens that the frame puts before a continuation."""
        mark = -1
        return self.frame.framed_answer([mark]).index(mark)

    @property
    def _added(self) -> int:
        """Tokens that the frame puts around a continuation."""
        return len(self.frame.framed_answer([]))
