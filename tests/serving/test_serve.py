"""The main of the server: what it refuses before it reads a model, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from openba_jax.errors import UserError
from openba_jax.serving import guards
from openba_jax.serving.guards import TOKEN_VARIABLE, check_binding, read_token
from openba_jax.serving.loading import names_of
from openba_jax.serving.serve import serve

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def libraries() -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("starlette", reason="starlette is not installed")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"model_dirs": []}, "MODEL_DIRS is empty"),
        ({"model_dirs": ["a/model", "b/model"]}, "two of MODEL_DIRS are called model"),
        ({"host": "0.0.0.0"}, "there is no token"),
        ({"host": "0.0.0.0", "token_file": "nowhere"}, "nowhere cannot be read"),
        ({"host": "no.such.host.invalid", "allow_anybody": True}, "no address of this machine"),
        ({"port": 70000}, "PORT is 70000"),
        ({"max_choices": 200}, "QUEUE_LENGTH of at least MAX_CHOICES"),
        ({"completion_tokens": 600}, "COMPLETION_TOKENS must not be more"),
        ({"max_body_bytes": 0}, "must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"mesh_shape": (-1, 1, 1), "port": 0}, "a slot is one row"),
        ({"port": 0}, "there is no|nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(options, wanted: str, monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(UserError, match=wanted):
        serve(**{"model_dirs": "nowhere", **options})


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used: Address already in use"):
            serve("nowhere", port=taken.getsockname()[1])


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token("") is None
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    assert read_token(str(file)) == b"0123456789abcdef"
    monkeypatch.setenv(TOKEN_VARIABLE, "fedcba9876543210")
    assert read_token("") == b"fedcba9876543210"
    for wrong in ("short", "0123456789 abcdefg", "é" * 20, ""):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError, match="at least 16"):
            read_token(str(file))
        monkeypatch.setenv(TOKEN_VARIABLE, wrong)
        with pytest.raises(UserError, match="at least 16"):
            read_token("")


def test_only_this_machine_is_served_without_a_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert guards.is_loopback(host)
        check_binding(host, None, False)
    for host in ("0.0.0.0", "::", "192.168.0.1", "", "example.org"):
        with pytest.raises(UserError, match="no token"):
            check_binding(host, None, False)
        check_binding(host, b"token", False)
        check_binding(host, None, True)


def test_models_are_named_after_their_folders(tmp_path: Path) -> None:
    folders = [tmp_path / "whole", tmp_path / "cut" / "checkpoints" / "20"]
    assert names_of(folders) == ["whole", "cut-20"]


def test_the_main_finishes_what_it_has_begun(model_dir: Path) -> None:
    command = [sys.executable, "-m", "openba_jax.serving.serve"]
    command += ["--gin_file=gin/runs/native/serve.gin", "--gin.PORT=0", "--gin.SLOTS=2"]
    command += [f"--gin.MODEL_DIRS='{model_dir}'", "--gin.MAX_NEW_TOKENS=400"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline().decode()
            assert line.startswith("serving model at http://127.0.0.1:"), process.stderr.read()
            port = int(line.rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            content = {"model": "model", "prompt": "2", "max_tokens": 400, "temperature": 0}
            body = json.dumps({**content, "stream": True})
            connection.request(
                "POST", "/v1/completions", body, {"Content-Type": "application/json"}
            )
            reply = connection.getresponse()
            first = reply.readline()
            assert first.startswith(b"data: ")
            process.send_signal(signal.SIGTERM)
            assert reply.read().endswith(b"data: [DONE]\n\n")
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, b"all is answered; the server has ended\n", b"")
