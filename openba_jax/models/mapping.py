"""How a family says what its tensors are called elsewhere; read by `openba_jax.checkpoints`.

A table of `Row`s serves both directions. A row applies to a model that has its parameters, with its
axes, so that biases, untied heads and grouped queries need no conditions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from openba_jax.errors import UserError
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
      buffers: pattern of the names of constants that may be stored beside them; empty: none.
      tokenizer: the kind of its vocabularies, as `data.vocabularies.registry.KINDS` calls it.
    """

    model_types: Sequence[str]
    refused: Mapping[str, str]
    rows: Sequence[Row]
    buffers: str
    tokenizer: str

    def read_config(self, fields: Mapping[str, Any], tensors: Tensors) -> ModelConfig:
        """The configuration that `config.json` and the tensors describe.

        Raises:
          UserError: a field or a tensor is missing, or they contradict each other.
        """

    def copies(self, config: ModelConfig) -> Mapping[str, str | None]:
        """Tensors that may be there as copies of others: name -> name of the other.

        None stands for the other where a tensor is none, and the family's own code reads it not.
        """

    def written_copies(self, config: ModelConfig) -> Mapping[str, str]:
        """Those of the copies that the family's own code needs."""

    def config_fields(self, config: ModelConfig, weight_type: str) -> dict[str, Any]:
        """`config.json` of a configuration.

        Raises:
          UserError: the format cannot express the model.
        """

    def generation_fields(self, config: ModelConfig) -> dict[str, Any]:
        """`generation_config.json` of a configuration."""


def training_argument(
    arguments: Mapping[str, Any], name: str, kind: type = int, default: Any = None
) -> Any:
    """A training argument of a Megatron folder; a whole number stands for a float, too.

    Raises:
      UserError: it is missing without a default, or of another type.
    """
    value = arguments.get(name, default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"the training argument {name} is {value!r}.")
    return value


class Megatron(Protocol):
    """A family in Megatron's format.

    Attributes:
      rows: its tensors; `/` stands between the levels of the nested dictionaries.
      buffer: end of the names of what is stored beside weights in every layer; empty: nothing.
      ignored: dictionaries beside the weights that hold none.
      vocabulary_multiple: each rank's part of the vocabulary is enlarged to a multiple of it.
    """

    rows: Sequence[Row]
    buffer: str
    ignored: Collection[str]
    vocabulary_multiple: int

    def recognises(self, names: Collection[str]) -> bool:
        """Whether the names of the tensors are those of this family."""

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


class Gguf(Protocol):
    """A family in GGUF: by way of Hugging Face's names, which the package `gguf` translates.

    Attributes:
      architectures: what `general.architecture` may be.
      constants: names of tensors that hold constants instead of parameters.
    """

    architectures: Sequence[str]
    constants: Sequence[str]

    def fields(
        self, metadata: Mapping[str, Any], constants: Mapping[str, Any], theirs: Collection[str]
    ) -> dict[str, Any]:
        """`config.json` of Hugging Face.

        Args:
          metadata: by key.
          constants: float32 arrays by name.
          theirs: Hugging Face's names of the tensors that are there.

        Raises:
          UserError: a key is missing, or the model is of a variant that the network does not have.
        """

    def metadata(self, config: ModelConfig) -> dict[str, Any]:
        """What llama.cpp reads, by key; `general.architecture` among it.

        Raises:
          UserError: llama.cpp has no such network.
        """

    def written_constants(self, config: ModelConfig) -> Mapping[str, Any]:
        """Constants (float32 arrays) to write beside the weights, by name."""

    def interleaved_heads(self, theirs: str, config: ModelConfig) -> int:
        """How many heads of a tensor, by Hugging Face's name, have their channels interleaved."""

    def factor(self, theirs: str, config: ModelConfig) -> float:
        """What a tensor, by Hugging Face's name, is multiplied by when it is written.

        It stands for what llama.cpp's network does not do by itself. What is read back computes the
        same without it.
        """


@dataclasses.dataclass(frozen=True)
class T5XNetwork:
    """One of T5X's own networks, whose checkpoints a family reads and writes.

    Attributes:
      fields: of the configuration, as every model in it has them.
      stacks: where the layers of a stack lie there -> where they lie here.
      layers_axis: the axis of arrays there that counts layers.
      split: axes that are joined here are two there.
      spread: parameters that each layer has there -> the one that all share in other models.
    """

    fields: Mapping[str, Any]
    stacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layers_axis: int = 0
    split: bool = False
    spread: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def here(self, path: str) -> str:
        """Our path of a parameter there."""
        for there, here in self.stacks.items():
            if path.startswith(there):
                return here + path.removeprefix(there)
        return path

    def there(self, path: str) -> str:
        """The inverse of `here`."""
        for there, here in self.stacks.items():
            if path.startswith(here):
                return there + path.removeprefix(here)
        return path
