"""Measures openba-serve: many clients at once, beside the same questions one at a time.

python scripts/benchmarks/serving.py

A model with random parameters is served in a process of its own, with so many slots and with one.
Requests have prompts and answers of mixed lengths, and are greedy; every answer must be the one
that is given alone. One at a time, one client waits for each answer before it asks again. The
server with one slot is the rival, since empty slots cost time, too; of the other, alone, some
answers are asked for.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from absl import app, flags, logging

from openba_jax.checkpoints import training_state
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.counting import parameter_count
from openba_jax.models.registry import model_of, named_config

_REQUESTS = flags.DEFINE_integer("requests", 200, "Requests.", lower_bound=1)
_CLIENTS = flags.DEFINE_integer("clients", 16, "Clients at once.", lower_bound=1)
_SLOTS = flags.DEFINE_integer("slots", 16, "Slots of the server.", lower_bound=1)
_SOME = flags.DEFINE_integer("some", 10, "Requests asked alone with many slots.", lower_bound=1)
_EMBED = flags.DEFINE_integer("embed", 512, "Width of the model.", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 6, "Layers of each stack.", lower_bound=1)
_WORDS = ("one", "two", "three", "four", "five", "six", "red", "green", "blue", "water", "gold")
_LONGEST_ANSWER = 64
_MOST_WORDS = 24


class Asked(NamedTuple):
    """What a client sends."""

    prompt: str
    tokens: int


class Answered(NamedTuple):
    """What it gets."""

    status: int
    text: str
    tokens: int
    seconds: float


def questions(count: int) -> list[Asked]:
    """Prompts of 2 to `_MOST_WORDS` words, answers of 8 to `_LONGEST_ANSWER` tokens."""
    draw = random.Random(0)
    return [
        Asked(
            " ".join(draw.choices(_WORDS, k=draw.randint(2, _MOST_WORDS))),
            draw.randint(8, _LONGEST_ANSWER),
        )
        for _ in range(count)
    ]


def make_model(folder: Path) -> None:
    """Writes a model folder."""
    texts = [" ".join(random.Random(n).choices(_WORDS, k=30)) for n in range(300)]
    vocabulary = train_vocabulary(texts, 280, folder / "tokenizer.model")
    embed, layers = _EMBED.value, _LAYERS.value
    config = named_config(
        "tiny",
        vocab_size=8192,
        embed_dim=embed,
        num_heads=embed // 64,
        head_dim=64,
        mlp_dim=4 * embed,
        encoder_layers=layers,
        decoder_layers=layers,
        max_encoder_length=128,
        initializer_std=0.05,
    )
    model = model_of(config)
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(folder / "model", model, params, tokenizer=vocabulary.path)
    print(f"{parameter_count(model) / 1e6:.1f} million parameters, {os.cpu_count()} cores")


@contextlib.contextmanager
def server(folder: Path, slots: int) -> Iterator[int]:
    """The port of a running server, which ends by SIGTERM."""
    command = [sys.executable, "-m", "openba_jax.serving.serve"]
    command += ["--gin_file=gin/runs/native/serve.gin", "--gin.PORT=0", f"--gin.SLOTS={slots}"]
    command += [f"--gin.MODEL_DIRS='{folder / 'model'}'"]
    command += [f"--gin.MAX_NEW_TOKENS={_LONGEST_ANSWER}", f"--gin.QUEUE_LENGTH={_CLIENTS.value}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)$", process.stdout.readline())
            assert found is not None, "the server did not start"
            yield int(found[1])
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "the server did not end well"
        finally:
            process.kill()


def ask(connection: http.client.HTTPConnection, asked: Asked) -> Answered:
    """One request."""
    start = time.perf_counter()
    content = {"model": "model", "prompt": asked.prompt, "max_tokens": asked.tokens}
    body = json.dumps({**content, "temperature": 0})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", body, headers)
    reply = connection.getresponse()
    found = json.loads(reply.read())
    seconds = time.perf_counter() - start
    if reply.status != 200:
        return Answered(reply.status, found["error"]["message"], 0, seconds)
    tokens = found["usage"]["completion_tokens"]
    return Answered(200, found["choices"][0]["text"], tokens, seconds)


def all_answers(port: int, asked: Sequence[Asked], clients: int) -> tuple[list[Answered], float]:
    """The answers, in order, and the seconds that they took."""
    answers: list[Answered | None] = [None] * len(asked)
    numbers = iter(range(len(asked)))  # `next` of it is atomic.

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        with contextlib.closing(connection):
            for number in numbers:
                answers[number] = ask(connection, asked[number])

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client) for _ in range(clients)]:
            future.result()
    seconds = time.perf_counter() - start
    return [answer for answer in answers if answer is not None], seconds


def report(name: str, answers: Sequence[Answered], seconds: float) -> float:
    """Prints a line and returns tokens per second."""
    rate = sum(answer.tokens for answer in answers) / seconds
    waits = sorted(answer.seconds for answer in answers)
    print(
        f"{name:32} {seconds:7.1f} s {len(answers) / seconds:7.2f} requests/s {rate:8.1f} tokens/s"
        f"   median {waits[len(waits) // 2]:6.2f} s   longest {waits[-1]:6.2f} s"
    )
    return rate


def main(argv: Sequence[str]) -> None:
    """Measures and compares."""
    del argv
    logging.set_verbosity(logging.WARNING)
    asked = questions(_REQUESTS.value)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        with server(folder, _SLOTS.value) as port:
            together, seconds = all_answers(port, asked, _CLIENTS.value)
            fast = report(f"{_CLIENTS.value} clients, {_SLOTS.value} slots", together, seconds)
            some = asked[: _SOME.value]
            alone, seconds = all_answers(port, some, 1)
            report(f"one at a time, {_SLOTS.value} slots", alone, seconds)
        with server(folder, 1) as port:
            single, seconds = all_answers(port, asked, 1)
            slow = report("one at a time, 1 slot", single, seconds)
    good = sum(answer.status == 200 for answer in together)
    print(f"answered: {good} of {len(asked)}")
    for where, other in (("this server", alone), ("the one with 1 slot", single)):
        same = sum(a.text == b.text for a, b in zip(together, other, strict=False))
        print(f"as alone on {where}: {same} of {len(other)}")
    refused = [answer.text for answer in together if answer.status != 200]
    assert not refused, refused[0]
    print(f"throughput: {fast / slow:.2f} times one at a time on the server with 1 slot")


if __name__ == "__main__":
    app.run(main)
