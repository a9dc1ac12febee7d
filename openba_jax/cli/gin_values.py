"""Values as users bind them in gin: one or several, mappings with known keys, the right types."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from openba_jax.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def several(values: str | Sequence[str]) -> list[str]:
    """A list of texts, of which a single one may be given as it is."""
    return [values] if isinstance(values, str) else list(values)


def feature_lengths(lengths: Any) -> tuple[int, int]:
    """Encoder and decoder positions of `{'inputs': ..., 'targets': ...}`.

    Raises:
      UserError: it is no such mapping.
    """
    if not isinstance(lengths, Mapping) or set(lengths) != {"inputs", "targets"}:
        raise UserError(f"TASK_FEATURE_LENGTHS is {lengths!r}; it needs 'inputs' and 'targets'.")
    for name, length in lengths.items():
        if not _fits(length, int) or length < 1:
            raise UserError(
                f"{name} of TASK_FEATURE_LENGTHS is {length!r}; it must be a whole number of at "
                "least 1."
            )
    return lengths["inputs"], lengths["targets"]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which refuses arguments that do not fit its annotations.

    gin binds whatever a file says; without this, a text in place of a number would come to light
    somewhere below, as a stack trace.

    Raises:
      UserError: in the new function: an argument has another type; the message names it.
    """
    hints = typing.get_type_hints(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*positional: P.args, **named: P.kwargs) -> R:
        for name, value in signature.bind_partial(*positional, **named).arguments.items():
            if name in hints and not _fits(value, hints[name]):
                expected = signature.parameters[name].annotation
                raise UserError(
                    f"{function.__name__}.{name} is {value!r}; it must be of the type {expected}."
                )
        return function(*positional, **named)

    return call


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; true where that cannot be told."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is collections.abc.Sequence:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
        return is_sequence and all(_fits(item, inner[0]) for item in value)
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
        )
    if hint in (int, float):  # A bool is an int to Python, not to a user.
        number = int if hint is int else int | float
        return isinstance(value, number) and not isinstance(value, bool)
    is_class = isinstance(hint, type) and hint is not Any
    return not is_class or getattr(hint, "_is_protocol", False) or isinstance(value, hint)
