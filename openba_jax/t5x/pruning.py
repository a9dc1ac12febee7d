"""A prune step before a T5X run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage
from openba_jax.t5x.checkpoints import newest_step


def pruned(source: str, output: str, stage: Stage) -> str:
    """Prunes a T5X folder into another, unless that was done.

    Args:
      source: a T5X folder or `DIR/checkpoint_<step>`; one of any size.
      output: the folder to write; it appears when it is complete.
      stage: what to cut.

    Returns:
      `output`.

    Raises:
      UserError: `source` is no checkpoint, the stage cuts nothing or asks for what the model cannot
        give.
    """
    if not stage.cuts:
        raise UserError(
            "the stage cuts nothing; give --gin.Stage.drop_decoder, drop_encoder, drop, embed, "
            "heads, mlp or sizes."
        )
    record = json.loads(json.dumps({"source": source, "stage": dataclasses.asdict(stage)}))
    file = Path(output) / "pruned_by.json"
    if jax.process_index() == 0 and newest_step(output) is None:
        prune_checkpoint(source, output, stage, output_format="t5x")
        write_atomically(file, json.dumps(record, indent=2) + "\n")
    elif file.is_file() and _recorded(file) != record:
        raise UserError(f"{output} was cut otherwise ({file}); name another PRUNED_PATH.")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("openba_jax.t5x.pruned")
    return output


def _recorded(file: Path) -> dict[str, Any]:
    """What a folder was made of; fields that stages have got since were at their defaults."""
    record = json.loads(file.read_text(encoding="utf-8"))
    defaults = json.loads(json.dumps(dataclasses.asdict(Stage(""))))
    return {**record, "stage": {**defaults, **record["stage"]}}
