"""What `openba-fit` is asked: the workload of a run's gin files, or of a named size, and flags."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import gin
from openba_jax import cli
from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.fit.steps import Workload
from openba_jax.models.base import Model
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import model_of
from openba_jax.training import gin_bindings
from openba_jax.training.optimizer import Optimizer, adamw, warmup_constant
from openba_jax.training.run_folder import MASTER_DTYPE


def workload() -> tuple[Workload, tuple[int, ...] | None]:
    """The workload, and the mesh of the gin files; None where they have none.

    What flags say comes before what gin files say.

    Raises:
      UserError: something is missing or is not what it should be.
    """
    values = flags.FLAGS
    cli.parse_gin(complete=False)  # No store, folder or tokenizer is read here.
    run, batches = _bindings("train"), _bindings("token_batches")
    if _evaluated(run, "distillation", None) is not None:
        raise UserError("openba-fit compiles no step with a teacher; leave TEACHER out.")
    lengths = _lengths(batches)
    optimizer = _evaluated(run, "optimizer", None) or adamw(warmup_constant(1e-4))
    assert isinstance(optimizer, Optimizer)
    batch = values.batch or _evaluated(batches, "batch_size", None)
    if batch is None:
        raise UserError("give --batch, or the gin files of a run that has BATCH_SIZE.")
    work = Workload(
        model=_model(run),
        optimizer=optimizer,
        lengths=lengths,
        batch=batch,
        accumulation=values.accumulation or _evaluated(run, "accumulation", 1),
        skip_not_finite=_evaluated(run, "not_finite", "stop") == "skip",
        new_tokens=values.new_tokens or lengths[1],
    )
    mesh = _evaluated(run, "mesh_shape", None)
    return work, None if mesh is None else tuple(mesh)


def mesh_shape(text: str) -> tuple[int, int, int]:
    """`1x4x1` as sizes of data, fsdp and model; one may be -1.

    Raises:
      UserError: it is no such text.
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(part.removeprefix("-").isdecimal() for part in parts):
        raise UserError(f"the mesh {text!r} is not data x fsdp x model, such as 1x4x1.")
    data, fsdp, model = map(int, parts)
    return data, fsdp, model


def numbers(texts: Sequence[str], flag: str) -> list[int]:
    """Whole numbers from 1 on.

    Raises:
      UserError: one is no such number.
    """
    for text in texts:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"--{flag} has {text!r}, which is no whole number from 1 on.")
    return [int(text) for text in texts]


def _model(run: dict[str, Any]) -> Model:
    """The model that the run trains, with the types that it trains in."""
    values = flags.FLAGS
    if values.model:
        is_folder = (Path(values.model) / "config.json").exists()
        named = gin_bindings.config_of if is_folder else gin_bindings.named_config
        model = _of_config(cli.call_configured(lambda: named(values.model)))
    elif "model" in run:
        folder = _bindings("config_of").get("folder", "")
        if folder and _evaluated({"folder": folder}, "folder", None) is None:
            raise UserError(
                "the run goes on from a folder that is not given; name a size of its shape with "
                "--model, or give INITIAL_CHECKPOINT_PATH."
            )
        model = _evaluated(run, "model", None)
    else:
        model = _of_config(cli.call_configured(gin_bindings.named_config))
    assert isinstance(model, Model)
    kept = values.param_dtype or _evaluated(run, "param_dtype", None) or MASTER_DTYPE
    changes = {"param_dtype": kept}
    if values.remat:
        changes["remat_policy"] = values.remat
    return model.replace(**changes)


def _of_config(config: object) -> Model:
    assert isinstance(config, ModelConfig)
    return model_of(config)


def _lengths(batches: dict[str, Any]) -> tuple[int, int]:
    """Positions of inputs and targets."""
    values = flags.FLAGS
    given = (values.encoder_length, values.decoder_length)
    found = _evaluated(batches, "feature_lengths", None)
    of_run = gin_values.feature_lengths(found) if found else (None, None)
    inputs, targets = (flag or other for flag, other in zip(given, of_run, strict=True))
    if inputs is None or targets is None:
        raise UserError(
            "give --encoder_length and --decoder_length, or the gin files of a run that has "
            "TASK_FEATURE_LENGTHS."
        )
    return inputs, targets


def _bindings(name: str) -> dict[str, Any]:
    """What gin files bind to the arguments of a function."""
    return dict(gin.get_bindings(name, resolve_references=False))


def _evaluated(bindings: dict[str, Any], name: str, default: Any) -> Any:
    """The value of one binding, others left alone: a run's stores need not be there.

    Of one that a run requires and nobody gave it is `default`.
    """
    if name not in bindings:
        return default
    value = cli.call_configured(lambda: copy.deepcopy(bindings[name]))
    return default if value is gin.REQUIRED else value
