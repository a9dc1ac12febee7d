"""Answers of a teacher on disk: what is learnt from them, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_cuts import SMALL_VOCABULARY
from toy_run import ToyBatches, folder_hashes, saved_state, toy_train

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.distillation import answers as answering
from openba_jax.distillation import teacher as teaching
from openba_jax.distillation.asking import ask
from openba_jax.distillation.divergences import DIVERGENCES
from openba_jax.distillation.lessons import lesson_of_run
from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.objectives.mixture import get_mixture
from openba_jax.parallel import sharding
from openba_jax.training import train_step
from openba_jax.training.records import metrics

SMALL = ToyBatches(vocab=SMALL_VOCABULARY)


def write(
    output: Path, ancestor: Path, student: Path, batches: Any = SMALL, **options: Any
) -> answering.Answers:
    mesh = sharding.make_mesh()
    settings = Distillation(str(ancestor), teacher_dtype="float32")
    taught = teaching.open_teacher(settings, teaching.party_of(student))
    numbers = {"steps": 12, "top": 23, "temperature": 2.0, **options}
    return answering.write_answers(output, taught, taught.restore(mesh), batches, mesh, **numbers)


@pytest.fixture(scope="module")
def given(ancestor: Path, few_words: Path, tmp_path_factory: Any) -> Path:
    """Answers to 12 steps: all pieces but one."""
    folder = tmp_path_factory.mktemp("answers") / "given"
    write(folder, ancestor, few_words)
    return folder


def settings_of(teacher: Path, **changes: Any) -> Distillation:
    fields = {"weight": 1.0, "temperature": 2.0, "teacher_dtype": "float32", **changes}
    return Distillation(str(teacher), **fields)


def recover(folder: Path, student: Path, settings: Distillation, **changes: Any) -> Any:
    arguments = {"model": model_folder.load_model(student), "initial_model": str(student)}
    return toy_train(folder, distillation=settings, batches=SMALL, **{**arguments, **changes})


@pytest.mark.parametrize("name", DIVERGENCES)
def test_with_a_rest_the_divergence_is_that_of_the_outcomes(name: str) -> None:
    rng = np.random.default_rng(0)
    student, teacher = (jax.nn.log_softmax(jnp.asarray(rng.normal(size=(5, 12)))) for _ in "12")
    log_p, ids = jax.lax.top_k(teacher, 4)
    known = jnp.take_along_axis(student, ids, axis=-1)
    found = DIVERGENCES[name](answering.with_rest(known), answering.with_rest(log_p))
    p, q = (np.exp(np.asarray(x, np.float64)) for x in (log_p, known))
    p, q = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p, q))
    assert answering.with_rest(jnp.zeros((1, 1)))[0, 1] < -10  # Nothing is left.

    def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * np.log(a / b)).sum(-1)

    expected = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "js": (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2,
    }[name]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (found <= DIVERGENCES[name](student, teacher) + 1e-6).all()


def test_answers_teach_what_their_teacher_does(
    ancestor: Path, few_words: Path, given: Path
) -> None:
    student, mesh = teaching.party_of(few_words), sharding.make_mesh()
    model, params, _, _ = training_state.load_model(few_words)
    found = []
    for teacher in (given, ancestor):
        lesson, batches = lesson_of_run(
            settings_of(teacher), student, mesh, SMALL, SMALL.batch(0), 12, adapts=False
        )

        def gradients(
            params: Any, batch: Any, constants: Any, loss: Any = lesson.loss
        ) -> tuple[Any, Any]:
            return train_step.summed_gradients(model, params, batch, None, 1, loss, 0, constants)

        found.append(jax.jit(gradients)(params, batches.batch(5), lesson.constants))
    # All pieces but one are known, and float16 rounds.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2), found[0], found[1]
    )
    with pytest.raises(UserError, match="this mixture moves its rates; name the teacher itself"):
        lesson_of_run(settings_of(given), student, mesh, SMALL, {}, 12, adapts=True)


def test_answers_to_batches_that_move_are_not_written(tmp_path: Path, ancestor: Path) -> None:
    moving = SimpleNamespace(mixture=get_mixture("d_ul2"))
    with pytest.raises(UserError, match="the mixture d_ul2 moves its rates"):
        ask(settings_of(ancestor), moving, "none", str(tmp_path / "made"), steps=2, top=3)
    assert not (tmp_path / "made").exists()


def test_a_run_goes_on_with_its_answers(tmp_path: Path, few_words: Path, given: Path) -> None:
    whole = recover(tmp_path / "whole", few_words, settings_of(given), accumulation=2)
    half = recover(tmp_path / "half", few_words, settings_of(given), accumulation=2, train_steps=6)
    moved = Path(shutil.copytree(given, tmp_path / "moved"))
    recover(half.model_dir, few_words, settings_of(moved), accumulation=2)
    jax.tree.map(
        np.testing.assert_array_equal, *(saved_state(run.model_dir)[0] for run in (whole, half))
    )
    train = [r for r in metrics.read(whole.history) if r["split"] == "train"]
    assert train[-1]["divergence"] < train[0]["divergence"]


def test_killed_and_started_again_the_answers_are_the_same(
    tmp_path: Path, ancestor: Path, few_words: Path, given: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(answering, "STEPS_A_FILE", 5)
    whole = write(tmp_path / "whole", ancestor, few_words)
    for step in range(12):
        here, there = whole.of(step, slice(2, 4)), answering.open_answers(given).of(step)
        np.testing.assert_array_equal(here[answering.IDS], there[answering.IDS][2:4])
        np.testing.assert_array_equal(here[answering.LOG_P], there[answering.LOG_P][2:4])

    class Failing(ToyBatches):
        def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
            if step == 8:
                raise RuntimeError("the disk fell out")
            return super().batch(step, rows)

    output = tmp_path / "again"
    with pytest.raises(RuntimeError, match="the disk fell out"):
        write(output, ancestor, few_words, Failing(vocab=SMALL_VOCABULARY))
    assert not output.exists()
    with pytest.raises(UserError, match=r"again has answers of another setting: top differs \(23"):
        write(output, ancestor, few_words, top=4)
    write(output, ancestor, few_words)
    assert folder_hashes(output) == folder_hashes(tmp_path / "whole")
    write(output, ancestor, few_words)  # Finished work is left as it is.
    assert folder_hashes(output) == folder_hashes(tmp_path / "whole")
    with pytest.raises(UserError, match="answers of another setting: steps differs"):
        write(output, ancestor, few_words, steps=13)
    with pytest.raises(UserError, match="--top is 24; it must be from 1 to 23"):
        write(tmp_path / "none", ancestor, few_words, top=24)
    assert not (tmp_path / "none").exists()


def test_answers_that_do_not_fit_are_refused(
    tmp_path: Path, ancestor: Path, few_words: Path, narrow: Path, given: Path
) -> None:
    run = tmp_path / "run"
    damaged = Path(shutil.copytree(given, tmp_path / "damaged"))
    with (damaged / "ids-00000.npy").open("r+b") as file:
        file.truncate(300)
    good = settings_of(given)
    for settings, changes, message in (
        (dataclasses.replace(good, temperature=1.0), {}, "of the temperature 2.0, and this run"),
        (dataclasses.replace(good, hidden_weight=1.0), {}, "have no hidden states"),
        (dataclasses.replace(good, teacher_dtype="bfloat16"), {}, "type float32, and this run"),
        (good, {"train_steps": 13}, "for 12 steps, and the run has 13"),
        (good, {"batches": ToyBatches(vocab=9)}, "to other batches than those of this run"),
        (dataclasses.replace(good, teacher=str(damaged)), {}, "damaged are damaged"),
    ):
        arguments = {"batches": SMALL, **changes}
        with pytest.raises(UserError, match=message):
            toy_train(
                run,
                model=model_folder.load_model(few_words),
                initial_model=str(few_words),
                distillation=settings,
                **arguments,
            )
        assert not run.exists()
    with pytest.raises(UserError, match="for a vocabulary of rows 24, and this run has 32"):
        toy_train(
            run,
            model=model_folder.load_model(narrow),
            initial_model=str(narrow),
            distillation=good,
            batches=SMALL,
        )
    assert training_state.load_model(ancestor).plan is None
