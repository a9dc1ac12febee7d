"""A server in this process, and plain requests to it, which conftest and tests import."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from openba_jax.serving.app import Served, create_app
from openba_jax.serving.requests import Defaults

ROOM = 300
LONGEST_BODY = 20_000
DEFAULTS = Defaults(1.0, 1.0, 16, ROOM, ROOM, 4)


class Server(NamedTuple):
    """A running server."""

    port: int
    served: Mapping[str, Served]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@contextlib.contextmanager
def running(served: Mapping[str, Served], **options: Any) -> Iterator[Server]:
    """Serves within a thread; the engines are the caller's."""
    import uvicorn

    app = create_app(served, DEFAULTS, longest_body=LONGEST_BODY, **options)
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_level="critical", backlog=2048
    )
    server = uvicorn.Server(config)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            until(lambda: server.started)
            yield Server(sock.getsockname()[1], served)
        finally:
            server.should_exit = True
            thread.join(30)


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def ask(
    server: Server,
    content: Any,
    path: str = "/v1/completions",
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request; bytes are sent as they are, else the model is named and JSON made."""
    body = content if isinstance(content, bytes) else json.dumps({"model": "model", **content})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {"Content-Type": "application/json"})
        reply = connection.getresponse()
        fields = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, fields, reply.read())
