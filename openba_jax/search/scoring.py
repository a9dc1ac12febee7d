"""Scores of the ancestor by which shapes are estimated and cut, computed once and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.models.axes import LAYERS, axis_of
from openba_jax.pruning import saved_scores
from openba_jax.pruning.criteria.base import Scores, Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.stages import Stage
from openba_jax.staged.models import ANCESTOR, Models


def scores_of_ancestor(
    models: Models,
    keys: Sequence[str],
    *,
    width_method: str,
    layer_method: str,
    calibration_batches: int,
    part: int,
    path: Path,
) -> Scores:
    """Reads the scores, or computes and writes them.

    The text is that which a pipeline of the same seed looks at in its first stage, so that it makes
    the same cut.

    Args:
      models: of the run.
      keys: what is scored.
      width_method: criterion of widths.
      layer_method: criterion of layers.
      calibration_batches: batches that they look at.
      part: number of the stage.
      path: of the file.

    Raises:
      UserError: a criterion cannot score, a score is not finite, or the file cannot be read.
    """
    source = models.folder(ANCESTOR)
    checkpoint = open_checkpoint(source)
    methods = {key: layer_method if axis_of(key) == LAYERS else width_method for key in keys}
    if not path.exists():
        models.say(f"scoring {', '.join(keys)} by {' and '.join(sorted(set(methods.values())))}")
        stage = Stage(
            "scores",
            sizes=dict.fromkeys(keys, 1),
            method=methods,
            calibration_batches=calibration_batches,
        )
        text = models.calibration(ANCESTOR, stage, part)
        assert text is not None
        subject = Subject(checkpoint.model, checkpoint.read, text)
        found: Scores = {}
        for method in dict.fromkeys(methods.values()):
            found |= score(method, subject, [key for key in keys if methods[key] == method])
        digest = saved_scores.fingerprint(checkpoint)
        saved_scores.SavedScores(found, methods, digest, text.source).save(path)
    saved = saved_scores.load(path, checkpoint, source)
    return {key: saved.of(method, [key], path)[key] for key, method in methods.items()}
