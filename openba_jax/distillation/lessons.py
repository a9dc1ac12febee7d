"""What a run of the native trainer learns from: a teacher, or answers that one has given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from openba_jax import paths
from openba_jax.distillation.answers import AnsweredBatches, AnsweredLoss, answers_for, is_answers
from openba_jax.distillation.descent import Party
from openba_jax.distillation.settings import Distillation
from openba_jax.distillation.teacher import Lesson, prepare
from openba_jax.errors import UserError


def lesson_of_run(
    settings: Distillation,
    student: Party,
    mesh: Mesh,
    batches: Any,
    first: Mapping[str, np.ndarray],
    steps: int,
    *,
    adapts: bool,
) -> tuple[Lesson, Any]:
    """Opens what `settings.teacher` names; everything is checked.

    Args:
      settings: the settings.
      student: what is trained.
      mesh: the mesh.
      batches: of the run, `training.feeding.Batches`.
      first: this process's part of the first batch.
      steps: step at which the run ends.
      adapts: whether the rates of the batches move.

    Returns:
      What the run minimises; and its batches, with answers where it learns from these.

    Raises:
      UserError: see `teacher.prepare` and `answers.answers_for`; or there are answers to batches
        whose rates move.
    """
    settings = settings.of_length(steps)
    path = paths.local(settings.teacher)
    if not is_answers(path):
        return prepare(settings, student, mesh, first), batches
    if adapts:
        raise UserError(
            f"the answers in {path} are to fixed batches, and this mixture moves its rates; name "
            "the teacher itself."
        )
    answers = answers_for(settings, path, student.model.config.vocab_size, batches, steps)
    loss = AnsweredLoss(dataclasses.replace(settings, teacher=""))
    known_by = {"parameters": answers.setting["teacher"], "top": answers.setting["top"]}
    identity = {**settings.identity(), "teacher": known_by}
    return Lesson(loss, (), identity), AnsweredBatches(batches, answers)
