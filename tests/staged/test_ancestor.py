"""A run that starts from a model that is there: what it takes, what it refuses, what it reports."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import pytest
from tiny_ancestor import data_of

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.registry import FORMATS, open_checkpoint
from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.models.registry import named_config
from openba_jax.pruning.stages import Stage
from openba_jax.staged.ancestor import open_ancestor
from openba_jax.staged.checks import claim_folder
from openba_jax.staged.run import Pipeline
from openba_jax.staged.settings import Phase

TOKENS = 8 * (48 + 24)  # of one step
UL2 = Phase("ul2", peak=3e-3, minimum=3e-4)
CONTROL = {
    "controls": ["random_cut"],
    "recover_controls": Phase("ul2", peak=1e-3, minimum=1e-3, warmup_share=0.0),
}
LAYERS = Stage("layers", drop_decoder=[1])
WIDTH = Stage(
    "width",
    mlp=48,
    method="activation",
    recover_tokens=4 * TOKENS,
    calibration_batches=2,
    distillation=Distillation("before"),
)


def _pipeline(output: Path, corpus: Path, ancestor: Path, **changes) -> Pipeline:
    settings = {
        "output_dir": str(output),
        "data": data_of(corpus),
        "stages": [LAYERS, WIDTH],
        "recover": UL2,
        "ancestor": str(ancestor),
        "controls": [],
        "log_every": 2,
        "eval_every": 2,
    }
    return Pipeline(**{**settings, **changes})


def _rows(output: Path) -> dict[str, dict]:
    rows = json.loads((output / "report.json").read_text())["rows"]
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus: Path, ancestor: Path) -> Path:
    output = tmp_path_factory.mktemp("run") / "run"
    _pipeline(output, corpus, ancestor, **CONTROL).run()
    return output


def test_a_control_cuts_at_random_and_learns_from_text_alone(finished: Path) -> None:
    rows = _rows(finished)
    control, staged = rows["random_cut"], rows["width"]
    assert control["parameters"] == staged["parameters"]
    assert control["tokens"] == staged["tokens"] > 0
    plan = json.loads((finished / "models/random_cut.pruned/plan.json").read_text())
    assert {step["method"] for step in plan["steps"]} == {"random", "drop_layers"}
    lines = (finished / "models/random_cut/metrics.jsonl").read_text().splitlines()
    assert not any("divergence" in json.loads(line) for line in lines)


def test_a_control_trains_as_it_is_told(finished: Path) -> None:
    rates = {}
    for name in ("random_cut", "width"):
        lines = (finished / f"models/{name}/metrics.jsonl").read_text().splitlines()
        rates[name] = [
            each["learning_rate"] for line in lines if "learning_rate" in (each := json.loads(line))
        ]
    assert rates["random_cut"] == pytest.approx([1e-3] * len(rates["random_cut"]))
    assert len(rates["width"]) == len(rates["random_cut"]) > 0
    assert rates["width"] != rates["random_cut"]


def test_a_stage_without_tokens_cuts_and_measures(finished: Path) -> None:
    rows = _rows(finished)
    assert list(rows) == ["ancestor", "layers", "width", "random_cut"]
    assert rows["ancestor"]["tokens"] == rows["layers"]["tokens"] == 0
    layers = rows["layers"]
    assert layers["loss_before"] == rows["ancestor"]["loss_recovered"]
    assert layers["loss_pruned"] != layers["loss_before"]
    assert layers["loss_recovered"] is None
    assert rows["width"]["loss_before"] == layers["loss_pruned"]
    assert not (finished / "models/layers/metrics.jsonl").exists()
    assert not (finished / "models/ancestor").exists()


def test_columns_without_figures_are_left_out(finished: Path) -> None:
    report = (finished / "report.md").read_text()
    assert "tokens to recover" in report
    assert "accuracy" not in report
    assert "question" not in report


def test_recoveries_are_evaluated_on_the_way(finished: Path) -> None:
    lines = (finished / "models/width/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [each["step"] for each in records if each["split"] == "eval"] == [0, 2, 4]


def test_a_stage_has_a_criterion_and_a_teacher_of_its_own(finished: Path) -> None:
    step = json.loads((finished / "models/width/plan.json").read_text())["steps"][-1]
    assert "activation" in json.dumps(step)
    lines = (finished / "models/width/metrics.jsonl").read_text().splitlines()
    trained = [record for line in lines if (record := json.loads(line))["split"] == "train"]
    assert all(record["divergence"] > 0 for record in trained)


def test_again_changes_nothing(finished: Path, corpus: Path, ancestor: Path) -> None:
    before = (finished / "report.json").read_bytes()
    _pipeline(finished, corpus, ancestor, **CONTROL).run()
    assert (finished / "report.json").read_bytes() == before


def test_the_plan_of_the_ancestor_goes_on(tmp_path: Path, corpus: Path, finished: Path) -> None:
    narrower = Stage("narrower", embed=24)
    _pipeline(tmp_path / "run", corpus, finished / "models/width", stages=[narrower]).run()
    plan = json.loads((tmp_path / "run/models/narrower/plan.json").read_text())
    assert [step["stage"] for step in plan["steps"]] == ["layers", "width", "narrower"]
    with pytest.raises(UserError, match="layer 1"):
        _pipeline(tmp_path / "again", corpus, finished / "models/width")


def test_other_formats_are_converted_and_give_the_same_loss(
    tmp_path: Path, corpus: Path, ancestor: Path, tokenizer: Path, finished: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    FORMATS["huggingface"].write(open_checkpoint(ancestor), theirs)
    store = str(tokenizer.with_name("spans"))  # And text from a store instead of the corpus.
    data = data_of(corpus, corpus=[], stores=store)
    _pipeline(tmp_path / "run", corpus, theirs, data=data, stages=[LAYERS]).run()
    ours, found = _rows(finished), _rows(tmp_path / "run")
    for name in ("ancestor", "layers"):
        loss = "loss_recovered" if name == "ancestor" else "loss_pruned"
        assert found[name][loss] == pytest.approx(ours[name][loss], rel=1e-5)
    assert model_folder.latest_step(tmp_path / "run/models/ancestor") is not None


def test_another_model_under_a_run_is_refused(tmp_path: Path, corpus: Path, ancestor: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(ancestor, mine)
    output = tmp_path / "run"
    claim_folder(output, _pipeline(output, corpus, mine).settings("a = 1\n"))
    (output / "made").write_text("something")
    claim_folder(output, _pipeline(output, corpus, mine).settings("a = 1\n"))
    opened = open_ancestor(str(mine))
    shutil.rmtree(mine)
    params = jax.jit(opened.model.init)(jax.random.key(1))
    training_state.create(
        mine, opened.model, params, tokenizer=ancestor / "tokenizer.model", step=7
    )
    with pytest.raises(UserError, match=r"other settings \(new is # ancestor: .*step 7, sha256"):
        claim_folder(output, _pipeline(output, corpus, mine).settings("a = 1\n"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": named_config("tiny")}, "is given model, too"),
        ({"pretrain": UL2}, "is given pretrain, too"),
        ({"ancestor": ""}, "no ancestor: .* by ANCESTOR"),
        (
            {"ancestor": "", "model": named_config("tiny"), "pretrain": UL2},
            "0 tokens; .* by ANCESTOR",
        ),
        ({"ancestor": "nowhere"}, "nowhere is no folder or file"),
        ({"tune": Phase("flan", 1e-3, 1e-4, tokens=9)}, "no instructions"),
        ({"recover": Phase("causal_lm", 1e-3, 1e-4)}, "causal_lm is for .* 'decoder_only'"),
        ({"recover_controls": Phase("o_ul2", 1e-3, 1e-4)}, "o_ul2 and recover on ul2"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"mesh_shape": (3, 5, 7)}, r"mesh_shape \(3, 5, 7\) does not fit"),
        (
            {"stages": [dataclasses.replace(WIDTH, distillation=Distillation("nowhere"))]},
            "nowhere of the stage width does not exist; name a model folder, or ancestor or before",
        ),
        ({"recover": Phase("ul2_flan", 1e-3, 1e-4)}, "ul2_flan takes instructions, too"),
        ({"controls": ["random"]}, "no control 'random'; there are all_at_once, random_cut"),
        ({"controls": True}, "controls is True; list some of all_at_once"),
        (
            {"stages": [Stage("random_cut", mlp=8)], "controls": "random_cut"},
            "random_cut has the name of a control",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, corpus: Path, ancestor: Path, changes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _pipeline(tmp_path / "run", corpus, **{"ancestor": ancestor, **changes})
    assert not (tmp_path / "run").exists()


def test_text_is_given_once_and_fits(tmp_path: Path, corpus: Path, ancestor: Path) -> None:
    with pytest.raises(UserError, match="text is given twice"):
        data_of(corpus, stores=["spans"])
    with pytest.raises(UserError, match="no text"):
        _pipeline(tmp_path / "run", corpus, ancestor, data=data_of(corpus, corpus=[]))
    stored = data_of(corpus, corpus=[], stores=["spans"])
    words = [Stage("words", vocabulary=400)]
    with pytest.raises(UserError, match="give the corpus instead of stores"):
        _pipeline(tmp_path / "run", corpus, ancestor, data=stored, stages=words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": ["corpsu.jsonl"]}, "corpsu.jsonl is no file"),
        ({"instructions": ["pairs.jsonl"]}, "pairs.jsonl is no file"),
        ({"corpus": [], "stores": ["spans"]}, "no token store .*spans; openba-prepare makes"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"held_out": -1}, "held_out is -1"),
        ({"group_size": 0}, "group_size is 0"),
        ({"encoder_length": -34}, "encoder_length is -34"),
        ({"eval_batches": 0}, "eval_batches is 0"),
    ],
)
def test_data_that_cannot_be_are_refused_before_the_folder_is_claimed(
    tmp_path: Path, corpus: Path, ancestor: Path, changes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _pipeline(tmp_path / "run", corpus, ancestor, data=data_of(corpus, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peak": -1.0}, "peak learning rate is -1"),
        ({"peak": math.inf}, "peak learning rate is inf"),
        ({"peak": math.nan}, "peak learning rate is nan"),
        ({"minimum": 1.0}, "minimum learning rate is 1.0 and the peak 0.003"),
        ({"warmup_share": 5.0}, "warmup_share 5.0"),
        ({"weight_decay": -0.1}, "weight_decay -0.1"),
        ({"tokens": -5}, "-5 tokens"),
    ],
)
def test_phases_that_cannot_train_are_refused(changes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(UL2, **changes)


def test_other_questions_at_the_same_place_are_other_settings(
    tmp_path: Path, corpus: Path, ancestor: Path
) -> None:
    questions = tmp_path / "questions"
    shutil.copytree(corpus / "questions", questions)
    output = tmp_path / "run"

    def settings() -> str:
        data = data_of(corpus, questions=str(questions))
        return _pipeline(output, corpus, ancestor, data=data).settings("a = 1\n")

    claim_folder(output, settings())
    (output / "made").write_text("something")
    claim_folder(output, settings())
    next(questions.glob("*.json")).unlink()
    with pytest.raises(UserError, match=r"other settings \(new is # questions: "):
        claim_folder(output, settings())


def test_an_ancestor_without_tokenizer_is_refused(tmp_path: Path, ancestor: Path) -> None:
    shutil.copytree(ancestor, tmp_path / "mine")
    (tmp_path / "mine/tokenizer.model").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        open_ancestor(str(tmp_path / "mine"))
