"""A staged compression from text to report."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks import json_choice
from openba_jax.files import write_atomically
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import family, model_of
from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.paths import check_output_folder, local, reject_overlap
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.stages import RANDOM, Stage, apply_stage, check_method, merge_stages
from openba_jax.pruning.vocabulary import SPECIAL_TOKENS
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.models import FROM_SCRATCH, PRETRAIN, Models, ScheduleWindow
from openba_jax.staged.results import Results
from openba_jax.staged.settings import Data, Phase

ALL_AT_ONCE = "all_at_once"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Pretraining, stages, controls, report; every step does nothing when its result is there.

    Attributes:
      output_dir: folder of the run.
      data: its text.
      model: sizes of the ancestor; the vocabulary follows from the text.
      stages: what is cut, in order, each with a name of its own.
      pretrain: how the ancestor is trained.
      recover: how pruned models are trained; a stage may name another mixture.
      tune: how the ancestor, the last model and the controls are tuned on instructions.
      prompts: texts that the last model answers in the report.
      controls: whether to train two models for comparison: one with all cuts made at once, one of
        the last shape from random parameters.
      mesh_shape: data, fsdp, model.
      seed: of batches, parameters and dropout.
      log_every: steps.
      checkpoint_every: steps.
    """

    output_dir: str
    data: Data
    model: ModelConfig
    stages: Sequence[Stage]
    pretrain: Phase
    recover: Phase
    tune: Phase
    prompts: str | Sequence[str] = ()
    controls: bool = True
    mesh_shape: Sequence[int] = (-1, 1, 1)
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Finds at once what would be found after hours, when its turn came.

        Raises:
          UserError: `output_dir` cannot be written or overlaps with the data, there are no stages,
            two stages share a name, a mixture is unknown or for models of another kind, a phase has
            no tokens to train on, or a stage or the data cannot be used.
        """
        object.__setattr__(self, "output_dir", str(local(self.output_dir)))
        check_output_folder(self.output_dir)
        questions = [self.data.questions] if self.data.questions else []
        for file in (*self.data.corpus, *self.data.instructions, *questions):
            reject_overlap(file, self.output_dir, "data of the pipeline")
        if not self.stages:
            raise UserError("the pipeline has no stages; give at least one Stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(f"stages need names of their own; found {', '.join(names)}.")
        _check_mixtures(self._mixtures, self.model)
        for name in ("pretrain", "tune"):
            if (tokens := getattr(self, name).tokens) < 1:
                raise UserError(f"{name} trains on {tokens} tokens; give its Phase some.")
        _check_data(self.data)
        _check_stages(self.stages, self.model, self.data.vocabulary_size)

    def run(self) -> str:
        """Does what is not done yet; returns the report as text.

        Raises:
          UserError: something in the settings or files cannot be used.
        """
        data, root = self.data, Path(self.output_dir)
        say = _clocked()
        say(f"preparing {', '.join(map(str, data.corpus))}")
        format_there = family(self.model.family).huggingface
        kind = "t5" if format_there is not None and format_there.tokenizer == "t5" else "openba"
        corpora = Corpora(root / "data", data, self.seed, kind)
        vocabulary = corpora.train_tokenizer()
        for mixture in self._mixtures:  # What the last training lacks is found before the first.
            corpora.batches(vocabulary, mixture).evaluation_batches(1)
        models = Models(
            root,
            corpora,
            self.pretrain,
            self.recover,
            self.tune,
            tuple(self.mesh_shape),
            self.seed,
            self.log_every,
            self.checkpoint_every,
            say,
        )
        results = Results(models, gin_values.several(self.prompts))

        config = self.model.replace(vocab_size=vocabulary.size)
        config = config.with_lengths(data.encoder_length, data.decoder_length)
        trained = models.train_ancestor(model_of(config), vocabulary)
        models.tune_model(PRETRAIN)
        rows = [results.row(PRETRAIN, trained.step, tuned=True)]
        curves = [results.curve(PRETRAIN, 0)]

        parent, ancestor_steps, recovery_steps = PRETRAIN, trained.step, 0
        total = sum(data.steps(stage.recover_tokens) for stage in self.stages)
        for number, stage in enumerate(self.stages, start=1):
            window = ScheduleWindow(total, recovery_steps, number)
            trained = models.prune_and_recover(parent, stage, window)
            last = number == len(self.stages)
            if last:
                models.tune_model(stage.name)
            rows.append(results.row(stage.name, trained.step, parent=parent, tuned=last))
            curves.append(results.curve(stage.name, data.tokens(ancestor_steps + recovery_steps)))
            parent, recovery_steps = stage.name, recovery_steps + trained.step
        final = parent

        if self.controls:
            # As many steps as all stages took: their tokens are rounded up to whole steps.
            merged = dataclasses.replace(
                merge_stages(self.stages, ALL_AT_ONCE), recover_tokens=data.tokens(total)
            )
            whole, start = ScheduleWindow(total, part=1), data.tokens(ancestor_steps)
            models.prune_and_recover(PRETRAIN, merged, whole)
            models.tune_model(ALL_AT_ONCE)
            rows.append(results.row(ALL_AT_ONCE, total, parent=PRETRAIN, tuned=True, control=True))
            curves.append(results.curve(ALL_AT_ONCE, start, control=True))

            models.train_from_scratch(final, merged, whole)
            models.tune_model(FROM_SCRATCH)
            rows.append(results.row(FROM_SCRATCH, total, tuned=True, control=True))
            curves.append(results.curve(FROM_SCRATCH, start, control=True))
        pieces = [stage.vocabulary for stage in self.stages if stage.vocabulary is not None]
        return results.report(rows, curves, final, pieces[-1] if pieces else None)

    @property
    def _mixtures(self) -> set[str]:
        """All that is trained on."""
        recovered = {stage.recover_objective or self.recover.mixture for stage in self.stages}
        return {self.pretrain.mixture, self.tune.mixture} | recovered


def _clocked() -> Callable[[str], None]:
    """Shows lines with the seconds since now."""
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began:5.0f} s] {text}\n")
        sys.stdout.flush()

    return say


def _check_mixtures(mixtures: Collection[str], model: ModelConfig) -> None:
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


def _check_data(data: Data) -> None:
    """Checks that losses and answers can be measured.

    Raises:
      UserError: there is no batch to evaluate on, or the questions cannot be read.
    """
    if data.eval_batches < 1:
        raise UserError(f"eval_batches is {data.eval_batches}; it must be at least 1.")
    if data.questions:
        json_choice.load(Path(data.questions))


def _check_stages(stages: Sequence[Stage], model: ModelConfig, pieces: int) -> None:
    """Checks that every stage can be cut and recovered.

    Args:
      stages: the schedule.
      model: the ancestor.
      pieces: of its vocabulary.

    Raises:
      UserError: the plan of a stage does not fit the model before it, its method is unknown, its
        vocabulary is no smaller one, or it has no tokens to recover with.
    """
    plan = Plan.identity(model_of(model), "")
    for stage in stages:
        check_method(stage.method)
        # Other methods score parameters, which are not there yet; sizes are the same.
        plan = apply_stage(dataclasses.replace(stage, method=RANDOM, vocabulary=None), plan)
        if stage.vocabulary is not None:
            if not SPECIAL_TOKENS <= stage.vocabulary <= pieces:
                raise UserError(
                    f"stage {stage.name} cannot prune a vocabulary of {pieces} pieces to "
                    f"{stage.vocabulary}; choose {SPECIAL_TOKENS} to {pieces}."
                )
            pieces = stage.vocabulary
        if stage.recover_tokens < 1:
            raise UserError(
                f"stage {stage.name} recovers with {stage.recover_tokens} tokens; give it "
                "recover_tokens, as every stage of a pipeline recovers."
            )


def claim_folder(folder: Path, settings: str) -> None:
    """Makes the output folder, or checks that it is of a pipeline with the same settings.

    Raises:
      UserError: the folder holds something else, or a run with other settings.
    """
    marker = folder / "pipeline.gin"
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
