"""Results on disk: resumed by subject, never mixed, shown in tables and a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openba_jax.checkpoints import training_state
from openba_jax.errors import UserError
from openba_jax.eval import evaluate
from openba_jax.evaluation.benchmarks.choices import ChoiceBenchmark
from openba_jax.evaluation.score import Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory, loaded, vocabulary) -> Path:
    root = tmp_path_factory.mktemp("results")
    training_state.create(root / "model", *loaded, tokenizer=vocabulary.path)
    for subject, count in (("law", 5), ("art_studies", 3)):
        rows = [f"{n},what is water {n},I,you,me,they,{'ABCD'[n % 4]}" for n in range(count)]
        rows[0] = rows[0].replace("water", "water " * 300)
        file = root / "C-Eval" / "val" / f"{subject}_val.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["id,question,A,B,C,D,answer", *rows]) + "\n")
    return root


def _evaluate(folder: Path, results: Path, **options):
    arguments = {
        "questions": str(folder / "C-Eval"),
        "benchmarks": ["ceval:ppl_0"],
        "feature_lengths": {"inputs": 300, "targets": 16},
        "batch_size": 2,
        "results_dir": str(results),
    }
    return evaluate(str(folder / "model"), **{**arguments, **options})


def test_what_was_asked_is_not_asked_again(folder: Path, tmp_path: Path, monkeypatch) -> None:
    results = tmp_path / "results"
    figures = _evaluate(folder, results, export=True)
    (results / "ceval.ppl_0" / "art_studies.jsonl").unlink()
    asked = []
    whole = ChoiceBenchmark.answers

    def spy(self, items, *arguments):
        asked.append(items[0].subject)
        return whole(self, items, *arguments)

    monkeypatch.setattr(ChoiceBenchmark, "answers", spy)
    assert _evaluate(folder, results) == figures
    assert asked == ["art_studies"]
    for change in ({"batch_size": 4}, {"preset": "original"}, {"template": "Say: {}"}):
        with pytest.raises(UserError, match=r"has results for .* = .*, and now it is"):
            _evaluate(folder, results, **change)
    (results / "ceval.ppl_0" / "settings.json").unlink()
    with pytest.raises(UserError, match=r"has results without settings\.json"):
        _evaluate(folder, results)
    (tmp_path / "ceval.ppl_0").touch()
    with pytest.raises(UserError, match=r"ceval\.ppl_0 is no folder"):
        _evaluate(folder, tmp_path)
    with pytest.raises(UserError, match="EXPORT and COMPARE write below RESULTS_DIR"):
        _evaluate(folder, results, results_dir="", export=True)


def test_records_figures_tables_and_exports(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    figures = _evaluate(folder, first, export=True)
    total = figures["benchmarks"]["ceval:ppl_0"]["total"]
    assert (total["count"], total["skipped"]) == (8, 2)
    below = first / "ceval.ppl_0"
    records = [json.loads(line) for line in (below / "law.jsonl").read_text().splitlines()]
    assert len(records) == 5
    assert "exceeds the" in records[0]["skipped"]
    assert records[0]["choice"] is None
    assert records[1]["prompt"].startswith("题目：what is water 1 选项：- I - you")
    assert len(records[1]["scores"]) == 4
    assert records[1]["scores"][records[1]["choice"]] == max(records[1]["scores"])
    answers = json.loads((below / "original/result.json").read_text())
    assert sorted(answers["law"]) == ["1", "2", "3", "4"]
    line = json.loads((below / "original/law.json").read_text().splitlines()[1])
    assert line["enc"] == f"<S> {records[1]['prompt']} <extra_id_0>"
    assert line["dec"] == ["<extra_id_0> I", *(f"<extra_id_0> {o}" for o in ("you", "me", "they"))]
    assert line["gold"] == "B"
    second = tmp_path / "second"
    _evaluate(folder, second, compare=[str(first)])
    tables = (second / "tables.md").read_text()
    assert "| model | Avg | C-Eval |" in tables
    assert "| model (this one) |" in tables
    assert "| *Humanities* |" in tables
    assert "| letter | chosen | right | accuracy where it is right |" in tables
    assert (second / "figures.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="cannot be read as figures"):
        _evaluate(folder, tmp_path / "third", compare=[str(tmp_path / "nowhere")])
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(UserError, match="has no figures of benchmarks"):
        _evaluate(folder, tmp_path / "third", compare=[str(tmp_path / "bad.json")])
    for broken in (3, {}, {"total": {}}, {"total": {"accuracy": None}}, {"total": [1]}):
        (tmp_path / "bad.json").write_text(json.dumps({"benchmarks": {"mmlu": broken}}))
        with pytest.raises(UserError, match="has no whole figures of mmlu"):
            _evaluate(folder, tmp_path / "third", compare=[str(tmp_path / "bad.json")])
    assert not (tmp_path / "third").exists()


def test_outputs_are_no_files_of_each_other(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    total = {"accuracy": 0.5, "interval": [0.4, 0.6], "chance": 0.25}
    figures = {"model": "m", "benchmarks": {"mmlu": {"total": total}}}
    (other / "figures.json").write_text(json.dumps(figures))
    for name in ("figures.json", "tables.md", "ceval.ppl_0/law.jsonl"):
        with pytest.raises(UserError, match="which RESULTS_DIR has of its own"):
            _evaluate(folder, tmp_path / "r", output_file=str(tmp_path / "r" / name))
    output = str(other / "figures.json")
    with pytest.raises(UserError, match="file or folder of COMPARE"):
        _evaluate(folder, tmp_path / "r", output_file=output, compare=[output])
    with pytest.raises(UserError, match="BENCHMARKS names ceval:ppl_5 twice"):
        _evaluate(folder, tmp_path / "r", benchmarks=["ceval", "ceval:ppl_5"])
    assert not (tmp_path / "r").exists()


def test_damaged_records_are_refused(folder: Path, tmp_path: Path) -> None:
    _evaluate(folder, tmp_path)
    file = tmp_path / "ceval.ppl_0" / "law.jsonl"
    text = file.read_text()
    file.write_text(text.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"has 1 records, and there are 5 questions; remove it"):
        _evaluate(folder, tmp_path)
    for line in ("3", "{}", '{"skipped": null}'):
        file.write_text(f"{line}\n" * 5)
        with pytest.raises(UserError, match="damaged"):
            _evaluate(folder, tmp_path)
    file.write_text(text[:100])
    with pytest.raises(UserError, match="is damaged"):
        _evaluate(folder, tmp_path)


def test_a_benchmark_that_cannot_be_asked_costs_the_others_nothing(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "figures.json"
    arguments = {"feature_lengths": {"inputs": 90, "targets": 16}, "output_file": str(output)}
    with pytest.raises(UserError, match="no figures of ceval:ABCD_0: none of the 8 questions"):
        _evaluate(folder, tmp_path / "r", benchmarks=["ceval:ABCD_0", "ceval:ppl_0"], **arguments)
    for file in (output, tmp_path / "r" / "figures.json"):
        figures = json.loads(file.read_text())["benchmarks"]
        assert list(figures) == ["ceval:ppl_0"]
        assert figures["ceval:ppl_0"]["total"]["count"] == 8
    assert "ceval:ppl_0" in (tmp_path / "r" / "tables.md").read_text()
    output.unlink()
    with pytest.raises(UserError, match="no figures of ceval:ABCD_0"):
        _evaluate(folder, tmp_path / "s", benchmarks=["ceval:ABCD_0"], **arguments)
    assert not output.exists()
    assert not (tmp_path / "s" / "figures.json").exists()


def test_figures_of_choices() -> None:
    def record(gold: int, choice: int | None) -> dict:
        skipped = "too long" if choice is None else None
        return {"options": list("abcd"), "gold": gold, "choice": choice, "skipped": skipped}

    score = Score.of([record(0, 0), record(0, 1), record(1, 1), record(3, None)])
    assert (score.right, score.count, score.skipped, score.accuracy) == (2, 4, 1, 0.5)
    assert score.chosen == {"A": 1, "B": 2}
    assert score.gold == {"A": 2, "B": 1, "D": 1}
    assert score.found == {"A": 1, "B": 1}
    # Wilson's interval of 2 in 4, from a table.
    assert score.interval == pytest.approx((0.150, 0.850), abs=5e-4)
    assert Score(0, 10, 0.25).interval == pytest.approx((0.0, 0.2775), abs=5e-4)
    assert Score.from_dict(json.loads(json.dumps(score.as_dict()))) == score
