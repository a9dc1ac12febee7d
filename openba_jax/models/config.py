"""`ModelConfig`: what the configurations of all families share, and how they are read and written.

`config.json` of a model folder is `ModelConfig.to_dict()`: the fields, and `family`.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args

from openba_jax.errors import UserError
from openba_jax.nn.attention_kernels.registry import AUTO, KERNELS

RematPolicy = Literal["none", "minimal", "full"]
KvCache = Literal["compute", "int8"]

MAX_SIZE = 2**31 - 1
"""No axis is longer."""

MAX_LAYERS = 10_000
"""No stack is as deep; a configuration that says so would keep its reader busy for hours."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """Fields that every family has.

    Attributes:
      vocab_size: rows of the embedding, padding rows included.
      dropout_rate: rate on residual branches.
      attention_dropout_rate: rate on attention probabilities.
      dtype: name of the compute type.
      param_dtype: name of the type in which parameters are kept.
      scan_layers: one scanned layer (`layers` axis first) instead of unrolled ones.
      remat_policy: what the backward pass recomputes: nothing, all but matrix products, everything.
      attention: the kernel of attention, a name of `nn.attention_kernels.registry.KERNELS`, or
        `auto`: that of the platform.
      kv_cache: in what keys and values are cached while decoding: the compute type, or int8.
    """

    family: ClassVar[str]
    sizes: ClassVar[tuple[str, ...]] = ("vocab_size",)
    """Fields that must be at least 1; families add theirs."""
    positive: ClassVar[tuple[str, ...]] = ()
    """Constants that must be above 0."""
    depths: ClassVar[tuple[str, ...]] = ()
    """Fields that are numbers of layers."""
    execution: ClassVar[tuple[str, ...]] = (
        *("scan_layers", "remat_policy", "attention", "kv_cache"),
    )
    """Fields that say how a model is computed, not which one it is."""
    changeable: ClassVar[tuple[str, ...]] = (
        *("dropout_rate", "attention_dropout_rate", "dtype", *execution),
    )
    """Fields that may change while a model is trained: what the network computes for given
    parameters does not depend on them, dropout and rounding apart. Families add theirs."""
    per_layer: ClassVar[Mapping[str, str]] = {}
    """Fields that hold a value for each layer of a stack, or are empty: name -> stack. A model that
    loses layers keeps the values of those that stay."""

    vocab_size: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat_policy: RematPolicy = "none"
    attention: str = AUTO
    kv_cache: KvCache = "compute"

    def __post_init__(self) -> None:
        """Checks types, that sizes are positive and switches known.

        Raises:
          UserError: a field has a value that no network can have.
        """
        for name, kind in _kinds(type(self)).items():
            if kind is tuple and isinstance(getattr(self, name), list):  # As JSON and gin have it.
                object.__setattr__(self, name, tuple(getattr(self, name)))
            _check_value(name, kind, getattr(self, name))
        for name in self.positive:
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in (*self.sizes, *self.depths):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("dropout_rate", "attention_dropout_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}; it must be at least 0 and below 1."
                )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16", "float16"):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; known are 'float32', 'bfloat16' and "
                    "'float16'."
                )
        for name in self.depths:
            if getattr(self, name) > MAX_LAYERS:
                raise UserError(
                    f"{name} is {getattr(self, name)}; a stack has at most {MAX_LAYERS} layers."
                )
        self.check_choice("remat_policy", get_args(RematPolicy))
        self.check_choice("kv_cache", get_args(KvCache))
        self.check_choice("attention", (AUTO, *KERNELS))

    def check_choice(self, name: str, known: tuple[str, ...]) -> None:
        """Checks a field that has a few known values.

        Raises:
          UserError: the field has another value.
        """
        if getattr(self, name) not in known:
            names = ", ".join(map(repr, known))
            raise UserError(f"{name} is {getattr(self, name)!r}; known: {names}.")

    @property
    @abc.abstractmethod
    def lengths(self) -> tuple[int, int]:
        """The longest inputs and the longest targets that the model was made for, in tokens."""

    @abc.abstractmethod
    def longest_inputs(self, targets: int) -> int:
        """The longest inputs, in tokens, that leave room for so many targets."""

    @abc.abstractmethod
    def with_lengths(self, inputs: int, targets: int) -> Self:
        """A copy for inputs and targets of these lengths."""

    @property
    def types(self) -> dict[str, Any]:
        """`dtype` and `param_dtype`, which every module takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def uses_dropout(self) -> bool:
        """Whether training draws random numbers."""
        return self.dropout_rate > 0 or self.attention_dropout_rate > 0

    def conflicts(self, other: ModelConfig) -> dict[str, tuple[Any, Any]]:
        """Fields that differ and are not `changeable`: for each its value here and there."""
        here, there = self.to_dict(), other.to_dict()
        return {
            name: (here.get(name), there.get(name))
            for name in {**here, **there}
            if name not in self.changeable and here.get(name) != there.get(name)
        }

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
          UserError: a field is unknown, or has a value that no network can have.
        """
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """The name of the family and all fields, ready for JSON."""
        return {"family": self.family, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; `family` may be left out.

        Raises:
          UserError: a field is unknown or missing, has a value that no network can have, or the
            family is another.
        """
        fields = dict(fields)
        family = fields.pop("family", cls.family)
        if family != cls.family:
            raise UserError(f"the model config is of the family {family!r}, not {cls.family!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            close = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise UserError(f"a config of the family {cls.family} has no field {unknown[0]}{hint}")
        try:
            return cls(**fields)
        except TypeError as error:
            reason = str(error).partition("() ")[2] or str(error)
            raise UserError(f"the model config is incomplete: {reason}.") from error


def _kinds(config: type[ModelConfig]) -> dict[str, type]:
    """The types of the fields of a class; of a choice that of its values."""
    hints = typing.get_type_hints(config)
    kinds: dict[str, type] = {}
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if typing.get_origin(hint) is tuple:
            kinds[field.name] = tuple
        else:
            choices = typing.get_args(hint)
            kinds[field.name] = hint if isinstance(hint, type) else type(choices[0])
    return kinds


def _check_value(name: str, kind: type, value: Any) -> None:
    """Raises where a value, of a gin file or a JSON file, is none that its field can have."""
    types = {int: int, float: int | float}
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a text",
        tuple: "a list",
    }
    # A bool is an int to Python, not to a user.
    fits = isinstance(value, types.get(kind, kind)) and (kind is bool) == isinstance(value, bool)
    if not fits:
        raise UserError(f"{name} is {value!r}; it must be {words.get(kind, 'a list')}.")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{name} is {value}; it must be finite.")
    if kind is int and abs(value) > MAX_SIZE:
        raise UserError(f"{name} has {len(str(value))} digits; no model is that large.")
