"""The families: a new one is a folder with a `FAMILY` and one line here."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.models.config import ModelConfig
from openba_jax.models.mapping import Gguf, HuggingFace, Megatron, T5XNetwork

FAMILIES = {
    "openba": "openba_jax.models.openba",
    "t5": "openba_jax.models.t5",
    "t5gemma": "openba_jax.models.t5gemma",
    "llama": "openba_jax.models.llama",
}
"""Name of a family -> the module that has its `FAMILY`."""

OLDEST = "openba"
"""The family of configurations that name none: there was only one."""


@dataclasses.dataclass(frozen=True)
class Family:
    """All that the rest of the package knows of a family.

    Attributes:
      name: of the family.
      config: its class of configurations.
      model: its class of models.
      named: its published sizes by name, and small ones for trying.
      largest: a configuration that has every parameter that the family can have.
      alternatives: configurations with parameters that `largest` has others in place of.
      infer: the configuration that shapes imply: (sizes of axes by key, paths of parameters) ->
        fields of the configuration.
      labels: what the publication calls a size, where it gives a number.
      huggingface: how it lies in Hugging Face's format, if it does.
      megatron: how it lies in Megatron's format, if it does.
      gguf: how it lies in GGUF, if it does.
      t5x_networks: T5X's own networks of this family, by name.
    """

    name: str
    config: type[ModelConfig]
    model: type[Model]
    named: Mapping[str, ModelConfig]
    largest: ModelConfig
    infer: Callable[[Mapping[str, int], Collection[str]], dict[str, Any]]
    alternatives: Sequence[ModelConfig] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    huggingface: HuggingFace | None = None
    megatron: Megatron | None = None
    gguf: Gguf | None = None
    t5x_networks: Mapping[str, T5XNetwork] = dataclasses.field(default_factory=dict)


def family(name: str) -> Family:
    """A family by name.

    Raises:
      UserError: there is none of that name.
    """
    if name not in FAMILIES:
        raise UserError(f"no family of models is called {name!r}; known are {', '.join(FAMILIES)}.")
    return cast(Family, importlib.import_module(FAMILIES[name]).FAMILY)


def families() -> list[Family]:
    """All families."""
    return [family(name) for name in FAMILIES]


def model_of(config: ModelConfig) -> Model:
    """The model of a configuration."""
    return family(config.family).model(config)


def config_from_dict(fields: Any) -> ModelConfig:
    """The inverse of `ModelConfig.to_dict`.

    Raises:
      UserError: the fields make no configuration of a known family.
    """
    if not isinstance(fields, Mapping):
        raise UserError("the model config is no JSON object.")
    return family(str(fields.get("family", OLDEST))).config.from_dict(fields)


def model_from_dict(fields: Any) -> Model:
    """The model whose configuration `fields` are.

    Raises:
      UserError: the fields make no configuration of a known family.
    """
    return model_of(config_from_dict(fields))


def load_config(path: str | Path) -> ModelConfig:
    """Reads `config.json`.

    Raises:
      UserError: the file is missing or is no such config.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist; a model folder holds a config.json.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    try:
        return config_from_dict(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def named_configs() -> dict[str, ModelConfig]:
    """The named sizes of all families.

    Raises:
      UserError: two families have a size of one name.
    """
    found: dict[str, ModelConfig] = {}
    for each in families():
        for name, config in each.named.items():
            if name in found:
                raise UserError(
                    f"the families {found[name].family} and {each.name} both have a size called "
                    f"{name!r}; rename one."
                )
            found[name] = config
    return found


def named_config(name: str, **changes: Any) -> ModelConfig:
    """A named size, with fields changed at will.

    Raises:
      UserError: no size has that name, or a change is not possible.
    """
    known = named_configs()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}? Known" if close else "known"
        raise UserError(f"no model size is called {name!r}; {hint} are {', '.join(known)}.")
    return known[name].replace(**changes)
