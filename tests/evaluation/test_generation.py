"""Benchmarks of generated answers: files, prompts, what is left out, figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.registry import benchmark
from openba_jax.evaluation.generation import bbh, gsm8k
from openba_jax.evaluation.generation.base import Item
from openba_jax.evaluation.measuring import measure

COT = """Some canary.
-----
Say whether it is so.

{blocks}
"""
BLOCK = "Q: is {n} so\nA: Let's think step by step.\nIt is.\nSo the answer is {a}."


def _lines(path: Path, *rows: dict) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


@pytest.fixture
def bbh_folder(tmp_path: Path) -> Path:
    for name in ("bbh", "cot-prompts"):
        (tmp_path / name).mkdir()
    blocks = "\n\n".join(BLOCK.format(n=n, a=a) for n, a in ((1, "no"), (2, "(A)"), (3, "yes")))
    (tmp_path / "cot-prompts/navigate.txt").write_text(COT.format(blocks=blocks))
    task = {"canary": "x", "examples": [{"input": "is 4 so", "target": "no"}] * 2}
    (tmp_path / "bbh/navigate.json").write_text(json.dumps(task))
    return tmp_path


def test_the_prompt_of_bbh(bbh_folder: Path) -> None:
    subjects = benchmark("bbh").load(bbh_folder)
    assert list(subjects) == ["navigate"]
    prompts = list(subjects["navigate"][1].prompts())
    assert prompts[0] == (
        "Say whether it is so.\n\nQ: is 1 so\nA: no\n\nQ: is 2 so\nA: (A)\n\nQ: is 3 so\nA: yes\n\n"
        "Q: is 4 so\nA:",
        0,
    )
    assert prompts[2] == ("Say whether it is so.\n\nQ: is 1 so\nA: no\n\nQ: is 4 so\nA:", 2)
    assert prompts[3] == ("Say whether it is so.\n\nQ: is 4 so\nA:", 3)
    assert len(set(bbh.TASKS)) == 27


def test_malformed_tasks_of_bbh(bbh_folder: Path) -> None:
    load = benchmark("bbh").load
    (bbh_folder / "bbh/navigate.json").write_text('{"examples": [{"input": "x"}]}')
    with pytest.raises(UserError, match=r"navigate\.json question 1: 'target' is None"):
        load(bbh_folder)
    (bbh_folder / "bbh/navigate.json").write_text('{"examples": []}')
    with pytest.raises(UserError, match="holds no question"):
        load(bbh_folder)
    (bbh_folder / "bbh/navigate.json").write_text('{"examples": [{"input": "x", "target": "y"}]}')
    (bbh_folder / "cot-prompts/navigate.txt").rename(bbh_folder / "elsewhere.txt")
    with pytest.raises(UserError, match=r"put cot-prompts/navigate\.txt"):
        load(bbh_folder)
    (bbh_folder / "bbh/chess.json").write_text("{}")
    with pytest.raises(UserError, match=r"chess\.json is no task of BBH"):
        load(bbh_folder)
    with pytest.raises(UserError, match="holds no file of questions"):
        load(bbh_folder / "nowhere")


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        ("16 - 3 = 13\n#### 13", "13", "13"),
        ("It is $1,234.50 in all", "", "$1,234.50"),
        ("#### -7 or 8", "-7", "8"),
        ("none", "", ""),
    ],
)
def test_numbers_are_taken_from_answers(answer: str, strict: str, flexible: str) -> None:
    assert gsm8k.strict(answer) == strict
    assert gsm8k.flexible(answer) == flexible


def test_gsm8k(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 1?", "answer": f"sum\n#### {n + 1}"} for n in range(7)]
    _lines(tmp_path / "train.jsonl", *rows)
    with pytest.raises(UserError, match="lacks train or test"):
        benchmark("gsm8k").load(tmp_path)
    _lines(tmp_path / "test.jsonl", {"question": "How much?", "answer": "#### 1,200"})
    item = benchmark("gsm8k").load(tmp_path)["gsm8k"][0]
    prompt, _ = next(item.prompts())
    assert prompt.startswith("Question: 0 + 1?\nAnswer: sum\n#### 1\n\nQuestion: 1 + 1?")
    assert prompt.endswith("#### 5\n\nQuestion: How much?\nAnswer:")
    answers = ["#### 1200", "It is $1,200.", "#### 3, 1200", ""]
    records = [
        {"subject": "gsm8k", "references": item.references, "prediction": text, "skipped": None}
        for text in answers
    ]
    assert benchmark("gsm8k").figures(records) == {
        "exact_match": 2 / 4,
        "strict_match": 1 / 4,
        "flexible_extract": 3 / 4,
    }
    _lines(tmp_path / "test.jsonl", {"question": "How much?", "answer": "1200"})
    with pytest.raises(UserError, match="no number behind '####'"):
        benchmark("gsm8k").load(tmp_path)


def test_translations(tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    _lines(tmp_path / "en-zh.jsonl", {"en": "Hello.", "zh": "你好。"}, {"en": "Cat", "zh": "猫"})
    pair = {"en": "The cat sat on the mat", "de": "Die Katze saß auf der Matte"}
    _lines(tmp_path / "de-en.jsonl", {"translation": pair})
    translation = benchmark("translation")
    subjects = translation.load(tmp_path)
    assert next(subjects["en-zh"][0].prompts())[0] == "English phrase: Hello.\nChinese phrase:"
    assert subjects["de-en"][0].references == (pair["en"],)
    answers = {"en-zh": ["你好！", "猫"], "de-en": ["The cat sat on a mat"]}
    records = []
    for name, texts in answers.items():
        for item, text in zip(subjects[name], texts, strict=True):
            records.append({**translation.record(item), "prediction": text})
    english = sacrebleu.corpus_bleu(answers["de-en"], [[pair["en"]]]).score / 100
    chinese = sacrebleu.corpus_bleu(answers["en-zh"], [["你好。", "猫"]], tokenize="zh").score / 100
    assert translation.result(records[2:]).figure == pytest.approx(english)
    # Corpora of several directions are not one corpus.
    assert translation.result(records).figure == pytest.approx((english + chinese) / 2)
    assert 0 < translation.result(records).figures["chrf"] < 1
    _lines(tmp_path / "news.jsonl", {"en": "x"})
    with pytest.raises(UserError, match=r"news\.jsonl names no direction"):
        translation.load(tmp_path)


def test_summaries(tmp_path: Path) -> None:
    scorers = pytest.importorskip("rouge_score.rouge_scorer", reason="needs rouge_score")
    text, gold = "The cat sat on the mat. " * 9, "A cat sat on a mat."
    _lines(tmp_path / "news.jsonl", {"document": text, "summary": gold})
    _lines(tmp_path / "zh.jsonl", {"article": "猫坐在垫子上", "highlights": "猫坐着"})
    summaries = benchmark("summarisation")
    subjects = summaries.load(tmp_path)
    prompts = list(subjects["news"][0].prompts())
    assert prompts[0] == (f"Summarize the following text.\n\n{text.strip()}\n\nSummary:", 0)
    assert prompts[-1][1] == len(text.strip()) - len(text.strip()) // 20
    record = {**summaries.record(subjects["news"][0]), "prediction": "The cat sat."}
    theirs = scorers.RougeScorer(["rougeL"]).score(gold, "The cat sat.")["rougeL"].fmeasure
    assert summaries.result([record]).figure == pytest.approx(theirs)
    chinese = {**summaries.record(subjects["zh"][0]), "prediction": "猫坐"}
    assert summaries.figures([chinese])["rouge1"] == pytest.approx(4 / 5)
    _lines(tmp_path / "bad.jsonl", {"document": "x"})
    with pytest.raises(UserError, match="none of the columns summary, highlights"):
        summaries.load(tmp_path)


def test_what_is_too_long_is_shortened_or_skipped_and_counted(loaded, vocabulary, caplog) -> None:
    demos = tuple(f"what is water {n}\n\n" for n in range(3))
    items = [
        Item("who", ("x",), "q 1", "one", demos=demos),
        Item("what is water and gold " * 4, ("x",), "q 2", "one"),
        Item("they", ("x",), "q 3", "two"),
    ]
    asked = AskedModel(*loaded, vocabulary, 40, 24, batch_size=2)
    measured = measure(benchmark("bbh"), {"one": items[:2], "two": items[2:]}, asked)
    assert (measured.total.count, measured.total.skipped, measured.total.shortened) == (3, 1, 1)
    assert "q 2: a prompt of" in caplog.text
    assert "1 of them skipped and counted as wrong, 1 of them shortened" in str(measured.total)
    records = benchmark("bbh").answers(items, asked)
    assert 0 < records[0]["left_out"] < 3
    assert records[1]["prediction"] == ""
    gold = [Item("they", (records[2]["prediction"],), "q 3", "two")]
    measured = measure(benchmark("bbh"), {"one": items[:2], "two": gold}, asked)
    assert measured.subjects["two"].figure == 1.0
    assert measured.total.figure == pytest.approx(1 / 3)
    assert json.dumps(measured.as_dict())
