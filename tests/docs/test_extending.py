"""`docs/extending.md` is run: what it shows is short, and works with the rest of the package."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.checkpoints import training_state
from openba_jax.data.loader import BatchLoader
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import TextGroups
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.eval import evaluate
from openba_jax.inference.decoding import generate
from openba_jax.inference.prompts import SentinelFrame
from openba_jax.models.registry import model_of, named_config
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.objectives.mixture import get_mixture
from openba_jax.parallel.sharding import make_mesh
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage
from openba_jax.training import optimizer, train_step

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
MAX_LINES = 40
BLOCKS = re.findall(r"```python\n# (file|registry): (\S+)\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a section's file, makes its line in the registry, and returns the module."""
    folder = tmp_path_factory.mktemp("extending")
    monkeypatch.syspath_prepend(str(folder))
    files = {Path(name).stem: code for kind, name, code in BLOCKS if kind == "file"}

    def load(name: str, registry: str = "") -> Any:
        (folder / f"{name}.py").write_text(files[name], encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        if registry:
            lines = [
                code for kind, where, code in BLOCKS if kind == "registry" and where == registry
            ]
            owner, _, attribute = registry.rpartition(".")
            for key, value in eval(lines[0], {name: module}).items():
                monkeypatch.setitem(getattr(importlib.import_module(owner), attribute), key, value)
        return module

    return load


@pytest.mark.parametrize(("kind", "name", "code"), BLOCKS, ids=[name for _, name, _ in BLOCKS])
def test_every_example_is_short(kind: str, name: str, code: str) -> None:
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) < MAX_LINES, f"{kind} {name} has {len(lines)} lines"


def test_a_family_trains_is_pruned_and_answers(page: Any, tmp_path: Path) -> None:
    page("primer", "openba_jax.models.registry.FAMILIES")
    model = model_of(named_config("tiny_primer"))
    mesh, adamw = make_mesh(), optimizer.adamw(optimizer.warmup_constant(1e-2))
    state = train_step.init_state(model, adamw, mesh)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 512, (8, 6)), jnp.int32)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": jnp.ones(tokens.shape),
    }
    step = train_step.make_train_step(model, adamw, mesh)
    losses = []
    for _ in range(10):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss_sum"]))
    assert losses[-1] < 0.8 * losses[0]
    training_state.create(tmp_path / "model", model, jax.device_get(state.params))
    stage = Stage("cut", drop_decoder=(1,), embed=24, heads=3, mlp=48, method="magnitude")
    prune_checkpoint(tmp_path / "model", tmp_path / "cut", stage)
    loaded = training_state.load_model(tmp_path / "cut")
    assert loaded.model.config.family == "primer"
    assert loaded.model.axes.sizes["embed"] == 24
    answer = generate(loaded.model, loaded.params, tokens[:2], jax.random.key(0), max_new_tokens=3)
    assert answer.shape == (2, 3)


def test_a_criterion_is_a_method_of_pruning(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openba_jax.pruning.criteria.base.CRITERIA", {})
    page("largest")
    model = model_of(named_config("tiny"))
    params = jax.tree.map(np.array, model.init(jax.random.key(0)))
    params["decoder"]["layers"]["mlp"]["wo"]["kernel"][1, 7, 0] = 9.0
    params["token_embedder"]["embedding"][3, 5] = 9.0
    training_state.create(tmp_path / "model", model, params)
    stage = Stage("cut", embed=2, mlp=1, method="largest")
    plan = prune_checkpoint(tmp_path / "model", tmp_path / "cut", stage)
    assert plan.indices("embed") == (0, 5)  # Channel 0 is that of the weight in the mlp.
    assert plan.rows("decoder/mlp")[1] == (7,)


def test_an_objective_makes_batches(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openba_jax.objectives.mixture._MIXTURES", {})
    page("second_half")
    texts = [f"The square of {i} is {i * i}, its cube is {i**3}." for i in range(200)]
    vocabulary = train_vocabulary(texts, 300, tmp_path / "tokenizer.model")
    (tmp_path / "text.txt").write_text("\n".join(texts))
    prepare(
        [TextSource("text", [tmp_path / "text.txt"])], TextGroups(16), vocabulary, tmp_path / "s"
    )
    lengths = {"encoder_length": 12, "decoder_length": 10}
    mixture = get_mixture("second_half")
    loader = BatchLoader(mixture, [tmp_path / "s"], vocabulary, batch_size=4, **lengths)
    batch = loader.batch(0)
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    assert inputs.shape == (4, 12)
    assert (inputs[:, 8] == vocabulary.eos_id).all()
    assert (targets[:, :8] > 0).all()
    np.testing.assert_array_equal(loader.batch(0)["encoder_input_tokens"], inputs)


def test_a_benchmark_is_asked_by_name(
    page: Any, tmp_path: Path, loaded, vocabulary: Vocabulary
) -> None:
    training_state.create(tmp_path / "model", *loaded, tokenizer=vocabulary.path)
    fields = {"question": "Who?", "res1": "I", "res2": "you", "res3": "they", "ans": "C"}
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions/people.json").write_text(json.dumps([{"data": fields}] * 2))
    module = page("letters", "openba_jax.evaluation.benchmarks.registry.BENCHMARKS")
    figures = evaluate(
        str(tmp_path / "model"),
        str(tmp_path / "questions"),
        ["json_choice", "letters"],
        feature_lengths={"inputs": 128, "targets": 8},
        batch_size=2,
    )
    assert list(figures["benchmarks"]) == ["json_choice", "letters"]
    assert figures["benchmarks"]["letters"]["subjects"]["people"]["count"] == 2
    assert figures["benchmarks"]["letters"]["subjects"]["people"]["skipped"] == 0
    (question, _) = module.load(tmp_path / "questions")["people"]
    framed = module.prompt(question, SentinelFrame(vocabulary, 128, 8))
    assert "I B: you C: they Answer:" in vocabulary.decode(framed.prompt)
    letters = [vocabulary.decode(ids, skip_special_tokens=True) for ids in framed.answers]
    assert letters == ["A", "B", "C"]


def test_a_kernel_computes_what_xla_does(page: Any) -> None:
    page("jax_kernel", "openba_jax.nn.attention_kernels.registry.KERNELS")
    model = model_of(named_config("tiny", initializer_std=0.3))
    other = model.replace(attention="jax")
    params = model.init(jax.random.key(0))
    tokens = jnp.asarray([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
    segments = jnp.asarray([[1, 1, 2, 2, 0, 0], [1, 1, 1, 2, 2, 2]])
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": (tokens > 0).astype(jnp.float32),
    }
    packed = {**batch, "encoder_segment_ids": segments, "decoder_segment_ids": segments}
    for case in (batch, packed):
        losses = [
            jax.value_and_grad(
                lambda p, m=m, c=case: token_cross_entropy(m.hidden(p, c), m.head(p), c)[0]
            )(params)
            for m in (model, other)
        ]
        np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), losses[0][1], losses[1][1]
        )
