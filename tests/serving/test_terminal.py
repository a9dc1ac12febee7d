"""The conversation in a terminal: answers, commands, files, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openba_jax.errors import UserError
from openba_jax.inference.decoding import GREEDY, Sampling
from openba_jax.inference.generator import Generator
from openba_jax.inference.loading import load
from openba_jax.inference.slots import SlotDecoder
from openba_jax.serving import transcript
from openba_jax.serving.conversation import Conversation, Settings
from openba_jax.serving.dialogue import DialogueReader, Message
from openba_jax.serving.terminal import Terminal

REPOSITORY = Path(__file__).resolve().parents[2]
ROOM = 24


@pytest.fixture(scope="module")
def placed(model_dir: Path):
    return load(model_dir, (1, 1, 1))


@pytest.fixture
def conversation(placed) -> Conversation:
    decoder = SlotDecoder(placed.model, placed.params, 1, 96, ROOM)
    reader = DialogueReader(placed.model, placed.vocabulary, 96)
    return Conversation(decoder, placed.vocabulary, reader, Settings(GREEDY, ROOM))


def _talk(conversation: Conversation, *lines: str) -> tuple[str, str]:
    answers, notes = io.StringIO(), io.StringIO()
    text = io.StringIO("".join(f"{line}\n" for line in lines))
    Terminal(conversation, text, answers, notes).run()
    return answers.getvalue(), notes.getvalue()


def test_answers_are_those_of_the_generator_and_turns_are_kept(placed, conversation) -> None:
    _talk(conversation, "The square of 3", "", "//5")
    generate = Generator(placed.model, placed.params, placed.vocabulary, 96, 1, True)
    said: list[str] = []
    for user, assistant in zip(
        conversation.messages[::2], conversation.messages[1::2], strict=True
    ):
        said.append(f"Human: {user.content}</s>Assistant:")
        assert assistant.content == generate(["".join(said)], max_new_tokens=ROOM)[0]
        said.append(f" {assistant.content}</s>")
    assert [m.content for m in conversation.messages[::2]] == ["The square of 3", "/5"]


def test_commands_change_settings_and_show_them(conversation) -> None:
    lines = [
        "/temperature 0.5",
        "/top_p 0.3",
        "/top_k 4",
        "/max 7",
        "/seed 5",
        "/seed",
        "/quit",
        "x",
    ]
    answers, notes = _talk(conversation, *lines)
    assert conversation.settings == Settings(Sampling(0.5, 4, 0.3), 7, 5)
    assert notes.splitlines()[-1] == "(seed is 5)"
    assert not answers


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("/temperature -1", "temperature is -1.0"),
        ("/temperature nan", "temperature is nan"),
        ("/top_p two", "this is not a number"),
        ("/top_k 1.5", "this is not a whole number"),
        ("/max 25", "between 1 and 24"),
        ("/rest", "did you mean /reset?"),
        ("/save", "takes one file"),
        ("/load nowhere.json", "nowhere.json cannot be read"),
        ("/reset all", "takes nothing"),
        ("The square of 3 is 9 " * 9, "shorten it"),
    ],
)
def test_mistakes_are_said_and_change_nothing(conversation, line: str, wanted: str) -> None:
    before = conversation.settings
    answers, notes = _talk(conversation, line)
    assert notes.startswith("error: ")
    assert wanted in notes
    assert not answers
    assert (conversation.settings, conversation.messages) == (before, [])


def test_a_dialogue_is_saved_and_gone_on_with(conversation, tmp_path: Path) -> None:
    file = tmp_path / "a dialogue.json"
    _, notes = _talk(
        conversation, "金 is", f"/save '{file}'", "/reset", "/history", f"/load '{file}'"
    )
    assert "(the dialogue is empty)" in notes
    messages = list(conversation.messages)
    assert messages[0] == Message("user", "金 is")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["settings"]["max_new_tokens"] == ROOM
    assert "金 is" in file.read_text(encoding="utf-8")  # Readable, not escaped.
    _, notes = _talk(conversation, f"/save '{file}'", "/history")
    assert "Human: 金 is" in notes
    other = tmp_path / "other.json"
    other.write_text("{}")
    _, notes = _talk(conversation, f"/save {other}")
    assert "is no dialogue" in notes
    assert other.read_text() == "{}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[", "not JSON"),
        ("[]", "no list of messages"),
        ('{"messages": [3]}', "message 1 is 3"),
        ('{"messages": [{"role": "me", "content": ""}]}', "the role 'me'"),
        ('{"messages": [{"role": "user"}]}', "the content None"),
    ],
)
def test_files_that_are_no_dialogues(tmp_path: Path, text: str, wanted: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(UserError, match=wanted):
        transcript.load(str(file))


def test_old_turns_that_no_longer_fit_are_reported(conversation) -> None:
    _, notes = _talk(conversation, *["The square of 3 is 9"] * 3)
    assert "oldest messages are left out" in notes
    assert len(conversation.messages) < 6


def test_answers_cannot_command_the_terminal(conversation, monkeypatch) -> None:
    monkeypatch.setattr(conversation, "answer", lambda *_: iter(["\x1b[2Jhi\r", "\n\tyes"]))
    assert _talk(conversation, "x")[0] == "\\x1b[2Jhi\\x0d\n\tyes\n"


def test_the_main_answers_a_pipe_and_ctrl_c_stops_the_answer_alone(model_dir: Path) -> None:
    arguments = {"MODEL_DIR": f"'{model_dir}'", "MAX_NEW_TOKENS": "3000", "TEMPERATURE": "0.0"}
    command = [sys.executable, "-m", "openba_jax.serving.chat"]
    command += ["--gin_file=gin/runs/native/chat.gin", "--gin.TOP_P=1.0"]
    command += [f"--gin.{name}={value}" for name, value in arguments.items()]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # To this the model finds no end.
            process.stdin.write(b"2\n/max 5\n/history\n")
            process.stdin.flush()
            assert process.stdout.read(8)
            process.send_signal(signal.SIGINT)
            _, notes = process.communicate(b"3\n", timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, notes.decode()
    assert "(stopped; " in notes.decode()
    assert "(max is 5)" in notes.decode()
    assert "Human: 2\n" in notes.decode()
