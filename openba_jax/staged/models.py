"""The models of a staged run: each is a folder, made by training, or by a cut and training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import optax

from openba_jax.checkpoints import model_folder
from openba_jax.data.loader import BatchLoader
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.evaluation.loss import LossOnBatches, local_rows
from openba_jax.files import write_json
from openba_jax.inference import loading
from openba_jax.language import told
from openba_jax.models.base import Model
from openba_jax.objectives.mixture import Mixture
from openba_jax.parallel import sharding
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.calibration import Calibration
from openba_jax.pruning.stages import Stage
from openba_jax.staged.ancestor import Ancestor
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.settings import OPTIMIZERS, Phase
from openba_jax.training import adaptation, optimizer, trainer
from openba_jax.training.trainer import TrainResult

PRETRAIN = "pretrain"
"""The ancestor, where a run trains one."""

ANCESTOR = "ancestor"
"""The ancestor, where a run is given one; and, of a teacher, the ancestor in either case."""

BEFORE = "before"
OWN_TEACHERS = (ANCESTOR, BEFORE)
"""Of a teacher: the model that is cut."""

FROM_SCRATCH = "from_scratch"

CALIBRATION_PART = 1000
"""Parts from here on are what cuts look at: the text of the training, in orders of their own."""


class ScheduleWindow(NamedTuple):
    """Where a training stands in its phase, in steps.

    All recoveries are one phase, as if no cut were between them: the learning rate goes on falling
    from stage to stage, and no stage trains on the batches of another. A schedule for each stage
    would anneal the model to its minimum before every cut, and a staged run would see less of the
    corpus than the control, which trains as long without a break.

    Attributes:
      total: of the phase.
      before: of the stages before.
      part: number of the stage, from 1; 0 outside of recovery.
    """

    total: int
    before: int = 0
    part: int = 0


def learning_rate(phase: Phase, window: ScheduleWindow) -> optax.Schedule:
    """The schedule of a training, from its own step 0 on: the cosine of its phase, warmed up."""
    cosine = optimizer.warmup_cosine(phase.peak, phase.minimum, 0, window.total)
    ramp = optimizer.warmup_constant(1.0, round(window.total * phase.warmup_share))

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        return cosine(window.before + step) * ramp(step)

    return rate


def pruned_name(name: str) -> str:
    """The model of a stage right after its cut."""
    return f"{name}.pruned"


def tuned_name(name: str) -> str:
    """A model after instruction tuning."""
    return f"{name}.tuned"


@dataclasses.dataclass(frozen=True)
class Models:
    """Makes models; what is there already is left as it is.

    Attributes:
      root: folder of the run.
      corpora: its data.
      ancestor: the checkpoint that the run starts from; None: it trains one.
      pretrain: how the ancestor is trained, unless one is given.
      recover: how pruned models are trained.
      tune: how models are tuned on instructions; None: they are not.
      mesh_shape: data, fsdp, model.
      seed: of parameters and dropout.
      log_every: steps.
      eval_every: steps between evaluations of a recovery.
      checkpoint_every: steps.
      say: shows a line.
      evaluated_on: mixture that all recoveries are evaluated on; empty: each on its own.
      scores: a file of scores of the ancestor to cut it by; None: they are computed for each cut.
    """

    root: Path
    corpora: Corpora
    ancestor: Ancestor | None
    pretrain: Phase | None
    recover: Phase
    tune: Phase | None
    mesh_shape: tuple[int, ...]
    seed: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    say: Callable[[str], None]
    evaluated_on: str = ""
    scores: Path | None = None

    @property
    def first(self) -> str:
        """The name of the ancestor."""
        return PRETRAIN if self.ancestor is None else ANCESTOR

    def folder(self, name: str) -> Path:
        """The checkpoint of a name: a model folder, or one checkpoint in a given ancestor."""
        if name == ANCESTOR and self.ancestor is not None and self.ancestor.native:
            return self.ancestor.path
        return self.root / "models" / name

    def home(self, name: str) -> Path:
        """The model folder of a name."""
        return model_folder.split_path(self.folder(name))[0]

    def model(self, name: str) -> Model:
        """The model of a name; its parameters are not read."""
        return model_folder.load_model(self.home(name))

    def vocabulary(self, name: str) -> Vocabulary:
        """The vocabulary of a model.

        Raises:
          UserError: the model has no tokenizer.
        """
        path = model_folder.tokenizer_path(self.home(name))
        if path is None:
            raise UserError(f"{self.folder(name)} has no tokenizer.")
        return self.corpora.home(path)

    def take_ancestor(self) -> None:
        """Makes a model folder of an ancestor of another format, and measures its loss."""
        assert self.ancestor is not None
        if model_folder.latest_step(self.home(ANCESTOR)) is None:
            self.say(told("converting {path}", path=self.ancestor.path))
            self.ancestor.convert(self.folder(ANCESTOR))
        self.measure(ANCESTOR, self.recover.mixture)

    def measure(self, name: str, mixture: str) -> None:
        """Measures the loss of a model that the run does not train, to `losses/NAME.json`."""
        path = self.losses(name)
        if path.exists():
            return
        self.say(told("measuring {name}", name=name))
        batches = self.corpora.batches(self.vocabulary(name), mixture)
        mesh = sharding.make_mesh(self.mesh_shape)
        fixed = batches.evaluation_batches(
            self.corpora.data.eval_batches, rows=local_rows(mesh, batches.batch_size)
        )
        placed = loading.load(self.folder(name), self.mesh_shape)
        evaluate = LossOnBatches(placed.model, mesh, fixed, batches.batch_size)
        write_json(path, evaluate(placed.params))

    def losses(self, name: str) -> Path:
        """Where `measure` writes."""
        return self.root / "losses" / f"{name}.json"

    def train_ancestor(self, model: Model, vocabulary: Vocabulary) -> TrainResult:
        """Pretrains the model that will be pruned."""
        assert self.pretrain is not None
        batches = self.corpora.batches(vocabulary, self.pretrain.mixture)
        steps = self.corpora.data.steps(self.pretrain.tokens)
        return self._train(
            PRETRAIN,
            model,
            batches,
            self.pretrain,
            steps,
            ScheduleWindow(steps),
            vocabulary=vocabulary,
        )

    def prune_and_recover(self, parent: str, stage: Stage, window: ScheduleWindow) -> int:
        """Cuts a model as a stage says, and trains what is left or, without tokens, measures it.

        Returns:
          The steps of training.
        """
        mixture = self.evaluated_on or stage.recover_objective or self.recover.mixture
        steps = self.corpora.data.steps(stage.recover_tokens)
        pruned = self.prune(parent, stage, window.part)
        if not steps:
            self.measure(stage.name, mixture)
            return 0
        return self._train(
            stage.name,
            self.model(pruned),
            self._recovery_batches(self.vocabulary(pruned), stage, window),
            self.recover,
            steps,
            window,
            initial=pruned,
            distillation=self._distillation(stage, parent),
            eval_every=self.eval_every,
        ).step

    def prune(self, parent: str, stage: Stage, part: int) -> str:
        """Cuts a model as a stage says, unless that is done.

        Args:
          parent: name of the model.
          stage: what is cut.
          part: number of the stage; what criteria look at is another text for each.

        Returns:
          The name of what is left: that of the stage if nothing is trained.
        """
        pruned = pruned_name(stage.name) if stage.recover_tokens else stage.name
        if model_folder.latest_step(self.folder(pruned)) is None:
            self.say(told("pruning {parent} to {child}", parent=parent, child=stage.name))
            prune_checkpoint(
                self.folder(parent),
                self.folder(pruned),
                stage,
                counts=self.corpora.token_counts(self.vocabulary(parent)),
                calibration=self.calibration(parent, stage, part),
                scores=self.scores,
                progress=True,
            )
        return pruned

    def calibration(self, parent: str, stage: Stage, part: int) -> Calibration | None:
        """The text that a cut looks at, if it looks at any."""
        if not stage.looks_at_text:
            return None
        window = ScheduleWindow(0, part=CALIBRATION_PART + part)
        batches = self._recovery_batches(self.vocabulary(parent), stage, window)
        mesh = sharding.make_mesh(self.mesh_shape)
        rows = local_rows(mesh, batches.batch_size)
        count = stage.calibration_batches
        return Calibration(
            [batches.batch(step, rows) for step in range(count)],
            batches.batch_size,
            mesh,
            source={"batches": count, "data": batches.identity()},
        )

    def _distillation(self, stage: Stage, parent: str) -> Distillation | None:
        """How a stage learns from a teacher, with the folder of the teacher."""
        if stage.distillation is None:
            return None
        teachers = {ANCESTOR: self.first, BEFORE: parent}
        named = stage.distillation.teacher
        teacher = str(self.folder(teachers[named])) if named in teachers else named
        return dataclasses.replace(stage.distillation, teacher=teacher)

    def train_from_scratch(self, final: str, stage: Stage, window: ScheduleWindow) -> TrainResult:
        """Trains the shape of a model from random parameters, as a stage recovers."""
        vocabulary = self.vocabulary(final)
        return self._train(
            FROM_SCRATCH,
            self.model(final),
            self._recovery_batches(vocabulary, stage, window),
            self.recover,
            self.corpora.data.steps(stage.recover_tokens),
            window,
            vocabulary=vocabulary,
            eval_every=self.eval_every,
        )

    def tune_model(self, name: str) -> None:
        """Tunes a model on instructions, to `tuned_name`, if the run tunes."""
        if self.tune is None:
            return
        steps = self.corpora.data.steps(self.tune.tokens)
        self._train(
            tuned_name(name),
            self.model(name),
            self.corpora.batches(self.vocabulary(name), self.tune.mixture),
            self.tune,
            steps,
            ScheduleWindow(steps),
            initial=name,
        )

    def _recovery_batches(
        self, vocabulary: Vocabulary, stage: Stage, window: ScheduleWindow
    ) -> BatchLoader:
        mixture = stage.recover_objective or self.recover.mixture
        return self.corpora.batches(vocabulary, mixture, window.part, self.evaluated_on)

    def _train(
        self,
        name: str,
        model: Model,
        batches: BatchLoader,
        phase: Phase,
        steps: int,
        window: ScheduleWindow,
        initial: str | None = None,
        vocabulary: Vocabulary | None = None,
        distillation: Distillation | None = None,
        eval_every: int | None = None,
    ) -> TrainResult:
        """Trains a model folder to its end: from another model, or anew with a vocabulary."""
        moving = None
        if batches.mixture.rule is not None:
            moving = adaptation.Adaptation(batches.mixture, self._target_losses(batches.mixture))
            eval_every = eval_every or self.checkpoint_every
        self.say(told("training {name}: {steps} steps", name=name, steps=steps))
        return trainer.train(
            model_dir=str(self.folder(name)),
            model=model,
            batches=batches,
            optimizer=OPTIMIZERS[phase.optimizer](
                learning_rate(phase, window), weight_decay=phase.weight_decay
            ),
            train_steps=steps,
            eval_batches=self.corpora.data.eval_batches,
            initial_model=None if initial is None else str(self.folder(initial)),
            tokenizer=None if vocabulary is None else str(vocabulary.path),
            mesh_shape=self.mesh_shape,
            seed=self.seed,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            eval_every=eval_every,
            adaptation=moving,
            distillation=distillation,
            max_to_keep=1,
        )

    def _target_losses(self, mixture: Mixture) -> dict[str, float]:
        """What D-UL2 aims at: the losses of the ancestor, measured once."""
        path = self.root / "target_losses.json"
        if not path.exists():
            self.say(told("measuring the target losses of the denoisers"))
            losses = adaptation.measured_losses(
                str(self.folder(self.first)),
                mixture,
                self.corpora.batches(self.vocabulary(self.first), mixture.name),
                sharding.make_mesh(self.mesh_shape),
                self.corpora.data.eval_batches,
            )
            adaptation.write_target_losses(path, losses)
        return adaptation.read_target_losses(path)
