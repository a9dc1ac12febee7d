"""Benchmarks while a model is trained: the figures are those of openba-eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from openba_jax.errors import UserError
from openba_jax.eval import evaluate
from openba_jax.evaluation.while_training import BenchmarkEvaluator
from openba_jax.training.records import metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from toy_run import ToyBatches, toy_train

LENGTHS = {"inputs": 300, "targets": 16}


def _questions(folder: Path) -> Path:
    folder.mkdir()
    rows = [f"what is water {n},I,you,me,they,{'ABCD'[n % 4]}" for n in range(12)]
    for split in ("dev", "test"):
        (folder / f"virology_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_figures_are_logged_and_are_those_of_openba_eval(tmp_path, loaded, vocabulary) -> None:
    source = _questions(tmp_path / "MMLU")
    lengths = tuple(LENGTHS.values())
    evaluator = BenchmarkEvaluator(
        ["mmlu:ppl_0", "mmlu:harness"], str(source), vocabulary, lengths, batch_size=4, every=4
    )
    result = toy_train(
        tmp_path / "run",
        model=loaded[0],
        batches=ToyBatches(vocab=vocabulary.size),
        tokenizer=str(vocabulary.path),
        benchmarks=evaluator,
        train_steps=10,
    )
    records = metrics.read(result.history)
    asked = [record for record in records if record["split"] == "benchmarks"]
    assert [record["step"] for record in asked] == [0, 4, 8, 10]
    figures = evaluate(
        str(tmp_path / "run"),
        str(source),
        ["mmlu:ppl_0", "mmlu:harness"],
        feature_lengths=LENGTHS,
        batch_size=4,
    )["benchmarks"]
    for name in ("mmlu:ppl_0", "mmlu:harness"):
        assert asked[-1][name] == figures[name]["total"]["accuracy"]
        assert figures[name]["categories"] == {"Other": figures[name]["total"]}
    assert json.dumps(asked[-1])


def test_mistakes_are_found_before_training(tmp_path: Path, vocabulary) -> None:
    source = str(_questions(tmp_path / "questions"))
    with pytest.raises(UserError, match="EVAL_BENCHMARKS and EVAL_QUESTIONS go together"):
        BenchmarkEvaluator(["mmlu"], "", vocabulary, (64, 16))
    with pytest.raises(UserError, match="did you mean mmlu"):
        BenchmarkEvaluator(["mmmlu"], source, vocabulary, (64, 16))
    with pytest.raises(UserError, match="must be at least 1"):
        BenchmarkEvaluator(["mmlu"], source, vocabulary, (64, 16), every=0)
