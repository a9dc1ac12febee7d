"""Question files, well-formed and not; names of benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks import json_choice, registry
from openba_jax.evaluation.benchmarks.choices import Question

FIELDS = {"question": "Who?", "res1": "I", "res2": "you", "ans": "B"}


def _file(folder: Path, *changes: dict[str, Any], name: str = "people.json") -> Path:
    """A file of a good question and some with fields changed; None leaves a field out."""
    items = [{"demo": [], "data": FIELDS}]
    for change in changes:
        fields = {key: value for key, value in {**FIELDS, **change}.items() if value is not None}
        items.append({"demo": [], "data": fields})
    path = folder / name
    path.write_text(json.dumps(items))
    return path


def test_files_are_subjects(tmp_path: Path) -> None:
    _file(tmp_path, {"res2": 2, "ans": "A", "opt_num": 2}, {"res3": "they", "ans": "C"})
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([{"data": FIELDS}]).encode())
    (tmp_path / "notes.txt").write_text("no questions")
    subjects = json_choice.load(tmp_path)
    assert list(subjects) == ["bom", "people"]
    place = str(tmp_path / "people.json")
    assert subjects["people"] == [
        Question("Who?", ("I", "you"), 1, f"{place} question 1"),
        Question("Who?", ("I", "2"), 0, f"{place} question 2"),
        Question("Who?", ("I", "you", "they"), 2, f"{place} question 3"),
    ]


def test_real_question_files_are_read(shared_dir: Path) -> None:
    folders = {path.parent for path in (shared_dir / "data/eval").glob("*/*.json")}
    assert folders
    for folder in folders:
        for questions in json_choice.load(folder).values():
            assert all(0 <= q.answer < len(q.options) <= 5 for q in questions)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'[{"data": "\xff"}]', "is not UTF-8"),
        (b"[]", "holds no question"),
        (b'{"data": {}}', "holds no question"),
        (b"[3]", "question 1 is no question"),
        (b'[{"question": "Who?"}]', "question 1 is no question"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "people.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"people\.json .*{message}|people\.json {message}"):
        json_choice.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ans": None}, "'ans' is missing; it must be one of the letters A, B, as there are 2"),
        ({"ans": "C"}, "'ans' is 'C'; it must be"),
        ({"ans": "AB"}, "'ans' is 'AB'; it must be"),
        ({"ans": ""}, "'ans' is ''; it must be"),
        ({"ans": 1}, "'ans' is 1; it must be"),
        ({"question": None}, "'question' is missing; it must be text"),
        ({"question": " "}, "'question' is ' '; it must be text"),
        ({"question": 3}, "'question' is 3; it must be text"),
        ({"res2": None}, "has the options res1; 'res1' to at least"),
        ({"res1": None, "res2": None}, "has the options none; 'res1' to"),
        ({"res4": "they"}, "has the options res1, res2, res4; 'res1' to"),
        ({f"res{n}": "x" for n in range(3, 7)}, "at most 'res5' are expected"),
        ({"opt_num": 4}, "has 2 options, and 'opt_num' is 4"),
        ({"res2": ["you"]}, r"'res2' is \['you'\]; it must be text"),
        ({"res2": True}, "'res2' is True; it must be text"),
    ],
)
def test_malformed_questions_are_named(tmp_path: Path, change, message: str) -> None:
    _file(tmp_path, {}, change)
    with pytest.raises(UserError, match=rf"people\.json question 3:? .*{message}|3:? {message}"):
        json_choice.load(tmp_path)


def test_a_folder_without_questions_and_a_subject_called_total(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no question file"):
        json_choice.load(tmp_path)
    with pytest.raises(UserError, match="holds no question file"):
        json_choice.load(tmp_path / "nowhere")
    _file(tmp_path, name="total.json")
    with pytest.raises(UserError, match=r"total\.json: total is the name of the figures"):
        json_choice.load(tmp_path)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UserError, match="'json_choise'; did you mean json_choice"):
        registry.benchmark("json_choise")
    with pytest.raises(UserError, match="'cmmmlu'; did you mean cmmlu"):
        registry.benchmark("cmmmlu:ppl_5")
    with pytest.raises(UserError, match="'xyz'; known are json_choice"):
        registry.benchmark("xyz")
    with pytest.raises(UserError, match="mmlu has no template 'ppl5'; did you mean ppl_5"):
        registry.benchmark("mmlu:ppl5")
    with pytest.raises(UserError, match="json_choice has no templates"):
        registry.benchmark("json_choice:ppl_5")
    with pytest.raises(UserError, match="PRESET is 'orginal'; it must be one of"):
        registry.benchmark("mmlu", preset="orginal")
    with pytest.raises(UserError, match="ppl_0 of piqa shows no demonstrations, and SHOTS is 3"):
        registry.benchmark("piqa:ppl_0", shots=3)
    with pytest.raises(UserError, match="PRESET is 'orginal'"):
        registry.benchmark("json_choice", preset="orginal")
    for name in ("json_choice", "translation"):
        with pytest.raises(UserError, match=f"{name} shows no demonstrations, and SHOTS is 3"):
            registry.benchmark(name, shots=3)
    with pytest.raises(UserError, match="gsm8k has 5 examples, and SHOTS is 6"):
        registry.benchmark("gsm8k", shots=6)
    assert registry.benchmark("gsm8k").settings["shots"] == 5
    assert registry.benchmark("gsm8k", shots=0).settings["shots"] == 0
    for shots in (-1, 2.5, "3"):
        with pytest.raises(UserError, match=f"SHOTS is {shots!r}; it must be None or a whole"):
            registry.benchmark("gsm8k", shots=shots)  # type: ignore[arg-type]
