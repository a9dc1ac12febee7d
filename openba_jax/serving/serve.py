r"""Serves model folders over HTTP, with OpenAI's interface and a page for browsers.

openba-serve --gin_file=gin/runs/native/serve.gin --gin.MODEL_DIRS='["runs/model"]'
openba-serve --gin_file=gin/runs/native/serve.gin --gin.MODEL_DIRS='["runs/whole", "runs/cut"]' \
  --gin.DEMO=True

It is bound to this machine alone unless HOST says otherwise, and answers until SIGTERM or Ctrl-C;
then it finishes what it has begun. docs/serving.md has the rest.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from openba_jax import cli
from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.paths import local

_BACKLOG = 2048  # Connections that wait to be accepted.


def serve(
    model_dirs: str | Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str = "",
    allow_anybody: bool = False,
    demo: bool = False,
    slots: int = 16,
    queue_length: int = 128,
    max_body_bytes: int = 1 << 20,
    max_choices: int = 8,
    max_encoder_length: int | None = None,
    max_new_tokens: int = 512,
    completion_tokens: int = 16,
    temperature: float = 1.0,
    top_p: float = 1.0,
    dialogue: str = "",
    chat_template: str = "",
    parse_special: bool = False,
    drain_seconds: int = 60,
    int8: str | Sequence[str] = (),
    mesh_shape: Sequence[int] = (1, 1, -1),
) -> None:
    """Serves until it is told to end.

    Args:
      model_dirs: model folders, or `DIR/checkpoints/<step>`; each is named after its folder.
      host: an address of this machine, or 0.0.0.0 for all.
      port: 0 for any that is free.
      token_file: a file with the token that clients must send; "": the environment variable
        OPENBA_SERVE_TOKEN, or none.
      allow_anybody: others can reach the server and need no token.
      demo: serve a page at /.
      slots: answers at once, of each model.
      queue_length: questions that may wait, of each model.
      max_body_bytes: longest request.
      max_choices: answers that one request can ask for.
      max_encoder_length: longest prompt in tokens; by default the model's own.
      max_new_tokens: longest answer in tokens, and what a chat gets that asks for no length.
      completion_tokens: what a completion gets that asks for no length.
      temperature: of requests that give none; 0 for the likeliest tokens.
      top_p: of requests that give none.
      dialogue: the form of dialogues, see `serving.dialogue.DialogueReader`; "": the model's own.
      chat_template: a file with a chat template; "": that of the tokenizer.
      parse_special: strings such as `</s>` in prompts of completions become the special tokens
        that they name.
      drain_seconds: for answers that are not finished when the server is told to end.
      int8: what is in eight bits, `weights`, `cache` or both, see `inference.int8`.
      mesh_shape: data, fsdp, model; the first two must be 1.

    Raises:
      UserError: a model cannot be used, the address is taken or public without a token, starlette
        or uvicorn is missing, or a setting is out of its range.
    """
    _check_libraries()
    import uvicorn

    from openba_jax.inference.decoding import Sampling
    from openba_jax.inference.int8 import parts_of
    from openba_jax.parallel import hardware
    from openba_jax.serving.app import create_app
    from openba_jax.serving.guards import check_binding, is_loopback, read_token
    from openba_jax.serving.loading import names_of, read_template, start_serving
    from openba_jax.serving.requests import Defaults

    folders = [local(folder) for folder in gin_values.several(model_dirs)]
    names = names_of(folders)
    parts = parts_of(int8)
    Sampling(temperature, 0, top_p)
    if min(max_body_bytes, max_choices, completion_tokens) < 1 or drain_seconds < 0:
        raise UserError(
            "MAX_BODY_BYTES, MAX_CHOICES and COMPLETION_TOKENS must be at least 1, and "
            "DRAIN_SECONDS at least 0."
        )
    if not max_choices <= queue_length:
        raise UserError(
            f"QUEUE_LENGTH is {queue_length}, and a request can ask for {max_choices} answers; "
            "give a QUEUE_LENGTH of at least MAX_CHOICES."
        )
    if completion_tokens > max_new_tokens:
        raise UserError("COMPLETION_TOKENS must not be more than MAX_NEW_TOKENS.")
    token = read_token(token_file)
    check_binding(host, token, allow_anybody)
    template = read_template(chat_template)
    defaults = Defaults(
        temperature, top_p, completion_tokens, max_new_tokens, max_new_tokens, max_choices
    )
    with _bound(host, port) as sock, hardware.explain_out_of_memory():
        served = {
            name: start_serving(
                folder,
                mesh_shape,
                slots=slots,
                queue_length=queue_length,
                max_encoder_length=max_encoder_length,
                max_new_tokens=max_new_tokens,
                dialogue=dialogue,
                template=template,
                parse_special=parse_special,
                int8=parts,
            )
            for name, folder in zip(names, folders, strict=True)
        }
        app = create_app(
            served,
            defaults,
            longest_body=max_body_bytes,
            token=token,
            own_machine=is_loopback(host),
            page=demo,
        )
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=drain_seconds,
        )
        shown = f"[{host}]" if ":" in host else host
        cli.say(f"serving {', '.join(names)} at http://{shown}:{sock.getsockname()[1]}")
        sys.stdout.flush()
        with _signals_end_quietly():
            uvicorn.Server(config).run([sock])
        for model in served.values():
            model.engine.close(drain_seconds)
        cli.say("all is answered; the server has ended")


def _check_libraries() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError("openba-serve needs more; install openba_jax[serve].") from error


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens before models are read, which takes long; clients wait meanwhile."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"PORT is {port}; it must be from 0, for any, to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"HOST {host!r} with PORT {port} is no address of this machine.") from error
    with socket.socket(family, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)  # Only then is the port nobody else's.
        except OSError as error:
            raise UserError(
                f"PORT {port} of {host} cannot be used: {error.strerror}; give another one, 0 for "
                "any."
            ) from error
        yield sock


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Within it, a signal that uvicorn has obeyed, and then sends on, ends nothing else."""
    import signal

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> None:
    """Serves as the gin files say."""
    cli.run_configured(serve, argv)


def run() -> None:
    """Entry point."""
    cli.define_process_flags()
    cli.run_with_gin(main, "openba-serve")


if __name__ == "__main__":
    run()
