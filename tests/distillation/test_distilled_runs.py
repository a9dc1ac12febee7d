"""Runs with a teacher: they learn, go on bit for bit, and are refused in one sentence."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_cuts import SMALL_VOCABULARY, cut
from toy_run import (
    ToyBatches,
    folder_hashes,
    saved_state,
    toy_config,
    toy_model,
    toy_optimizer,
    toy_train,
)

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.distillation import teacher as teaching
from openba_jax.distillation.descent import Party, Rows, descent
from openba_jax.distillation.settings import Distillation, cosine_weight, linear_weight
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.saved_plan import plan_of_folder
from openba_jax.training import train_step
from openba_jax.training.records import metrics


def party(folder: Path) -> Party:
    return Party(model_folder.load_model(folder), plan_of_folder(folder), None, str(folder))


def recover(folder: Path, source: Path, settings: Distillation | None, **changes: Any) -> Any:
    """A recovery of a model that was cut."""
    arguments = {"model": model_folder.load_model(source), "initial_model": str(source)}
    return toy_train(folder, distillation=settings, **{**arguments, **changes})


def records(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return [r for r in metrics.read(folder / "metrics.jsonl") if r["split"] == split]


def assert_same_run(folder: Path, expected: Path) -> None:
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    states = saved_state(folder), saved_state(expected)
    assert states[0][1] == states[1][1]
    jax.tree.map(np.testing.assert_array_equal, states[0][0], states[1][0])


@dataclasses.dataclass(frozen=True)
class FailingBatches(ToyBatches):
    fails_at: int = 9

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        if step == self.fails_at:
            raise RuntimeError("the disk fell out")
        return super().batch(step, rows)


def changed(source: Path, target: Path, factor: float, **sizes: Any) -> Path:
    """A model folder with other values, or of another size."""
    model, params, _, _ = training_state.load_model(source)
    model = model.replace(**sizes)
    if sizes:
        params = jax.jit(model.init)(jax.random.key(1))
    training_state.create(target, model, jax.tree.map(lambda p: p * factor, params))
    return target


def test_a_student_comes_nearer_to_its_teacher(
    tmp_path: Path, ancestor: Path, narrow: Path
) -> None:
    settings = Distillation(str(ancestor), weight=1.0)
    result = recover(tmp_path / "run", narrow, settings, train_steps=30, eval_every=30)
    train = records(result.model_dir)
    assert train[-1]["divergence"] < 0.7 * train[0]["divergence"]
    # By the divergence alone it comes nearer to the data, too, and the log says both.
    evaluations = records(result.model_dir, "eval")
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    for record in train:
        assert record["minimised"] == pytest.approx(record["divergence"], rel=1e-6)
        assert record["loss"] > record["divergence"]
        assert "hidden_error" not in record


def test_goes_on_bit_for_bit(tmp_path: Path, ancestor: Path, narrow: Path) -> None:
    settings = Distillation(
        str(ancestor), weight=linear_weight(1.0, 0.25, 8), temperature=2.0, hidden_weight=0.5
    )
    whole = recover(tmp_path / "whole", narrow, settings)
    with pytest.raises(RuntimeError, match="the disk fell out"):
        recover(tmp_path / "run", narrow, settings, batches=FailingBatches())
    assert model_folder.latest_step(tmp_path / "run") == 8
    # The teacher may have moved.
    moved = shutil.copytree(ancestor, tmp_path / "moved" / "ancestor")
    recover(tmp_path / "run", narrow, dataclasses.replace(settings, teacher=str(moved)))
    assert_same_run(tmp_path / "run", whole.model_dir)
    train = records(whole.model_dir)
    assert train[-1]["hidden_error"] < train[0]["hidden_error"]


def test_goes_on_with_nothing_else(tmp_path: Path, ancestor: Path, narrow: Path) -> None:
    settings = Distillation(str(ancestor), weight=1.0)
    run = tmp_path / "run"
    recover(run, narrow, settings, train_steps=4)
    before = folder_hashes(run)
    other = changed(ancestor, tmp_path / "other", 1.125)
    for now, message in (
        (
            dataclasses.replace(settings, weight=0.75),
            r"distillation\.weight was 1\.0 in .* is 0\.75",
        ),
        (dataclasses.replace(settings, weight=cosine_weight(1, 0, 9)), r"distillation\.weight"),
        (
            dataclasses.replace(settings, divergence="js"),
            r"divergence was 'forward_kl' .* 'js' now",
        ),
        (
            dataclasses.replace(settings, teacher=str(other)),
            r"distillation\.teacher\.parameters was",
        ),
        (dataclasses.replace(settings, hidden_weight=1), r"distillation\.hidden_.* was None"),
        (None, r"distillation\.divergence was 'forward_kl' in .* is None now"),
    ):
        with pytest.raises(UserError, match=message):
            recover(run, narrow, now, train_steps=8)
        assert folder_hashes(run) == before
    allowed = recover(run, narrow, None, train_steps=6, allow_changes=True)
    assert "distillation.divergence" in records(allowed.model_dir, metrics.CHANGES)[0]
    with pytest.raises(UserError, match=r"distillation\.divergence was None in .*"):
        recover(run, narrow, settings, train_steps=8)
    # A schedule is known by its values, not by its object.
    constant = dataclasses.replace(settings, weight=lambda step: 1.0)
    assert constant.identity() == dataclasses.replace(constant, weight=lambda _: 1).identity()


def test_a_cut_vocabulary_is_the_teachers_renormalised(ancestor: Path, few_words: Path) -> None:
    student = party(few_words)
    taught = teaching.open_teacher(Distillation(str(ancestor), teacher_dtype="float32"), student)
    kept = (*range(18), 25, 30)
    assert taught.rows == Rows((*kept, 30, 30, 30, 30), 20)
    params, digest = taught.restore(sharding.make_mesh())
    whole, whole_params, _, _ = training_state.load_model(ancestor)
    assert digest == teaching.digest_of(whole_params)
    batch = ToyBatches(vocab=SMALL_VOCABULARY).batch(0)
    logits = jax.jit(lambda p: taught.head(p).logits(taught.model.hidden(p, batch)))
    # The whole teacher reads the same text in its own ids.
    ids = np.asarray(taught.rows.kept)
    own = {n: ids[a] if n.endswith("_tokens") else a for n, a in batch.items()}
    of_whole = jax.jit(lambda p: whole.head(p).logits(whole.hidden(p, own)))(whole_params)
    expected = jax.nn.log_softmax(of_whole[..., np.array(kept)])
    found = jax.nn.log_softmax(logits(params))
    np.testing.assert_allclose(found[..., :20], expected, atol=2e-5)
    assert (found[..., 20:] < -15).all()


def test_sums_of_micro_batches_are_those_of_the_batch(ancestor: Path, few_words: Path) -> None:
    mesh = sharding.make_mesh()
    batch = jax.tree.map(jnp.asarray, ToyBatches(vocab=SMALL_VOCABULARY).batch(0))
    settings = Distillation(str(ancestor), "reverse_kl", hidden_weight=0.3)
    lesson = teaching.prepare(settings, party(few_words), mesh, batch)
    model, params, _, _ = training_state.load_model(few_words)

    def gradients(count: int) -> Any:
        return jax.jit(
            lambda p, c: train_step.summed_gradients(
                model, p, batch, None, count, lesson.loss, 0, c
            )
        )(params, lesson.constants)

    whole, parts = gradients(1), gradients(4)
    assert whole[1].keys() == {
        *("loss_sum", "weight_sum", "correct_sum", "divergence_sum", "hidden_error_sum"),
        "minimised_sum",
    }
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3), whole, parts)


def test_without_weight_it_is_cross_entropy(ancestor: Path, narrow: Path) -> None:
    mesh = sharding.make_mesh()
    batch = jax.tree.map(jnp.asarray, ToyBatches().batch(0))
    lesson = teaching.prepare(Distillation(str(ancestor), weight=0.0), party(narrow), mesh, batch)
    model, params, _, _ = training_state.load_model(narrow)
    plain = jax.jit(lambda p: train_step.summed_gradients(model, p, batch, None, 1))(params)
    distilled = jax.jit(
        lambda p, c: train_step.summed_gradients(model, p, batch, None, 1, lesson.loss, 0, c)
    )(params, lesson.constants)
    assert distilled[1]["minimised_sum"] == pytest.approx(float(plain[1]["loss_sum"]), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain[0], distilled[0]
    )


def test_a_step_that_is_not_finite_is_skipped(ancestor: Path, narrow: Path) -> None:
    mesh = sharding.make_mesh()
    model, params, _, _ = training_state.load_model(narrow)
    batch = jax.tree.map(jnp.asarray, ToyBatches().batch(0))
    lesson = teaching.prepare(Distillation(str(ancestor)), party(narrow), mesh, batch)
    step = train_step.make_train_step(
        model, toy_optimizer(), mesh, loss=lesson.loss, skip_not_finite=True
    )
    bad = {**batch, "decoder_loss_weights": batch["decoder_loss_weights"].at[0, 0].set(jnp.nan)}
    state = train_step.init_state(model, toy_optimizer(), mesh, params=params)
    before = jax.tree.map(np.array, state.params)
    state, sums = step(state, bad, *lesson.constants)
    assert bool(sums["skipped"])
    assert float(sums["minimised_sum"]) == float(sums["divergence_sum"]) == 0
    jax.tree.map(np.testing.assert_array_equal, before, state.params)
    # The teacher is not donated: it serves the next step.
    state, sums = step(state, batch, *lesson.constants)
    assert not bool(sums["skipped"])


def test_any_size_of_the_same_pieces_teaches(ancestor: Path) -> None:
    student = toy_model(embed_dim=12, num_heads=2, head_dim=6, decoder_layers=1)
    pupil = Party(student, None, None, "the student")
    taught = teaching.open_teacher(Distillation(str(ancestor)), pupil)
    assert (taught.rows, taught.matched) == (None, ())
    assert taught.whole.config.param_dtype == "bfloat16"
    with pytest.raises(UserError, match="the student has no pruning plan, so that nothing says"):
        teaching.open_teacher(Distillation(str(ancestor), hidden_weight=1.0), pupil)


def test_mistakes_are_named_before_anything_is_written(
    tmp_path: Path, ancestor: Path, narrow: Path, few_words: Path
) -> None:
    small = {"batches": ToyBatches(vocab=SMALL_VOCABULARY)}
    other = changed(ancestor, tmp_path / "other", 1, vocab_size=40)
    wide = changed(ancestor, tmp_path / "wide", 1, mlp_dim=40)
    broken = changed(ancestor, tmp_path / "broken", np.nan)
    decoder = model_of(named_config("tiny_llama"))
    training_state.create(tmp_path / "llama", decoder, jax.jit(decoder.init)(jax.random.key(0)))
    (tmp_path / "empty").mkdir()
    run = tmp_path / "run"
    for teacher, student, changes, message in (
        ("/nowhere", narrow, {}, "the teacher /nowhere does not exist; give a checkpoint"),
        (str(tmp_path / "empty"), narrow, {}, r"empty is no checkpoint that is known"),
        (str(run), narrow, {}, "teacher"),
        (str(broken), narrow, {}, "broken.* holds NaN or infinite"),
        (str(other), narrow, {}, r"vocabulary of 32 rows and .*other one of 40"),
        (str(wide), few_words, small, r"does not descend from .*of another shape"),
        (str(tmp_path / "llama"), narrow, {}, "of the kind 'decoder_only' and the student of the"),
        (str(ancestor / "checkpoints" / "7"), narrow, {}, "no checkpoint of step 7"),
        ("", narrow, {}, "a path is empty"),
    ):
        with pytest.raises(UserError, match=message):
            recover(run, student, Distillation(teacher), **changes)
        assert not run.exists(), teacher


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"divergence": "kl"}, "divergence 'kl' is unknown; known are forward_kl"),
        ({"temperature": 0.0}, "temperature of the distillation is 0"),
        ({"temperature": float("nan")}, "temperature .* must be a finite number"),
        ({"weight": 1.5}, "weight of the distillation is 1.5; it must be from 0 to 1"),
        ({"weight": lambda step: step}, "weight of the distillation is 3.0; it must be from 0"),
        ({"hidden_weight": -1}, "hidden weight of the distillation is -1; it must be at least 0"),
        ({"hidden_layers": "first"}, "hidden_layers .* must be 'all' or 'last'"),
        ({"teacher_dtype": "float16"}, "teacher_dtype .* 'bfloat16' or 'float32'"),
    ],
)
def test_settings_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Distillation("teacher", **fields)


def test_a_digest_is_of_values_and_places() -> None:
    tree = {"a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4), "b": jnp.ones(3, jnp.bfloat16)}
    digest = teaching.digest_of(tree)
    assert digest == teaching.digest_of(jax.tree.map(jnp.copy, tree))
    swapped = {**tree, "a": tree["a"][::-1]}
    small = {**tree, "b": tree["b"].at[1].set(1.0078125)}
    assert len({digest, teaching.digest_of(swapped), teaching.digest_of(small)}) == 3


def test_the_plan_of_another_model_is_refused(
    tmp_path: Path, ancestor: Path, narrow: Path, few_words: Path
) -> None:
    child = plan_of_folder(narrow)
    assert child is not None
    wider = model_of(toy_config(dropout_rate=0.0, mlp_dim=40))
    for stranger in (
        Party(wider, None, None, "it"),
        Party(wider, Plan.identity(wider, "x"), None, "it"),
    ):
        with pytest.raises(UserError, match="does not descend from it"):
            descent(party(narrow), stranger)
    assert descent(party(narrow), party(ancestor))["embed"] == child.keep["embed"]
    assert descent(party(few_words), party(narrow)).keys() == {"vocab"}
    with pytest.raises(UserError, match=r"plan keeps .* \d+, which was pruned before"):
        descent(party(narrow), party(cut(ancestor, tmp_path / "other", "other width")))
