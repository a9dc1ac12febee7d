"""The model folder of a run: everything is checked before anything is written.

A run that is refused leaves its folder as it was. What a run computes is saved with its
checkpoints, as its identity: the data, the seed, the evaluation batches, the teacher. Together with
the configuration of the model it must be the same whenever the run goes on, unless `allow_changes`
says otherwise. Not part of it are the optimizer's settings, which people tune on the way and which
`config.gin` records, and what changes rounding alone: mesh, accumulation, compute type.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.registry import reject_other_formats
from openba_jax.distillation.descent import Party
from openba_jax.errors import UserError
from openba_jax.files import only_process, write_atomically
from openba_jax.models.base import Model
from openba_jax.parallel import sharding
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.saved_plan import plan_of_folder
from openba_jax.training import train_step

SHARDING = "sharding.txt"
"""File in the model folder that says how every parameter lies on the mesh."""

MASTER_DTYPE = "float32"
"""The type in which a new run keeps its parameters, whatever type it finds them in."""

Changes = dict[str, tuple[Any, Any]]
"""Names of what differs from the run so far; for each its value before and now."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A model folder that was checked for a run.

    Attributes:
      path: the folder.
      model: the model, in the types that training uses.
      resumes: whether there is a checkpoint to go on from.
      changes: what of the model differs from the run so far, and is allowed.
      plan: the pruning plan that a new run inherits, if any.
      tokenizer: the tokenizer to copy into the folder, if any.
    """

    path: Path
    model: Model
    resumes: bool
    changes: Changes
    plan: Mapping[str, Any] | None
    tokenizer: Path | None

    @property
    def student(self) -> Party:
        """The model as that which learns from a teacher."""
        plan = plan_of_folder(self.path) if self.plan is None else Plan.from_dict(self.plan)
        tokenizer = self.tokenizer or model_folder.tokenizer_path(self.path)
        return Party(self.model, plan, tokenizer, f"the model of {self.path}")


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Within it no other run writes the folder; the first process asks on behalf of all.

    Raises:
      UserError: another process writes the folder.
    """
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(only_process(folder))
            except UserError as error:
                refusal = error
        refused = refusal is not None
        if jax.process_count() > 1:
            refused = bool(multihost_utils.broadcast_one_to_all(np.int32(refused)))
        if refused:
            raise refusal or UserError(f"another process is writing {folder}; wait for it.")
        yield


def check(
    folder: Path,
    model: Model,
    *,
    tokenizer: str | None,
    initial_model: str | None,
    param_dtype: str | None,
    allow_changes: bool,
) -> RunFolder:
    """Checks that a run of a model can begin, or go on, in a folder; writes nothing.

    Args:
      folder: the model folder.
      model: the model as it is configured.
      tokenizer: a tokenizer's file for the folder.
      initial_model: the model folder, or a checkpoint in one, that a new run starts from.
      param_dtype: type of the parameters; by default that of the run, or `MASTER_DTYPE` for a new
        one.
      allow_changes: let the model or its tokenizer differ from those of the run or of
        `initial_model`.

    Raises:
      UserError: the folder holds something else, the model or its tokenizer differs from that of
        the run or of the initial model, or a type does not serve for training.
    """
    for path in (folder, initial_model):
        if path is not None:
            reject_other_formats(path)
    resumes = model_folder.latest_step(folder) is not None
    origin = folder
    if initial_model is not None and not resumes:
        origin = model_folder.split_path(initial_model)[0]
    saved = None
    if resumes or origin != folder or (folder / model_folder.CONFIG).is_file():
        saved = model_folder.load_model(origin)
    model = _training_types(model, saved if resumes else None, param_dtype)
    model_folder.check_usable(folder, model)
    changes: Changes = {}
    if saved is not None:
        if not resumes:  # A new run converts the parameters that it starts from.
            saved = saved.replace(param_dtype=model.config.param_dtype)
        changes = {
            f"model.{name}": values for name, values in saved.config.conflicts(model.config).items()
        }
        refuse(changes, origin, allow_changes)
    if tokenizer is not None and not allow_changes:
        model_folder.check_tokenizer(origin, tokenizer)
    inherits = origin != folder
    inherited = plan_of_folder(origin) if inherits else None
    chosen = Path(tokenizer) if tokenizer else None
    if chosen is not None and not chosen.is_file():
        raise UserError(f"tokenizer {chosen} cannot be read: there is no such file.")
    if chosen is not None:
        model_folder.check_tokenizer_kind(model, chosen)
    return RunFolder(
        path=folder,
        model=model,
        resumes=resumes,
        changes=changes,
        plan=None if inherited is None else inherited.to_dict(),
        tokenizer=chosen or (model_folder.tokenizer_path(origin) if inherits else None),
    )


def compare(
    folder: Path, saved: Mapping[str, Any], identity: Mapping[str, Any], allow_changes: bool
) -> Changes:
    """Compares the identity of a run with the one that was saved with its checkpoint.

    Args:
      folder: the model folder.
      saved: the JSON that was saved with the checkpoint.
      identity: that of the run that would go on.
      allow_changes: do not refuse.

    Returns:
      What differs.

    Raises:
      UserError: something differs that is not allowed to.
    """
    before = saved.get("identity")
    if before is None:
        began_with, now = saved.get("batch_size"), identity["data"].get("batch_size")
        changes = {} if began_with in (None, now) else {"data.batch_size": (began_with, now)}
        logging.warning(
            "The checkpoint in %s, of an older version, does not say what data it was trained on; "
            "see to it that stores, mixture, seed and HELD_OUT are the same as before.",
            folder,
        )
    else:
        # Earlier versions did not save everything; what they could not do, they did not.
        old = dict(_flat({**identity, "distillation": None, **before}))
        new = dict(_flat(identity))
        changes = {
            name: (old.get(name), new.get(name))
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        }
    refuse(changes, folder, allow_changes)
    return changes


def refuse(changes: Changes, where: Path, allow_changes: bool) -> None:
    """Refuses changes, unless they are allowed.

    Raises:
      UserError: there is one; the message names the first with both values.
    """
    if changes and not allow_changes:
        name, (before, now) = next(iter(changes.items()))
        more = f" (and {len(changes) - 1} more differ)" if len(changes) > 1 else ""
        raise UserError(
            f"{name} was {before!r} in {where} and is {now!r} now{more}; give what it was, start "
            "in a new folder, or set ALLOW_CHANGES = True."
        )


def write(
    run: RunFolder,
    abstract_params: Any,
    extra_files: Mapping[str, str],
    damaged: tuple[int, ...] = (),
) -> None:
    """Writes what a model folder holds besides checkpoints; the first process does it.

    Args:
      run: the folder.
      abstract_params: shapes and shardings of the parameters.
      extra_files: texts by file name.
      damaged: steps of checkpoints to set aside, which the run has gone back from.

    Raises:
      UserError: the tokenizer cannot be read.
    """
    _wait_for_all("openba_jax.run_folder.checked")
    if jax.process_index() == 0:
        for step in damaged:
            model_folder.set_aside(run.path, step)
        model_folder.write_metadata(run.path, run.model, run.plan, run.tokenizer)
        shardings = train_step.shardings_of(abstract_params)
        whole = sharding.large_unsharded(abstract_params, shardings)
        warning = f"NOT DIVIDED: {', '.join(whole)}\n\n" if whole else ""
        if whole:
            logging.warning("every device holds all of %s", ", ".join(whole))
        table = sharding.sharding_table(abstract_params, shardings)
        for name, text in {**extra_files, SHARDING: warning + table}.items():
            write_atomically(run.path / name, text)
    _wait_for_all("openba_jax.run_folder.written")


def _training_types(model: Model, saved: Model | None, param_dtype: str | None) -> Model:
    """The model with the types that training uses."""
    if model.config.dtype == "float16":
        raise UserError(
            "the compute type dtype is 'float16', in which gradients overflow; train with "
            "'bfloat16' or 'float32'."
        )
    kept = param_dtype or (saved.config.param_dtype if saved else MASTER_DTYPE)
    if kept == "float16":
        raise UserError(
            "the parameters would be kept in 'float16', in which small updates vanish; set "
            "PARAM_DTYPE = 'float32' (and, for a run that has begun, ALLOW_CHANGES = True), or "
            "'bfloat16'."
        )
    return model.replace(param_dtype=kept)


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, as JSON keeps them, with dotted names."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _flat(value, f"{name}.{number}")
    else:
        yield name, tree


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
