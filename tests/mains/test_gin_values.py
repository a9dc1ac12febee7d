"""Arguments that gin binds are checked against the annotations of the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pytest

from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import named_config


class Rows(Protocol):
    """Whatever has rows; it cannot be told from outside."""

    rows: int


@gin_values.checked
def configured(
    count: int = 1,
    rate: float = 0.5,
    name: str | Sequence[str] = "",
    mesh: Sequence[int] = (),
    lengths: Mapping[str, int] | None = None,
    schedule: Callable[[int], float] = float,
    config: OpenBAConfig | None = None,
    rows: Rows | None = None,
    anything: Any = None,
) -> int:
    return count


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 3, "rate": 1, "name": ["a", "b"], "mesh": (1, -1, 2)},
        {"name": "a", "lengths": {"inputs": 3}, "schedule": abs},
        {"lengths": None, "config": named_config("tiny"), "rows": object(), "anything": []},
    ],
)
def test_what_fits_is_passed_on(arguments: dict[str, Any]) -> None:
    assert configured(**arguments) == arguments.get("count", 1)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "3", "int"),
        ("count", 1.5, "int"),
        ("count", True, "int"),
        ("rate", "0.1", "float"),
        ("rate", None, "float"),
        ("name", 3, "str | Sequence[str]"),
        ("name", [3], "str | Sequence[str]"),
        ("mesh", "2x2x2", "Sequence[int]"),
        ("mesh", 8, "Sequence[int]"),
        ("lengths", {"inputs": "a"}, "Mapping[str, int] | None"),
        ("schedule", 1e-4, "Callable[[int], float]"),
        ("config", 3, "OpenBAConfig | None"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        configured(**{name: value})
    assert str(error.value) == (
        f"configured.{name} is {value!r}; it must be of the type {expected}."
    )


@pytest.mark.parametrize("lengths", [[40, 40], {"inputs": 3}, {"inputs": 3, "targets": 0}])
def test_lengths_need_both_names_and_room(lengths: Any) -> None:
    with pytest.raises(UserError, match="TASK_FEATURE_LENGTHS"):
        gin_values.feature_lengths(lengths)
