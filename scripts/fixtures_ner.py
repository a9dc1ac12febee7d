"""Makes tests/evaluation/ner/predictions.json: broken answers, scored by GNER's own code.

git clone https://github.com/yyDing1/GNER
python scripts/fixtures_ner.py --reference=GNER/evaluate.py

It needs transformers, which the reference imports. Sentences and answers are made up.
"""

from __future__ import annotations

import importlib.util
import json
import random
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import app, flags

REFERENCE = flags.DEFINE_string("reference", None, "GNER's evaluate.py.", required=True)
COUNT = flags.DEFINE_integer("count", 30, "Sentences of each data set.")
OUTPUT = flags.DEFINE_string("output", "tests/evaluation/ner/predictions.json", "File to write.")

WORDS = (
    *("the", "The", "a", "of", "in", "Paris", "paris", "Tokyo", "New", "new", "York", "ﬁlm", "Ｘ"),
    *("1980s", ",", ".", "(", ")", "St.", "O'Hara", "B-52", "I-95", "did", "george", "Clooney"),
    *("musical", "东京", "star-wars", "O"),
)
TYPES = {
    "films": ["genre", "average ratings", "the title", "actor"],
    "places": ["location", "organisation"],
}


class Spelling:
    """In place of a tokenizer: what comes back of a word is its compatibility form."""

    def __call__(self, words: list[str]) -> dict[str, list[str]]:
        return {"input_ids": words}

    def batch_decode(self, ids: list[str], skip_special_tokens: bool) -> list[str]:
        return [unicodedata.normalize("NFKC", word) for word in ids]


def sentence(rng: random.Random, types: list[str]) -> tuple[list[str], list[str]]:
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 12))]
    labels: list[str] = []
    while len(labels) < len(words):
        if rng.random() < 0.5:
            labels.append("O")
        else:
            kind = rng.choice(types)
            labels += [f"B-{kind}", *[f"I-{kind}"] * rng.randint(0, 2)]
    return words, labels[: len(words)]


def broken(rng: random.Random, words: list[str], labels: list[str], types: list[str]) -> str:
    """An answer with none, one or many of the mistakes that models make."""
    pairs = list(zip(words, labels, strict=True))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        place = rng.randrange(len(pairs)) if pairs else 0
        kind = rng.choice(["drop", "repeat", "swap", "spell", "label", "case", "open", "insert"])
        if not pairs and kind != "insert":
            continue
        if kind == "drop":
            del pairs[place]
        elif kind == "repeat":
            pairs[place:place] = pairs[place : place + 3]
        elif kind == "swap":
            rng.shuffle(pairs)
        elif kind == "spell":
            pairs[place] = (pairs[place][0] + "x", pairs[place][1])
        elif kind == "label":
            pairs[place] = (pairs[place][0], rng.choice(["B-colour", "I-", "B-" + types[0], "O"]))
        elif kind == "case":
            pairs[place] = (pairs[place][0].upper(), pairs[place][1])
        elif kind == "open":
            pairs[place] = (pairs[place][0], "I-" + rng.choice(types))
        else:
            pairs.insert(place, (rng.choice([*WORDS, ""]), "O"))
    text = rng.choice([" ", " ", "", "\n"]).join(f"{word}({label})" for word, label in pairs)
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.1 else text


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gner_evaluate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scores(reference: ModuleType, records: list[dict[str, Any]], tokenizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"labels": []}
    for record in records:
        found["labels"].append(reference.extract_predictions(record, tokenizer))
    for name in TYPES:
        part = [record for record in records if record["dataset"] == name]
        found[name] = reference.NEREvaluator().evaluate(part, tokenizer)
    found["average"] = sum(found[name]["f1"] for name in TYPES) / len(TYPES)
    return found


def main(argv: list[str]) -> None:
    del argv
    reference, rng = load(REFERENCE.value), random.Random(0)
    records = []
    for name, types in TYPES.items():
        for _ in range(COUNT.value):
            words, labels = sentence(rng, types)
            instance = {"words": words, "labels": labels}
            prediction = broken(rng, words, labels, types)
            record = {"dataset": name, "label_list": types, "instance": instance}
            records.append({**record, "prediction": prediction})
    result = {
        "records": records,
        "as_written": scores(reference, records, None),
        "as_spelled": scores(reference, records, Spelling()),
    }
    text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    Path(OUTPUT.value).write_text(text.replace('{"dataset"', '\n{"dataset"') + "\n")


if __name__ == "__main__":
    app.run(main)
