"""What a criterion is, and the registry of all.

A criterion is given a model to look at and returns scores by key of the model's axes. What to keep
is decided in `pruning.selection`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, AxisTable, Leaf, axis_of, flatten, unflatten
from openba_jax.models.base import Model, Params
from openba_jax.parallel import sharding
from openba_jax.pruning.calibration import Calibration

Scores = dict[str, np.ndarray]
"""By key: float64 `[size]` for layers and for axes that all layers share, else `[layers, size]`."""

ReadLeaf = Callable[[Leaf], Any]
"""The values of a leaf: anything that `np.asarray` takes, axes as in `model.axes.paths`."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that is looked at.

    Attributes:
      model: the model.
      read: reads its parameters.
      text: what it is looked at with; None: there is none.
    """

    model: Model
    read: ReadLeaf
    text: Calibration | None = None

    @property
    def axes(self) -> AxisTable:
        """The model's axes."""
        return self.model.axes

    @property
    def calibration(self) -> Calibration:
        """Its text.

        Raises:
          UserError: there is none.
        """
        if self.text is None:
            raise UserError("this needs text to look at the model with; give calibration batches.")
        return self.text

    @functools.cached_property
    def scanned(self) -> Model:
        """The model as it is run: layers stacked, parameters in float32."""
        return self.model.replace(scan_layers=True, param_dtype="float32")

    @functools.cached_property
    def shardings(self) -> dict[str, Any]:
        """Where the parameters of `scanned` lie on the mesh of the text, by path."""
        tree = sharding.param_shardings(
            self.scanned.logical_axes(), self.scanned.abstract_params(), self.calibration.mesh
        )
        return flatten(tree)

    @functools.cached_property
    def params(self) -> Params:
        """The parameters of `scanned` on the mesh, in float32; one at a time is on the host.

        Raises:
          UserError: a value is not finite.
        """
        placed = {}
        for path, place in self.shardings.items():
            layers = self.axes.layers(path)
            read = [np.asarray(self.read(Leaf(path, layer)), np.float32) for layer in layers]
            whole = read[0] if layers == [None] else np.stack(read)
            if not np.isfinite(whole).all():
                raise UserError(
                    f"{path} holds NaN or infinite values; prune a checkpoint that has none."
                )
            placed[path] = jax.make_array_from_callback(whole.shape, place, whole.__getitem__)
        return unflatten(placed)

    def on_mesh(self, function: Callable[[Params, Any], Any]) -> Callable[[Params, Any], Any]:
        """Compiles a function of parameters and a batch, whose results every device has whole."""
        mesh = self.calibration.mesh
        return sharding.jit_on_mesh(
            function,
            mesh,
            in_shardings=(unflatten(self.shardings), sharding.batch_sharding(mesh)),
            out_shardings=sharding.replicated(mesh),
        )


class Criterion(Protocol):
    """Scores a model."""

    def __call__(self, subject: Subject, keys: Collection[str]) -> Scores:
        """Scores; the higher, the more an index matters.

        Args:
          subject: the model.
          keys: what to score.

        Raises:
          UserError: a parameter is not finite, text is missing, or a key is not one that the
            criterion can score.
        """


RANDOM = "random"
"""The method that draws instead of scoring, as the original."""

CRITERIA: dict[str, Criterion] = {}

WITHOUT_TEXT = {RANDOM}
"""Methods that look at parameters alone, or at nothing."""


OF_LAYERS: set[str] = set()
"""Criteria that score layers alone."""

OF_WIDTH: set[str] = set()
"""Criteria that score everything but layers."""


def criterion(
    name: str, *, looks_at_text: bool = True, layers: bool = True, width: bool = True
) -> Callable[[Criterion], Criterion]:
    """Registers a criterion under a name.

    Args:
      name: of the criterion.
      looks_at_text: whether it needs calibration batches.
      layers: whether it scores layers.
      width: whether it scores what is in layers, and channels.

    Raises:
      UserError: the name is taken.
    """

    def register(function: Criterion) -> Criterion:
        if name == RANDOM or CRITERIA.get(name, function) is not function:
            raise UserError(f"a criterion {name!r} is known already; choose another name.")
        CRITERIA[name] = function
        if not looks_at_text:
            WITHOUT_TEXT.add(name)
        if not width:
            OF_LAYERS.add(name)
        if not layers:
            OF_WIDTH.add(name)
        return function

    return register


def score_shape(axes: AxisTable, key: str) -> tuple[int, ...]:
    """The shape of the scores of a key, see `Scores`."""
    of_layers = axes.layers_key(key)
    return (axes.sizes[key],) if of_layers is None else (axes.sizes[of_layers], axes.sizes[key])


def check_keys(name: str, keys: Collection[str]) -> None:
    """Checks that a criterion scores what it is asked for.

    Raises:
      UserError: it scores layers alone, or none, and is asked for others.
    """
    for key in keys:
        if name in OF_LAYERS and axis_of(key) != LAYERS:
            raise UserError(
                f"{name} scores layers, and {key} is none; choose another criterion for it."
            )
        if name in OF_WIDTH and axis_of(key) == LAYERS:
            raise UserError(
                f"{name} scores no layers, and {key} are some; use block_influence or taylor."
            )


def check_scores(name: str, scores: Mapping[str, np.ndarray]) -> None:
    """Checks that scores are numbers.

    Raises:
      UserError: one is not finite.
    """
    for key, values in scores.items():
        if not np.isfinite(values).all():
            raise UserError(f"the scores of {key} by {name} are not finite; look at the weights.")
