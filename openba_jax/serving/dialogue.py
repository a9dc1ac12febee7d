"""A dialogue as the ids that a model reads, in the form that the model was tuned on.

What people write is text: where a message spells a special token, such as `</s>`, it stays text,
and cannot end a turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.prompts import SentinelFrame, UnusablePromptError, frame_of
from openba_jax.models.base import Model
from openba_jax.serving.chat_template import ChatTemplate

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


class Message(NamedTuple):
    """One message.

    Attributes:
      role: who says it.
      content: what.
    """

    role: Role
    content: str


class Part(NamedTuple):
    """A piece of a prompt.

    Attributes:
      text: its text.
      special: strings of special tokens in it are these tokens.
    """

    text: str
    special: bool


Form = Callable[[Sequence[Message]], list[Part]]
"""Makes a prompt, which ends where the answer begins, of messages, of which the last is a user's.
It raises an `UnusablePromptError` for messages that it cannot express."""


def openba_form(messages: Sequence[Message]) -> list[Part]:
    """`Human: {i} </s> Assistant: {j} </s> Human: {m} </s> Assistant: `, OpenBA's chat demo.

    Blanks on both sides of a special token are left out, as the demo's tokenizer does it.
    """
    parts = []
    for place, message in enumerate(messages):
        if message.role != ("user", "assistant")[place % 2]:
            raise UnusablePromptError(
                f"message {place + 1} is of the role {message.role!r}; in OpenBA's dialogues user "
                "and assistant take turns, and there is no system: put what it says in the first "
                "message of the user."
            )
        speaker = "Human:" if message.role == "user" else "Assistant:"
        content = f" {message.content}".rstrip()
        parts += [Part(speaker, True), Part(content, False), Part("</s>", True)]
    return [*parts, Part("Assistant:", True)]


def message_form(messages: Sequence[Message]) -> list[Part]:
    """The last message alone, as in OpenBA's code demo."""
    return [Part(messages[-1].content, False)]


FORMS: dict[str, Form] = {"openba": openba_form, "message": message_form}
"""By name; `chat_template` is made of the template of a tokenizer."""


class DialogueReader:
    """Makes ids of dialogues for one model."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        longest: int,
        form: str = "",
        template: str | None = None,
    ) -> None:
        """Finds the form.

        Args:
          model: the model.
          vocabulary: its vocabulary.
          longest: tokens of a prompt, its frame included.
          form: `openba`, `message` or `chat_template`; "": that of the model: OpenBA's where it
            reads prompts as OpenBA does, the chat template where there is one, else `message`.
          template: a chat template; None: that of the tokenizer.

        Raises:
          UserError: the form is unknown, or there is no chat template or no program that reads it,
            or `longest` has no room for a message.
        """
        frame = frame_of(model, vocabulary)
        own = vocabulary.settings.tokenizer_config.get("chat_template")
        if not form:
            form = "openba" if issubclass(frame, SentinelFrame) else "message"
            if template is not None or own:
                form = "chat_template"
        if form == "chat_template":
            found = own if template is None else template
            if not found:
                raise UserError(
                    f"{vocabulary} has no chat template; give CHAT_TEMPLATE, a file, or "
                    "DIALOGUE = 'message'."
                )
            self._form: Form = _templated(ChatTemplate(found, vocabulary), vocabulary)
        elif form in FORMS:
            if template is not None:
                raise UserError(f"DIALOGUE is {form!r}, which reads no CHAT_TEMPLATE; give one.")
            self._form = FORMS[form]
        else:
            names = ", ".join((*FORMS, "chat_template"))
            raise UserError(f"there is no form of dialogue {form!r}; there are {names}.")
        self.name = form
        self.longest = longest
        self._vocabulary = vocabulary
        self._frame = frame(vocabulary, longest)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a dialogue, int ids with their frame.

        Args:
          messages: of which the last is a user's.

        Raises:
          UnusablePromptError: there is none, the last is not a user's, the form cannot express
            them, one is no valid Unicode, or they are longer than `longest` tokens.
        """
        framed = self._framed(messages)
        if len(framed) > self.longest:
            raise UnusablePromptError(
                f"the prompt has {len(framed)} tokens, of which {self.longest} fit; shorten it."
            )
        return framed

    def fit(self, messages: Sequence[Message]) -> tuple[list[int], list[Message]]:
        """The prompt of as many of the last messages as fit, and these messages.

        The oldest turns are left out first, a question with its answer; a system's message stays.

        Raises:
          UnusablePromptError: as `ids`, also where the last message alone is too long.
        """
        kept = list(messages)
        first = sum(1 for _ in itertools.takewhile(lambda m: m.role == "system", kept))
        while True:
            framed = self._framed(kept)
            if len(framed) <= self.longest:
                return framed, kept
            turns = [n for n in range(first + 1, len(kept)) if kept[n].role == "user"]
            if not turns:
                raise UnusablePromptError(
                    f"the message has {len(framed)} tokens with what stands around it, of which "
                    f"{self.longest} fit; shorten it."
                )
            del kept[first : turns[0]]

    def _framed(self, messages: Sequence[Message]) -> list[int]:
        if not messages or messages[-1].role != "user":
            raise UnusablePromptError("the last message is not a user's; only such are answered.")
        for place, message in enumerate(messages, 1):
            try:
                message.content.encode()
            except UnicodeEncodeError as error:
                raise UnusablePromptError(
                    f"message {place} holds half of a pair that makes a character; write the "
                    "character itself."
                ) from error
        return self._frame.framed_prompt(encode_parts(self._vocabulary, self._form(messages)))


def encode_parts(vocabulary: Vocabulary, parts: Sequence[Part]) -> list[int]:
    """The ids of parts, encoded as one text.

    Encoded apart, parts would begin with blanks, and blanks between them be pieces of their own.
    Where a part spells special tokens that are to stay text, this cannot be.
    """
    plain = all(
        vocabulary.encode(part.text, True) == vocabulary.encode(part.text, False)
        for part in parts
        if not part.special
    )
    whole = "".join(part.text for part in parts)
    apart = [token for part in parts for token in vocabulary.special_in(part.text)]
    if plain and vocabulary.special_in(whole) == apart:
        return vocabulary.encode(whole, any(part.special for part in parts))
    # Where the tokenizer puts a blank before every text, one that is there would be a second.
    blank = " " if vocabulary.pieces(vocabulary.encode("a"))[0].startswith("▁") else ""
    ids = []
    for part in parts:
        text = part.text if part.special else part.text.removeprefix(blank)
        ids += vocabulary.encode(text, part.special)
    return ids


def _templated(template: ChatTemplate, vocabulary: Vocabulary) -> Form:
    """The form of a chat template."""

    def form(messages: Sequence[Message]) -> list[Part]:
        whole = template.render([message._asdict() for message in messages])
        if not any(vocabulary.special_in(message.content) for message in messages):
            return [Part(whole, True)]
        # A message is found again by a mark, which no message holds.
        mark = next(
            f"<message-{n}-" for n in itertools.count() if not _holds(messages, f"<message-{n}-")
        )
        marks = [f"{mark}{number}>" for number in range(len(messages))]
        rest = template.render(
            [{"role": m.role, "content": name} for m, name in zip(messages, marks, strict=True)]
        )
        parts = []
        for number, message in enumerate(messages):
            before, found, rest = rest.partition(marks[number])
            if not found or mark in before:
                raise UnusablePromptError(
                    "the chat template moves or leaves out messages, of which one spells a "
                    "special token; leave that out."
                )
            trimmed = message.content.strip()
            content = message.content if before + message.content in whole else trimmed
            parts += [Part(before, True), Part(content, False)]
        return [part for part in (*parts, Part(rest, True)) if part.text]

    return form


def _holds(messages: Sequence[Message], mark: str) -> bool:
    return any(mark in message.content for message in messages)
