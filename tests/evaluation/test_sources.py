"""Questions in the files of every kind, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks import registry
from openba_jax.evaluation.generation import sources
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.sources import openba_json
from openba_jax.evaluation.sources.places import places_of
from openba_jax.evaluation.sources.questions import Reading, read_questions
from openba_jax.evaluation.sources.schemas import question_of
from openba_jax.evaluation.sources.tables import subject_and_split

FOUR = Reading("mmlu", options=(4,))
ROW = "who,I,you,me,they,B\n"


@pytest.mark.parametrize(
    ("fields", "text", "options", "answer", "passage"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": 1}, "q", "ab", 1, ""),
        (
            {"question": "q", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}}
            | {"answerKey": "3"},
            *("q", "abc", 2, ""),
        ),
        (
            {"question": {"stem": "q", "choices": [{"text": "a", "label": "A"}] * 2}}
            | {"answerKey": "A"},
            *("q", "aa", 0, ""),
        ),
        ({"Question": "q", "A": "a", "B": "b", "Answer": "B"}, "q", "ab", 1, ""),
        ({"question": "q", "A": "a", "B": "b", "answer": " b "}, "q", "ab", 1, ""),
        ({"goal": "q", "sol1": "a", "sol2": "b", "label": "1"}, "q", "ab", 1, ""),
        (
            {"question": "q", "distractor1": "a", "distractor2": "b", "distractor3": "c"}
            | {"correct_answer": "d", "support": "s"},
            *("q", "abcd", 3, "s"),
        ),
        (
            {"context": "s", "query": "q", "options": ["a", "b"], "correct_option": 0},
            *("q", "ab", 0, "s"),
        ),
        (
            {"context": "s", "question": "q", "options": ["a", "b"], "label": "b"},
            *("q", "ab", 1, "s"),
        ),
        ({"question": "q", "passage": "s", "answer": True}, "q", ["no", "yes"], 1, "s"),
        ({"question": "q", "passage": "s", "label": 0}, "q", ["no", "yes"], 0, "s"),
        ({"question": "q", "res1": "a", "res2": "b", "ans": "A"}, "q", "ab", 0, ""),
    ],
)
def test_published_columns(fields: dict[str, Any], text, options, answer, passage) -> None:
    expected = Question(text, tuple(options), answer, "x", passage=passage)
    assert question_of(fields, "x") == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"goal": "q", "sol1": "a", "sol2": "b", "label": -1}, "the answer is -1; it must be"),
        ({"question": "q", "A": "a", "B": "b"}, "the answer is missing; it must be one of A, B"),
        ({"question": "q", "A": "a", "B": "b", "answer": "C"}, "the answer is 'C'"),
        ({"question": " ", "A": "a", "B": "b", "answer": "A"}, "has no question"),
        ({"question": "q", "answer": "A"}, "has 0 options"),
        ({"question": "q", "choices": ["a", None], "answer": 0}, "option B is None"),
        ({"question": "q", "A": "a", "B": None, "C": "c", "answer": "C"}, "option B is None"),
        ({"question": "q", "res1": "a", "res3": "c", "answer": "B"}, "option B is None"),
        ({"question": "q", "choices": {"text": "a", "label": 5}, "answer": "A"}, "has 0 options"),
    ],
)
def test_rows_that_are_no_question(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"row 3.*{message}"):
        question_of(fields, "row 3")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("test/abstract_algebra_test.csv", ("abstract_algebra", "test")),
        ("dev/agronomy.csv", ("agronomy", "dev")),
        ("val.csv", ("", "validation")),
        ("train_head.csv", ("", "train")),
        ("astronomy/test-00000-of-00001.parquet", ("astronomy", "test")),
        ("data/validation-00000-of-00001.parquet", ("", "validation")),
        ("law/val/data-00000-of-00001.arrow", ("law", "validation")),
        ("arc-test.arrow", ("arc", "test")),
        ("questions.csv", ("questions", "")),
    ],
)
def test_names_say_subject_and_split(tmp_path: Path, path: str, expected) -> None:
    assert subject_and_split(tmp_path / path, tmp_path) == expected


def _write(folder: Path, name: str, content: str | bytes) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def test_csv_of_mmlu_and_cmmlu(tmp_path: Path) -> None:
    _write(tmp_path, "test/law_test.csv", ROW * 2)
    _write(tmp_path, "dev/law_dev.csv", '"what, then",1,2,3,4,D\n' * 7)
    _write(tmp_path, "test/art_test.csv", ROW)
    subjects = read_questions(tmp_path, FOUR)
    assert {name: len(items) for name, items in subjects.items()} == {"art": 1, "law": 2}
    (question, _) = subjects["law"]
    assert question.options == ("I", "you", "me", "they")
    assert [demo.text for demo in question.demos] == ["what, then"] * 5
    assert subjects["art"][0].demos == ()
    with_header = tmp_path / "cmmlu"
    _write(with_header, "test/law.csv", ",Question,A,B,C,D,Answer\n0," + ROW)
    assert read_questions(with_header, FOUR)["law"][0].answer == 1


def test_parquet_arrow_and_json_lines(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = [
        {"question": f"q{n}", "subject": name, "choices": list("abcd"), "answer": n % 4}
        for n, name in enumerate(["law", "law", "art"])
    ]
    table = pa.Table.from_pylist(rows)
    (tmp_path / "parquet/all").mkdir(parents=True)
    pa.parquet.write_table(table, tmp_path / "parquet/all/test-00000-of-00001.parquet")
    pa.parquet.write_table(table, tmp_path / "parquet/all/dev-00000-of-00001.parquet")
    saved = tmp_path / "arrow/test"
    saved.mkdir(parents=True)
    with (
        pa.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    for name in ("dataset_info.json", "state.json"):
        (saved / name).write_text("{}")
    (tmp_path / "arrow/dataset_dict.json").write_text('{"splits": ["test"]}')
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    _write(tmp_path, "lines/test.jsonl", lines)
    found = [read_questions(tmp_path / name, FOUR) for name in ("parquet", "arrow", "lines")]
    for each in found:
        assert {name: [q.answer for q in items] for name, items in each.items()} == {
            "law": [0, 1],
            "art": [2],
        }
    assert len(found[0]["law"][0].demos) == 2
    assert found[1]["law"][0].demos == ()


def test_a_folder_of_tfds(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")

    class Piqa(tfds.core.GeneratorBasedBuilder):  # type: ignore[name-defined, misc]
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path

        def _info(self) -> Any:
            features = {"goal": tfds.features.Text(), "sol1": tfds.features.Text()}
            features |= {"sol2": tfds.features.Text()}
            features |= {"label": tfds.features.ClassLabel(num_classes=2)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager
            return {"train": self._generate_examples(), "validation": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for n in range(3):
                yield n, {"goal": f"煮 {n}", "sol1": "a", "sol2": "b", "label": n % 2}

    builder = Piqa(data_dir=str(tmp_path / "data"))
    builder.download_and_prepare()
    subjects = registry.benchmark("piqa").load(Path(builder.data_dir))
    assert sorted((q.text, q.answer) for q in subjects["piqa"]) == [
        ("煮 0", 0),
        ("煮 1", 1),
        ("煮 2", 0),
    ]
    assert len(subjects["piqa"][0].demos) == 3


def test_demonstrations_of_the_original_are_drawn(tmp_path: Path) -> None:
    rows = "".join(f"q{n},a,b,c,d,A\n" for n in range(30))
    for split in ("test", "val", "dev"):
        _write(tmp_path, f"law_{split}.csv", rows)
    first = registry.benchmark("mmlu:ppl_5").load(tmp_path)["law"][0].demos
    drawn = registry.benchmark("mmlu:ppl_5", preset="original").load(tmp_path)["law"][0].demos
    assert [demo.text for demo in first] == ["q0", "q1", "q2", "q3", "q4"]
    assert len(drawn) == 5
    assert drawn != first
    assert all("law_val.csv" in demo.place for demo in drawn)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds no question file \(\*\.json"),
        ({"notes.txt": "hello"}, "holds no question file"),
        ({"a.csv": ROW, "b.json": "[]"}, r"several kinds \(1 CSV, 1 JSON\); name a folder of one"),
        ({"law_test.csv": ""}, r"law_test\.csv holds no question"),
        ({"law_test.csv": ROW.encode() + "谁,一,二,三,四,B\n".encode("gbk")}, "is not UTF-8"),
        ({"law_test.csv": ROW.encode("utf-16")}, "is not UTF-8"),
        ({"a_test.csv": ROW, "b_test.csv": "谁,一,二,三,四,B\n".encode("gbk")}, "b_test.* UTF-8"),
        ({"law_test.csv": ROW + "who,I,you,B\n"}, r"row 2 has 4 columns where 6 are expected"),
        ({"law_test.csv": "who,I,you,me,they,\n"}, "neither a header"),
        ({"law_test.csv": ROW + "who,I,you,me,they,\n"}, "row 2: the answer is missing"),
        ({"law_test.csv": '"who,I\n'}, "is not CSV"),
        ({"a.csv": f"subject,question,A,B,C,D,answer\na/b,{ROW}"}, "cannot name a file of results"),
        ({"a.csv": f"subject,question,A,B,C,D,answer\n{'b' * 201},{ROW}"}, "within 200 bytes"),
        ({"law_test.jsonl": "{}\n[1\n"}, "line 2 is not JSON"),
        ({"law_test.jsonl": "3\n"}, "line 1 is no object"),
        ({"law_train.csv": ROW, "law_dev.csv": ROW}, "has the splits dev, train, and mmlu asks"),
        ({"law_test.parquet": "no"}, "is no Parquet file"),
        ({"law_test.arrow": "no"}, "is no Arrow file"),
        ({"total_test.csv": ROW}, "total is the name of the figures"),
        ({"a/law_test.csv": ROW, "b/law_test.csv": ROW}, "two files of law test, of which .*b/law"),
    ],
)
def test_refusals(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    for name, content in files.items():
        _write(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path, FOUR)


def test_another_number_of_options_is_refused(tmp_path: Path) -> None:
    item = {"question": "q", "ans": "E"} | {f"res{n}": str(n) for n in range(1, 6)}
    good = {"question": "q", "ans": "A"} | {f"res{n}": str(n) for n in range(1, 5)}
    items = [{"demo": [], "data": each} for each in (good, item)]
    _write(tmp_path, "law_test.json", json.dumps(items))
    with pytest.raises(UserError, match=r"question 2 has 5 options where 4 are expected by mmlu"):
        registry.benchmark("mmlu").load(tmp_path)
    assert len(registry.benchmark("arc_c").load(tmp_path)["law"]) == 2
    _write(tmp_path, "law_test.json", json.dumps([{"demo": [{"question": "q"}], "data": good}]))
    with pytest.raises(UserError, match="question 1 demo 1 has the options none"):
        registry.benchmark("mmlu").load(tmp_path)


def test_subjects_of_chinese_templates_have_names(tmp_path: Path) -> None:
    _write(tmp_path, "gardening_test.csv", ROW)
    assert registry.benchmark("cmmlu:ppl_5").load(tmp_path)
    with pytest.raises(UserError, match="cmmlu has no subject gardening, whose name"):
        registry.benchmark("cmmlu:ABCD_5").load(tmp_path)


def test_each_benchmark_has_its_folder(tmp_path: Path) -> None:
    names = ["mmlu", "ceval", "arc_e", "arc_c"]
    assert set(places_of(str(tmp_path), names).values()) == {tmp_path}
    for folder in ("MMLU", "C-Eval", "ARC"):
        (tmp_path / folder).mkdir()
    places = places_of(str(tmp_path), names)
    assert [places[name].name for name in names] == ["MMLU", "C-Eval", "ARC", "ARC"]
    with pytest.raises(UserError, match="has no folder for piqa"):
        places_of(str(tmp_path), [*names, "piqa"])
    with pytest.raises(UserError, match="QUESTIONS names no folder for mmlu"):
        places_of({"ceval": str(tmp_path)}, names)


def test_easy_and_challenge_lie_in_one_folder(tmp_path: Path) -> None:
    for name, count in (("ARC-Easy-Test", 1), ("ARC-Challenge-Test", 2)):
        item = {"question": "q", "ans": "A", "res1": "a", "res2": "b", "res3": "c"}
        _write(tmp_path, f"{name}.json", json.dumps([{"demo": [], "data": item}] * count))
    assert list(registry.benchmark("arc_e").load(tmp_path)) == ["ARC-Easy-Test"]
    assert list(registry.benchmark("arc_c").load(tmp_path)) == ["ARC-Challenge-Test"]

    (tmp_path / "ARC-Easy-Test.json").unlink()
    with pytest.raises(UserError, match=r"has no file of arc_e; .*Challenge.* another benchmark"):
        registry.benchmark("arc_e").load(tmp_path)


def test_easy_and_challenge_as_tables_lie_in_one_folder(tmp_path: Path) -> None:
    for name in ("ARC-Easy", "ARC-Challenge"):
        _write(tmp_path, f"{name}/test.csv", f"question,A,B,C,D,answer\n{name},1,2,3,4,A\n")
    for benchmark, name in (("arc_e", "ARC-Easy"), ("arc_c", "ARC-Challenge")):
        found = registry.benchmark(benchmark).load(tmp_path)
        assert [[each.text for each in part] for part in found.values()] == [[name]]


def test_questions_of_other_benchmarks_are_not_asked(tmp_path: Path) -> None:
    (tmp_path / "MMLU").mkdir()
    with pytest.raises(UserError, match="has a folder for mmlu and none for sciq"):
        places_of(str(tmp_path), ["sciq"])


def test_files_of_one_name_and_names_in_capitals(tmp_path: Path) -> None:
    fields = {"question": "q", "ans": "A", "res1": "a", "res2": "b"}
    questions = json.dumps([{"demo": [], "data": fields}])
    _write(tmp_path, "a.JSON", questions)
    _write(tmp_path, "below/b.json", questions)
    assert sorted(openba_json.load(tmp_path)) == ["a", "b"]
    assert sorted(openba_json.load(tmp_path / "a.JSON")) == ["a"]
    _write(tmp_path, "b.json", questions)
    with pytest.raises(UserError, match="two files of the subject b"):
        openba_json.load(tmp_path)
    _write(tmp_path, "words/LAW_TEST.CSV", ROW)
    assert list(read_questions(tmp_path / "words", FOUR)) == ["LAW"]
    for name in ("en-zh.jsonl", "en-zh.more.jsonl"):
        _write(tmp_path, f"wmt/{name}", '{"text": "a", "summary": "b"}\n')
    with pytest.raises(UserError, match="are both of the subject en-zh"):
        sources.subjects(sources.files(tmp_path / "wmt", sources.TABLES))


def test_real_files_of_piqa(shared_dir: Path) -> None:
    subjects = registry.benchmark("piqa").load(shared_dir / "data/eval/PIQA")
    assert len(subjects["piqa"]) == 1838
    assert len(subjects["piqa"][0].demos) == 10
