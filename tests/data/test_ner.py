"""Sentences with named entities: columns, GNER's JSON, prompts, instructions of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openba_jax.data.ner.__main__ import convert
from openba_jax.data.ner.prompts import answer, labels_of, prompt
from openba_jax.data.ner.sentences import read, read_columns
from openba_jax.errors import UserError

WORDS = ["did", "george", "clooney", "make", "a", "musical", "in", "the", "1980s"]
LABELS = ["O", "B-actor", "I-actor", "O", "O", "B-genre", "O", "O", "B-year"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    movies = tmp_path / "data" / "mit-movie"
    movies.mkdir(parents=True)
    rows = [f"{word}\tNN\t{label}" for word, label in zip(WORDS, LABELS, strict=True)]
    (movies / "test.txt").write_text("\n".join([*rows, "", "", "a\tO", "film\tB-genre", ""]))
    (movies / "label.txt").write_text("actor\ngenre\nyear\naverage ratings\n")
    return tmp_path / "data"


def test_the_example_of_the_reference(shared_dir: Path) -> None:
    facts = json.loads((shared_dir / "reference" / "ner.json").read_text())
    example = facts["example"]
    words = example["sentence"].split()
    labels = [part.partition("(")[2][:-1] for part in example["output"].split()]
    assert answer(words, labels) == example["output"]
    assert prompt(words, example["labels"]).startswith(facts["instruction"])


def test_prompt_and_answer() -> None:
    text = prompt(["a", "film"], ["genre", "average ratings"], "mit-movie")
    head, _, rest = text.partition("\n\n")
    assert head.endswith("3. O (Outside) denotes words that are not part of a named entity.")
    assert rest == (
        "Use the specific entity tags: genre, average ratings and O.\nDataset: mit-movie.\n"
        "Sentence: a film"
    )
    assert "Dataset" not in prompt(["a"], ["genre"])
    assert answer(["a", "film"], ["O", "B-genre"]) == "a(O) film(B-genre)"
    assert labels_of(["x"]) == ["O", "B-x", "I-x"]


def test_columns(folder: Path) -> None:
    found = read(folder, "test")
    first, second = found["mit-movie"]
    assert list(first.words) == WORDS
    assert list(first.labels) == LABELS
    assert second.words == ("a", "film")
    assert second.place.endswith("test.txt line 12")
    # Types are named in another order for each sentence, the same one in each run.
    assert sorted(first.types) == sorted(second.types)
    assert read(folder, "test") == found
    assert first.types != second.types
    assert f"tags: {', '.join(first.types)} and O." in first.prompt
    assert read(folder / "mit-movie", "test") == found
    named = read_columns(folder / "mit-movie", "test", name_dataset=True)
    assert "Dataset: mit-movie.\n" in named[0].prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("did O\n", "line 1 is 'did O'; a word and its label are expected"),
        ("did\tO\n\tO\n", "line 2 is"),
        ("did\t\n", "line 1 is"),
        ("\n\n", "has no sentence"),
    ],
)
def test_malformed_columns(folder: Path, text: str, message: str) -> None:
    (folder / "mit-movie" / "test.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read(folder, "test")


def test_what_is_no_source(folder: Path, caplog) -> None:
    with pytest.raises(UserError, match=r"has no sentences: neither dev\.txt"):
        read(folder, "dev")
    (folder / "mit-movie" / "label.txt").write_text("actor\ngenre\n")
    read(folder, "test")
    assert "B-year has no type in label.txt" in caplog.text
    assert "1 labels have no type" in caplog.text
    (folder / "mit-movie" / "label.txt").write_text("O\nactor\n")
    with pytest.raises(UserError, match=r"label\.txt names no types, one a line and without O"):
        read(folder, "test")
    (folder / "mit-movie" / "label.txt").unlink()
    with pytest.raises(UserError, match=r"label\.txt cannot be read"):
        read(folder, "test")
    (folder / "mit-movie" / "more.json").write_text("[]")
    with pytest.raises(UserError, match="has both columns and JSON"):
        read(folder / "mit-movie", "test")


def _record(**changes) -> dict:
    instance = {"words": ["a", "film"], "labels": ["O", "B-genre"], "instruction_inputs": "Label."}
    return {"dataset": "pile", "label_list": ["genre"], "instance": {**instance, **changes}}


@pytest.mark.parametrize("form", ["list", "lines"])
def test_records_of_gner(tmp_path: Path, form: str) -> None:
    records = [_record(), {**_record(instruction_inputs=None), "dataset": "other"}]
    text = json.dumps(records) if form == "list" else "\n".join(map(json.dumps, records))
    (tmp_path / "pile.json").write_text(text)
    found = read(tmp_path / "pile.json", "train")
    assert found["pile"][0].prompt == "Label."
    assert found["other"][0].prompt == prompt(["a", "film"], ["genre"])
    assert found["pile"][0].answer == "a(O) film(B-genre)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3]", "record 1 is no record of GNER"),
        ("[", "is not JSON"),
        ('{"instance"', "line 1 is not JSON"),
        (json.dumps(_record(labels=["O"])), "line 1 has 2 words and 1 labels"),
        (json.dumps(_record(words="a film")), "'words' is 'a film'; a list of texts"),
        (json.dumps({**_record(), "label_list": None}), "'label_list' is None"),
        ("\n", "has no sentence"),
    ],
)
def test_malformed_records(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pile.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "pile.json", "train")


def test_instructions(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    counts = convert(str(folder), str(output), "test", "[INST] {} [/INST]", first=1)
    assert counts == {"mit-movie": 1}
    (line,) = output.read_text().splitlines()
    record = json.loads(line)
    assert record["targets"] == answer(WORDS, LABELS)
    assert record["inputs"].startswith("[INST] Please analyze the sentence")
    assert record["inputs"].endswith("in the 1980s [/INST]")
    with pytest.raises(UserError, match="--template is"):
        convert(str(folder), str(output), "test", "[INST]")
    with pytest.raises(UserError, match="input"):
        convert(str(folder), str(folder / "out.jsonl"), "test")
