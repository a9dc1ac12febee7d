"""A staged compression from text to report."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from openba_jax.checkpoints import model_folder
from openba_jax.cli import gin_values
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.language import told
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import family, model_of
from openba_jax.paths import check_output_folder, local, reject_overlap
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.stages import Stage, at_random, merge_stages
from openba_jax.staged.ancestor import Ancestor, open_ancestor
from openba_jax.staged.checks import (
    check_data,
    check_mesh,
    check_mixtures,
    check_stages,
    check_teachers,
    digest_of_questions,
)
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.models import FROM_SCRATCH, Models, ScheduleWindow
from openba_jax.staged.results import Results
from openba_jax.staged.settings import Data, Phase

ALL_AT_ONCE = "all_at_once"
RANDOM_CUT = "random_cut"
CONTROLS = (ALL_AT_ONCE, RANDOM_CUT, FROM_SCRATCH)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """An ancestor, stages, controls, report; every step does nothing when its result is there.

    Attributes:
      output_dir: folder of the run.
      data: its text.
      stages: what is cut, in order, each with a name of its own. One without `recover_tokens` only
        cuts and measures.
      recover: how pruned models are trained; a stage may name another mixture.
      ancestor: a model folder, or a checkpoint of another format, that the run starts from; it
        brings its tokenizer, and its plan goes on. Empty: the run trains one.
      model: sizes of an ancestor that the run trains; the vocabulary follows from the text.
      pretrain: how it is trained.
      tune: how the ancestor, the last model and the controls are tuned on instructions; None: they
        are not.
      prompts: texts that the last model answers in the report.
      controls: models to train for comparison, with as many tokens as all stages: `all_at_once`,
        all cuts in one; `random_cut`, the same at random, recovered by cross entropy alone, as the
        original does; `from_scratch`, the last shape from random parameters.
      recover_controls: how `random_cut` and `from_scratch` are trained, where other learning rates
        or another optimizer suit them; None: as `recover` says.
      mesh_shape: data, fsdp, model.
      seed: of batches, parameters and dropout.
      log_every: steps.
      eval_every: steps between two evaluations of a recovery, by which the report says after how
        many tokens a loss was reached; the rates of D-UL2 move at them, too.
      checkpoint_every: steps.
    """

    output_dir: str
    data: Data
    stages: Sequence[Stage]
    recover: Phase
    ancestor: str = ""
    model: ModelConfig | None = None
    pretrain: Phase | None = None
    tune: Phase | None = None
    prompts: str | Sequence[str] = ()
    controls: Sequence[str] = (ALL_AT_ONCE, FROM_SCRATCH)
    recover_controls: Phase | None = None
    mesh_shape: Sequence[int] = (-1, 1, 1)
    seed: int = 0
    log_every: int = 20
    eval_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Finds at once what would be found after hours, when its turn came.

        Raises:
          UserError: `output_dir` cannot be written or overlaps with the data or the ancestor, there
            are no stages, two stages share a name, a mixture is unknown or for models of another
            kind, there is no ancestor or one too many, a phase has no tokens to train on or no
            instructions to tune on, controls train on another mixture than is recovered with,
            or a stage, its teacher, the seed or the data cannot be used.
        """
        object.__setattr__(self, "output_dir", str(local(self.output_dir)))
        check_output_folder(self.output_dir)
        questions = [self.data.questions] if self.data.questions else []
        for file in (*self.data.corpus, *self.data.instructions, *self.data.stores, *questions):
            reject_overlap(file, self.output_dir, "data of the pipeline")
        if not self.stages:
            raise UserError("the pipeline has no stages; give at least one Stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(f"stages need names of their own; found {', '.join(names)}.")
        if self.eval_every < 1:
            raise UserError(f"eval_every is {self.eval_every}; it must be at least 1.")
        object.__setattr__(self, "controls", self._named_controls())
        self._check_origin()
        model, plan, pieces = self._beginning()
        controls = self.recover_controls
        if controls is not None and controls.mixture != self.recover.mixture:
            raise UserError(
                f"recover_controls trains on {controls.mixture} and recover on "
                f"{self.recover.mixture}, whose losses cannot be compared; give both one mixture."
            )
        check_mixtures(self._mixtures, model)
        if self.tune is not None and self.tune.tokens < 1:
            raise UserError(f"tune trains on {self.tune.tokens} tokens; give its Phase some.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be at least 0.")
        check_data(self.data, self._mixtures)
        check_mesh(self.mesh_shape, self.data.batch_size)
        check_stages(self.stages, plan, pieces)
        check_teachers(self.stages, model)

    def _named_controls(self) -> list[str]:
        """The controls, in the order of the report.

        Raises:
          UserError: one is unknown, or has the name of a stage.
        """
        known = ", ".join(CONTROLS)
        if isinstance(self.controls, bool):
            raise UserError(f"controls is {self.controls}; list some of {known}, or none.")
        named = gin_values.several(self.controls)
        for name in named:
            if name not in CONTROLS:
                raise UserError(f"there is no control {name!r}; there are {known}.")
        if taken := [stage.name for stage in self.stages if stage.name in named]:
            raise UserError(f"the stage {taken[0]} has the name of a control; call it otherwise.")
        return [name for name in CONTROLS if name in named]

    def _check_origin(self) -> None:
        """Checks that the run has one ancestor, and text for all that it trains.

        Raises:
          UserError: it has none or two, or lacks text.
        """
        if self.ancestor:
            place, _ = model_folder.split_path(local(self.ancestor))
            reject_overlap(place, self.output_dir, "ancestor")
            for name in ("model", "pretrain"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"the run starts from ANCESTOR = {self.ancestor!r} and is given {name}, "
                        f"too; leave {name} out, or the ancestor."
                    )
        elif self.model is None or self.pretrain is None:
            raise UserError(
                "there is no ancestor: give model and pretrain, or name a model folder by ANCESTOR "
                "(gin/runs/native/compress.gin)."
            )
        elif self.pretrain.tokens < 1:
            raise UserError(
                f"pretrain trains on {self.pretrain.tokens} tokens; give its Phase some, or start "
                "from a model that is there, by ANCESTOR (gin/runs/native/compress.gin)."
            )
        elif self.data.stores:
            raise UserError(
                "token stores are of the tokenizer of an ancestor, and the run trains one of its "
                "own; give a corpus, or name a model by ANCESTOR."
            )
        if not self.data.corpus and not self.data.stores:
            raise UserError("there is no text; give CORPUS, or token stores of the ancestor.")
        if self.data.stores and any(stage.vocabulary is not None for stage in self.stages):
            raise UserError(
                f"the store {self.data.stores[0]} cannot be had in the smaller vocabulary of a "
                "stage; give the corpus instead of stores."
            )
        if self.tune is not None and not (self.data.instructions or self.data.stores):
            raise UserError("tune has no instructions; give INSTRUCTIONS, or leave tune out.")

    @functools.cached_property
    def _opened(self) -> Ancestor | None:
        """The ancestor that the run is given."""
        return open_ancestor(self.ancestor) if self.ancestor else None

    def _beginning(self) -> tuple[ModelConfig, Plan, int]:
        """The configuration of the ancestor, its plan, and the pieces of its vocabulary."""
        if self._opened is not None:
            opened = self._opened
            return opened.model.config, opened.plan, opened.vocabulary.piece_count
        assert self.model is not None
        plan = Plan.identity(model_of(self.model), "")
        return self.model, plan, self.data.vocabulary_size

    def settings(self, text: str) -> str:
        """What the folder keeps of its settings: the gin text, and which ancestor and questions."""
        more = ""
        if self._opened is not None:
            more += f"# ancestor: {self._opened.path}, {self._opened.identity()}\n"
        if digest := digest_of_questions(self.data):
            more += f"# questions: {self.data.questions}, {digest}\n"
        return f"{text.rstrip()}\n\n{more}" if more else text

    def run(self) -> str:
        """Does what is not done yet; returns the report as text.

        Raises:
          UserError: something in the settings or files cannot be used.
        """
        data, root = self.data, Path(self.output_dir)
        say = _clocked()
        say(told("preparing {files}", files=", ".join(map(str, data.corpus or data.stores))))
        vocabulary, corpora = self._corpora(root / "data")
        for mixture in self._mixtures:  # What the last training lacks is found before the first.
            corpora.batches(vocabulary, mixture).evaluation_batches(1)
        models = Models(
            root=root,
            corpora=corpora,
            ancestor=self._opened,
            pretrain=self.pretrain,
            recover=self.recover,
            tune=self.tune,
            mesh_shape=tuple(self.mesh_shape),
            seed=self.seed,
            log_every=self.log_every,
            eval_every=self.eval_every,
            checkpoint_every=self.checkpoint_every,
            say=say,
        )
        results = Results(models, gin_values.several(self.prompts))

        ancestor_steps = 0
        if self._opened is not None:
            models.take_ancestor()
        else:
            assert self.model is not None
            config = self.model.replace(vocab_size=vocabulary.size)
            config = config.with_lengths(data.encoder_length, data.decoder_length)
            ancestor_steps = models.train_ancestor(model_of(config), vocabulary).step
        models.tune_model(models.first)
        rows = [results.row(models.first, ancestor_steps, tuned=True)]
        curves = [results.curve(models.first, 0)]

        parent, recovery_steps = models.first, 0
        total = sum(data.steps(stage.recover_tokens) for stage in self.stages)
        for number, stage in enumerate(self.stages, start=1):
            window = ScheduleWindow(total, recovery_steps, number)
            steps = models.prune_and_recover(parent, stage, window)
            last = number == len(self.stages)
            if last:
                models.tune_model(stage.name)
            rows.append(results.row(stage.name, steps, parent=parent, tuned=last))
            curves.append(results.curve(stage.name, data.tokens(ancestor_steps + recovery_steps)))
            parent, recovery_steps = stage.name, recovery_steps + steps
        final = parent

        plain = dataclasses.replace(models, recover=self.recover_controls or self.recover)
        for name in self.controls:
            # As many steps as all stages took: their tokens are rounded up to whole steps.
            merged = dataclasses.replace(
                merge_stages(self.stages, name), recover_tokens=data.tokens(total)
            )
            whole, start = ScheduleWindow(total, part=1), data.tokens(ancestor_steps)
            if name != FROM_SCRATCH:
                by, cut = (models, merged) if name == ALL_AT_ONCE else (plain, at_random(merged))
                by.prune_and_recover(models.first, cut, whole)
            elif total:
                plain.train_from_scratch(final, merged, whole)
            else:  # Random parameters that nobody trains would be no comparison.
                continue
            models.tune_model(name)
            origin = None if name == FROM_SCRATCH else models.first
            rows.append(results.row(name, total, parent=origin, tuned=True, control=True))
            curves.append(results.curve(name, start, control=True))
        pieces = [stage.vocabulary for stage in self.stages if stage.vocabulary is not None]
        return results.report(rows, curves, final, pieces[-1] if pieces else None)

    def _corpora(self, folder: Path) -> tuple[Vocabulary, Corpora]:
        """The data of the run, and the vocabulary of its ancestor."""
        if self._opened is not None:
            corpora = Corpora(folder, self.data, self.seed)
            return corpora.adopt_tokenizer(self._opened.tokenizer), corpora
        assert self.model is not None
        format_there = family(self.model.family).huggingface
        kind = "t5" if format_there is not None and format_there.tokenizer == "t5" else "openba"
        corpora = Corpora(folder, self.data, self.seed, kind)
        return corpora.train_tokenizer(), corpora

    @property
    def _mixtures(self) -> set[str]:
        """All that is trained on."""
        recovered = {stage.recover_objective or self.recover.mixture for stage in self.stages}
        phases = [phase for phase in (self.pretrain, self.tune) if phase is not None]
        return {phase.mixture for phase in phases} | recovered


def _clocked() -> Callable[[str], None]:
    """Shows lines with the seconds since now."""
    began = time.monotonic()

    def say(text: str) -> None:
        seconds = time.monotonic() - began
        sys.stdout.write(f"{told('[{seconds:5.0f} s]', seconds=seconds)} {text}\n")
        sys.stdout.flush()

    return say
