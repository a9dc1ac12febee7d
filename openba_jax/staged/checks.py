"""What a staged run checks before it begins, and the folder that it claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks import json_choice
from openba_jax.files import write_atomically
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import model_of
from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.pruning.compensation.refit import NO_COMPENSATION, check_compensation
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.selection import targets_of
from openba_jax.pruning.stages import RANDOM, Stage, apply_stage, check_method
from openba_jax.pruning.vocabulary import SPECIAL_TOKENS
from openba_jax.staged.settings import Data


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


def check_data(data: Data) -> None:
    """Checks that losses and answers can be measured.

    Raises:
      UserError: there is no batch to evaluate on, or the questions cannot be read.
    """
    if data.eval_batches < 1:
        raise UserError(f"eval_batches is {data.eval_batches}; it must be at least 1.")
    if data.questions:
        json_choice.load(Path(data.questions))


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
        # A mistake that ended a run before it made anything can be mended in the same folder.
        if any(path.is_file() and path not in mine for path in folder.rglob("*")):
            raise UserError(
                f"{folder} holds a run with other settings ({_difference(begun, settings)}; all of "
                f"them are in its {marker.name}); name another folder, or repeat the settings."
            )
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
