"""What a staged run checks before it begins, and the folder that it claims."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from openba_jax.checkpoints import model_folder
from openba_jax.data.store.manifest import manifest_path
from openba_jax.distillation.answers import is_answers
from openba_jax.distillation.teacher import party_of
from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks import json_choice
from openba_jax.files import write_atomically
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import model_of
from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.parallel import sharding
from openba_jax.paths import local
from openba_jax.pruning.compensation.refit import NO_COMPENSATION, check_compensation
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.selection import targets_of
from openba_jax.pruning.stages import RANDOM, Stage, apply_stage, check_method
from openba_jax.pruning.vocabulary import SPECIAL_TOKENS
from openba_jax.staged.models import OWN_TEACHERS
from openba_jax.staged.settings import Data
from openba_jax.training.train_step import check_batch_size


def check_mixtures(mixtures: Collection[str], model: ModelConfig) -> None:
    """Checks that a model reads what the mixtures make.

    Raises:
      UserError: a mixture is unknown, or for models of another kind.
    """
    wanted = model_of(model).layout
    for name in sorted(mixtures):
        if (layout := get_mixture(name).layout) != wanted:
            known = [each for each in mixture_names() if get_mixture(each).layout == wanted]
            raise UserError(
                f"the mixture {name} is for models of the kind {layout!r}, and the family "
                f"{model.family} is of the kind {wanted!r}, for which there are {', '.join(known)}."
            )


def check_mesh(mesh_shape: Sequence[int], batch_size: int) -> None:
    """Checks that the devices of this machine make the mesh, and that it divides a batch.

    Raises:
      UserError: they do not, or it does not.
    """
    check_batch_size(batch_size, 1, sharding.make_mesh(mesh_shape))


def check_data(data: Data, mixtures: Collection[str]) -> None:
    """Checks that the files are there which text, instructions and questions come from.

    Args:
      data: what names them.
      mixtures: all that is trained or measured on.

    Raises:
      UserError: a file or a store is missing, a mixture needs instructions and there are none, or
        the questions cannot be read.
    """
    for file in (*data.corpus, *data.instructions):
        if "://" not in str(file) and not Path(file).is_file():
            raise UserError(f"{file} is no file; name one with text.")
    for store in data.stores:
        if not manifest_path(store).is_file():
            raise UserError(f"there is no token store {store}; openba-prepare makes one.")
    for name in sorted(mixtures):
        kinds = {task.kind for task in get_mixture(name).tasks}
        if "instructions" in kinds and not (data.instructions or data.stores):
            raise UserError(f"the mixture {name} takes instructions, too; give INSTRUCTIONS.")
    if data.questions:
        json_choice.load(Path(data.questions))


def digest_of_questions(data: Data) -> str:
    """Of the names and contents of all files of questions, hexadecimal; "" without questions."""
    if not data.questions:
        return ""
    digest = hashlib.sha256()
    for path in sorted(Path(data.questions).rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(data.questions)} {content}\n".encode())
    return digest.hexdigest()[:16]


def check_teachers(stages: Sequence[Stage], model: ModelConfig) -> None:
    """Checks that the teachers that are models of their own are there, and read what is trained on.

    Raises:
      UserError: one is no checkpoint, or is of another kind than the model.
    """
    for stage in stages:
        if stage.distillation is None or stage.distillation.teacher in OWN_TEACHERS:
            continue
        place = local(stage.distillation.teacher)
        if not model_folder.split_path(place)[0].exists():
            raise UserError(
                f"the teacher {place} of the stage {stage.name} does not exist; name a model "
                f"folder, or {' or '.join(OWN_TEACHERS)}."
            )
        if is_answers(place):
            continue
        layout = party_of(place).model.layout
        if layout != (wanted := model_of(model).layout):
            raise UserError(
                f"the teacher {place} of the stage {stage.name} is of the kind {layout!r} and the "
                f"model of the kind {wanted!r}, which read other batches; give another teacher."
            )


def check_stages(stages: Sequence[Stage], plan: Plan, pieces: int) -> None:
    """Checks that every stage can be cut and recovered.

    Args:
      stages: the schedule.
      plan: of the ancestor.
      pieces: of its vocabulary.

    Raises:
      UserError: the plan of a stage does not fit the model before it, its method or compensation
        is unknown, its vocabulary is no smaller one, or it neither cuts nor trains.
    """
    for stage in stages:
        check_method(stage.method)
        check_compensation(stage.compensation)
        if stage.all_sizes:
            stage.methods_of(targets_of(pruned_model(plan).axes, stage.all_sizes))
        # Other methods score parameters, which are not there yet; sizes are the same.
        cut = dataclasses.replace(stage, method=RANDOM, compensation=NO_COMPENSATION)
        plan = apply_stage(dataclasses.replace(cut, vocabulary=None), plan)
        if stage.vocabulary is not None:
            if not SPECIAL_TOKENS <= stage.vocabulary <= pieces:
                raise UserError(
                    f"stage {stage.name} cannot prune a vocabulary of {pieces} pieces to "
                    f"{stage.vocabulary}; choose {SPECIAL_TOKENS} to {pieces}."
                )
            pieces = stage.vocabulary
        if not stage.cuts and not stage.recover_tokens:
            raise UserError(
                f"stage {stage.name} neither cuts nor trains; give it sizes, layers to drop or "
                "recover_tokens."
            )


_MADE_AGAIN = ("data", "compiled")
"""Folders of a run whose files other settings may make otherwise, and which take little to make."""


def claim_folder(folder: Path, settings: str, name: str = "pipeline.gin") -> None:
    """Makes the output folder, or checks that it is of a run with the same settings.

    Args:
      folder: the folder.
      settings: all that the results depend on.
      name: of the file that keeps them.

    Raises:
      UserError: the folder holds something else, or a run with other settings.
    """
    marker = folder / name
    mine = {marker, marker.with_name(f"{marker.name}.tmp")}  # The latter of a run that was killed.
    if marker.exists():
        begun = marker.read_text(encoding="utf-8")
        if begun == settings:
            return
        # A mistake that ended a run before it had a model can be mended in the same folder.
        made = [path for path in folder.rglob("*") if path.is_file() and path not in mine]
        again = [folder / name for name in _MADE_AGAIN]
        if any(not any(path.is_relative_to(place) for place in again) for path in made):
            raise UserError(
                f"{folder} holds a run with other settings ({_difference(begun, settings)}; all of "
                f"them are in its {marker.name}); name another folder, or repeat the settings."
            )
        for place in again:
            shutil.rmtree(place, ignore_errors=True)
    elif folder.exists() and (
        not folder.is_dir() or any(path not in mine for path in folder.iterdir())
    ):
        raise UserError(f"{folder} holds something else; name a folder that is new or empty.")
    write_atomically(marker, settings)


def _difference(begun: str, asked: str) -> str:
    """The first line that only one of two settings has."""
    there, here = begun.splitlines(), asked.splitlines()
    for line in here:
        if line not in there:
            return f"new is {line.strip()}"
    return "missing is " + next((line.strip() for line in there if line not in here), "nothing")
