"""The native runner's optimizers under T5X's `OptimizerDef`."""

from __future__ import annotations

from t5x import optimizers

from openba_jax.training.optimizer import Optimizer


class ScheduledOptimizer(optimizers.OptaxWrapper):
    """T5X's wrapper around optax, which knows the schedule that is inside.

    `OptaxWrapper` ignores the learning rate that T5X's trainer hands it, so the schedule is part of
    the transformation, and `openba_jax.t5x.trainer` logs it from here. `derive_logical_axes`, by
    which T5X shards the moments as the parameters, knows every state that `adamw` is made of.

    Attributes:
      learning_rate: maps the step to the rate.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """Wraps what `openba_jax.training.optimizer` made."""
        super().__init__(optimizer.transformation)
        self.learning_rate = optimizer.learning_rate
