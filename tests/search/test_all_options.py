"""What a search may do besides: other families, smaller vocabularies, teachers, fits, clocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_ancestor import data_of

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.search import run, stage_file
from openba_jax.search.budget import Budget
from openba_jax.search.run import Search
from openba_jax.search.shapes import Shape
from openba_jax.staged.settings import Phase


@pytest.fixture(scope="module")
def llama(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Query heads that share keys and values in groups."""
    size = open_vocabulary(tokenizer).size
    config = named_config(
        "tiny_llama", vocab_size=size, num_heads=4, num_kv_heads=2, decoder_layers=2
    )
    model = model_of(config)
    folder = tmp_path_factory.mktemp("llama") / "model"
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(folder, model, params, tokenizer=tokenizer, step=3)
    return folder


def test_grouped_heads_a_smaller_vocabulary_a_teacher_and_a_clock(
    llama: Path, corpus: Path, tmp_path: Path
) -> None:
    whole = model_folder.load_model(llama)
    search = Search(
        output_dir=str(tmp_path / "search"),
        ancestor=str(llama),
        data=data_of(corpus),
        budget=Budget(flops_per_example=0.65),
        recover=Phase("causal_lm", peak=3e-3, minimum=3e-4),
        axes=["heads", "kv_heads", "mlp"],
        multiples={"mlp": 16},
        vocabularies=[400],
        calibration_batches=1,
        candidates=2,
        steps=1,
        distillation=Distillation("ancestor"),
        measure_speed=True,
        keep_models=True,
    )
    shown = search.run()
    assert "ms/token" in shown
    found = json.loads((tmp_path / "search/search.json").read_text())
    limit = found["budget"]["limit"]
    assert limit == pytest.approx(found["ancestor"]["flops_per_example"] * 0.65)
    for each in found["candidates"]:
        folder = tmp_path / "search/models" / each["name"]
        model = model_folder.load_model(folder)
        assert each["flops_per_example"] == 3 * model.forward_flops(48, 24) <= limit
        assert each["parameters"] == model.axes.count()
        assert model.axes.sizes["vocab"] == each["values"]["vocabulary"]
        groups = model.axes.sizes["decoder/kv_heads"]
        assert model.axes.sizes["decoder/heads"] == groups * each["values"]["heads"]
        assert each["milliseconds_per_token"] > 0
    # A smaller vocabulary needs more tokens for a text, which the losses make up for.
    for each in found["candidates"]:
        assert each["values"]["vocabulary"] < whole.config.vocab_size
        records = (tmp_path / "search/models" / each["name"] / "metrics.jsonl").read_text()
        own = [json.loads(line) for line in records.splitlines()]
        last = [record["loss"] for record in own if record["split"] == "eval"][-1]
        assert each["losses"]["1"] > last
    text = (tmp_path / "search/stage.gin").read_text()
    assert "DISTILLATION = @Distillation()" in text
    assert "VOCABULARY = 400" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "runs/other"}, "'runs/other'; in a search it is 'ancestor'"),
        ({"weight": lambda step: 0.5}, "follows a schedule"),
    ],
)
def test_teachers_that_a_stage_file_cannot_name(
    corpus: Path, ancestor: Path, tmp_path: Path, changes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Search(
            output_dir=str(tmp_path / "run"),
            ancestor=str(ancestor),
            data=data_of(corpus),
            budget=Budget(parameters=0.6),
            recover=Phase("ul2", peak=3e-3, minimum=3e-4),
            distillation=Distillation(**{"teacher": "ancestor", **changes}),
        )


def test_a_time_that_no_shape_meets(
    corpus: Path, ancestor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock(model: Model, input_length: int, new_tokens: int, mesh_shape: Sequence[int]) -> float:
        assert (input_length, new_tokens) == (48, 24)
        return model.axes.count() / 1000

    monkeypatch.setattr(run, "milliseconds_per_token", clock)
    search = Search(
        output_dir=str(tmp_path / "run"),
        ancestor=str(ancestor),
        data=data_of(corpus),
        budget=Budget(milliseconds_per_token=1e-6),
        recover=Phase("ul2", peak=3e-3, minimum=3e-4),
        axes=["layers"],
        calibration_batches=1,
    )
    with pytest.raises(UserError, match="within 1e-06 milliseconds per token; the nearest has"):
        search.run()
    assert len(json.loads((tmp_path / "run/times.json").read_text())) <= 3
    # Losses along depth are measured; for one layer less they are the criterion's own.
    losses = json.loads((tmp_path / "run/curves.json").read_text())
    with np.load(tmp_path / "run/scores.npz") as scores:
        for stack, depth in (("encoder", 1), ("decoder", 2)):
            rise = losses[f"{stack}/layers {depth}"] - losses["whole"]
            assert rise == pytest.approx(scores[f"{stack}.layers"].min(), abs=1e-5)
    assert set(losses) == {
        *("whole", "encoder/layers 1", "decoder/layers 1", "decoder/layers 2"),
    }
    assert not (tmp_path / "run/candidates").exists()


def test_the_stage_file_carries_what_candidates_were_made_with(
    corpus: Path, ancestor: Path, tmp_path: Path
) -> None:
    search = Search(
        output_dir=str(tmp_path / "run"),
        ancestor=str(ancestor),
        data=data_of(corpus),
        budget=Budget(parameters=0.6),
        recover=Phase("ul2", peak=3e-3, minimum=3e-4, weight_decay=0.2, optimizer="muon"),
        compensation="ridge",
        calibration_batches=3,
        distillation=Distillation("ancestor", temperature=2.0),
    )
    shape = Shape({"mlp": 8}, {"encoder/mlp": 8, "decoder/mlp": 8}, 900, None, 0.0, 1.0)
    text = stage_file.text(search, search.stage("shape_1", shape, None), "a shape.", 1234)
    for line in (
        "SIZES = {'encoder/mlp': 8, 'decoder/mlp': 8}",
        "METHOD = {'*': 'taylor'}",
        "RECOVER_TOKENS = 1234",
        "cut/Stage.compensation = 'ridge'",
        "cut/Stage.calibration_batches = 3",
        "recover/Phase.weight_decay = 0.2",
        "recover/Phase.optimizer = 'muon'",
        "DISTILLATION = @Distillation()",
        "Distillation.temperature = 2.0",
        f"ANCESTOR = {str(ancestor)!r}",
    ):
        assert line in text.splitlines()
