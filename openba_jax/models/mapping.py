"""How a family says what its tensors are called elsewhere; read by `openba_jax.checkpoints`.

A table of `Row`s serves both directions. A row applies to a model that has its parameters, so that
biases and untied heads need no conditions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from openba_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Row:
    """One of their tensors, or one for each layer.

    Attributes:
      theirs: its name; `{n}` stands for the number of the layer.
      ours: paths of our parameters that it holds, in order; `layers` stands for the layer.
      layout: its axes, slowest first, merged ones in brackets, see `checkpoints.layout`.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: str


def norm(theirs: str, ours: str) -> list[Row]:
    """A layer norm, with scale and bias."""
    return [
        Row(f"{theirs}.weight", (f"{ours}/scale",), "embed"),
        Row(f"{theirs}.bias", (f"{ours}/bias",), "embed"),
    ]


def linear(theirs: str, ours: Iterable[str], outputs: str, inputs: str) -> list[Row]:
    """A torch linear layer: weight `[outputs, inputs]` and bias `[outputs]`."""
    ours = tuple(ours)
    return [
        Row(f"{theirs}.weight", tuple(f"{path}/kernel" for path in ours), f"{outputs} {inputs}"),
        Row(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours), outputs),
    ]


class Tensors(NamedTuple):
    """What the files of a checkpoint hold, for families that must look.

    Attributes:
      shapes: by name.
      dtypes: names of types by name.
      equal: whether two tensors hold the same bits.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    equal: Callable[[str, str], bool]


class HuggingFace(Protocol):
    """A family in Hugging Face's format.

    Attributes:
      model_types: what `model_type` of `config.json` may be.
      refused: relatives that it cannot read: `model_type` -> a sentence that says why.
      rows: its tensors.
    """

    model_types: Sequence[str]
    refused: Mapping[str, str]
    rows: Sequence[Row]

    def read_config(self, fields: Mapping[str, Any], tensors: Tensors) -> ModelConfig:
        """The configuration that `config.json` and the tensors describe.

        Raises:
          UserError: a field or a tensor is missing, or they contradict each other.
        """

    def copies(self, config: ModelConfig) -> Mapping[str, str]:
        """Tensors that may be there as copies of others: name -> name of the other."""

    def written_copies(self, config: ModelConfig) -> Mapping[str, str]:
        """Those of the copies that the family's own code needs."""

    def config_fields(self, config: ModelConfig, weight_type: str) -> dict[str, Any]:
        """`config.json` of a configuration.

        Raises:
          UserError: the format cannot express the model.
        """

    def generation_fields(self, config: ModelConfig) -> dict[str, Any]:
        """`generation_config.json` of a configuration."""


class Megatron(Protocol):
    """A family in Megatron's format.

    Attributes:
      rows: its tensors; `/` stands between the levels of the nested dictionaries.
      buffer: end of the names of what is stored beside weights in every layer.
    """

    rows: Sequence[Row]
    buffer: str

    def read_config(self, arguments: Mapping[str, Any], tensors: Tensors) -> ModelConfig:
        """The configuration that the training arguments and the tensors describe.

        Raises:
          UserError: an argument or a tensor is missing, or they contradict each other.
        """

    def arguments(self, config: ModelConfig, carried: Mapping[str, Any]) -> dict[str, Any]:
        """The training arguments of a configuration.

        Raises:
          UserError: the format cannot express the model.
        """

    def buffers(self, config: ModelConfig) -> Mapping[str, Any]:
        """Values (float32 arrays) to write beside the weights, by name."""
