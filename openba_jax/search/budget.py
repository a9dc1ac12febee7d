"""What a model may cost: one limit, in parameters, bytes, FLOPs or time."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.models.counting import parameter_bytes, train_flops_per_example
from openba_jax.search.grid import Grid, Kept
from openba_jax.staged.settings import Data

PARAMETERS, BYTES = "parameters", "bytes"
FLOPS, MILLISECONDS = "flops_per_example", "milliseconds_per_token"
KINDS = (PARAMETERS, BYTES, FLOPS, MILLISECONDS)


@dataclasses.dataclass(frozen=True)
class Budget:
    """One limit on what a model costs; the others are None.

    Attributes:
      parameters: number of parameters; below 1: as a share of the ancestor's.
      bytes: of all parameters in `dtype`; below 1: as a share of the ancestor's.
      dtype: of `bytes`.
      flops_per_example: of training on one example of the data's lengths, as in all reports; below
        1: as a share of the ancestor's.
      milliseconds_per_token: of greedy decoding on this device, measured (`search.speed`).
    """

    parameters: float | None = None
    bytes: float | None = None
    dtype: str = "bfloat16"
    flops_per_example: float | None = None
    milliseconds_per_token: float | None = None

    def __post_init__(self) -> None:
        """Checks that there is one limit, and that it can be one.

        Raises:
          UserError: there is none or more than one, it is no number above 0, or `dtype` is no type.
        """
        given = {kind: value for kind in KINDS if (value := getattr(self, kind)) is not None}
        if len(given) != 1:
            named = " and ".join(given) or "none of them"
            raise UserError(f"a budget is one of {', '.join(KINDS)}; there is {named}.")
        if not 0 < self.limit < math.inf:
            raise UserError(f"the budget is {self.limit} {self.kind}; give a number above 0.")
        try:
            jnp.dtype(self.dtype)
        except TypeError as error:
            raise UserError(
                f"the dtype of the budget is {self.dtype!r}, which is no type; give bfloat16, say."
            ) from error

    @property
    def kind(self) -> str:
        """Which of `KINDS` is limited."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def limit(self) -> float:
        """The number as it was given."""
        return float(getattr(self, self.kind))

    def limit_for(self, whole: float) -> float:
        """The limit where the ancestor costs `whole`.

        Raises:
          UserError: the ancestor is within it.
        """
        share = self.kind != MILLISECONDS and self.limit < 1
        limit = whole * self.limit if share else self.limit
        if limit >= whole:
            raise UserError(
                f"the budget is {self.show(limit)}, and the ancestor has {self.show(whole)}: "
                "nothing has to be cut."
            )
        return limit

    def cost(self, model: Model, data: Data) -> float:
        """What a model costs, unless that is measured."""
        if self.kind == BYTES:
            return parameter_bytes(model, self.dtype)
        if self.kind == FLOPS:
            return flops(model, data)
        return model.axes.count()

    def costs(self, grid: Grid, kept: Kept, data: Data) -> np.ndarray:
        """What every shape of a grid costs; FLOPs of a token of an answer where time is limited."""
        if self.kind == MILLISECONDS:
            return grid.interpolated(lambda model: token_flops(model, data), kept)
        if self.kind == FLOPS:
            return grid.interpolated(lambda model: flops(model, data), kept)
        itemsize = parameter_bytes(grid.model, self.dtype) // grid.model.axes.count()
        return grid.parameters() * (itemsize if self.kind == BYTES else 1)

    def show(self, cost: float) -> str:
        """A cost in words."""
        if self.kind == MILLISECONDS:
            return f"{cost:.3g} milliseconds per token"
        if self.kind == FLOPS:
            return f"{cost / 1e9:.4g} GFLOP per example"
        return f"{round(cost):,} {self.kind}"


def flops(model: Model, data: Data) -> float:
    """FLOPs of training on an example."""
    return train_flops_per_example(model, data.encoder_length, data.decoder_length)


def token_flops(model: Model, data: Data) -> float:
    """FLOPs of a token of an answer, with its share of reading the input."""
    step = model.decode_flops(data.encoder_length, data.decoder_length // 2)
    return step + model.forward_flops(data.encoder_length, data.decoder_length) / (
        data.decoder_length
    )
