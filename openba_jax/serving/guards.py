"""What stands before the HTTP interface: who may ask, from where, and how much may be sent."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
from collections.abc import Mapping
from typing import Any

from openba_jax.errors import UserError
from openba_jax.paths import local
from openba_jax.serving.requests import RequestError

TOKEN_VARIABLE = "OPENBA_SERVE_TOKEN"
"""The environment variable that may hold the token."""

SHORTEST_TOKEN = 16
"""Characters; a shorter one can be guessed."""

BODY_SECONDS = 30.0
"""That a client may take to send a body."""


def read_token(token_file: str) -> bytes | None:
    """The token that clients must send, from a file or the environment; None: anybody may ask.

    Args:
      token_file: a file that holds nothing else; "": the environment is asked.

    Raises:
      UserError: the file cannot be read, or the token is too short or no printable ASCII.
    """
    if token_file:
        source = f"TOKEN_FILE {token_file}"
        try:
            text = local(token_file).read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror}.") from error
    else:
        source = TOKEN_VARIABLE
        if source not in os.environ:
            return None
        text = os.environ[source].strip()
    if len(text) < SHORTEST_TOKEN or not (text.isascii() and text.isprintable()) or " " in text:
        raise UserError(
            f"{source} must hold a token of at least {SHORTEST_TOKEN} printable ASCII characters "
            "without blanks."
        )
    return text.encode("ascii")


def check_binding(host: str, token: bytes | None, allow_anybody: bool) -> None:
    """Checks that a server that others can reach asks for a token.

    Raises:
      UserError: it would not, and nothing says that this is meant.
    """
    if not is_loopback(host) and token is None and not allow_anybody:
        raise UserError(
            f"HOST is {host!r}, which others can reach, and there is no token; give TOKEN_FILE, or "
            "ALLOW_ANYBODY = True if everybody who can reach it may ask."
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Turns away requests without the token, and those that another site makes a browser send."""

    def __init__(self, app: Any, token: bytes | None, own_machine: bool) -> None:
        """Wraps an ASGI application.

        Args:
          app: what is behind.
          token: that clients must send; None: anybody may ask.
          own_machine: the server is bound to this machine alone.
        """
        self._app, self._token, self._own_machine = app, token, own_machine

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers 401 or 403, or passes the request on."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await _refuse(send, *refusal)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Any) -> tuple[int, str, dict[str, str]] | None:
        headers = dict(scope["headers"])
        if self._token is None:
            # A page on another site can name its own host as an address of this machine.
            host = headers.get(b"host", b"").decode("latin-1")
            if self._own_machine and not is_loopback(_without_port(host)):
                return 403, f"the host {host[:60]!r} is not this machine; use a token.", {}
        elif scope["path"].startswith("/v1/"):
            given = headers.get(b"authorization", b"")
            scheme, _, word = given.partition(b" ")
            right = hmac.compare_digest(word.strip(), self._token)
            if scheme.lower() != b"bearer" or not right:
                message = "the token is missing or wrong; send Authorization: Bearer TOKEN."
                return 401, message, {"www-authenticate": "Bearer"}
        return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _refuse(send: Any, status: int, message: str, headers: Mapping[str, str]) -> None:
    import json

    from openba_jax.serving.replies import error_body

    code = "invalid_api_key" if status == 401 else None
    body = json.dumps(error_body(message, "authentication_error", None, code)).encode()
    # What the client still sends is not read: the connection ends.
    fields = {"content-type": "application/json", "connection": "close", **headers}
    fields["content-length"] = str(len(body))
    listed = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


async def read_body(request: Any, longest: int) -> bytes:
    """The body of a starlette request of JSON.

    Args:
      request: the request.
      longest: bytes.

    Raises:
      RequestError: it is longer, which is told without reading the rest; does not come in
        `BODY_SECONDS`; or is said to be something else than JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Without this, a form on any page could send a request: JSON needs a site's consent.
        raise RequestError("send the header Content-Type: application/json.", status=415)
    too_long = RequestError(
        f"the body is longer than {longest} bytes.", code="body_too_large", status=413
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > longest:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > longest:
                    raise too_long
    except TimeoutError as error:
        raise RequestError(f"the body did not come in {BODY_SECONDS:g} s.", status=408) from error
    return bytes(body)
