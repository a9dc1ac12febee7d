"""Scores of the ancestor that shapes are cut by, computed once and saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.pruning import saved_scores
from openba_jax.pruning.criteria.base import Scores, Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.stages import Stage
from openba_jax.staged.models import ANCESTOR, Models


def subject_of(models: Models, calibration_batches: int, part: int) -> Subject:
    """The ancestor with the text that a pipeline of the same seed looks at in a stage.

    Args:
      models: of the run.
      calibration_batches: how many batches it is.
      part: number of the stage.
    """
    checkpoint = open_checkpoint(models.folder(ANCESTOR))
    # The calibration of any stage that looks at text.
    stage = Stage(
        "scores", sizes={"mlp": 1}, method="taylor", calibration_batches=calibration_batches
    )
    text = models.calibration(ANCESTOR, stage, part)
    return Subject(checkpoint.model, checkpoint.read, text)


def scores_of_ancestor(
    models: Models, subject: Subject, methods: Mapping[str, str], path: Path
) -> Scores:
    """Reads the scores, or computes and writes them.

    Args:
      models: of the run.
      subject: the ancestor.
      methods: the criterion of each key.
      path: of the file.

    Raises:
      UserError: a criterion cannot score, a score is not finite, or the file cannot be read.
    """
    source = models.folder(ANCESTOR)
    checkpoint = open_checkpoint(source)
    if not path.exists():
        models.say(f"scoring {', '.join(methods)} by {' and '.join(sorted({*methods.values()}))}")
        found: Scores = {}
        for method in dict.fromkeys(methods.values()):
            found |= score(method, subject, [key for key in methods if methods[key] == method])
        digest = saved_scores.fingerprint(checkpoint)
        source_of_text = {} if subject.text is None else subject.text.source
        saved_scores.SavedScores(found, methods, digest, source_of_text).save(path)
    saved = saved_scores.load(path, checkpoint, source)
    return {key: saved.of(method, [key], path)[key] for key, method in methods.items()}
