"""Labels and F1 equal those of GNER's own code, for answers of which many are broken."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest

from openba_jax.evaluation.benchmarks.registry import benchmark
from openba_jax.evaluation.ner.parsing import align, is_exact, labelled_words, labels_for
from openba_jax.evaluation.ner.spans import entities, precision_recall_f1

# Another file of scripts/fixtures_ner.py may be named: one with many more answers.
FILE = os.environ.get("OPENBA_NER_FIXTURE") or Path(__file__).parent / "predictions.json"
FIXTURE = json.loads(Path(FILE).read_text(encoding="utf-8"))


def _spelled(word: str) -> str:
    return unicodedata.normalize("NFKC", word)


@pytest.mark.parametrize(("spelling", "spelled"), [("as_written", str), ("as_spelled", _spelled)])
def test_scores_are_those_of_the_reference(spelling: str, spelled) -> None:
    theirs = FIXTURE[spelling]
    by_dataset: dict[str, list] = {}
    records = []
    for record, expected in zip(FIXTURE["records"], theirs["labels"], strict=True):
        words, gold = record["instance"]["words"], record["instance"]["labels"]
        types, text = record["label_list"], record["prediction"]
        labels = labels_for(words, text, types, spelled)
        assert labels == expected, record
        found = entities(words, gold), entities(words, labels)
        by_dataset.setdefault(record["dataset"], []).append(found)
        own = {"words": words, "gold": gold, "labels": labels, "skipped": None, "left_out": 0}
        own["exact"] = is_exact(words, text, types)
        records.append({**own, "subject": record["dataset"], "prediction": text})
    for name, sentences in by_dataset.items():
        ours = dict(zip(("precision", "recall", "f1"), precision_recall_f1(sentences), strict=True))
        assert ours == pytest.approx(theirs[name], abs=1e-12)
    total = benchmark("ner").result(records)
    assert total.figure == pytest.approx(theirs["average"], abs=1e-12)
    assert 0.2 < total.figures["malformed"] < 0.9


def test_the_fixture_has_every_kind_of_mistake() -> None:
    exact = parts = others = 0
    for record in FIXTURE["records"]:
        words = [word.lower() for word in record["instance"]["words"]]
        said = [word.lower() for word in labelled_words(record["prediction"].strip())[0]]
        rest = iter(words)
        if words == said:
            exact += 1
        elif all(word in rest for word in said):
            parts += 1
        else:
            others += 1
    assert min(exact, parts, others) >= 5


def test_words_and_labels_are_read_out_of_a_text() -> None:
    text = "did(O) george (B-actor) (O)clooney(I-actor)(B-x) a b(B-average ratings) rest"
    words, labels = labelled_words(text)
    assert words == ["did", "george", "clooney", "a b"]
    assert labels == ["O", "B-actor", "I-actor", "B-average ratings"]
    assert labels_for(["did", "a"], "did(B-song) a(B-x)", ["song"]) == ["B-song", "O"]
    assert not is_exact(["did", "a"], "did(B-song) a(B-x)", ["song"])
    assert is_exact(["did", "a"], "did(B-song) a(O)", ["song"])


def test_words_are_aligned() -> None:
    assert align(["a", "b", "a"], ["a", "b", "a"]) == [0, 1, 2]
    assert align(["a", "b", "a"], ["a", "a"]) == [0, None, 1]
    assert align(["a", "b"], []) == [None, None]
    assert align(["a", "b", "c"], ["x", "b", "a", "c"]) == [None, 1, 3]
    assert align(["a"], ["x"]) == [None]


def test_entities_are_told_apart() -> None:
    words = ["The", "New", "York", "Times", "of", "new", "york"]
    labels = ["B-place", "I-place", "I-place", "I-paper", "O", "I-paper", "B-place"]
    # The type is that of the last word; an `I-` may begin.
    assert entities(words, labels) == [
        ("new york times", "paper"),
        ("new", "paper"),
        ("york", "place"),
    ]
    assert entities(["York", "york", "."], ["B-x", "B-x", "O"]) == [("york", "x")]
    assert precision_recall_f1([([], [])]) == (0.0, 0.0, 0.0)
