"""Which token stores and vocabulary the tasks use: gin or the environment says so."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import gin
from openba_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """The files behind all tasks.

    Attributes:
      stores: prefixes of token stores.
      vocabulary: a sentencepiece model file.
      newline: whether the newline is a token of the vocabulary; None: as the file beside it says.
      held_out: examples at the end of each kind that are the split `validation`.
      seed: of the noise.
    """

    stores: tuple[str, ...]
    vocabulary: str | None
    newline: bool | None
    held_out: int
    seed: int

    def require_stores(self) -> tuple[str, ...]:
        """The prefixes.

        Raises:
          UserError: none are given.
        """
        if not self.stores:
            raise UserError(
                "the tasks have no token store; bind data_files.stores in gin or "
                "set OPENBA_STORE to prefixes with commas between."
            )
        return self.stores

    def require_vocabulary(self) -> str:
        """The model file.

        Raises:
          UserError: none is given.
        """
        if not self.vocabulary:
            raise UserError(
                "the tasks have no vocabulary; bind data_files.vocabulary in gin or "
                "set OPENBA_VOCABULARY to a sentencepiece .model file."
            )
        return self.vocabulary


@gin.configurable(module="openba_jax.seqio.settings")
def data_files(
    stores: Sequence[str] | None = None,
    vocabulary: str | None = None,
    newline: bool | None = None,
    held_out: int = 0,
    seed: int = 0,
) -> DataFiles:
    """The files as gin binds them; `OPENBA_STORE`, `OPENBA_VOCABULARY` fill in what it leaves."""
    if stores is None:
        stores = [prefix for prefix in os.environ.get("OPENBA_STORE", "").split(",") if prefix]
    return DataFiles(
        stores=tuple(stores),
        vocabulary=vocabulary or os.environ.get("OPENBA_VOCABULARY"),
        newline=newline,
        held_out=held_out,
        seed=seed,
    )
