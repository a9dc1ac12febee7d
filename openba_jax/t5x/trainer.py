"""A T5X trainer whose gradient accumulation weighs every target token the same."""

from __future__ import annotations

import functools
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import optax
from t5x import trainer, utils

from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.distillation.descent import Party
from openba_jax.distillation.settings import Distillation
from openba_jax.distillation.teacher import prepare
from openba_jax.models.base import Model
from openba_jax.paths import local
from openba_jax.pruning.saved_plan import plan_of
from openba_jax.t5x.model import batch_metrics, with_float_weights
from openba_jax.t5x.optimizer import ScheduledOptimizer
from openba_jax.training.train_step import CROSS_ENTROPY, StepLoss, summed_gradients


class Trainer(trainer.Trainer):
    """T5X's trainer with the native runner's step.

    T5X's own adds up the *means* of the micro-batches, so that with two of them gradients are twice
    as long, and a token counts the more the fewer are in its micro-batch. Here losses and gradients
    are summed and divided once.
    """

    def __init__(
        self,
        *arguments: Any,
        num_microbatches: int | None = None,
        learning_rate_fn: trainer.LearningRateCallable | None = None,
        distillation: Distillation | None = None,
        student: str | None = None,
        tokenizer: str | None = None,
        **options: Any,
    ) -> None:
        """As T5X's.

        Args:
          *arguments: of T5X's trainer.
          num_microbatches: accumulation steps; None is 1.
          learning_rate_fn: not read, the schedule is inside the optimizer.
          distillation: the teacher, and what is minimised besides cross entropy.
          student: the checkpoint that the run starts from, whose pruning plan says what the model
            keeps of its teacher.
          tokenizer: the file of the model's tokenizer, to be compared with the teacher's.
          **options: of T5X's trainer.

        Raises:
          UserError: the model cannot learn from the teacher.
        """
        del learning_rate_fn
        super().__init__(
            *arguments, num_microbatches=num_microbatches, learning_rate_fn=None, **options
        )
        self._loss: StepLoss = CROSS_ENTROPY
        self._constants: tuple[Any, ...] = ()
        if distillation is not None:
            party = _student(self._model.model, student, tokenizer)
            mesh = self._partitioner.mesh
            self._loss, self._constants, _ = prepare(distillation, party, mesh)

    @functools.cached_property
    def _partitioned_train_step(self) -> trainer.PartitionedTrainCallable:
        model = self._model
        schedule = (
            model.optimizer_def.learning_rate
            if isinstance(model.optimizer_def, ScheduledOptimizer)
            else None
        )
        use_dropout = model.config.uses_dropout

        def train_step(
            train_state: Any, batch: Any, *constants: Any
        ) -> tuple[Any, trainer.MetricMapType]:
            batch = with_float_weights(batch)
            rng = self._get_step_rng(train_state.step) if use_dropout else None
            gradients, sums = summed_gradients(
                model.model,
                train_state.params,
                batch,
                rng,
                self._num_microbatches or 1,
                self._loss,
                train_state.step,
                constants,
            )
            weight = sums["weight_sum"]
            # A batch without a single target gives zero gradients rather than NaN.
            scale = 1.0 / jnp.where(weight > 0, weight, 1.0)
            gradients = jax.tree.map(
                lambda g, p: (g * scale).astype(p.dtype), gradients, train_state.params
            )
            metrics = batch_metrics(sums["loss_sum"], sums, batch)
            for name in sums.keys() - {"loss_sum", "weight_sum", "correct_sum"}:
                mean = clu.metrics.Average(total=sums[name], count=weight)
                metrics[name.removesuffix("_sum")] = mean
            metrics["grad_norm"] = _average(optax.tree.norm(gradients))
            if schedule is not None:
                metrics["learning_rate"] = _average(schedule(train_state.step))
            # The wrapped optimizer takes its rate from its own schedule.
            return train_state.apply_gradient(gradients, learning_rate=None), metrics

        specs = jax.tree.map(lambda leaf: leaf.sharding.spec, self._constants)
        step = self._partitioner.partition(
            train_step,
            in_axis_resources=(
                self._train_state_axes,
                self._partitioner.data_partition_spec,
                *specs,
            ),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )
        return _With(step, self._constants) if self._constants else step


class _With:
    """A step, or a stage of its compilation, that is given constants behind its arguments."""

    def __init__(self, stage: Any, constants: tuple[Any, ...]) -> None:
        self._stage, self._constants = stage, constants

    def __call__(self, *arguments: Any) -> Any:
        return self._stage(*arguments, *self._constants)

    def lower(self, *arguments: Any) -> _With:
        return _With(self._stage.lower(*arguments, *self._constants), self._constants)

    def compile(self) -> _With:
        return _With(self._stage.compile(), self._constants)


def _student(model: Model, source: str | None, tokenizer: str | None) -> Party:
    """What learns, with the plan of the checkpoint that it starts from."""
    plan = None
    if source is not None:
        place = local(source)
        plan = plan_of(open_checkpoint(place), place)
    name = f"the model of {source}" if source else "the model"
    return Party(model, plan, None if tokenizer is None else local(tokenizer), name)


def _average(value: jax.Array) -> clu.metrics.Metric:
    return clu.metrics.Average.from_model_output(jnp.asarray(value)[None])


def evaluation_dataset(eval_steps: int, **fields: Any) -> utils.DatasetConfig | None:
    """The held-out examples of the tasks, in their order; None where `eval_steps` is 0.

    Args:
      eval_steps: batches per evaluation.
      **fields: of T5X's `DatasetConfig`.
    """
    if not eval_steps:
        return None
    return utils.DatasetConfig(
        split="validation",
        shuffle=False,
        seed=0,
        use_cached=False,
        module="openba_jax.seqio",
        **fields,
    )
