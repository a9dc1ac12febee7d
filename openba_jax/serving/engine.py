"""Continuous batching: questions wait in a queue, take a slot as soon as one is free, and leave it.

One thread owns the slots of a model; everybody else hands questions in and gets pieces of answers.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from absl import logging

from openba_jax.errors import UserError
from openba_jax.inference.decoding import Sampling
from openba_jax.inference.growing_answer import Finish, GrowingAnswer
from openba_jax.inference.loading import PlacedModel
from openba_jax.inference.slots import SlotDecoder
from openba_jax.inference.stop_strings import StopStrings
from openba_jax.parallel.sharding import use_mesh

_LONGEST_WAIT = 60  # Seconds that a client is told to wait, at most.


class QueueFullError(Exception):
    """The queue has no room.

    Attributes:
      seconds: after which it may have some.
    """

    def __init__(self, seconds: int) -> None:
        """Keeps the time."""
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class ClosedError(Exception):
    """The engine takes no more questions."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
      prompt: ids with their frame, no more than the slots have room for.
      sampling: how tokens are chosen.
      seed: of sampling.
      max_new_tokens: longest answer.
      stop: strings that end it.
      keep_special: see `GrowingAnswer`.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int
    max_new_tokens: int
    stop: StopStrings
    keep_special: bool


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
      text: what is new; may be empty.
      tokens: how many tokens the answer has so far.
      finish: why it ended, in its last piece.
      error: why it cannot be given, in its last piece.
    """

    text: str
    tokens: int
    finish: Finish | None = None
    error: str | None = None


Deliver = Callable[[Piece], None]
"""Gets every piece, in the engine's thread; must return at once."""


class Ticket:
    """A question in the queue or in a slot."""

    def __init__(self, question: Question, answer: GrowingAnswer, deliver: Deliver) -> None:
        """Keeps them."""
        self.question, self.answer, self.deliver = question, answer, deliver
        self.cancelled = False
        self.started = 0.0

    def cancel(self) -> None:
        """Nobody wants the answer any more: no piece is delivered after the current step."""
        self.cancelled = True


class Engine:
    """Answers questions with one model.

    Attributes:
      placed: the model.
      longest_prompt: tokens of a prompt.
      room: tokens of an answer.
    """

    def __init__(
        self, placed: PlacedModel, slots: int, longest_prompt: int, room: int, queue_length: int
    ) -> None:
        """Keeps a model; `start` starts the thread.

        Args:
          placed: the model.
          slots: answers at once.
          longest_prompt: tokens of a prompt.
          room: tokens of an answer.
          queue_length: questions that may wait.

        Raises:
          UserError: a number is below 1.
        """
        if queue_length < 1:
            raise UserError(f"QUEUE_LENGTH is {queue_length}; it must be at least 1.")
        if slots < 1:
            raise UserError(f"SLOTS is {slots}; it must be at least 1.")
        self.placed = placed
        self.longest_prompt, self.room, self.queue_length = longest_prompt, room, queue_length
        self._slots: list[Ticket | None] = [None] * slots
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._changed = threading.Condition()
        self._state: Literal["new", "open", "closing", "failed"] = "new"
        self._seconds = 1.0  # That an answer takes, a moving average.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ready = threading.Event()

    @property
    def healthy(self) -> bool:
        """Whether questions are taken."""
        return self._state == "open"

    @property
    def running(self) -> int:
        """Answers that are being made."""
        return sum(ticket is not None for ticket in self._slots)

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        with self._changed:
            return sum(not ticket.cancelled for ticket in self._waiting)

    def start(self) -> None:
        """Starts the thread and waits until everything is compiled.

        Raises:
          RuntimeError: that failed.
        """
        self._thread.start()
        self._ready.wait()
        if self._state == "failed":
            raise RuntimeError("the model cannot be compiled; see above")

    def close(self, seconds: float | None = None) -> None:
        """Takes no more questions, answers those that are there, and ends the thread.

        Args:
          seconds: to wait for that; None for as long as it takes.
        """
        with self._changed:
            if self._state != "failed":
                self._state = "closing"
            self._changed.notify()
        self._thread.join(seconds)

    def submit(self, questions: Sequence[Question], deliver: Sequence[Deliver]) -> list[Ticket]:
        """Puts questions into the queue, all or none.

        Args:
          questions: at most `queue_length`.
          deliver: who gets the pieces of each answer.

        Raises:
          QueueFullError: there is no room for all of them.
          ClosedError: the engine is closing or has failed.
        """
        vocabulary = self.placed.vocabulary
        tickets = [
            Ticket(q, GrowingAnswer(vocabulary, q.max_new_tokens, q.stop, q.keep_special), d)
            for q, d in zip(questions, deliver, strict=True)
        ]
        with self._changed:
            if self._state != "open":
                raise ClosedError("the server is shutting down or has failed")
            if len(self._waiting) + len(tickets) > self.queue_length:
                self._waiting = collections.deque(t for t in self._waiting if not t.cancelled)
            if len(self._waiting) + len(tickets) > self.queue_length:
                raise QueueFullError(self._seconds_to_wait())
            self._waiting.extend(tickets)
            self._changed.notify()
        return tickets

    def _seconds_to_wait(self) -> int:
        waves = 1 + len(self._waiting) // len(self._slots)
        return max(1, min(_LONGEST_WAIT, round(waves * self._seconds)))

    def _run(self) -> None:
        with use_mesh(self.placed.mesh):  # Meshes are a thread's own.
            try:
                decoder = SlotDecoder(
                    self.placed.model,
                    self.placed.params,
                    len(self._slots),
                    self.longest_prompt,
                    self.room,
                )
                decoder.compile()
                self._state = "open"
                self._ready.set()
                while self._take_in(decoder):
                    self._advance(decoder)
            except Exception as error:
                # The thread is the last to know: whoever waits must be told.
                logging.exception("the engine has failed")
                self._fail(error)
            finally:
                self._ready.set()

    def _take_in(self, decoder: SlotDecoder) -> bool:
        """Fills free slots from the queue; False when everything is answered and closing."""
        with self._changed:
            for slot, ticket in enumerate(self._slots):
                if ticket is not None and ticket.cancelled:
                    self._slots[slot] = None
            while not any(self._slots):
                if any(not ticket.cancelled for ticket in self._waiting):
                    break
                self._waiting.clear()
                if self._state == "closing":
                    return False
                self._changed.wait()
            joining = []
            for slot, taken in enumerate(self._slots):
                while taken is None and self._waiting:
                    ticket = self._waiting.popleft()
                    if not ticket.cancelled:
                        self._slots[slot] = taken = ticket
                        joining.append((slot, ticket))
        for slot, ticket in joining:
            ticket.started = time.monotonic()
            question = ticket.question
            decoder.join(slot, question.prompt, question.sampling, question.seed)
        return True

    def _advance(self, decoder: SlotDecoder) -> None:
        """One token for everybody."""
        tokens = decoder.step()
        for slot, ticket in enumerate(self._slots):
            if ticket is None or ticket.cancelled:
                continue
            answer, error = ticket.answer, None
            try:
                text = answer.add(int(tokens[slot]))
            except UserError as mistake:
                text, error = "", str(mistake)
            if answer.finish or error:
                self._slots[slot] = None
                taken = time.monotonic() - ticket.started
                self._seconds += 0.1 * (taken - self._seconds)
            _deliver(ticket, Piece(text, answer.token_count, answer.finish, error))

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._state = "failed"
            left = [*filter(None, self._slots), *self._waiting]
            self._slots = [None] * len(self._slots)
            self._waiting.clear()
        for ticket in left:
            _deliver(
                ticket, Piece("", ticket.answer.token_count, error=f"the model failed: {error}")
            )


def _deliver(ticket: Ticket, piece: Piece) -> None:
    # Whoever waits may be gone together with the loop that would wake him.
    with contextlib.suppress(RuntimeError):
        ticket.deliver(piece)
