"""A conversation in a terminal, or in a pipe: lines are messages, or commands that begin with /."""

from __future__ import annotations

import contextlib
import difflib
import shlex
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from openba_jax.errors import UserError
from openba_jax.serving import transcript
from openba_jax.serving.conversation import Conversation

HELP = """\
/temperature N  0 takes the likeliest token; above, answers vary
/top_p N        sample from the likeliest tokens of this probability together
/top_k N        sample from so many tokens; 0: all
/max N          longest answer, in tokens
/seed N         of sampling
/reset          forget the dialogue
/save FILE      write it
/load FILE      go on with one that was saved
/history        show it
/help           show this
/quit           end; so does the end of the input
//...           a message that begins with /
Ctrl-C stops an answer; what there is of it is kept.
Without a number, a setting is shown.
"""

_SETTINGS: dict[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "max": ("max_new_tokens", int),
    "seed": ("seed", int),
}
_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}


class Terminal:
    """Reads lines, and writes answers to one stream and everything else to another."""

    def __init__(
        self, conversation: Conversation, lines: TextIO, answers: TextIO, notes: TextIO
    ) -> None:
        """Keeps the streams.

        Args:
          conversation: with the model.
          lines: what the person writes.
          answers: where answers go.
          notes: where everything else goes.
        """
        self._conversation = conversation
        self._lines, self._answers, self._notes = lines, answers, notes
        self._commands: dict[str, Callable[[str], None]] = {
            "reset": self._reset,
            "save": self._save,
            "load": self._load,
            "history": self._history,
            "help": self._help,
        }

    def run(self) -> None:
        """Reads until the input ends or /quit."""
        for line in self._read():
            text = line.strip()
            if text == "/quit":
                return
            try:
                if text.startswith("/") and not text.startswith("//"):
                    self._command(text[1:])
                elif text:
                    self._answer(text[1:] if text.startswith("//") else text)
            except UserError as error:
                self._note(f"error: {error}")

    def _read(self) -> Iterator[str]:
        if not self._lines.isatty():
            yield from self._lines
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  `input` then edits lines and recalls them.
        while True:
            try:
                yield input("Human: ")
            except EOFError:
                self._note("")
                return
            except KeyboardInterrupt:
                self._note("\n(/quit ends)")

    def _answer(self, text: str) -> None:
        with _interruptible() as stopped:
            begun = False
            for piece in self._conversation.answer(text, stopped, self._dropped):
                piece = piece if begun else piece.lstrip()
                if piece and not begun and self._lines.isatty():
                    self._answers.write("Assistant: ")
                begun = begun or bool(piece)
                self._answers.write(_printable(piece))
                self._answers.flush()
            self._answers.write("\n")
            self._answers.flush()
            if stopped():
                self._note("(stopped; what there is of the answer is kept)")
            elif not begun:
                self._note("(the answer is empty)")

    def _dropped(self, count: int) -> None:
        self._note(
            f"(the dialogue is longer than the model reads; {count} oldest messages are left out)"
        )

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        if name in _SETTINGS:
            self._set(name, argument)
        elif name in self._commands:
            self._commands[name](argument)
        else:
            close = difflib.get_close_matches(name, [*_SETTINGS, *self._commands, "quit"], 1)
            hint = f"did you mean /{close[0]}?" if close else "/help lists them."
            raise UserError(f"there is no command /{name}; {hint}")

    def _set(self, command: str, argument: str) -> None:
        name, kind = _SETTINGS[command]
        if argument:
            try:
                value = kind(argument)
            except ValueError:
                wanted = "a whole number" if kind is int else "a number"
                raise UserError(f"/{command} {argument}: this is not {wanted}.") from None
            most = self._conversation.longest_answer
            if name == "max_new_tokens" and not 1 <= value <= most:
                raise UserError(
                    f"/max {value}: it must be between 1 and {most}; a larger MAX_NEW_TOKENS at "
                    "the start makes more room."
                )
            settings = self._conversation.settings.with_values(**{name: value})
            self._conversation.settings = settings
        self._note(f"({command} is {self._conversation.settings.values()[name]})")

    def _reset(self, argument: str) -> None:
        _no_argument("reset", argument)
        self._conversation.reset()
        self._note("(the dialogue is empty)")

    def _save(self, argument: str) -> None:
        file = _file("save", argument)
        settings = self._conversation.settings.values()
        transcript.save(file, self._conversation.messages, settings)
        self._note(f"({file}: {len(self._conversation.messages)} messages)")

    def _load(self, argument: str) -> None:
        file = _file("load", argument)
        messages = transcript.load(file)
        if messages and messages[-1].role != "assistant":
            raise UserError(f"{file} ends with a message that is not the assistant's.")
        self._conversation.messages = messages
        self._note(f"({file}: {len(messages)} messages)")

    def _history(self, argument: str) -> None:
        _no_argument("history", argument)
        for message in self._conversation.messages:
            indented = message.content.replace("\n", "\n  ")
            self._note(f"{_SPEAKERS[message.role]}: {indented}")
        if not self._conversation.messages:
            self._note("(the dialogue is empty)")

    def _help(self, argument: str) -> None:
        _no_argument("help", argument)
        self._note(HELP.rstrip())

    def _note(self, text: str) -> None:
        self._notes.write(f"{_printable(text)}\n")
        self._notes.flush()


def _printable(text: str) -> str:
    """Control characters, which would command the terminal, as escapes."""
    return "".join(
        f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c
        for c in text
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within it, the first Ctrl-C is only remembered: a step that is begun has to be finished."""
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def _no_argument(command: str, argument: str) -> None:
    if argument:
        raise UserError(f"/{command} takes nothing, and was given {argument!r}.")


def _file(command: str, argument: str) -> str:
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UserError(f"/{command} {argument}: {error}.") from error
    if len(words) != 1:
        raise UserError(f"/{command} takes one file, in quotes if its name has blanks.")
    return words[0]


def converse(conversation: Conversation) -> None:
    """A conversation over the standard streams."""
    Terminal(conversation, sys.stdin, sys.stdout, sys.stderr).run()
