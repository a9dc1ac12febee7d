"""What clients of the HTTP interface send: checked, and nothing of it passed over.

The names are those of OpenAI's interface (platform.openai.com/docs/api-reference), and `top_k` and
`skip_special_tokens` as other servers have them. A parameter that would change the answer and is
not known here is refused, unless its value asks for nothing.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any

from openba_jax.errors import UserError
from openba_jax.inference.decoding import Sampling
from openba_jax.inference.stop_strings import StopStrings, stop_strings
from openba_jax.serving.dialogue import Message
from openba_jax.serving.transcript import read_message

MOST_STOPS = 16
"""Stop strings of a request; each is looked for after every token."""

LONGEST_STOP = 256
"""Characters of a stop string."""

_UNHEARD = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key")
"""Parameters for the keeper of a server, which change no answer."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Parameters that are not served, with the values that ask for nothing; null always does."""


class RequestError(UserError):
    """A request that cannot be served as it is.

    Attributes:
      parameter: which of its parameters is at fault, or None.
      code: a word for programs, or None.
      status: of HTTP.
    """

    def __init__(
        self, message: str, parameter: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        """Keeps them."""
        super().__init__(message)
        # A client can name anything, half a pair of surrogates included, which no reply can hold.
        self.parameter = parameter and parameter.encode("utf-8", "replace").decode()
        self.code, self.status = code, status


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a server does where a request says nothing, and its limits.

    Attributes:
      temperature: of sampling.
      top_p: of sampling.
      completion_tokens: longest answer of a completion.
      chat_tokens: longest answer in a chat.
      most_tokens: longest answer that can be asked for.
      most_choices: answers that one request can ask for.
    """

    temperature: float
    top_p: float
    completion_tokens: int
    chat_tokens: int
    most_tokens: int
    most_choices: int


@dataclasses.dataclass(frozen=True)
class Request:
    """What both kinds of requests have.

    Attributes:
      model: its name.
      prompts: texts to go on from, of a completion; else empty.
      messages: of a chat; else empty.
      choices: answers for each prompt.
      sampling: how tokens are chosen.
      seed: of the first answer; each further one has the next.
      max_new_tokens: longest answer.
      stop: strings that end it.
      stream: whether pieces are wanted as they come.
      usage: whether a stream ends with the counts of tokens.
      keep_special: whether special tokens are text.
    """

    model: str
    prompts: tuple[str, ...]
    messages: tuple[Message, ...]
    choices: int
    sampling: Sampling
    seed: int
    max_new_tokens: int
    stop: StopStrings
    stream: bool
    usage: bool
    keep_special: bool


def read_json(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
      RequestError: it is no JSON object in UTF-8.
    """
    try:
        content = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError("the body is not UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise RequestError("the body is no JSON object.")
    return content


def completion(content: Mapping[str, Any], defaults: Defaults) -> Request:
    """A request for completions.

    Raises:
      RequestError: a parameter is missing, not known, or has no such value.
    """
    values = _Values(content)
    prompt = values.take("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise RequestError(
            "prompt must be a text or a list of texts; ids of tokens are not read.", "prompt"
        )
    limit = values.whole("max_tokens", defaults.completion_tokens, 1, defaults.most_tokens)
    return _request(values, defaults, limit, prompts=tuple(prompts))


def chat(content: Mapping[str, Any], defaults: Defaults) -> Request:
    """A request for an answer in a chat.

    Raises:
      RequestError: a parameter is missing, not known, or has no such value.
    """
    values = _Values(content)
    listed = values.take("messages")
    if not isinstance(listed, list) or not listed:
        raise RequestError("messages must be a list of objects with role and content.", "messages")
    messages = tuple(_message(message, f"messages[{n}]") for n, message in enumerate(listed))
    older = values.whole("max_tokens", None, 1, defaults.most_tokens)
    newer = values.whole("max_completion_tokens", older, 1, defaults.most_tokens)
    if older is not None and newer != older:
        raise RequestError("max_tokens and max_completion_tokens differ; give one.", "max_tokens")
    limit = defaults.chat_tokens if newer is None else newer
    return _request(values, defaults, limit, messages=messages)


def _message(message: object, place: str) -> Message:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(message, dict) and isinstance(content, list):  # In parts.
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        kinds = {part.get("type") for part in content if isinstance(part, dict)}
        if kinds != {"text"} or not all(isinstance(text, str) for text in parts):
            raise RequestError(f"{place} has parts that are no text.", "messages")
        message = {**message, "content": "".join(str(text) for text in parts)}
    if isinstance(message, dict):
        role = {"developer": "system"}.get(str(message.get("role")), message.get("role"))
        message = {**message, "role": role}
        if others := {k for k, v in message.items() if v} - {"role", "content"}:
            raise RequestError(f"{place} has {_shown(min(others))}, which is not read.", "messages")
    try:
        return read_message(message, place)
    except UserError as error:
        raise RequestError(str(error), "messages") from error


def _request(
    values: _Values,
    defaults: Defaults,
    limit: int | None,
    prompts: tuple[str, ...] = (),
    messages: tuple[Message, ...] = (),
) -> Request:
    model = values.take("model")
    if not isinstance(model, str):
        raise RequestError("model must be the name of a model; /v1/models lists them.", "model")
    choices = values.whole("n", 1, 1, defaults.most_choices)
    if choices is None or max(1, len(prompts)) * choices > defaults.most_choices:
        raise RequestError(
            f"{len(prompts)} prompts with n = {choices} ask for more than {defaults.most_choices} "
            "answers; ask in several requests.",
            "n",
        )
    temperature = values.number("temperature", defaults.temperature)
    top_p = values.number("top_p", defaults.top_p)
    top_k = values.whole("top_k", 0, 0, 2**31 - 1)
    seed = values.whole("seed", None, -(2**63), 2**63 - 1)
    stream = values.truth("stream", False)
    options = values.take("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage"}:
        raise RequestError("stream_options has include_usage and nothing else.", "stream_options")
    usage = _Values(options).truth("include_usage", False)
    if usage and not stream:
        raise RequestError("stream_options goes with stream alone.", "stream_options")
    keep_special = not values.truth("skip_special_tokens", True)
    stop = _stop(values.take("stop", None))
    values.check_rest()
    try:
        sampling = Sampling(temperature, top_k or 0, top_p)
    except UserError as error:
        raise RequestError(str(error), str(error).partition(" ")[0]) from error
    return Request(
        model=model,
        prompts=prompts,
        messages=messages,
        choices=choices,
        sampling=sampling,
        seed=secrets.randbits(32) if seed is None else seed,
        max_new_tokens=limit or 1,
        stop=stop,
        stream=stream,
        usage=usage,
        keep_special=keep_special,
    )


def _stop(value: object) -> StopStrings:
    strings: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    fits = all(isinstance(string, str) and 0 < len(string) <= LONGEST_STOP for string in strings)
    if len(strings) > MOST_STOPS or not fits:
        raise RequestError(
            f"stop must be a text or at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters.",
            "stop",
        )
    return stop_strings(strings)


_MISSING = object()


class _Values:
    """Parameters, each taken once."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._left = dict(content)

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """A value, or `default` where it is absent or null."""
        value = self._left.pop(name, None)
        if value is None and default is _MISSING:
            raise RequestError(f"{name} is missing.", name)
        return default if value is None else value

    def whole(self, name: str, default: int | None, least: int, most: int) -> int | None:
        """A whole number within bounds."""
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise RequestError(
                f"{name} is {_shown(value)}; it must be a whole number from {least} to {most}.",
                name,
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f"{name} is {_shown(value)}; it must be a number.", name)
        try:
            return float(value)
        except OverflowError as error:
            raise RequestError(f"{name} is too large.", name) from error

    def truth(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise RequestError(f"{name} is {_shown(value)}; it must be true or false.", name)
        return value

    def check_rest(self) -> None:
        """Raises a `RequestError` for what would change the answer and was not taken."""
        for name, value in self._left.items():
            if value is None or name in _UNHEARD:
                continue
            if name not in _NEUTRAL:
                raise RequestError(f"{_shown(name)} is not a parameter here; leave it out.", name)
            # False equals 0 to Python, and does not to a client.
            if not any(
                value == v and isinstance(value, bool) == isinstance(v, bool)
                for v in _NEUTRAL[name]
            ):
                raise RequestError(f"{name} is not served; leave it out.", name, "unsupported")


def _shown(value: object) -> str:
    """A value for a message, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
