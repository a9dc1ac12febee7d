"""Dialogues in files: JSON that people can read and that can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.paths import check_output_file, local
from openba_jax.serving.dialogue import ROLES, Message, Role


def save(path: str, messages: Sequence[Message], settings: Mapping[str, Any]) -> None:
    """Writes messages and the settings that they were answered with.

    Args:
      path: a new file, or one that holds a dialogue.
      messages: the dialogue.
      settings: by name.

    Raises:
      UserError: the file cannot be written, or holds something else.
    """
    target = check_output_file(path)
    if target.exists():
        load(path)
    lines = [
        json.dumps({"role": m.role, "content": m.content}, ensure_ascii=False) for m in messages
    ]
    listed = ",\n    ".join(lines)
    head = json.dumps(dict(settings), ensure_ascii=False)
    text = f'{{\n  "settings": {head},\n  "messages": [\n    {listed}\n  ]\n}}\n'
    write_atomically(target, text)


def load(path: str) -> list[Message]:
    """The messages of a file.

    Raises:
      UserError: it cannot be read, or holds no dialogue.
    """
    try:
        content = json.loads(local(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no dialogue: it is not JSON in UTF-8.") from error
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list):
        raise UserError(f"{path} is no dialogue: it has no list of messages.")
    return [read_message(message, f"{path}: message {n}") for n, message in enumerate(messages, 1)]


def read_message(message: object, place: str) -> Message:
    """A message of JSON.

    Args:
      message: an object with `role` and `content`.
      place: where it stands, for errors.

    Raises:
      UserError: it is none.
    """
    if not isinstance(message, dict):
        raise UserError(f"{place} is {message!r}; it must be an object with role and content.")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"{place} has the role {role!r}; it must be one of {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise UserError(f"{place} has the content {content!r}; it must be text.")
    return Message(cast(Role, role), content)
