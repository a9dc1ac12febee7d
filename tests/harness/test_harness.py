"""lm-evaluation-harness on our model folders: the scores are those of our own evaluation."""

from __future__ import annotations

import configparser
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from local_tasks import CHOICES, TASKS, TEXTS, write_task

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.choices import Choices, FramedQuestion, Question
from openba_jax.evaluation.loss import LossOnBatches
from openba_jax.inference.generator import Generator
from openba_jax.inference.loading import PlacedModel, load
from openba_jax.parallel.sharding import use_mesh

lm_eval = pytest.importorskip("lm_eval", reason="needs lm_eval; pip install 'openba_jax[harness]'")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data sets come from local files and are kept where tests keep theirs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))


def _run(folder: Path, tasks: Path, *names: str, **model_args):
    from lm_eval.tasks import TaskManager

    from openba_jax.harness.command import register_models

    register_models()
    return lm_eval.simple_evaluate(
        model="openba_jax",
        model_args={"path": str(folder), **model_args},
        tasks=list(names),
        batch_size=4,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )


def _choices(placed: PlacedModel) -> list[dict]:
    """Our own evaluation of the choices: the records, the sums as scores."""

    def prompt(question, frame):
        ids = frame.prompt(question.text, question.place)
        return FramedQuestion(ids, [frame.answer(o, question.place) for o in question.options])

    benchmark = Choices("sums", lambda source: {}, prompt, lambda sums, tokens: sums)
    items = [Question(each["question"], tuple(each["options"]), each["gold"]) for each in CHOICES]
    asked = AskedModel(placed.model, placed.params, placed.vocabulary, 48, 32, 2)
    return benchmark.answers(items, asked)


def test_choices_are_scored_as_by_our_own_evaluation(folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "local_choices", TASKS["local_choices"], CHOICES)
    found = _run(folder, tmp_path, "local_choices")
    placed = load(folder, (-1, 1, 1))
    with use_mesh(placed.mesh):
        records = _choices(placed)
    for sample in found["samples"]["local_choices"]:
        scores = [float(pair[0][0]) for pair in sample["resps"]]
        np.testing.assert_allclose(scores, records[sample["doc_id"]]["scores"], rtol=1e-4)
    right = [record["choice"] == record["gold"] for record in records]
    assert found["results"]["local_choices"]["acc,none"] == pytest.approx(np.mean(right))


def test_whole_texts_are_scored_as_by_our_own_loss(folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "local_rolling", TASKS["local_rolling"], TEXTS[1:])
    found = _run(folder, tmp_path, "local_rolling")
    placed = load(folder, (-1, 1, 1))
    vocabulary, total = placed.vocabulary, 0.0
    for each in TEXTS[1:]:
        ids = vocabulary.encode(each["text"])
        if placed.model.layout == "decoder_only":
            batch = {"decoder_input_tokens": [vocabulary.eos_id, *ids[:-1]]}
            batch |= {"decoder_target_tokens": ids, "decoder_loss_weights": [1.0] * len(ids)}
        else:
            mark = vocabulary.sentinel(0)
            batch = {"encoder_input_tokens": [vocabulary.s_id, mark, vocabulary.eos_id]}
            batch |= {"decoder_input_tokens": [0, mark, *ids[:-1]]}
            batch |= {"decoder_target_tokens": [mark, *ids]}
            batch |= {"decoder_loss_weights": [0.0] + [1.0] * len(ids)}
        rows = {
            name: np.array([row], np.float32 if "weights" in name else np.int32)
            for name, row in batch.items()
        }
        with use_mesh(placed.mesh):
            figures = LossOnBatches(placed.model, placed.mesh, [rows], 1)(placed.params)
        total += figures["loss"] * figures["targets"]
    size = sum(len(each["text"].encode()) for each in TEXTS[1:])
    bits = total / size / math.log(2)
    assert found["results"]["local_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)


def test_answers_end_at_strings_as_our_own(folder: Path, tmp_path: Path) -> None:
    placed = load(folder, (-1, 1, 1))
    questions = [each["question"] for each in CHOICES]
    with use_mesh(placed.mesh):
        generator = Generator(placed.model, placed.params, placed.vocabulary, 48, 1)
        whole = generator(questions, max_new_tokens=24)
    # Strings of the answers themselves, in the middle of them: else nothing would be cut.
    stop = [text[len(text) // 2 :][:2] for text in whole]
    assert all(len(each) == 2 for each in stop)
    gold = [text[: min(text.find(s) for s in stop if s in text)] for text in whole]
    rows = [{"question": q, "gold": g} for q, g in zip(questions, gold, strict=True)]
    rows[0]["gold"] = "something else"
    fields = f"""
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{gold}}}}"
generation_kwargs:
  until: {json.dumps(stop)}
  max_gen_toks: 24
filter_list:
  - name: bare
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
"""
    write_task(tmp_path, "local_answers", fields, rows)
    found = _run(folder, tmp_path, "local_answers")
    answers = {s["doc_id"]: s["resps"][0][0].strip() for s in found["samples"]["local_answers"]}
    assert [answers[number] for number in range(3)] == [each.strip() for each in gold]
    score = found["results"]["local_answers"]["exact_match,bare"]
    assert score == pytest.approx(
        np.mean([r["gold"] == g for r, g in zip(rows, gold, strict=True)])
    )


def test_the_command_of_the_shell(folder: Path, tmp_path: Path) -> None:
    if json.loads((folder / "config.json").read_text())["family"] != "openba":
        pytest.skip("one family is enough for a process of its own")
    write_task(tmp_path, "local_choices", TASKS["local_choices"], CHOICES)
    command = [sys.executable, "-m", "openba_jax.harness.command", "run"]
    command += ["--model", "openba_jax", "--include_path", str(tmp_path)]
    command += ["--tasks", "local_choices", "--output_path", str(tmp_path / "results")]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    options = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
    options |= {"env": {**os.environ, "PYTHONPATH": path}}
    done = subprocess.run([*command, "--model_args", f"path={folder}"], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "|local_choices|" in done.stdout
    assert list((tmp_path / "results").rglob("results_*.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": "x"}, "model_args has 'pretrained'; openba_jax takes path"),
        ({"batch_size": "auto"}, "no search for a batch size"),
        ({"mapping": "none"}, "mapping is 'none'"),
        ({"path": "nowhere"}, "nowhere"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(folder: Path, changes, message: str) -> None:
    from openba_jax.harness.model import HarnessModel

    with pytest.raises(UserError, match=message):
        HarnessModel(**{"path": str(folder), **changes})


def test_the_entry_point_is_ours() -> None:
    from openba_jax.harness.command import GROUP, OURS

    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    named = settings["options.entry_points"][GROUP].split(" = ")
    assert {named[0].strip(): named[1].strip()} == OURS
