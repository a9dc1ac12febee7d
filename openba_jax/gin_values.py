"""Values as users bind them in gin: one or several, and mappings with known keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError


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
    return lengths["inputs"], lengths["targets"]
