"""The settings of requests and of models, as the harness gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from openba_jax.errors import UserError
from openba_jax.inference.decoding import GREEDY, Sampling
from openba_jax.inference.stop_strings import StopStrings, stop_strings

DEFAULT_NEW_TOKENS = 256
"""As the harness has it for other models."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the longest answer; the first that is given counts, as in the harness."""

_SAMPLING = ("temperature", "top_k", "top_p")


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated, and where they end.

    Attributes:
      max_new_tokens: longest answer in tokens.
      stop: strings that end it.
      sampling: how tokens are chosen.
    """

    max_new_tokens: int
    stop: StopStrings
    sampling: Sampling

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The settings of a request; `do_sample=False` is greedy, whatever the temperature.

        Raises:
          UserError: one is unknown, or out of its range.
        """
        known = {"until", "do_sample", *_LENGTHS, *_SAMPLING}
        if unknown := sorted(set(settings) - known):
            raise UserError(
                f"generation_kwargs has {unknown[0]!r}, which openba_jax does not know; it takes "
                f"{', '.join(sorted(known))}."
            )
        given = [settings[name] for name in _LENGTHS if settings.get(name) is not None]
        length = whole_number("max_gen_toks", given[0] if given else DEFAULT_NEW_TOKENS)
        temperature = float(settings.get("temperature") or 0.0)
        sampled = settings.get("do_sample")
        if sampled is None:
            sampled = temperature > 0
        if not sampled:
            return cls(length, stop_strings(settings.get("until")), GREEDY)
        sampling = Sampling(
            temperature if settings.get("temperature") is not None else 1.0,
            whole_number("top_k", settings.get("top_k") or 0, least=0),
            float(settings.get("top_p") or 1.0),
        )
        return cls(length, stop_strings(settings.get("until")), sampling)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A whole number, which the harness may give as text.

    Raises:
      UserError: it is none, or too small.
    """
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = least - 1
    if number < least or isinstance(value, bool | float):
        raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    return number
