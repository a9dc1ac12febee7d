"""The letters that a golden model chooses, against the original's scoring in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks import registry

DATA = Path(__file__).parent / "data"
FIXTURE = json.loads((DATA / "scoring.json").read_text())


@pytest.fixture(scope="module")
def asked(golden_dir: Callable[..., Path]) -> AskedModel:
    source = HuggingFace().open(golden_dir("model_b", "model.safetensors"))
    vocabulary = OpenBAVocabulary(DATA / "scoring.model", newline=False)
    lengths = FIXTURE["limits"]
    return AskedModel(source.model, load_tree(source), vocabulary, *lengths, batch_size=8)


@pytest.mark.parametrize(
    "case", FIXTURE["cases"], ids=[f"{c['benchmark']}-{c['template']}" for c in FIXTURE["cases"]]
)
def test_the_chosen_letters_are_the_originals(
    asked: AskedModel, tmp_path: Path, case: dict[str, Any]
) -> None:
    (tmp_path / "sums.json").write_text(json.dumps(FIXTURE["questions"][case["benchmark"]]))
    benchmark = registry.benchmark(f"{case['benchmark']}:{case['template']}", preset="original")
    records = benchmark.answers(benchmark.load(tmp_path)["sums"], asked)
    assert all(record["skipped"] is None for record in records)
    chosen = case["chosen_with_250199"] or case["chosen"]
    assert [record["choice"] for record in records] == chosen
    if not case["template"].startswith("ppl"):  # Logits, of which ours are normalized.
        ours, theirs = (
            np.array(scores) - np.array(scores)[:, :1]
            for scores in ([record["scores"] for record in records], case["scores"])
        )
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        return
    corrected = registry.benchmark(f"{case['benchmark']}:{case['template']}")
    records = corrected.answers(corrected.load(tmp_path)["sums"], asked)
    if case["benchmark"] == "mmlu":
        assert records[0]["skipped"] is not None  # What is too long, the original cuts.
    same = [n for n, record in enumerate(records) if record["skipped"] is None]
    same = [n for n in same if records[n]["shots"] == 0 or case["benchmark"] != "mmlu"]
    for number in same:
        assert records[number]["choice"] == case["chosen"][number]
        ours = -np.array(records[number]["scores"])
        np.testing.assert_allclose(ours, case["scores"][number], atol=1e-4)
