"""The HTTP interface: answers by the real client, refusals, and clients that behave badly."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import resource
import socket
from typing import Any

import pytest
from http_server import LONGEST_BODY, ROOM, Reply, Server, ask, running, until

from openba_jax.inference.generator import Generator
from openba_jax.serving import engine as engine_module
from openba_jax.serving.app import Served
from openba_jax.serving.dialogue import Message
from openba_jax.serving.engine import Engine

PROMPTS = ["The square of 3", "2", "金", "its cube is 27, its square", "1 2 3 4 5 6 7"]
TOKEN = b"a-token-of-some-length"


@pytest.fixture(scope="module")
def alone(served: Served):
    """What the generator answers, greedily, to one prompt."""
    model, params, vocabulary, _ = served.engine.placed
    generator = Generator(model, params, vocabulary, 96, 1)
    return lambda prompt, tokens: generator([prompt], max_new_tokens=tokens)[0]


class TestClient:
    @pytest.fixture
    def client(self, server: Server):
        openai = pytest.importorskip("openai", reason="the client openai is not installed")
        return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)

    def test_models_are_listed(self, client) -> None:
        assert [model.id for model in client.models.list()] == ["model"]
        assert client.models.retrieve("model").id == "model"

    def test_completions_are_the_generators(self, client, alone) -> None:
        options = {"model": "model", "temperature": 0, "max_tokens": 20}
        reply = client.completions.create(prompt=PROMPTS[:3], **options)
        assert [c.text.strip() for c in reply.choices] == [alone(p, 20) for p in PROMPTS[:3]]
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert 20 < reply.usage.completion_tokens <= 60

    def test_chats_stream_what_they_answer_whole(self, client, served: Served) -> None:
        messages = [
            {"role": "user", "content": "2"},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": [{"type": "text", "text": "金"}]},
        ]
        options: dict[str, Any] = {"model": "model", "messages": messages, "temperature": 0}
        whole = client.chat.completions.create(**options, max_completion_tokens=30)
        choice = whole.choices[0]
        dialogue = [Message("user", "2"), Message("assistant", "4"), Message("user", "金")]
        assert whole.usage.prompt_tokens == len(served.reader.ids(dialogue))
        stream = client.chat.completions.create(
            **options, max_tokens=30, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(said) == choice.message.content
        assert len([piece for piece in said if piece]) > 3
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == choice.finish_reason
        assert chunks[-1].usage == whole.usage

    def test_completions_stream(self, client, alone) -> None:
        stream = client.completions.create(
            model="model", prompt=PROMPTS[0], temperature=0, max_tokens=12, stream=True
        )
        assert "".join(c.choices[0].text for c in stream).strip() == alone(PROMPTS[0], 12)

    def test_stop_strings_end_answers(self, client, alone) -> None:
        text = alone(PROMPTS[3], 40)
        stop = text[6:8]
        options: dict[str, Any] = {"model": "model", "prompt": PROMPTS[3], "temperature": 0}
        options |= {"max_tokens": 40, "stop": [stop, "never in it"]}
        choice = client.completions.create(**options).choices[0]
        assert choice.finish_reason == "stop"
        assert choice.text.lstrip() == text[: text.index(stop)]
        stream = client.completions.create(**options, stream=True)
        assert "".join(c.choices[0].text for c in stream) == choice.text

    def test_seeds_repeat_what_is_drawn(self, client) -> None:
        options: dict[str, Any] = {"model": "model", "prompt": "2", "n": 3, "max_tokens": 12}
        options |= {"temperature": 1.3, "top_p": 0.95, "extra_body": {"top_k": 50}}
        texts = [
            [c.text for c in client.completions.create(**options, seed=seed).choices]
            for seed in (5, 5, 6)
        ]
        assert texts[0] == texts[1]
        assert len({*texts[0]}) == 3
        assert texts[2][:2] == texts[0][1:]  # Each further answer has the next seed.
        unseeded = [client.completions.create(**options).choices[0].text for _ in range(4)]
        assert len({*unseeded}) > 1

    def test_refusals_are_errors_of_the_client(self, client) -> None:
        openai = pytest.importorskip("openai")
        with pytest.raises(openai.NotFoundError, match="there are model"):
            client.completions.create(model="other", prompt="2")
        with pytest.raises(openai.BadRequestError, match=r"of which 96 fit"):
            client.chat.completions.create(
                model="model", messages=[{"role": "user", "content": "9 " * 200}]
            )
        with pytest.raises(openai.APIStatusError) as refused:
            client.completions.create(model="model", prompt="9 " * LONGEST_BODY)
        assert refused.value.status_code == 413


def test_answers_in_company_are_those_alone(server: Server, alone) -> None:
    asked = [(PROMPTS[n % 5], 5 + 3 * n) for n in range(16)]
    wanted = [alone(*question) for question in asked]

    def answer(question: tuple[str, int]) -> str:
        prompt, tokens = question
        reply = ask(server, {"prompt": prompt, "max_tokens": tokens, "temperature": 0})
        return str(json.loads(reply.body)["choices"][0]["text"]).strip()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(answer, asked)) == wanted


@pytest.mark.parametrize(
    ("content", "parameter"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "a", "model": 3}, "model"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": ROOM + 1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature"),
        ({"prompt": "a", "temperature": 10**400}, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "n": 5}, "n"),
        ({"prompt": ["a"] * 3, "n": 2}, "n"),
        ({"prompt": "a", "seed": 2**64}, "seed"),
        ({"prompt": "a", "stop": ""}, "stop"),
        ({"prompt": "a", "stop": ["x"] * 17}, "stop"),
        ({"prompt": "a", "stream": 1}, "stream"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": "a", "logprobs": 0}, "logprobs"),
        ({"prompt": "a", "logit_bias": {"5": 100}}, "logit_bias"),
        ({"prompt": "a", "frequency_penalty": 0.5}, "frequency_penalty"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "typical_p": 0.5}, "typical_p"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_parameters_are_refused_by_name(server: Server, content, parameter: str) -> None:
    reply = ask(server, content)
    assert (reply.status, reply.error["param"]) == (400, parameter)
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hi",
        [3],
        [{"role": "user"}],
        [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": "a", "tool_calls": [1]}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "\ud800"}],
    ],
)
def test_messages_that_cannot_be_answered(server: Server, messages) -> None:
    reply = ask(server, {"messages": messages}, "/v1/chat/completions")
    assert reply.status == 400
    assert reply.error["message"]


def test_names_that_no_reply_can_hold(server: Server) -> None:
    for content in ({"\ud800": 1}, {"model": "\ud800"}, {"stop": ["\ud800"]}, {"prompt": "a\0b"}):
        reply = ask(server, {"prompt": "a", "max_tokens": 2, **content})
        assert reply.status in (200, 400, 404)
    message = {"role": "user", "content": "a", "\ud800": 1}
    assert ask(server, {"messages": [message]}, "/v1/chat/completions").status == 400


def test_parameters_that_ask_for_nothing_are_taken(server: Server) -> None:
    content = {"prompt": "2", "max_tokens": 2, "user": "me", "echo": False, "logprobs": None}
    assert ask(server, {**content, "frequency_penalty": 0.0, "best_of": 1}).status == 200


@pytest.mark.parametrize(
    ("body", "path", "method", "kind", "status"),
    [
        (b"{", "/v1/completions", "POST", "application/json", 400),
        (b"\xff{}", "/v1/completions", "POST", "application/json", 400),
        (b"[1]", "/v1/completions", "POST", "application/json", 400),
        (b"[" * 15000, "/v1/completions", "POST", "application/json", 400),
        (b"", "/v1/completions", "POST", "application/json", 400),
        (b"{}", "/v1/completions", "POST", "text/plain", 415),
        (b"", "/v1/completions", "GET", "application/json", 405),
        (b"", "/v1/models", "DELETE", "application/json", 405),
        (b"", "/v1/models/other", "GET", "application/json", 404),
        (b"{}", "/v1/embeddings", "POST", "application/json", 404),
    ],
)
def test_requests_that_are_none(server: Server, body, path, method, kind, status) -> None:
    reply = ask(server, body, path, method, {"Content-Type": kind})
    assert reply.status == status
    assert reply.error["message"]


def test_what_is_no_http_ends_its_connection_alone(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b" 400 " in sock.recv(1000)
    assert ask(server, b"", "/health", "GET").status == 200


def test_a_body_of_100_mb_is_refused_unread(server: Server) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(head + b"Content-Length: 104857600\r\n\r\n")
        assert b" 413 " in sock.recv(1000)
    # One that does not say how long it is ends where it is too long.
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 104857600:
                sock.sendall(chunk)
                sent += len(chunk)
        assert sent < 20 << 20  # What lies in the buffers of the sockets.
    assert ask(server, {"prompt": "2"}).status == 200


def test_the_token_opens_the_door(served: Served) -> None:
    pytest.importorskip("uvicorn")
    with running({"model": served}, token=TOKEN) as server:

        def status(header: dict[str, str]) -> int:
            reply = ask(server, b"", "/v1/models", "GET", header)
            assert reply.status == 200 or reply.headers["www-authenticate"] == "Bearer"
            return reply.status

        assert status({"Authorization": f"Bearer {TOKEN.decode()}"}) == 200
        assert status({"Authorization": f"bearer {TOKEN.decode()}"}) == 200
        wrong = [
            "",
            "Bearer",
            "Bearer wrong",
            "Bearer é",
            f"Basic {TOKEN.decode()}",
            TOKEN.decode(),
        ]
        assert {status({"Authorization": word.encode().decode("latin-1")}) for word in wrong} == {
            401
        }
        assert status({}) == 401
        assert ask(server, b"", "/health", "GET", {"X": ""}).status == 200
        openai = pytest.importorskip("openai", reason="the client openai is not installed")
        client = openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_pages_of_other_sites_cannot_ask(server: Server) -> None:
    # A name of theirs that means this machine.
    reply = ask(server, b"", "/v1/models", "GET", {"Host": "evil.example:80"})
    assert reply.status == 403
    assert ask(server, b"", "/v1/models", "GET", {"Host": "localhost:80"}).status == 200
    assert ask(server, b"", "/v1/models", "GET", {"Host": "[::1]:80"}).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slots(server: Server, monkeypatch, stream) -> None:
    tickets: list[Any] = []
    engine = server.served["model"].engine
    submit = engine.submit

    def spy(*arguments: Any) -> Any:
        made = submit(*arguments)
        tickets.extend(made)
        return made

    monkeypatch.setattr(engine, "submit", spy)
    content = {"model": "model", "prompt": ["2", "3"], "n": 2, "max_tokens": ROOM, "seed": 3}
    body = json.dumps({**content, "temperature": 0, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        until(lambda: len(tickets) == 4 and all(t.answer.token_count > 2 for t in tickets))
    until(lambda: engine.running == 0)
    assert all(ticket.cancelled for ticket in tickets)
    assert all(ticket.answer.finish is None for ticket in tickets)


def test_1000_requests_at_once_are_answered_or_told_to_wait(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    body = json.dumps({"model": "model", "prompt": "2", "max_tokens": 30, "temperature": 0})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    request = f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}".encode()

    async def one() -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        raw = await reader.read()
        writer.close()
        lines, _, rest = raw.partition(b"\r\n\r\n")
        first, *fields = lines.decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        return Reply(int(first.split()[1]), headers, rest)

    async def all_of_them() -> list[Reply]:
        return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(1000))), 90)

    replies = asyncio.run(all_of_them())
    texts = {json.loads(r.body)["choices"][0]["text"] for r in replies if r.status == 200}
    refused = [reply for reply in replies if reply.status == 429]
    assert len(texts) == 1
    assert {reply.status for reply in replies} == {200, 429}
    assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
    assert all(reply.error["code"] == "queue_full" for reply in refused)
    # The queue has room again.
    assert ask(server, {"prompt": "2", "max_tokens": 3}).status == 200
    health = json.loads(ask(server, b"", "/health", "GET").body)
    assert health == {"status": "ok", "models": {"model": {"running": 0, "waiting": 0}}}


def test_a_model_that_fails_is_reported_and_serves_no_more(served: Served, monkeypatch) -> None:
    pytest.importorskip("uvicorn")

    class Failing:
        def __init__(self, *_: Any) -> None:
            pass

        def compile(self) -> None:
            pass

        def join(self, *_: Any) -> None:
            pass

        def step(self) -> None:
            raise MemoryError("no memory is left")

    monkeypatch.setattr(engine_module, "SlotDecoder", Failing)
    engine = Engine(served.engine.placed, 2, 96, ROOM, 4)
    engine.start()
    with running({"model": Served(engine, served.frame, served.reader)}) as server:
        reply = ask(server, {"prompt": "2"})
        assert reply.status == 500
        assert "no memory is left" in reply.error["message"]
        assert ask(server, {"prompt": "2"}).status == 503
        assert ask(server, b"", "/health", "GET").status == 503


@pytest.mark.parametrize("stream", [False, True])
def test_logits_that_are_not_finite_are_an_error(served: Served, monkeypatch, stream: bool) -> None:
    pytest.importorskip("uvicorn")
    step = engine_module.SlotDecoder.step
    monkeypatch.setattr(engine_module.SlotDecoder, "step", lambda self: step(self) * 0 - 2)
    engine = Engine(served.engine.placed, 1, 96, ROOM, 4)
    engine.start()
    try:
        with running({"model": Served(engine, served.frame, served.reader)}) as server:
            reply = ask(server, {"prompt": "2", "stream": stream})
            assert b"not finite" in reply.body
            assert b"[DONE]" not in reply.body
            assert reply.status == (200 if stream else 500)
            assert engine.healthy
    finally:
        engine.close(30)
