"""Prompts, byte for byte, against the table of the original's strings."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks import registry
from openba_jax.evaluation.benchmarks.base import ORIGINAL
from openba_jax.evaluation.prompting.framing import frame_question
from openba_jax.evaluation.prompting.template import Template, numbered
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.question import Question
from openba_jax.inference.prompts import UnusablePromptError

DATA = Path(__file__).parent / "data"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fixtures_prompts.py"
CASES = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))


def _question(item: dict[str, Any], demos: list[dict[str, Any]]) -> Question:
    options = [item[f"res{n}"] for n in range(1, 6) if f"res{n}" in item]
    return Question(
        item["question"],
        tuple(options),
        "ABCDE".index(item["ans"]),
        demos=tuple(_question(demo, []) for demo in demos),
        passage=item.get("passage", ""),
        subject=item.get("subject", ""),
    )


def _prompts(name: str, template: str, question: Question) -> tuple[str, list[str] | str]:
    """What the package makes of a question with all of its demonstrations."""
    benchmark = registry.benchmark(f"{name}:{template}", preset=ORIGINAL)
    assert isinstance(benchmark, TemplatedChoices)
    shown, count = benchmark.template, len(question.demos)
    subject = benchmark.subject_names.get(question.subject, "")
    encoder = numbered(shown.encoder_text(question, count, subject))
    if shown.scoring == "letters":
        return encoder, shown.decoder
    options = range(len(question.options))
    return encoder, [numbered(shown.decoder_text(question, n, count)) for n in options]


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{c['benchmark']}-{c['template']}-{len(c['demos'])}" for c in CASES]
)
def test_prompts_are_the_originals(case: dict[str, Any]) -> None:
    question = _question(case["item"], case["demos"])
    found = _prompts(case["benchmark"], case["template"], question)
    assert found == (case["encoder"], case["decoder"])


def test_every_template_is_tested() -> None:
    tested = {(case["benchmark"], case["template"]) for case in CASES}
    for name in ("mmlu", "cmmlu", "ceval", "arc_c", "piqa", "sciq", "logiqa", "boolq"):
        benchmark = registry.benchmark(name)
        assert isinstance(benchmark, TemplatedChoices)
        for template in benchmark.templates:
            # The strings of C-Eval are those of CMMLU.
            other = "cmmlu" if name == "ceval" and template == "harness" else name
            assert (other, template) in tested, f"{name}:{template}"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fixtures_prompts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prompts_of_the_real_samples_are_the_originals(shared_dir: Path) -> None:
    script = _script()
    table = json.loads((shared_dir / "reference/prompt_templates.json").read_text(encoding="utf-8"))
    folders = {"MMLU": "MMLU", "CMMLU": "CMMLU_and_CEval", "C-Eval": "CMMLU_and_CEval"}
    names = {"MMLU": "mmlu", "CMMLU": "cmmlu", "C-Eval": "ceval", "ARC": "arc_c"}
    compared = 0
    for folder, name in names.items():
        templates = table["v2"][folders.get(folder, folder)]
        subjects = script.subject_names(table, name)
        for file in sorted((shared_dir / "data/eval" / folder).glob("*.json")):
            subject = file.stem.removesuffix("_test")
            for each in json.loads(file.read_text(encoding="utf-8")):
                for template, fields in templates.items():
                    if not isinstance(fields, dict):
                        continue
                    demos = [] if template.endswith("_0") else each["demo"]
                    items = [{**item, "subject": subject} for item in (*demos, each["data"])]
                    expected = script.prompt_of(
                        templates, template, items[:-1], items[-1], subjects
                    )
                    question = _question(items[-1], items[:-1])
                    assert _prompts(name, template, question) == expected, (file, template)
                    compared += 1
    assert compared > 3000


SHORT = Template("Q: {question}", "perplexity", answer=" A: {answer} ", shots=3)
DEMOS = tuple(Question(f"who {n}", ("I", "you"), n % 2) for n in range(3))
QUESTION = Question("what is water", ("a metal", "gold"), 0, "q.json 1", DEMOS)


def _framed(asked: AskedModel, question: Question = QUESTION, as_original: bool = False):
    return frame_question(question, SHORT, asked, 3, "", as_original)


def test_demonstrations_are_dropped_until_the_prompt_fits(loaded, vocabulary) -> None:
    asked = AskedModel(*loaded, vocabulary, 1000, 64)
    lengths = []
    for count in range(4):
        shown = dataclasses.replace(QUESTION, demos=DEMOS[:count])
        framed = _framed(asked, shown)
        lengths.append(len(framed.framed.prompt))
        text = SHORT.encoder_text(shown, count, "").strip()
        assert framed.framed.prompt == [
            *(vocabulary.s_id, *vocabulary.encode(text), vocabulary.sentinel(0), 1)
        ]
    for count, length in enumerate(lengths):
        for limit, expected in ((length, count), (length - 1, count - 1)):
            narrow = dataclasses.replace(asked, encoder_length=limit)
            if expected >= 0:
                assert _framed(narrow).shots == expected
    narrow = dataclasses.replace(asked, encoder_length=lengths[0] - 1)
    with pytest.raises(UnusablePromptError, match=r"q\.json 1: a prompt of"):
        _framed(narrow)
    cut = _framed(narrow, as_original=True).framed.prompt
    whole = _framed(asked, dataclasses.replace(QUESTION, demos=())).framed.prompt
    assert cut == [*whole[: lengths[0] - 2], 1]


def test_sentinels_are_numbered_in_encoder_and_decoder(loaded, vocabulary) -> None:
    template = Template("Q: {question} {sentinel} ", "perplexity", answer=" ", shots=2)
    asked = AskedModel(*loaded, vocabulary, 256, 64)
    found = frame_question(QUESTION, template, asked, 2, "", False).framed
    sentinels = [vocabulary.sentinel(n) for n in range(3)]
    assert [token for token in found.prompt if token in sentinels] == sentinels
    first = found.answers[0]
    assert [token for token in first if token in sentinels] == sentinels
    (weights, _) = found.weights(asked.frame)
    scored = [token for token, weight in zip(first, weights, strict=True) if weight]
    assert scored == vocabulary.encode("a metal")


def test_letters_need_their_pieces(loaded, vocabulary) -> None:
    template = Template("Q: {question} {options}", "letters", "{letter}")
    asked = AskedModel(*loaded, vocabulary, 256, 64)
    pieces = vocabulary.pieces(range(vocabulary.piece_count))
    assert "A" not in pieces
    with pytest.raises(UserError, match="no piece 'A', which a template of letters needs"):
        frame_question(QUESTION, template, asked, 0, "", False)
