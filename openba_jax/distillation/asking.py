"""Asking a teacher: from its folder to a folder of answers."""

from __future__ import annotations

from pathlib import Path

from openba_jax import paths
from openba_jax.checkpoints import model_folder
from openba_jax.cli.progress import show_progress
from openba_jax.data.loader import BatchLoader
from openba_jax.distillation.answers import Answers, write_answers
from openba_jax.distillation.descent import Party
from openba_jax.distillation.settings import Distillation
from openba_jax.distillation.teacher import open_teacher, party_of
from openba_jax.errors import UserError
from openba_jax.parallel import hardware, sharding


def ask(
    settings: Distillation,
    batches: BatchLoader,
    tokenizer: str,
    output: str,
    *,
    steps: int,
    top: int,
    student: str | None = None,
    progress: bool = False,
) -> Answers:
    """Writes the answers of a teacher to the batches of a run, see `answers.write_answers`.

    Args:
      settings: the teacher, its type and the temperature.
      batches: of the run, a `data.loader.BatchLoader`.
      tokenizer: the file that its stores were made with.
      output: the folder to make.
      steps: of the run.
      top: of the likeliest ids, how many are kept.
      student: a checkpoint whose vocabulary was cut, and that will learn; None: those that learn
        have the vocabulary of the teacher.
      progress: show how far it is.

    Raises:
      UserError: see `teacher.open_teacher` and `answers.write_answers`; a batch is not for the
        teacher; or the mixture moves its rates, so that no run has these batches.
    """
    if batches.mixture.rule is not None:
        raise UserError(
            f"the mixture {batches.mixture.name} moves its rates as a run goes on, and answers are "
            "to fixed batches; choose another, or name the teacher itself in the run."
        )
    source, folder = paths.local(settings.teacher), paths.local(output)
    for read in (settings.teacher, student):
        if read is not None:
            place = model_folder.split_path(paths.local(read))[0]
            paths.reject_overlap(
                place, folder, "teacher" if read is settings.teacher else "student"
            )
    if student is None:
        learner = party_of(source)
        learner = Party(learner.model, learner.plan, Path(tokenizer), f"the tokenizer {tokenizer}")
    else:
        learner = party_of(paths.local(student))
        if learner.tokenizer is not None:
            model_folder.check_tokenizer(learner.tokenizer.parent, tokenizer)
    teacher = open_teacher(settings, learner)
    teacher.model.check_layout(batches.layout)
    mesh = sharding.make_mesh()
    with (
        hardware.explain_out_of_memory(),
        show_progress("asking", steps, "step", shown=progress) as advance,
    ):
        return write_answers(
            folder,
            teacher,
            teacher.restore(mesh),
            batches,
            mesh,
            steps=steps,
            top=top,
            temperature=settings.temperature,
            advance=advance,
        )
