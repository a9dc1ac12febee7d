"""`Distillation`: which teacher a run has, and what it minimises besides cross entropy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from openba_jax.distillation.divergences import divergence
from openba_jax.errors import UserError

Schedule = Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
"""(step, from 0) -> value, as optax's schedules."""

HIDDEN_LAYERS = ("all", "last")
TEACHER_DTYPES = ("bfloat16", "float32")

_STEPS_COMPARED = (0, *(10**n for n in range(7)), *(3 * 10**n for n in range(7)))
"""Two schedules are taken for the same if they agree at these steps."""


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a run is distilled from, and how.

    A step minimises, per target token and in nats,

        (1 - w) CE + w T^2 D(teacher / T, student / T) + h H

    with cross entropy CE, divergence D at temperature T and weight w; H is the mean squared
    difference of the residual streams, as a share of the mean square of the teacher's.

    Attributes:
      teacher: a checkpoint of any format: a model folder, or `DIR/checkpoints/<step>` in one; those
        of other formats are read through the memory of the host.
      divergence: a name of `distillation.divergences.DIVERGENCES`.
      temperature: divides the logits of both; above 0.
      weight: w, from 0 to 1, or a schedule of it.
      hidden_weight: h, at least 0, or a schedule of it; 0: hidden states are not compared.
      hidden_layers: `"all"`: the stream after each layer of the student; `"last"`: of each stack
        after its last layer.
      teacher_dtype: type in which the parameters of the teacher are held, `"bfloat16"` or
        `"float32"`. It computes in the compute type of the student.
    """

    teacher: str
    divergence: str = "forward_kl"
    temperature: float = 1.0
    weight: float | Schedule = 0.5
    hidden_weight: float | Schedule = 0.0
    hidden_layers: str = "all"
    teacher_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        """Checks each value by itself; nothing is read.

        Raises:
          UserError: one is not what it should be.
        """
        divergence(self.divergence)
        _check_number("temperature", self.temperature)
        if not self.temperature > 0:
            raise UserError(
                f"the temperature of the distillation is {self.temperature}; it must be above 0."
            )
        _check_range("weight", self.weight, 1.0)
        _check_range("hidden weight", self.hidden_weight, math.inf)
        for name, known in (("hidden_layers", HIDDEN_LAYERS), ("teacher_dtype", TEACHER_DTYPES)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} of the distillation is {getattr(self, name)!r}; it must be "
                    f"{known[0]!r} or {known[1]!r}."
                )

    @property
    def compares_hidden(self) -> bool:
        """Whether hidden states are compared."""
        return callable(self.hidden_weight) or self.hidden_weight > 0

    def of_length(self, steps: int) -> Distillation:
        """The settings for a run of so many steps: weights that move over all of them do so."""
        return dataclasses.replace(
            self,
            weight=_of_length(self.weight, steps),
            hidden_weight=_of_length(self.hidden_weight, steps),
        )

    def identity(self) -> dict[str, Any]:
        """What the loss depends on besides the teacher, ready for JSON."""
        identity = {
            "divergence": self.divergence,
            "temperature": self.temperature,
            "weight": _known_by(self.weight),
            "teacher_dtype": self.teacher_dtype,
        }
        if self.compares_hidden:
            identity["hidden_weight"] = _known_by(self.hidden_weight)
            identity["hidden_layers"] = self.hidden_layers
        return identity


@dataclasses.dataclass(frozen=True)
class Moving:
    """A weight that goes from `start` to `end` and then stays.

    Equal ones are one key of compiled programs.

    Attributes:
      start: at step 0.
      end: from step `steps` on.
      steps: how long it moves; None: over all steps of the run, which has to say how many.
      shape: name of the way, `linear` or `cosine`.
    """

    start: float
    end: float
    steps: int | None
    shape: str

    def __post_init__(self) -> None:
        """Checks the steps.

        Raises:
          UserError: there is none.
        """
        if self.steps is not None and self.steps < 1:
            raise UserError(f"a weight cannot change in {self.steps} steps; give at least 1.")

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """The weight at a step, float32.

        Raises:
          UserError: the run did not say how many steps it has.
        """
        if self.steps is None:
            raise UserError(
                "a weight of the distillation moves over all steps of the run, and how many those "
                "are is not known here; give the steps of its schedule."
            )
        share = jnp.clip(jnp.asarray(step, jnp.float32) / self.steps, 0.0, 1.0)
        way = share if self.shape == "linear" else 0.5 - 0.5 * jnp.cos(jnp.pi * share)
        return self.start + (self.end - self.start) * way


def linear_weight(start: float, end: float, steps: int | None = None) -> Moving:
    """A weight that goes from `start` to `end` in so many steps, or in all, on a line.

    Raises:
      UserError: `steps` is below 1.
    """
    return Moving(start, end, steps, "linear")


def cosine_weight(start: float, end: float, steps: int | None = None) -> Moving:
    """A weight that goes from `start` to `end` in so many steps, or in all, on half a cosine.

    Raises:
      UserError: `steps` is below 1.
    """
    return Moving(start, end, steps, "cosine")


def value_at(weight: float | Schedule, step: jax.typing.ArrayLike) -> jax.Array:
    """A weight at a step, float32 scalar."""
    return jnp.asarray(weight(step) if callable(weight) else weight, jnp.float32)


def _of_length(weight: float | Schedule, steps: int) -> float | Schedule:
    if isinstance(weight, Moving) and weight.steps is None:
        return dataclasses.replace(weight, steps=steps)
    return weight


def _known_by(weight: float | Schedule) -> Any:
    """A number, or the values of a schedule, for comparison with those of another run."""
    if not callable(weight):
        return weight
    if isinstance(weight, Moving) and weight.steps is None:
        return {"of_all_steps": [weight.start, weight.end, weight.shape]}
    return {str(step): float(value_at(weight, step)) for step in sorted(_STEPS_COMPARED)}


def _check_range(name: str, weight: float | Schedule, most: float) -> None:
    of_run = _of_length(weight, max(_STEPS_COMPARED))
    values: list[Any] = list(_known_by(of_run).values()) if callable(of_run) else [weight]
    for value in values:
        _check_number(name, value)
        if not 0 <= value <= most:
            bound = "at least 0" if most == math.inf else f"from 0 to {most:g}"
            raise UserError(f"the {name} of the distillation is {value}; it must be {bound}.")


def _check_number(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise UserError(f"the {name} of the distillation is {value!r}; it must be a finite number.")
