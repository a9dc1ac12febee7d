"""A conversation of one person with one model: messages, settings, answers token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import Sampling
from openba_jax.inference.growing_answer import GrowingAnswer
from openba_jax.inference.slots import SlotDecoder
from openba_jax.serving.dialogue import DialogueReader, Message


@dataclasses.dataclass(frozen=True)
class Settings:
    """How answers are made.

    Attributes:
      sampling: how tokens are chosen.
      max_new_tokens: longest answer.
      seed: of sampling.
    """

    sampling: Sampling
    max_new_tokens: int
    seed: int = 0

    def with_values(self, **values: float) -> Settings:
        """A copy with some values changed; fields of `sampling` are named like its own.

        Raises:
          UserError: a value is out of its range.
        """
        names = {field.name for field in dataclasses.fields(Sampling)}
        inner = {name: value for name, value in values.items() if name in names}
        outer = {name: value for name, value in values.items() if name not in names}
        sampling = dataclasses.replace(self.sampling, **inner)  # type: ignore[arg-type]
        return dataclasses.replace(self, sampling=sampling, **outer)  # type: ignore[arg-type]

    def values(self) -> dict[str, float]:
        """All values by name."""
        return {
            **dataclasses.asdict(self.sampling),
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }


class Conversation:
    """Messages so far, and the means to go on; to be used within `sharding.use_mesh`."""

    def __init__(
        self,
        decoder: SlotDecoder,
        vocabulary: Vocabulary,
        reader: DialogueReader,
        settings: Settings,
        system: str = "",
    ) -> None:
        """Begins a conversation.

        Args:
          decoder: its first slot is used.
          vocabulary: the model's.
          reader: makes prompts of dialogues.
          settings: of the first answer.
          system: what the model is told before everything else; "" for nothing.

        Raises:
          UserError: the form of dialogue has no place for what the system says.
        """
        self._decoder, self._vocabulary, self._reader = decoder, vocabulary, reader
        self._system = [Message("system", system)] if system else []
        if system:
            reader.ids([*self._system, Message("user", "?")])
            if reader.name == "message":
                raise UserError(
                    "DIALOGUE is 'message', which has no place for SYSTEM; leave one of them out."
                )
        self.settings = settings
        self.messages: list[Message] = list(self._system)

    @property
    def longest_answer(self) -> int:
        """Tokens that there is room for."""
        return self._decoder.room

    def reset(self) -> None:
        """Forgets everything but the system's message."""
        self.messages = list(self._system)

    def answer(
        self, text: str, stopped: Callable[[], bool], dropped: Callable[[int], None]
    ) -> Iterator[str]:
        """Sends a message and yields the text of the answer, piece by piece.

        The message becomes part of the conversation when its answer ends or is stopped.

        Args:
          text: the message.
          stopped: asked before every token whether that is enough.
          dropped: told how many of the oldest messages no longer fit, if any.

        Raises:
          UserError: the message is too long, no valid Unicode, or cannot be answered.
        """
        messages = [*self.messages, Message("user", text)]
        ids, kept = self._reader.fit(messages)
        if len(kept) < len(messages):
            dropped(len(messages) - len(kept))
        settings = self.settings
        self._decoder.join(0, ids, settings.sampling, settings.seed)
        answer = GrowingAnswer(self._vocabulary, settings.max_new_tokens)
        while answer.finish is None and not stopped():
            yield answer.add(int(self._decoder.step()[0]))
        self.messages = [*kept, Message("assistant", answer.text.strip())]
