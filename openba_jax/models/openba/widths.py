"""The two rules by which OpenBA's formats state the width of the feed-forward layer.

Under v1 `ffn_hidden_size` goes through a rule, under v2 it is the width (docs/original.md,
Feed-forward width). The tensors are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from openba_jax.errors import UserError
from openba_jax.models.openba.config import FfnRule, OpenBAConfig


def v1_width(ffn_hidden_size: int) -> int:
    """Width of the feed-forward layer by v1's rule: two thirds, rounded up to 256."""
    return -(-(2 * ffn_hidden_size // 3) // 256) * 256


def ffn_hidden_size(config: OpenBAConfig, known: int | None = None) -> int:
    """The number that stands for the width of the feed-forward layer in their configuration.

    Under v1 many numbers stand for one width. The first of these that does is taken: `known`; the
    width itself (256 and 512), which is right under v2, too; four times the model width, the usual
    choice; three halves of the width.

    Raises:
      UserError: v1 has no number for the width.
    """
    if config.ffn_rule == "v2":
        return config.mlp_dim
    if config.mlp_dim % 256:
        raise UserError(
            f"mlp_dim is {config.mlp_dim}, and v1 of the format knows only multiples of 256; "
            "write v2 with --ffn_rule=v2."
        )
    for number in (known, config.mlp_dim, 4 * config.embed_dim):
        if number is not None and v1_width(number) == config.mlp_dim:
            return number
    return config.mlp_dim * 3 // 2


def rule_of_width(width: int, ffn_hidden_size: int) -> FfnRule:
    """The rule under which a configuration states the width of the tensors; v1 if both do.

    Raises:
      UserError: neither rule gives the width of the tensors.
    """
    if width == v1_width(ffn_hidden_size):
        return "v1"
    if width == ffn_hidden_size:
        return "v2"
    raise UserError(
        f"ffn_hidden_size is {ffn_hidden_size}, which means width {v1_width(ffn_hidden_size)} (v1) "
        f"or {ffn_hidden_size} (v2), but the tensors have width {width}."
    )


def check_constants(config: OpenBAConfig, names: Iterable[str], code: str) -> None:
    """Checks what some code has as a constant, and no configuration can say.

    Raises:
      UserError: the model has another value.
    """
    for field in dataclasses.fields(OpenBAConfig):
        value = getattr(config, field.name)
        if field.name in names and value != field.default:
            raise UserError(
                f"{field.name} is {value:g}, and {code} always takes {field.default:g}."
            )
