"""The bodies of replies, as OpenAI's interface has them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.inference.growing_answer import Finish


def error_body(
    message: str, kind: str, parameter: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of a reply that refuses.

    Args:
      message: a sentence.
      kind: `invalid_request_error`, say.
      parameter: at fault.
      code: a word for programs.
    """
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


def event(content: Mapping[str, Any] | str) -> bytes:
    """A server-sent event."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    # Half of a pair of surrogates, which a model cannot write, is the only text without UTF-8.
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"


DONE = "[DONE]"


class Replies:
    """Bodies for one request."""

    def __init__(self, model: str, is_chat: bool, prompt_tokens: int) -> None:
        """Gives the request a name.

        Args:
          model: its name.
          is_chat: bodies of chats rather than of completions.
          prompt_tokens: of all prompts.
        """
        self._is_chat = is_chat
        self._prompt_tokens = prompt_tokens
        kind = "chat.completion" if is_chat else "text_completion"
        prefix = "chatcmpl" if is_chat else "cmpl"
        self._common: dict[str, Any] = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(
        self, texts: Sequence[str], finishes: Sequence[Finish], tokens: int
    ) -> dict[str, Any]:
        """Everything at once.

        Args:
          texts: the answers.
          finishes: why each ended.
          tokens: of all answers.
        """
        choices = []
        for index, (text, finish) in enumerate(zip(texts, finishes, strict=True)):
            said: dict[str, Any] = {"text": text}
            if self._is_chat:
                said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": finish})
        return {**self._common, "choices": choices, "usage": self._usage(tokens)}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream says before the first piece of an answer, if anything."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self._is_chat else None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A piece of an answer."""
        return self._chunk(index, {"content": text} if self._is_chat else text)

    def closing(self, index: int, finish: Finish) -> dict[str, Any]:
        """The end of an answer."""
        return self._chunk(index, {} if self._is_chat else "", finish)

    def usage(self, tokens: int) -> dict[str, Any]:
        """The counts of tokens, at the end of a stream."""
        return {**self._chunk(0, {}), "choices": [], "usage": self._usage(tokens)}

    def _chunk(
        self, index: int, said: Mapping[str, str] | str, finish: Finish | None = None
    ) -> dict[str, Any]:
        content = {"delta": said} if self._is_chat else {"text": said}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return {**self._common, "object": kind, "choices": [choice]}

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }
