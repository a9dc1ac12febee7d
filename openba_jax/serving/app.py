"""The HTTP interface: OpenAI's routes over engines.

Library: starlette, which is loaded by `create_app` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.inference.growing_answer import Finish
from openba_jax.inference.prompts import PromptFrame, UnusablePromptError
from openba_jax.serving import requests
from openba_jax.serving.dialogue import DialogueReader
from openba_jax.serving.engine import ClosedError, Engine, Piece, Question, QueueFullError, Ticket
from openba_jax.serving.guards import Door, read_body
from openba_jax.serving.replies import DONE, Replies, error_body, event
from openba_jax.serving.requests import Defaults, Request, RequestError

PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
_PAGE_HEADERS = {
    # Everything of the page comes from here, and it asks nobody else.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclasses.dataclass(frozen=True)
class Served:
    """A model that is served.

    Attributes:
      engine: answers.
      frame: makes prompts of texts.
      reader: makes prompts of dialogues.
    """

    engine: Engine
    frame: PromptFrame
    reader: DialogueReader


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Questions in the queue, and where their pieces arrive, each with the number of its answer."""

    tickets: Sequence[Ticket]
    pieces: asyncio.Queue[tuple[int, Piece]]
    replies: Replies


class _Api:
    """The routes."""

    def __init__(self, served: Mapping[str, Served], defaults: Defaults, longest_body: int) -> None:
        self._served, self._defaults, self._longest_body = served, defaults, longest_body

    async def health(self, request: Any) -> Any:
        """What every engine does; 503 where one answers nothing."""
        from starlette.responses import JSONResponse

        engines = {name: served.engine for name, served in self._served.items()}
        healthy = all(engine.healthy for engine in engines.values())
        counts = {name: {"running": e.running, "waiting": e.waiting} for name, e in engines.items()}
        content = {"status": "ok" if healthy else "unavailable", "models": counts}
        return JSONResponse(content, 200 if healthy else 503)

    async def models(self, request: Any) -> Any:
        """The names of the models."""
        from starlette.responses import JSONResponse

        data = [_model_body(name, served) for name, served in self._served.items()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Any) -> Any:
        """One model."""
        from starlette.responses import JSONResponse

        name = request.path_params["name"]
        return JSONResponse(_model_body(name, self._find(name)))

    async def completions(self, request: Any) -> Any:
        """Goes on from texts."""
        return await self._answer(request, requests.completion, False)

    async def chat(self, request: Any) -> Any:
        """Answers in a chat."""
        return await self._answer(request, requests.chat, True)

    async def _answer(
        self, request: Any, read: Callable[[Mapping[str, Any], Defaults], Request], is_chat: bool
    ) -> Any:
        from starlette.responses import JSONResponse

        body = await read_body(request, self._longest_body)

        def prepare() -> tuple[Request, Served, list[list[int]]]:
            asked = read(requests.read_json(body), self._defaults)
            served = self._find(asked.model)
            return asked, served, _prompts(asked, served)

        # Long prompts take long to encode; meanwhile others are served.
        asked, served, prompts = await asyncio.to_thread(prepare)
        counted = sum(map(len, prompts))
        waiting = _submit(served.engine, asked, prompts, Replies(asked.model, is_chat, counted))
        if asked.stream:
            return _EventStream(waiting, _events(waiting, asked.usage))
        whole = asyncio.create_task(_whole(waiting))
        gone = asyncio.create_task(_disconnected(request.receive))
        try:
            await asyncio.wait((whole, gone), return_when=asyncio.FIRST_COMPLETED)
            # Who is gone reads no answer: what is returned then goes nowhere.
            return JSONResponse(await whole if whole.done() else {}, 200)
        finally:
            _cancel(waiting.tickets)
            whole.cancel()
            gone.cancel()

    def _find(self, name: str) -> Served:
        if name not in self._served:
            names = ", ".join(self._served)
            raise RequestError(
                f"there is no model {name[:60]!r}; there are {names}.",
                "model",
                "model_not_found",
                404,
            )
        return self._served[name]


def create_app(
    served: Mapping[str, Served],
    defaults: Defaults,
    *,
    longest_body: int,
    token: bytes | None = None,
    own_machine: bool = True,
    page: bool = False,
) -> Any:
    """The ASGI application.

    Args:
      served: the models by name, their engines started.
      defaults: of requests.
      longest_body: bytes of a request.
      token: that clients must send; None: anybody may ask.
      own_machine: the server is bound to this machine alone.
      page: whether there is a page for browsers at `/`.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import FileResponse, JSONResponse
    from starlette.routing import Route

    api = _Api(served, defaults, longest_body)
    routes = [
        Route("/health", api.health, methods=["GET"]),
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.model, methods=["GET"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
    ]

    def page_file(name: str) -> Callable[[Any], Any]:
        async def send(request: Any) -> Any:
            return FileResponse(PAGE / name, headers=_PAGE_HEADERS)

        return send

    if page:
        routes += [
            Route(path, page_file(name), methods=["GET"]) for path, name in _PAGE_FILES.items()
        ]

    async def refused(request: Any, error: Exception) -> Any:
        status, body, headers = _refusal(error)
        return JSONResponse(body, status, headers)

    handled = (RequestError, UnusablePromptError, QueueFullError, ClosedError, HTTPException)
    handlers: dict[Any, Any] = dict.fromkeys((*handled, _BrokenAnswerError), refused)
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Door(app, token, own_machine)


class _BrokenAnswerError(Exception):
    """The model gave no answer."""


def _refusal(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a refusal."""
    invalid, message = "invalid_request_error", str(error)
    if isinstance(error, RequestError):
        # A body that was not read whole is still on its way: the connection ends.
        headers = {"connection": "close"} if error.status in (408, 413, 415) else {}
        return error.status, error_body(message, invalid, error.parameter, error.code), headers
    if isinstance(error, UserError):
        return 400, error_body(message, invalid, None, "unusable_prompt"), {}
    if isinstance(error, QueueFullError):
        body = error_body(message, "rate_limit_error", None, "queue_full")
        return 429, body, {"retry-after": str(error.seconds)}
    if isinstance(error, ClosedError):
        return 503, error_body(message, "server_error"), {"connection": "close"}
    if isinstance(error, _BrokenAnswerError):
        return 500, error_body(message, "server_error"), {}
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", message)
    return status, error_body(f"{detail}.", invalid), dict(getattr(error, "headers", None) or {})


def _model_body(name: str, served: Served) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "openba_jax",
        "max_prompt_tokens": served.engine.longest_prompt,
        "max_new_tokens": served.engine.room,
        "dialogue": served.reader.name,
    }


def _prompts(asked: Request, served: Served) -> list[list[int]]:
    """The ids of all prompts of a request.

    Raises:
      UnusablePromptError: one is too long, no valid Unicode, or no dialogue of the model's form.
    """
    if asked.messages:
        return [served.reader.ids(asked.messages)]
    return [served.frame.prompt(text, f"prompt {n}") for n, text in enumerate(asked.prompts, 1)]


def _submit(
    engine: Engine, asked: Request, prompts: Sequence[Sequence[int]], replies: Replies
) -> _Asked:
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
    questions = [
        Question(
            tuple(prompt),
            asked.sampling,
            asked.seed + choice,
            asked.max_new_tokens,
            asked.stop,
            asked.keep_special,
        )
        for prompt in prompts
        for choice in range(asked.choices)
    ]

    def deliver_to(number: int) -> Callable[[Piece], None]:
        def deliver(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

        return deliver

    tickets = engine.submit(questions, [deliver_to(n) for n in range(len(questions))])
    return _Asked(tickets, pieces, replies)


async def _arriving(waiting: _Asked) -> AsyncIterator[tuple[int, Piece]]:
    """All pieces of all answers, as they come."""
    left = len(waiting.tickets)
    while left:
        number, piece = await waiting.pieces.get()
        if piece.error is not None:
            raise _BrokenAnswerError(piece.error)
        left -= piece.finish is not None
        yield number, piece


async def _whole(waiting: _Asked) -> dict[str, Any]:
    """The body of a reply with whole answers."""
    count = len(waiting.tickets)
    texts: list[list[str]] = [[] for _ in range(count)]
    tokens = [0] * count
    finishes: list[Finish] = ["stop"] * count
    async for number, piece in _arriving(waiting):
        texts[number].append(piece.text)
        tokens[number] = piece.tokens
        finishes[number] = piece.finish or finishes[number]
    return waiting.replies.whole(["".join(parts) for parts in texts], finishes, sum(tokens))


async def _events(waiting: _Asked, usage: bool) -> AsyncIterator[bytes]:
    """The events of a stream; an error ends it without `[DONE]`."""
    replies, tokens = waiting.replies, [0] * len(waiting.tickets)
    try:
        for number in range(len(waiting.tickets)):
            if (opening := replies.opening(number)) is not None:
                yield event(opening)
        async for number, piece in _arriving(waiting):
            tokens[number] = piece.tokens
            if piece.text:
                yield event(replies.piece(number, piece.text))
            if piece.finish:
                yield event(replies.closing(number, piece.finish))
    except _BrokenAnswerError as error:
        yield event(error_body(str(error), "server_error"))
        return
    if usage:
        yield event(replies.usage(sum(tokens)))
    yield event(DONE)


class _EventStream:
    """An ASGI response of server-sent events; when the client goes away, so do its questions."""

    def __init__(self, waiting: _Asked, events: AsyncIterator[bytes]) -> None:
        self._waiting, self._events = waiting, events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with contextlib.suppress(OSError):  # The client went in the middle of a piece.
                    await sending
        finally:
            _cancel(self._waiting.tickets)
            sending.cancel()
            gone.cancel()

    async def _send(self, send: Any) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in self._events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Any) -> None:
    """Returns when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _cancel(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.cancel()
