"""The frame of prompts and answers: what it makes, what it refuses, how it reads special tokens."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.prompts import (
    BeginningFrame,
    PairFrame,
    SentinelFrame,
    UnusablePromptError,
    read_prompts,
)


def test_prompts_and_answers_are_framed(vocabulary: Vocabulary) -> None:
    frame, body = SentinelFrame(vocabulary, 64, 64), vocabulary.encode("what is water")
    first, end = vocabulary.sentinel(0), vocabulary.eos_id
    assert frame.prompt("what is water", "here") == [vocabulary.s_id, *body, first, end]
    assert frame.answer("what is water", "here") == [first, *body, end]


def test_special_tokens_in_a_text_are_text_unless_asked_for(
    vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    text = "who</s>you <extra_id_0> <S>"
    ids = SentinelFrame(vocabulary, 99).prompt(text, "file line 3")[1:-2]
    assert not {*ids} & {vocabulary.eos_id, vocabulary.sentinel(0), vocabulary.s_id}
    assert vocabulary.decode(ids) == text
    for token in ("</s>", "<extra_id_0>", "<S>"):
        assert f"file line 3 holds {token}, which is read as plain text" in caplog.text

    caplog.clear()
    frame = SentinelFrame(vocabulary, 99, parse_special=True)
    ids = frame.prompt("who</s>", "file line 3")[1:-2]
    assert ids == [*vocabulary.encode("who", parse_special=False), vocabulary.eos_id]
    frame.prompt("they</s>", "file line 4")
    assert caplog.text.count("</s>") == 1
    assert "file line 3 holds </s>, which is read as the special token" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("water " * 9, r"line 3: a prompt of \d\d tokens exceeds the 5 that fit into the encoder"),
        ("a\ud800b", r"line 3 holds '\\ud800', half of a pair"),
    ],
)
def test_prompts_that_are_refused(vocabulary: Vocabulary, text: str, message: str) -> None:
    with pytest.raises(UnusablePromptError, match=message):
        SentinelFrame(vocabulary, 8).prompt(text, "line 3")


@pytest.mark.parametrize(
    ("text", "parse_special", "message"),
    [
        ("water " * 9, False, r"line 3: an answer of \d\d tokens exceeds the decoder length 8"),
        ("", False, "line 3: the answer '' has no token to score"),
        ("  ", False, "has no token to score"),
        ("</s>", True, "line 3: the answer '</s>' has no token to score"),
        ("<extra_id_0><pad>", True, "has no token to score"),
        ("a\udfff", False, "half of a pair"),
    ],
)
def test_answers_that_are_refused(
    vocabulary: Vocabulary, text: str, parse_special: bool, message: str
) -> None:
    frame = SentinelFrame(vocabulary, 64, 8, parse_special)
    with pytest.raises(UnusablePromptError, match=message):
        frame.answer(text, "line 3")


@pytest.mark.parametrize("name", ["llama/tokenizer.model", "smollm/tokenizer.json"])
def test_a_prompt_and_its_template_are_one_text(golden_dir, name: str) -> None:
    vocabulary = open_vocabulary(golden_dir("tokenizers") / name)
    token = vocabulary.pieces([vocabulary.eos_id])[0]
    frame = BeginningFrame(vocabulary, 64, template=f"{token}[INST] {{}} [/INST]")
    begin = [vocabulary.bos_id] if vocabulary.adds_bos else []
    for text in ("What {} is it?", "日本", " a", ""):
        whole = vocabulary.encode(f"{token}[INST] {text} [/INST]", True)
        assert frame.prompt(text, "here") == [*begin, *whole]
    apart = frame.prompt(f"a{token}b", "here")
    assert apart.count(vocabulary.eos_id) == 1  # The template's own.
    assert vocabulary.decode(apart, skip_special_tokens=True).count(token) == 1
    with pytest.raises(UnusablePromptError, match="that fit into the encoder length 64"):
        frame.prompt("a b " * 64, "here")


def test_only_an_answer_that_goes_on_from_its_prompt_begins_with_a_blank(golden_dir) -> None:
    vocabulary = open_vocabulary(golden_dir("tokenizers") / "smollm" / "tokenizer.json")
    answers = {
        frame: vocabulary.decode(frame(vocabulary, 64).answer("Paris", "an answer")[:-1])
        for frame in (BeginningFrame, PairFrame)
    }
    assert answers == {BeginningFrame: " Paris", PairFrame: "Paris"}


@pytest.mark.parametrize("template", ["", "no place", "{} {}"])
def test_a_template_has_one_place(vocabulary: Vocabulary, template: str) -> None:
    with pytest.raises(UserError, match=r"it has one \{\}, where the prompt goes"):
        SentinelFrame(vocabulary, 64, template=template)


def test_a_template_leaves_room(vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError, match="prompts have 8 tokens, of which the frame"):
        SentinelFrame(vocabulary, 8, template="water water water water {}")


def test_prompts_have_places(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"inputs": "Who?"}\n\n{"inputs": "What?"}\n')
    texts, places = read_prompts(["Hello?"], str(file))
    assert texts == ["Hello?", "Who?", "What?"]
    assert places == ["prompt 1", f"{file} line 1", f"{file} line 3"]
    with pytest.raises(UserError, match="there is no prompt"):
        read_prompts([], "")


@pytest.mark.parametrize("name", ["-", "fifo"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"One?\nTwo?\n", ["One?", "Two?"]),
        (b'\n{"inputs": "One?"}\n\n{"inputs": "Two?"}\n', ["One?", "Two?"]),
    ],
)
def test_prompts_that_are_piped_in(
    name: str, content: bytes, expected: list[str], tmp_path: Path, monkeypatch
) -> None:
    place = name
    if name == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    else:
        place = str(tmp_path / "fifo")
        os.mkfifo(place)
        threading.Thread(target=Path(place).write_bytes, args=(content,), daemon=True).start()
    texts, places = read_prompts([], place)
    assert texts == expected
    shown = "standard input" if name == "-" else place
    assert places[-1].startswith(f"{shown} line ")


def test_what_is_piped_in_and_cannot_be_read_is_named(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"inputs": 3}\n')))
    with pytest.raises(UserError, match="standard input line 1"):
        read_prompts([], "-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(UserError, match="there is no prompt"):
        read_prompts([], "-")
