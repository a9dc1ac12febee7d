"""A T5X trainer whose gradient accumulation weighs every target token the same."""

from __future__ import annotations

import functools
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
import optax
from t5x import trainer, utils

from openba_jax.t5x.model import batch_metrics, with_float_weights
from openba_jax.t5x.optimizer import ScheduledOptimizer
from openba_jax.training.train_step import summed_gradients


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
        **options: Any,
    ) -> None:
        """As T5X's.

        Args:
          *arguments: of T5X's trainer.
          num_microbatches: accumulation steps; None is 1.
          learning_rate_fn: not read, the schedule is inside the optimizer.
          **options: of T5X's trainer.
        """
        del learning_rate_fn
        super().__init__(
            *arguments, num_microbatches=num_microbatches, learning_rate_fn=None, **options
        )

    @functools.cached_property
    def _partitioned_train_step(self) -> trainer.PartitionedTrainCallable:
        model = self._model
        schedule = (
            model.optimizer_def.learning_rate
            if isinstance(model.optimizer_def, ScheduledOptimizer)
            else None
        )
        use_dropout = model.config.uses_dropout

        def train_step(train_state: Any, batch: Any) -> tuple[Any, trainer.MetricMapType]:
            batch = with_float_weights(batch)
            rng = self._get_step_rng(train_state.step) if use_dropout else None
            gradients, sums = summed_gradients(
                model.model, train_state.params, batch, rng, self._num_microbatches or 1
            )
            weight = sums["weight_sum"]
            # A batch without a single target gives zero gradients rather than NaN.
            scale = 1.0 / jnp.where(weight > 0, weight, 1.0)
            gradients = jax.tree.map(
                lambda g, p: (g * scale).astype(p.dtype), gradients, train_state.params
            )
            metrics = batch_metrics(sums["loss_sum"], sums, batch)
            metrics["grad_norm"] = _average(optax.tree.norm(gradients))
            if schedule is not None:
                metrics["learning_rate"] = _average(schedule(train_state.step))
            # The wrapped optimizer takes its rate from its own schedule.
            return train_state.apply_gradient(gradients, learning_rate=None), metrics

        return self._partitioner.partition(
            train_step,
            in_axis_resources=(self._train_state_axes, self._partitioner.data_partition_spec),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )


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
