"""A prune step before a T5X run, and the transform for any network that T5X trains."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import core
from jax.experimental import multihost_utils

from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models.axes import axis_of, flatten, join, unflatten
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.plan import spelt_out
from openba_jax.pruning.stages import Stage
from openba_jax.pruning.transform import Keep, kept_path, take
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


def take_with_params_axes(
    variables: Mapping[str, Any],
    keep: Keep,
    joined: Mapping[str, tuple[str, int]] | None = None,
) -> dict[str, Any]:
    """Cuts the parameters of any network whose axes have names in `params_axes`.

    Flax's `param_with_axes` leaves these names beside the parameters, as T5X's own networks do.
    Layers are found by the name of their axis, `layers`, or by paths such as
    `encoder/layers_3/mlp/wi/kernel`.

    Args:
      variables: `params` and `params_axes`, as `module.init` returns them; more may be there, and
        is left out: a cache or moments are of the old shapes.
      keep: the indices to keep, by name of an axis (`embed`) or by key (`encoder/heads`,
        `decoder/layers`); a list, or one for each layer.
      joined: axes that join two, the name of the slower one and the size of the faster one:
        `{"joined_kv": ("heads", 64)}`. What `keep` says of the slower one goes for them, too.

    Returns:
      `params` and `params_axes` of the smaller network.

    Raises:
      UserError: `params_axes` is missing or does not fit; a key of `keep` fits no parameter, or its
        lists do not fit the arrays.
    """
    for name in ("params", "params_axes"):
        if name not in variables:
            raise UserError(f"the variables have no {name}; pass what module.init returned.")
    params, boxed = core.unfreeze(variables["params"]), core.unfreeze(variables["params_axes"])
    names = {
        path.removesuffix("_axes"): tuple(metadata.names)
        for path, metadata in flatten(boxed).items()
    }
    keep = dict(keep)
    for axis, (outer, inner) in (joined or {}).items():
        for key in [key for key in keep if axis_of(key) == outer]:
            keep[join(key.rpartition("/")[0], axis)] = spelt_out(keep[key], inner)
    axes = unflatten(names)
    cut_boxed = {
        f"{new}_axes": flatten(boxed)[f"{path}_axes"]
        for path in names
        if (new := kept_path(path, keep)) is not None
    }
    return {"params": take(params, axes, keep), "params_axes": unflatten(cut_boxed)}


def _recorded(file: Path) -> dict[str, Any]:
    """What a folder was made of; fields that stages have got since were at their defaults."""
    record = json.loads(file.read_text(encoding="utf-8"))
    defaults = json.loads(json.dumps(dataclasses.asdict(Stage(""))))
    return {**record, "stage": {**defaults, **record["stage"]}}
