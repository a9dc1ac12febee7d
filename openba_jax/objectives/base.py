"""What an objective is: it makes samples of the pairs of a token store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from openba_jax.objectives.special_ids import SpecialIds
from openba_jax.objectives.token_rows import Kind, Side, TokenRows


class Objective(Protocol):
    """A frozen value: its `repr` is part of what a run remembers of its data."""

    @property
    def kind(self) -> Kind:
        """Which pairs of a token store it takes."""

    @property
    def layout(self) -> str:
        """How a model reads its samples, a name of `data.layouts.LAYOUTS`."""

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of each side of an example are used.

        Raises:
          UserError: The lengths have no room for a sample.
        """

    def samples(
        self,
        read: Mapping[Side, TokenRows],
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Makes samples: a function of its arguments and nothing else.

        Args:
          read: for each side of `limits` the tokens, a row per example, cut to its limit.
          keys: uint64 `[n]`, what the noise of each example depends on.
          ids: where the special tokens lie, e.g. a `Vocabulary`.
          encoder_length: width of the inputs.
          decoder_length: width of the targets.

        Returns:
          `inputs` and `targets`, int32 `[n, any]`, and what else the layout reads. Those of an
          encoder and a decoder have their lengths for widths, and are padded with 0.
        """
