"""The whole road on a tiny model: it runs, repeats itself, survives kills, refuses mistakes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from examples import facts
from openba_jax.cli import check_scopes
from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import named_config
from openba_jax.pruning.stages import Stage
from openba_jax.staged.checks import claim_folder
from openba_jax.staged.run import Pipeline
from openba_jax.staged.settings import Data, Phase

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENS = 8 * (34 + 20)  # of one step


class Road(NamedTuple):
    """What a family goes the whole way with."""

    model: ModelConfig
    mixture: str
    instructions: str
    text: str


ROADS = {
    "openba": Road(named_config("tiny"), "ul2_flan", "flan", "ul2"),
    "llama": Road(
        named_config("tiny_llama"),
        "causal_lm_completion",
        "completion",
        "causal_lm",
    ),
}
"""By family."""

WIDTH = Stage("width", embed=24, heads=3, mlp=48, recover_tokens=4 * TOKENS)
WORDS = Stage("words", vocabulary=400, recover_tokens=4 * TOKENS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts") / "facts"
    facts.write(
        folder,
        seed=0,
        facts_per_relation=2,
        documents=400,
        instructions=300,
        choice_share=0.0,
        held_out=0,
    )
    return folder


def _data(corpus: Path) -> Data:
    return Data(
        corpus=[str(corpus / "corpus.jsonl")],
        instructions=[str(corpus / "instructions.jsonl")],
        questions=str(corpus / "questions"),
        vocabulary_size=900,
        group_size=28,
        encoder_length=48,
        decoder_length=24,
        batch_size=8,
        held_out=16,
        eval_batches=1,
    )


def _pipeline(output: Path, corpus: Path, family: str = "openba", **changes) -> Pipeline:
    road = ROADS[family]
    phase = Phase(road.mixture, peak=3e-3, minimum=3e-4, tokens=6 * TOKENS)
    settings = {
        "output_dir": str(output),
        "data": _data(corpus),
        "model": road.model,
        "stages": [
            Stage("layers", drop_decoder=[1], recover_tokens=4 * TOKENS),
            WIDTH,
            WORDS,
        ],
        "pretrain": phase,
        "recover": phase,
        "tune": Phase(road.instructions, peak=1e-3, minimum=1e-4, tokens=3 * TOKENS),
        "prompts": ["What is the capital of Japan?"],
        "log_every": 2,
        "checkpoint_every": 2,
    }
    return Pipeline(**{**settings, **changes})


@pytest.fixture(scope="module", params=["openba", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path, family: str) -> Path:
    output = tmp_path_factory.mktemp("run") / "run"
    _pipeline(output, corpus, family).run()
    return output


def test_the_report_is_complete(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    names = [row["name"] for row in report["rows"]]
    assert names == ["pretrain", "layers", "width", "words", "all_at_once", "from_scratch"]
    sizes = [row["parameters"] for row in report["rows"]]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == sizes[4] == sizes[5]
    for row in report["rows"][1:5]:
        assert row["loss_before"]
        assert row["loss_pruned"]
        assert 0 <= row["accuracy_pruned"] <= 1
    # Both controls saw as many tokens as all recoveries together.
    assert sum(row["tokens"] for row in report["rows"][1:4]) == report["rows"][4]["tokens"]
    assert report["rows"][4]["tokens"] == report["rows"][5]["tokens"]
    assert len(report["findings"]) == 7
    assert report["samples"][0][0] == "What is the capital of Japan?"
    markdown = (finished / "report.md").read_text()
    assert all(name in markdown for name in names)
    for plot in ("losses.png", "coverage.png"):
        assert (finished / plot).read_bytes().startswith(b"\x89PNG")


def test_plans_lie_beside_models_and_add_up(finished: Path) -> None:
    plan = json.loads((finished / "models/words/plan.json").read_text())
    assert plan["keep"]["decoder/layers"] == [0, 2]
    assert [step["stage"] for step in plan["steps"]] == ["layers", "width", "words"]
    assert plan["ancestor"]["decoder_layers"] == 3


def test_the_model_can_be_used_by_the_mains(finished: Path, family: str, tmp_path: Path) -> None:
    from openba_jax.eval import evaluate
    from openba_jax.infer import infer

    answers = tmp_path / "answers.jsonl"
    infer(
        str(finished / "models/words.tuned"),
        prompts=["Hello?", "你好"],
        output_file=str(answers),
        max_new_tokens=5,
    )
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["inputs"] for line in lines] == ["Hello?", "你好"]
    store = next((finished / "data").glob("pruned_*/spans.bin")).with_suffix("")
    figures = evaluate(
        str(finished / "models/words.tuned"),
        mixture=ROADS[family].text,
        stores=[str(store)],
        batch_size=8,
        eval_batches=1,
    )
    assert figures["loss"]["loss"] > 0


def test_accuracies_are_those_of_openba_eval(finished: Path, corpus: Path) -> None:
    from openba_jax.eval import evaluate

    figures = evaluate(
        str(finished / "models/words.tuned"),
        questions=str(corpus / "questions"),
        feature_lengths={"inputs": 48, "targets": 24},
        batch_size=64,
    )
    scores = json.loads((finished / "scores/words.tuned.json").read_text())
    assert figures["benchmarks"] == {"json_choice": {**scores, "settings": {}}}
    row = json.loads((finished / "report.json").read_text())["rows"][3]
    assert row["accuracy_tuned"] == scores["total"]["right"] / scores["total"]["count"]


def test_again_changes_nothing(finished: Path, corpus: Path, family: str) -> None:
    before = (finished / "report.json").read_bytes()
    times = {p: p.stat().st_mtime_ns for p in (finished / "models").glob("*/checkpoints/*")}
    _pipeline(finished, corpus, family).run()
    assert (finished / "report.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in times} == times


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_pipeline import _pipeline
_pipeline(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).run()
"""


@pytest.mark.slow(reason="kills and restarts the whole pipeline several times")
def test_killed_anywhere_the_numbers_are_the_same(
    finished: Path, corpus: Path, family: str, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(output), str(corpus), family]
    wanted = ["pretrain", "layers.pruned", "layers", "words", "all_at_once"]
    for name in wanted:  # Once in each of these, as soon as its folder appears.
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (output / "models" / name).exists():
            time.sleep(0.05)
        time.sleep(1.0)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    assert (output / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        claim_folder(tmp_path, "a = 1\n")
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_other_settings_are_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", "a = 1\n")
    claim_folder(tmp_path / "run", "a = 1\nb = 1\n")  # Nothing was made yet.
    (tmp_path / "run/data/full").mkdir(parents=True)
    (tmp_path / "run/data/full/tokenizer.model").write_text("made")
    claim_folder(tmp_path / "run", "a = 1\nb = 1\n")
    assert (tmp_path / "run/data/full/tokenizer.model").exists()
    claim_folder(tmp_path / "run", "a = 1\nb = 3\n")  # There is no model yet.
    assert not (tmp_path / "run/data").exists()
    claim_folder(tmp_path / "run", "a = 1\nb = 1\n")
    (tmp_path / "run/models/pretrain").mkdir(parents=True)
    (tmp_path / "run/models/pretrain/config.json").write_text("made")
    with pytest.raises(UserError, match="new is b = 2;"):
        claim_folder(tmp_path / "run", "a = 1\nb = 2\n")
    with pytest.raises(UserError, match="missing is b = 1;"):
        claim_folder(tmp_path / "run", "a = 1\n")


def test_misspelt_scopes_are_named() -> None:
    settings = (
        "Pipeline.stages = [@layers/Stage(), @width/Stage()]\nPipeline.tune = @tune/Phase()\n"
    )
    check_scopes(["width/Stage.mlp = 3", "SEED = 1", "tune/Phase.tokens = 9"], settings)
    with pytest.raises(UserError, match="there is no scope widht; known are layers, tune, width"):
        check_scopes(["widht/Stage.mlp = 3"], settings)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "no stages"),
        ([Stage("a", drop_decoder=[1]), Stage("a", drop_decoder=[2])], "names of their own"),
        ([Stage("a", drop_decoder=[99])], "decoder layer 99"),
        (
            [Stage("a", drop_decoder=[1], recover_tokens=9), Stage("b", drop_decoder=[1])],
            "layer 1 is dropped",
        ),
        ([Stage("a", mlp=4096)], "4096"),
        ([Stage("a", mlp=32, method="guess")], "guess"),
        ([Stage("a", recover_objective="ul3")], "ul3"),
        ([Stage("a", recover_objective="causal_lm")], "causal_lm is for .* 'decoder_only'"),
        ([Stage("a", vocabulary=90)], "stage a .* 900 pieces to 90; choose 103 to 900"),
        ([Stage("a", vocabulary=950)], "to 950"),
        (
            [Stage("a", vocabulary=300, recover_tokens=9), Stage("b", vocabulary=400)],
            "stage b .* 300 pieces to 400",
        ),
        ([Stage("a")], "stage a neither cuts nor trains"),
    ],
)
def test_impossible_stages_are_named(tmp_path: Path, corpus: Path, stages, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _pipeline(tmp_path / "run", corpus, stages=stages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"questions": "nowhere"}, "no question file"), ({"eval_batches": 0}, "eval_batches is 0")],
)
def test_impossible_data_is_named_at_once(tmp_path, corpus: Path, changes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _pipeline(tmp_path / "run", corpus, data=dataclasses.replace(_data(corpus), **changes))


def test_an_empty_corpus_is_named(tmp_path: Path, corpus: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    data = dataclasses.replace(_data(corpus), corpus=[str(empty)])
    with pytest.raises(UserError, match=r"empty\.jsonl"):
        _pipeline(tmp_path / "run", corpus, data=data).run()


def test_what_the_last_training_lacks_is_named_before_the_first(
    tmp_path: Path, corpus: Path
) -> None:
    nothing = tmp_path / "instructions.jsonl"
    nothing.write_text("")
    changed = dataclasses.replace(_data(corpus), instructions=[str(nothing)])
    on_text = Phase("ul2", peak=3e-3, minimum=3e-4, tokens=6 * TOKENS)
    pipeline = _pipeline(tmp_path / "run", corpus, data=changed, pretrain=on_text, recover=on_text)
    with pytest.raises(UserError, match=r"instructions\.jsonl"):
        pipeline.run()
    assert not (tmp_path / "run/models").exists()
