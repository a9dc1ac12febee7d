"""The whole way of a staged compression, top to bottom."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.evaluation.multiple_choice import question_files, read_questions
from openba_jax.files import write_atomically
from openba_jax.model.config import OpenBAConfig
from openba_jax.objectives.mixture import get_mixture
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.selection import WIDTH_METHODS
from openba_jax.pruning.stages import Stage, apply_stage, merge_stages
from openba_jax.pruning.vocabulary import SPECIAL_TOKENS
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.models import FROM_SCRATCH, PRETRAIN, Models
from openba_jax.staged.results import Results
from openba_jax.staged.settings import Data, Phase

ALL_AT_ONCE = "all_at_once"


class Pipeline:
    """Pretraining, stages, controls, report; every step does nothing when its result is there."""

    def __init__(
        self,
        output_dir: str,
        data: Data,
        model: OpenBAConfig,
        stages: Sequence[Stage],
        pretrain: Phase,
        recover: Phase,
        tune: Phase,
        *,
        prompts: Sequence[str] = (),
        controls: bool = True,
        mesh_shape: Sequence[int] = (-1, 1, 1),
        seed: int = 0,
        log_every: int = 20,
        checkpoint_every: int = 200,
    ) -> None:
        """Keeps the settings.

        Args:
          output_dir: folder of the run.
          data: its text.
          model: sizes of the ancestor; the vocabulary follows from the text.
          stages: what is cut, in order, each with a name of its own.
          pretrain: how the ancestor is trained.
          recover: how pruned models are; a stage may name another mixture.
          tune: how the ancestor, the last model and the controls are tuned on instructions.
          prompts: texts that the last model answers in the report.
          controls: whether all cuts at once, and the last shape from nothing, are trained as well.
          mesh_shape: data, fsdp, model.
          seed: of batches, parameters and dropout.
          log_every: steps.
          checkpoint_every: steps.

        Raises:
          UserError: there are no stages, two have one name, a mixture is unknown, or a stage or
            the data cannot be used.
        """
        if not stages:
            raise UserError("the pipeline has no stages; give at least one Stage.")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise UserError(f"stages need names of their own; found {', '.join(names)}.")
        self._mixtures = dict.fromkeys(
            [phase.mixture for phase in (pretrain, tune)]
            + [stage.recover_objective or recover.mixture for stage in stages]
        )
        for mixture in self._mixtures:
            get_mixture(mixture)
        _check_ahead(data, model, stages)
        began = time.monotonic()

        def say(text: str) -> None:
            sys.stdout.write(f"[{time.monotonic() - began:5.0f} s] {text}\n")
            sys.stdout.flush()

        self.root = Path(output_dir)
        self._model = model
        self._stages = tuple(stages)
        self._controls = controls
        self._say = say
        self._corpora = Corpora(self.root / "data", data, seed)
        self._models = Models(
            self.root,
            self._corpora,
            pretrain,
            recover,
            tune,
            tuple(mesh_shape),
            seed,
            log_every,
            checkpoint_every,
            say,
        )
        self._results = Results(self._models, tuple(prompts))

    def run(self) -> str:
        """Does whatever is not done yet; returns the report as text.

        Raises:
          UserError: something in the settings or files cannot be used.
        """
        data, models, results = self._corpora.data, self._models, self._results
        self._say(f"preparing {', '.join(map(str, data.corpus))}")
        vocabulary = self._corpora.train_tokenizer()
        for mixture in self._mixtures:  # What the last training lacks is found before the first.
            self._corpora.batches(vocabulary, mixture).evaluation_batches(1)
        config = self._model.replace(
            vocab_size=vocabulary.size,
            max_encoder_length=data.encoder_length,
            max_decoder_length=data.decoder_length,
        )
        trained = models.train_ancestor(config, vocabulary)
        models.tune_model(PRETRAIN)
        rows = [results.row(PRETRAIN, trained.step, tuned=True)]
        curves = [results.curve(PRETRAIN, 0)]

        parent, tokens = PRETRAIN, models.pretrain.tokens
        for stage in self._stages:
            trained = models.prune_and_recover(parent, stage)
            last = stage is self._stages[-1]
            if last:
                models.tune_model(stage.name)
            rows.append(results.row(stage.name, trained.step, parent=parent, tuned=last))
            curves.append(results.curve(stage.name, tokens))
            parent, tokens = stage.name, tokens + stage.recover_tokens
        final = parent

        if self._controls:
            start = models.pretrain.tokens
            merged = merge_stages(self._stages, ALL_AT_ONCE)
            trained = models.prune_and_recover(PRETRAIN, merged)
            models.tune_model(ALL_AT_ONCE)
            rows.append(
                results.row(ALL_AT_ONCE, trained.step, parent=PRETRAIN, tuned=True, control=True)
            )
            curves.append(results.curve(ALL_AT_ONCE, start, control=True))

            trained = models.train_from_scratch(final, merged)
            models.tune_model(FROM_SCRATCH)
            rows.append(results.row(FROM_SCRATCH, trained.step, tuned=True, control=True))
            curves.append(results.curve(FROM_SCRATCH, start, control=True))
        pieces = [stage.vocabulary for stage in self._stages if stage.vocabulary is not None]
        return results.report(rows, curves, final, pieces[-1] if pieces else None)


def _check_ahead(data: Data, model: OpenBAConfig, stages: Sequence[Stage]) -> None:
    """Finds at once what would be found after hours, when its turn came.

    Raises:
      UserError: there is no such method or question, or a stage cannot be cut or recovered.
    """
    if data.eval_batches < 1:
        raise UserError(f"eval_batches is {data.eval_batches}; it must be at least 1.")
    if data.questions:
        for file in question_files(data.questions):
            read_questions(file)
    plan, pieces = Plan.identity(model, ""), data.vocabulary_size
    for stage in stages:
        if stage.method not in WIDTH_METHODS:
            known = ", ".join(WIDTH_METHODS)
            raise UserError(f"no pruning method is called {stage.method!r}; known are {known}.")
        # Other methods score parameters, which are not there yet; sizes are the same.
        plan = apply_stage(dataclasses.replace(stage, method="random", vocabulary=None), plan)
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
